//! A cache directory, opened by its one owner.
//!
//! Promises: at most one process owns a directory; bytes in it never exceed the capacity given, journal and
//! checkpoint included; what is in it is in the catalog when it is open. Opening never changes what is not Forebay's.

use std::fs;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::block_file::OsBlockFile;
use super::capacity::{Division, reserve_space};
use super::format_file::{read_format, write_format};
use super::journal::{Journal, SEGMENT_RECORDS, write_checkpoint};
use super::lock::Lock;
use super::namespaces::describe;
use super::recovery::{Found, read_journal, rebuild};
use crate::catalog::{BLOCK_BYTES, Catalog, ChunkRecord, EPOCH_MAX, Entry, Limits};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Namespace;

const DATA_FILE: &str = "data";

/// Tickets a catalog keeps open at most: lookups, loads and stores under way. Each costs about 100 bytes.
const TICKETS_MAX: u32 = 1 << 20;

/// How a directory is to be opened.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory; made if it is not there.
    pub path: PathBuf,
    /// Bytes it may hold, all files together.
    pub capacity_bytes: u64,
    /// Bytes to leave free on the file system.
    pub min_free_bytes: u64,
    /// Payload bytes of the largest chunk.
    pub chunk_bytes: u64,
    /// Whether to go past the page cache where that works.
    pub direct_io: bool,
}

/// An owned directory. The lock goes with it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    epoch: u32,
    journal_records_max: u64,
    lock: Mutex<Option<Lock>>,
}

/// What opening a directory gives.
#[derive(Debug)]
pub struct Opened {
    /// The directory, locked.
    pub directory: Directory,
    /// All that is in it.
    pub catalog: Catalog,
    /// A fresh segment.
    pub journal: Journal,
    /// Journal records that no checkpoint covers.
    pub journal_records: u64,
    /// Interrupted journal records that were passed over.
    pub interrupted: u64,
    /// Why the catalog had to be rebuilt from the headers, if so.
    pub rebuilt: Option<String>,
}

impl Directory {
    /// Opens a directory and reads what is in it.
    ///
    /// # Errors
    /// With a message that says what to do: not to be made or written, owned by another process, not Forebay's or of
    /// a format this version does not read, no room.
    pub fn open(settings: &Settings) -> Result<Opened> {
        let division = Division::of(settings)?;
        let path = &settings.path;
        fs::create_dir_all(path).map_err(|error| {
            let path = path.display();
            Error::io(
                format!("using {path} as local_disk: it must be a directory that this user may write to"),
                error,
            )
        })?;
        let mut lock = Lock::take(path)?;
        let format = read_format(path)?;
        let mut found = read_journal(path)?;
        let data_bytes = fs::metadata(data_path(path)).map_or(0, |data| data.len());
        let mut rebuilt = None;
        let mut void = false;
        if data_bytes == 0 {
            // Without data, whatever the journal says is void.
            void = !found.is_empty();
            found.records.clear();
        } else if let Some(damage) =
            found.damage.take().or_else(|| found.is_empty().then(|| "it is missing".into()))
        {
            tracing::warn!(directory = %path.display(), damage, "cannot use the journal; reading the chunks' headers");
            let blocks = u32::try_from(data_bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
            let file = OsBlockFile::open(&data_path(path), settings.direct_io)?;
            let next_segment = found.next_segment;
            found = rebuild(&file, blocks)
                .map_err(|error| Error::io(format!("reading {}", data_path(path).display()), error))?;
            if format.is_none() && found.records.is_empty() {
                return Err(not_ours(path));
            }
            found.next_segment = next_segment;
            rebuilt = Some(damage);
        }
        let epoch = found.epoch.max(format.map_or(0, |format| format.epoch)) + 1;
        if epoch > EPOCH_MAX {
            let message = format!(
                "{} was opened {EPOCH_MAX} times, the most its format counts; empty it",
                path.display()
            );
            return Err(Error::new(ErrorKind::Format, message));
        }
        lock.sign().map_err(|error| Error::io(format!("signing the lock of {}", path.display()), error))?;
        write_format(path, epoch)?;
        let division = reserve_space(settings, division)?;

        let limits = Limits {
            blocks: division.blocks.into(),
            chunks_max: division.chunks_max,
            tickets_max: TICKETS_MAX,
        };
        let mut catalog = Catalog::new(limits, epoch);
        let mut journal = Journal::begin(path, found.next_segment, epoch)?;
        // Newest first: of two chunks that claim the same blocks the newer one is right, and if not all of them
        // have room any more the oldest go.
        let mut gone: Vec<Entry> = Vec::new();
        for record in found.records.iter().rev() {
            if !catalog.restore(*record) {
                gone.push(Entry::Remove(record.key, record.generation));
            }
        }
        catalog.tie_restored();
        journal
            .append(&gone)
            .map_err(|error| Error::io(format!("writing the journal in {}", path.display()), error))?;
        if rebuilt.is_some() || void {
            // The old journal is not to be read again.
            let records: Vec<ChunkRecord> = catalog.committed().collect();
            journal = journal.next_segment()()?;
            write_checkpoint(path, epoch, journal.segment(), &records)?;
        }
        let directory = Self {
            path: path.clone(),
            epoch,
            journal_records_max: division.journal_records_max,
            lock: Mutex::new(Some(lock)),
        };
        let Found { interrupted, replayed, .. } = found;
        let segments = super::journal::segments(path).map_or(1, |segments| segments.len() as u64);
        let journal_records = replayed + gone.len() as u64 + SEGMENT_RECORDS * segments;
        Ok(Opened { directory, catalog, journal, journal_records, interrupted, rebuilt })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How often it was opened, this time included.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Journal records without a checkpoint after which one is due. Twice as many fit into the capacity.
    pub fn journal_records_max(&self) -> u64 {
        self.journal_records_max
    }

    /// Lets somebody else own it. Whoever calls this writes nothing to it any more.
    pub fn give_back(&self) {
        self.lock.lock().take();
    }

    /// Notes a namespace's fields, so that people can be told whose chunks these are.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn describe(&self, namespace: &Namespace) -> Result<()> {
        describe(&self.path, namespace)
    }
}

/// The data file of a directory.
pub fn data_path(directory: &Path) -> PathBuf {
    directory.join(DATA_FILE)
}

fn not_ours(directory: &Path) -> Error {
    Error::new(
        ErrorKind::Format,
        format!(
            "{} holds a file `{DATA_FILE}` that is not Forebay's, or nothing of a cache is left in it; give an empty \
             directory as local_disk",
            directory.display()
        ),
    )
}
