//! `forebay verify`: reads every chunk of a cache, on all its drives, and checks it.
//!
//! Promises: changes nothing; keeps owners away while it reads. A chunk is right when trailer, binding and payload are
//! (see `docs/FORMAT.md`). Where the journal is damaged, the chunks are found by their trailers, as the next start of
//! the cache would find them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use forebay::catalog::{BLOCK_BYTES, ChunkRecord};
use forebay::tier::disk::block_file::{BlockFile, OsBlockFile};
use forebay::tier::disk::directory::data_path;
use forebay::tier::disk::lock::lock_for_reading;
use forebay::tier::disk::namespaces::hex;
use forebay::tier::disk::recovery::{DriveData, check_chunk, rebuild};
use forebay::{ChunkKey, Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::directory::Sight;
use crate::figures::{count, gb_per_s, size, table};

/// Chunks that are read at the same time: enough to keep a drive busy while others are hashed.
const READERS: usize = 4;

/// Bad chunks that the table lists.
const LISTED_MAX: usize = 20;

/// Arguments of `forebay verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = JSON_HELP)]
pub(crate) struct VerifyArgs {
    /// The directory, as `local_disk` names it; of several the first
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

const JSON_HELP: &str = "\
Reads all chunks, on all drives, and changes nothing. No other process may use the cache meanwhile.

With --json, one object (sizes in bytes):
  directory, sound            sound: the journal is undamaged and every chunk is right
  chunks, disk_bytes          what was checked, trailers included
  bad_chunks                  how many chunks are not right
  bad                         each of them: {key, namespace, kind, reason, drive, offset_bytes, disk_bytes}; kind is one of
                              trailer, other chunk, generation, payload, truncated, unreadable
  journal                     {damage, interrupted_records}; where damage is not null, the chunks were found by
                              their trailers, and those that are not right were not counted
  seconds, gb_per_s           how long it took, and how fast that was (1 GB is 1000000000 bytes)

Exit code: 0 all is right, 1 a chunk is bad or the journal is damaged, 2 it could not be checked.";

/// A chunk that is not right.
struct Bad {
    key: ChunkKey,
    kind: &'static str,
    reason: Option<String>,
    drive: u8,
    offset_bytes: u64,
    disk_bytes: u64,
}

/// What came of it.
struct Report {
    damage: Option<String>,
    interrupted: u64,
    chunks: u64,
    disk_bytes: u64,
    bad: Vec<Bad>,
    seconds: f64,
}

/// Runs the command; gives whether all is right.
pub(crate) fn run(args: &VerifyArgs, out: &mut dyn Write) -> Result<bool> {
    let directory = &args.directory;
    let _lock = lock_for_reading(directory)?;
    let sight = Sight::of(directory)?;
    let _other_locks = lock_others(&sight)?;
    let files = Files::open(&sight)?;
    let begin = Instant::now();
    let mut report = if sight.found.damage.is_some() {
        from_trailers(&files, &sight)?
    } else {
        from_journal(&files, &sight)
    };
    report.seconds = begin.elapsed().as_secs_f64();
    let written =
        if args.json { writeln!(out, "{:#}", report.json(directory)) } else { report.tell(out, directory) };
    written.map_err(|error| Error::io("writing the result", error))?;
    Ok(report.is_sound())
}

/// Keeps owners away from the other directories too.
fn lock_others(sight: &Sight) -> Result<Vec<Option<File>>> {
    let there = sight.drives.iter().skip(1).filter(|drive| drive.data.is_some());
    there.map(|drive| lock_for_reading(&drive.directory)).collect()
}

/// The data files that are there, by the number of their drive.
struct Files(BTreeMap<u8, OsBlockFile>);

impl Files {
    fn open(sight: &Sight) -> Result<Self> {
        let mut files = BTreeMap::new();
        for drive in sight.drives.iter().filter(|drive| drive.data.is_some() || drive.noted.drive == 0) {
            let file = OsBlockFile::open_read_only(&data_path(&drive.directory), true)?;
            files.insert(drive.noted.drive, file);
        }
        Ok(Self(files))
    }

    /// Each of them with its reading shown on this bar.
    fn counted(&self, progress: &ProgressBar) -> BTreeMap<u8, Counted<'_>> {
        let counted = |file| Counted { file, progress: progress.clone() };
        self.0.iter().map(|(drive, file)| (*drive, counted(file))).collect()
    }
}

/// Checks the chunks that the journal names.
fn from_journal(files: &Files, sight: &Sight) -> Report {
    let unreadable = |record: &ChunkRecord| match sight.drive_of(record) {
        Some(drive) => format!("the data file in {} is not there", drive.noted.path),
        None => format!("there is no drive {}", record.drive),
    };
    let records = {
        let mut records = sight.found.records.clone();
        // In the order in which they lie on disk.
        records.sort_unstable_by_key(place);
        records
    };
    let all_bytes = records.iter().map(disk_bytes).sum();
    let style = "{bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    let progress = progress(ProgressBar::new(all_bytes), style);
    let files = files.counted(&progress);
    let next = AtomicUsize::new(0);
    let read = || {
        let mut bad = Vec::new();
        while let Some(record) = records.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (kind, reason) = match files.get(&record.drive).map(|file| check_chunk(file, record)) {
                Some(Ok(Ok(()))) => continue,
                Some(Ok(Err(corruption))) => (corruption.name(), None),
                Some(Err(error)) => ("unreadable", Some(error.to_string())),
                None => ("unreadable", Some(unreadable(record))),
            };
            bad.push(Bad {
                key: record.key,
                kind,
                reason,
                drive: record.drive,
                offset_bytes: offset_bytes(record),
                disk_bytes: disk_bytes(record),
            });
        }
        bad
    };
    let mut bad = thread::scope(|scope| {
        let helpers: Vec<_> =
            (1..READERS).filter_map(|_| thread::Builder::new().spawn_scoped(scope, read).ok()).collect();
        let mut bad = read();
        for helper in helpers {
            bad.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        bad
    });
    progress.finish_and_clear();
    bad.sort_unstable_by_key(|bad| (bad.drive, bad.offset_bytes));
    Report {
        damage: None,
        interrupted: sight.found.interrupted,
        chunks: records.len() as u64,
        disk_bytes: all_bytes,
        bad,
        seconds: 0.0,
    }
}

/// Finds and checks the chunks by their trailers.
fn from_trailers(files: &Files, sight: &Sight) -> Result<Report> {
    let style =
        "{spinner} the journal is damaged: looking for trailers, {binary_bytes}, {binary_bytes_per_sec}";
    let progress = progress(ProgressBar::no_length(), style);
    let files = files.counted(&progress);
    let drives: Vec<_> = sight
        .drives
        .iter()
        .filter_map(|drive| {
            let blocks = drive.data.map_or(0, |data| data.bytes / BLOCK_BYTES as u64);
            Some(DriveData {
                drive: drive.noted.drive,
                since: drive.noted.since,
                file: files.get(&drive.noted.drive)?,
                blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
                path: data_path(&drive.directory),
            })
        })
        .collect();
    let found = rebuild(&drives)?;
    progress.finish_and_clear();
    Ok(Report {
        damage: sight.found.damage.clone(),
        interrupted: sight.found.interrupted,
        chunks: found.records.len() as u64,
        disk_bytes: found.records.iter().map(disk_bytes).sum(),
        bad: Vec::new(),
        seconds: 0.0,
    })
}

/// Shown on standard error if that is a terminal, else not at all.
fn progress(bar: ProgressBar, template: &str) -> ProgressBar {
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn offset_bytes(record: &ChunkRecord) -> u64 {
    record.extents.as_slice().first().map_or(0, |extent| extent.byte_start())
}

/// Where a chunk begins: drive, and byte in its data file.
fn place(record: &ChunkRecord) -> (u8, u64) {
    (record.drive, offset_bytes(record))
}

fn disk_bytes(record: &ChunkRecord) -> u64 {
    ChunkRecord::blocks(record.length) * BLOCK_BYTES as u64
}

/// A file whose reading shows.
struct Counted<'a> {
    file: &'a OsBlockFile,
    progress: ProgressBar,
}

impl BlockFile for Counted<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.file.read_at(buffer, offset)?;
        self.progress.inc(read as u64);
        Ok(read)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "verify writes nothing"))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_direct(&self) -> bool {
        self.file.is_direct()
    }
}

impl Report {
    fn is_sound(&self) -> bool {
        self.bad.is_empty() && self.damage.is_none()
    }

    fn json(&self, directory: &Path) -> serde_json::Value {
        let bad: Vec<_> = self
            .bad
            .iter()
            .map(|bad| {
                json!({
                    "key": bad.key.to_string(),
                    "namespace": hex(&bad.key.namespace_id()),
                    "kind": bad.kind,
                    "reason": bad.reason,
                    "drive": bad.drive,
                    "offset_bytes": bad.offset_bytes,
                    "disk_bytes": bad.disk_bytes,
                })
            })
            .collect();
        json!({
            "directory": directory.display().to_string(),
            "sound": self.is_sound(),
            "chunks": self.chunks,
            "disk_bytes": self.disk_bytes,
            "bad_chunks": self.bad.len(),
            "bad": bad,
            "journal": { "damage": self.damage, "interrupted_records": self.interrupted },
            "seconds": self.seconds,
            "gb_per_s": gb_per_s(self.disk_bytes, self.seconds),
        })
    }

    fn tell(&self, out: &mut dyn Write, directory: &Path) -> io::Result<()> {
        writeln!(
            out,
            "{}: {}, {} read and checked in {:.2} s ({:.2} GB/s)",
            directory.display(),
            count(self.chunks, "chunk"),
            size(self.disk_bytes),
            self.seconds,
            gb_per_s(self.disk_bytes, self.seconds),
        )?;
        if let Some(damage) = &self.damage {
            return writeln!(
                out,
                "The journal is DAMAGED: {damage}. These chunks were found by their trailers and are right; the next \
                 start of the cache finds them the same way."
            );
        }
        if self.bad.is_empty() {
            return writeln!(out, "All of them are right.");
        }
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        for bad in &self.bad {
            *kinds.entry(bad.kind).or_default() += 1;
        }
        let kinds: Vec<_> = kinds.iter().map(|(kind, number)| format!("{kind} {number}")).collect();
        let rows: Vec<_> = self.bad.iter().take(LISTED_MAX).map(Bad::row).collect();
        write!(
            out,
            "{} of them BAD ({}). A bad chunk is never served: the cache takes it for a miss and drops it when it is \
             asked for.\n\n{}",
            self.bad.len(),
            kinds.join(", "),
            table(["what is bad", "chunk", " drive", " at byte", " on disk"], &rows),
        )?;
        match self.bad.len().saturating_sub(LISTED_MAX) {
            0 => Ok(()),
            more => writeln!(out, "… and {more} more: --json lists all"),
        }
    }
}

impl Bad {
    fn row(&self) -> [String; 5] {
        let kind = match &self.reason {
            Some(reason) => format!("{}: {reason}", self.kind),
            None => self.kind.to_owned(),
        };
        [
            kind,
            self.key.to_string(),
            self.drive.to_string(),
            self.offset_bytes.to_string(),
            size(self.disk_bytes),
        ]
    }
}
