//! A cache directory, opened by its one owner.
//!
//! Promises: at most one process owns a directory (the kernel holds the lock, so it ends with the process); bytes
//! in the directory never exceed the capacity given, journal and checkpoint included; space is taken from the file
//! system before it is used, and a floor of free space is left. Opening never deletes what it does not understand.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};
use serde::{Deserialize, Serialize};

use super::block_file::OsBlockFile;
use super::header::FORMAT_VERSION;
use super::journal::Journal;
use super::recovery::{Found, read_journal, rebuild};
use crate::catalog::{BLOCK_BYTES, Catalog, ChunkRecord, Entry, Limits, RECORD_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Namespace;

const LOCK_FILE: &str = "LOCK";
const FORMAT_FILE: &str = "FORMAT";
const DATA_FILE: &str = "data";
const NAMESPACES_FILE: &str = "namespaces";

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

/// What stands in the file `FORMAT`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Format {
    /// The version of all that is in the directory.
    pub forebay_format: u32,
    /// How often the directory was opened.
    pub epoch: u32,
}

/// An owned directory. The lock goes with it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    epoch: u32,
    journal_records_max: u64,
    _lock: File,
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

/// How a capacity is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Division {
    blocks: u32,
    chunks_max: u32,
    journal_records_max: u64,
}

impl Division {
    fn of(settings: &Settings) -> Result<Self> {
        let chunk_bytes = u32::try_from(settings.chunk_bytes).map_err(|_| {
            Error::new(ErrorKind::Argument, format!("chunk_bytes {} is 4 GiB or more", settings.chunk_bytes))
        })?;
        let chunk_blocks = ChunkRecord::blocks(chunk_bytes);
        Self::divide(settings.capacity_bytes, chunk_blocks).ok_or_else(|| {
            let mut least = 2 * chunk_blocks * BLOCK_BYTES as u64;
            while Self::divide(least, chunk_blocks).is_none() {
                least += least / 16;
            }
            Error::new(
                ErrorKind::Config,
                format!(
                    "max_local_disk_size is {} bytes, too small for two chunks of {chunk_bytes} bytes and their \
                     journal; make it at least {:.6} GiB",
                    settings.capacity_bytes,
                    gib_up(least)
                ),
            )
        })
    }

    /// Journal and checkpoint get what they need for `chunks_max` chunks: the checkpoint, its successor while that
    /// is written, and two generations of journal, of 128 bytes a record. Chunks get the rest. `None` when that is
    /// less than two of them.
    fn divide(capacity_bytes: u64, chunk_blocks: u64) -> Option<Self> {
        let chunk_disk_bytes = chunk_blocks * BLOCK_BYTES as u64;
        // Twice as many as fit if all were the largest: smaller ones may share the directory.
        let chunks_max = (2 * (capacity_bytes / chunk_disk_bytes) + 1024).min(u64::from(u32::MAX / 2));
        let overhead_bytes = 4 * (chunks_max + 1) * RECORD_BYTES as u64 + 16 * BLOCK_BYTES as u64;
        let blocks = capacity_bytes.checked_sub(overhead_bytes)? / BLOCK_BYTES as u64;
        (blocks >= 2 * chunk_blocks).then(|| Self {
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            chunks_max: u32::try_from(chunks_max).unwrap_or(u32::MAX / 2),
            journal_records_max: chunks_max,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn gib_up(bytes: u64) -> f64 {
    (bytes as f64 / f64::from(1 << 30) * 1e6).ceil() / 1e6
}

impl Directory {
    /// Opens a directory and reads what is in it.
    ///
    /// # Errors
    /// With a message that says what to do: not to be made or written, owned by another process, of a format this
    /// version does not read, no room.
    pub fn open(settings: &Settings) -> Result<Opened> {
        let division = Division::of(settings)?;
        let path = &settings.path;
        let cannot_use = |error| {
            Error::io(
                format!(
                    "using {} as local_disk: it must be a directory that this user may write to",
                    path.display()
                ),
                error,
            )
        };
        fs::create_dir_all(path).map_err(cannot_use)?;
        let lock = lock(path)?;
        let format = read_format(path)?;
        let fresh = fs::metadata(data_path(path)).map_or(0, |data| data.len()) == 0;
        let division = reserve_space(settings, division)?;
        let file = OsBlockFile::open(&data_path(path), settings.direct_io)?;

        let mut found = read_journal(path)?;
        let mut rebuilt = None;
        if fresh {
            // Without data, whatever the journal says is void.
            found.records.clear();
        } else if let Some(damage) =
            found.damage.take().or_else(|| found.is_empty().then(|| "it is missing".into()))
        {
            tracing::warn!(directory = %path.display(), damage, "cannot use the journal; reading the chunks' headers");
            let next_segment = found.next_segment;
            found = rebuild(&file, division.blocks)
                .map_err(|error| Error::io(format!("reading {}", data_path(path).display()), error))?;
            found.next_segment = next_segment;
            rebuilt = Some(damage);
        }
        let epoch = found.epoch.max(format.map_or(0, |format| format.epoch)) + 1;
        write_format(path, epoch)?;

        let limits =
            Limits { blocks: division.blocks, chunks_max: division.chunks_max, tickets_max: TICKETS_MAX };
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
        let directory = Self {
            path: path.clone(),
            epoch,
            journal_records_max: division.journal_records_max,
            _lock: lock,
        };
        if rebuilt.is_some() {
            // The old journal is not to be read again.
            let records: Vec<ChunkRecord> = catalog.committed().copied().collect();
            let segment = journal.rotate()?;
            super::journal::write_checkpoint(path, epoch, segment, &records)?;
        }
        let Found { interrupted, replayed, .. } = found;
        let journal_records = replayed + gone.len() as u64;
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

    /// Notes a namespace's fields, so that people can be told whose chunks these are. The cache never reads it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn describe(&self, namespace: &Namespace) -> Result<()> {
        let path = self.path.join(NAMESPACES_FILE);
        let mut known = described(&self.path);
        let fields = namespace.fields().into_iter().filter(|(name, _)| *name != "salt");
        let fields = fields.map(|(name, value)| (name.to_owned(), value)).collect();
        let id = hex(&namespace.digest()[..crate::key::NAMESPACE_ID_BYTES]);
        if known.insert(id, fields).is_some() {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(&known).unwrap_or_default();
        replace(&path, text.as_bytes())
            .map_err(|error| Error::io(format!("writing {}", path.display()), error))
    }
}

/// Names and values of a namespace's fields.
pub type NamespaceFields = std::collections::BTreeMap<String, String>;

/// The namespaces that were described in a directory, by the hexadecimal id that begins their keys.
pub fn described(directory: &Path) -> std::collections::BTreeMap<String, NamespaceFields> {
    fs::read(directory.join(NAMESPACES_FILE))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The data file of a directory.
pub fn data_path(directory: &Path) -> PathBuf {
    directory.join(DATA_FILE)
}

/// The pid that owns a directory now, if one does.
pub fn owner(directory: &Path) -> Option<String> {
    let mut file = File::open(directory.join(LOCK_FILE)).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => None,
        Err(_) => Some(owner_in(&mut file)),
    }
}

fn owner_in(file: &mut File) -> String {
    let mut pid = String::new();
    let _ = file.take(32).read_to_string(&mut pid);
    let pid = pid.trim();
    if pid.is_empty() { "unknown".into() } else { pid.into() }
}

/// Keeps owners away while the directory is read, and changes nothing in it. `None` when it has no lock file: then
/// nobody has ever owned it where it is now.
///
/// # Errors
/// [`ErrorKind::Locked`] when a process owns it.
pub fn lock_for_reading(directory: &Path) -> Result<Option<File>> {
    let path = directory.join(LOCK_FILE);
    let doing = || format!("locking {}", path.display());
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(doing(), error)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = owner_in(&mut file);
            Err(Error::new(
                ErrorKind::Locked,
                format!("{} is in use by process {pid}; stop it and try again", directory.display()),
            ))
        }
        Err(error) => Err(Error::io(doing(), error)),
    }
}

fn lock(directory: &Path) -> Result<File> {
    let path = directory.join(LOCK_FILE);
    let doing = || format!("locking {}", path.display());
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| Error::io(doing(), error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = owner_in(&mut file);
            return Err(Error::new(
                ErrorKind::Locked,
                format!(
                    "{} is in use by process {pid}; stop it, or give this one another local_disk",
                    directory.display()
                ),
            ));
        }
        Err(error) => return Err(Error::io(doing(), error)),
    }
    let write_pid = |file: &mut File| {
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())
    };
    write_pid(&mut file).map_err(|error| Error::io(doing(), error))?;
    Ok(file)
}

/// The format file; `None` when there is none or it is not to be understood (then the headers decide).
///
/// # Errors
/// [`ErrorKind::Format`] when it names a format that this version does not read.
pub fn read_format(directory: &Path) -> Result<Option<Format>> {
    let path = directory.join(FORMAT_FILE);
    let format: Option<Format> = match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Error::io(format!("reading {}", path.display()), error)),
    };
    if let Some(format) = &format
        && format.forebay_format != FORMAT_VERSION
    {
        return Err(Error::new(
            ErrorKind::Format,
            format!(
                "{} is of format {}, this version reads format {FORMAT_VERSION}; use the version that wrote it, or \
                 give this one another local_disk",
                directory.display(),
                format.forebay_format
            ),
        ));
    }
    Ok(format)
}

fn write_format(directory: &Path, epoch: u32) -> Result<()> {
    let path = directory.join(FORMAT_FILE);
    let text = serde_json::to_vec(&Format { forebay_format: FORMAT_VERSION, epoch }).unwrap_or_default();
    replace(&path, &text).map_err(|error| Error::io(format!("writing {}", path.display()), error))
}

/// Replaces a small file in one step.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// Makes the data file as long as it may be, and its space its own.
fn reserve_space(settings: &Settings, division: Division) -> Result<Division> {
    let path = data_path(&settings.path);
    let doing = || format!("reserving space for {}", path.display());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| Error::io(doing(), error))?;
    let metadata = file.metadata().map_err(|error| Error::io(doing(), error))?;
    let stat = statvfs(&settings.path).map_err(|error| Error::io(doing(), error))?;
    let held_bytes = metadata.blocks() * 512;
    let wanted_bytes = u64::from(division.blocks) * BLOCK_BYTES as u64;
    let overhead_bytes = settings.capacity_bytes - wanted_bytes;
    let room_bytes =
        (stat.f_bavail * stat.f_frsize + held_bytes).saturating_sub(settings.min_free_bytes + overhead_bytes);
    let mut division = division;
    if wanted_bytes > room_bytes {
        let chunk_blocks = ChunkRecord::blocks(u32::try_from(settings.chunk_bytes).unwrap_or(u32::MAX));
        let blocks = room_bytes / BLOCK_BYTES as u64;
        if blocks < 2 * chunk_blocks {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "the file system of {} has no room for two chunks above the floor of {} bytes \
                     (disk_min_free_size); free space there or lower the floor",
                    settings.path.display(),
                    settings.min_free_bytes
                ),
            ));
        }
        tracing::warn!(
            wanted_bytes,
            given_bytes = blocks * BLOCK_BYTES as u64,
            "max_local_disk_size is more than the file system has above disk_min_free_size; using what there is"
        );
        division.blocks = u32::try_from(blocks).unwrap_or(division.blocks);
    }
    let bytes = u64::from(division.blocks) * BLOCK_BYTES as u64;
    if metadata.len() > bytes {
        file.set_len(bytes).map_err(|error| Error::io(doing(), error))?;
    }
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP) => {
            tracing::info!("this file system cannot preallocate; a full disk will show as failed stores");
            file.set_len(bytes).map_err(|error| Error::io(doing(), error))?;
        }
        Err(error) => return Err(Error::io(doing(), error)),
    }
    Ok(division)
}
