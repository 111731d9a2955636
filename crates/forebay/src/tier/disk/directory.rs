//! The directories of a cache, opened by their one owner: home, which has the journal, and one for each further drive.
//!
//! Promises: at most one process owns a directory; bytes in all of them never exceed the capacity given, journal and
//! checkpoint included, nor those in one its even share; what is in them is in the catalog when they are open. Opening
//! never changes what is not Forebay's.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::capacity::{Division, reserve_space};
use super::data_files::DataFiles;
use super::format_file::read_format;
use super::journal::{Journal, SEGMENT_RECORDS, delete_before, write_checkpoint};
use super::lock::Lock;
use super::members::{Member, Members};
use super::namespaces::describe;
use super::recovery::{DriveData, Found, read_journal, rebuild};
use crate::catalog::{BLOCK_BYTES, CachePolicy, Catalog, ChunkRecord, DRIVES_MAX, EPOCH_MAX, Entry, Limits};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Namespace;

const DATA_FILE: &str = "data";

/// Tickets a catalog keeps open at most: lookups, loads and stores under way. Each costs about 100 bytes.
const TICKETS_MAX: u32 = 1 << 20;

/// How a cache's directories are to be opened.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directories, one on each drive, home first; made if they are not there.
    pub directories: Vec<PathBuf>,
    /// Bytes they may hold, all files together, in even shares.
    pub capacity_bytes: u64,
    /// Bytes to leave free on each file system.
    pub min_free_bytes: u64,
    /// Payload bytes of the largest chunk.
    pub chunk_bytes: u64,
    /// Whether to go past the page cache where that works.
    pub direct_io: bool,
    /// What is evicted first.
    pub cache_policy: CachePolicy,
}

/// The owned directories of a cache. The locks go with it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    data_paths: Vec<(u8, PathBuf)>,
    epoch: u32,
    journal_records_max: u64,
    locks: Mutex<Vec<Lock>>,
}

/// What opening a directory gives.
#[derive(Debug)]
pub struct Opened {
    /// The directories, locked.
    pub directory: Directory,
    /// All that is in them.
    pub catalog: Catalog,
    /// A fresh segment.
    pub journal: Journal,
    /// Journal records that no checkpoint covers.
    pub journal_records: u64,
    /// Interrupted journal records that were passed over.
    pub interrupted: u64,
    /// Why the catalog had to be rebuilt from the trailers, if so.
    pub rebuilt: Option<String>,
}

impl Directory {
    /// Opens a cache's directories and reads what is in them.
    ///
    /// # Errors
    /// With a message that says what to do: not to be made or written, owned by another process, not Forebay's, of
    /// another cache or of a format this version does not read, no room.
    pub fn open(settings: &Settings) -> Result<Opened> {
        let division = Division::of(settings)?;
        let mut members = Members::gather(&settings.directories)?;
        let path = members.home().to_owned();
        let mut found = read_journal(&path)?;
        // Left behind by a death right after a checkpoint.
        delete_before(&path, found.first_segment);
        let mut rebuilt = None;
        let mut void = false;
        if !members.have_data() {
            // Without data, whatever the journal says is void.
            void = !found.is_empty();
            found.records.clear();
        } else if let Some(damage) =
            found.damage.take().or_else(|| found.is_empty().then(|| "it is missing".into()))
        {
            tracing::warn!(directory = %path.display(), damage, "cannot use the journal; reading the chunks' trailers");
            let next_segment = found.next_segment;
            found = found_by_trailers(members.list(), settings.direct_io)?;
            if !members.home_is_noted() && found.records.iter().all(|record| record.drive != 0) {
                return Err(not_ours(&path));
            }
            found.next_segment = next_segment;
            rebuilt = Some(damage);
        }
        let epoch = found.epoch.max(members.epoch()) + 1;
        if epoch > EPOCH_MAX {
            let message = format!(
                "{} was opened {EPOCH_MAX} times, the most its format counts; empty it",
                path.display()
            );
            return Err(Error::new(ErrorKind::Format, message));
        }
        members.settle(epoch)?;
        let blocks = reserve_space(settings, division, members.list())?;

        let limits = Limits { blocks, chunks_max: division.chunks_max, tickets_max: TICKETS_MAX };
        let mut catalog = Catalog::new(limits, settings.cache_policy, epoch);
        let mut journal = Journal::begin(&path, found.next_segment, epoch)?;
        // Newest first: of two chunks that claim the same blocks the newer one is right, and if not all of them
        // have room any more the oldest go. A drive that is lost has taken its chunks with it.
        let mut gone: Vec<Entry> = Vec::new();
        for record in found.records.iter().rev() {
            if !members.hold(record) || !catalog.restore(*record) {
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
            write_checkpoint(&path, epoch, journal.segment(), &records)?;
        }
        let Found { interrupted, replayed, .. } = found;
        let segments = super::journal::segments(&path).map_or(1, |segments| segments.len() as u64);
        let journal_records = replayed + gone.len() as u64 + SEGMENT_RECORDS * segments;
        let directory = Self {
            path,
            data_paths: members.list().iter().map(|member| (member.drive, data_path(&member.path))).collect(),
            epoch,
            journal_records_max: division.journal_records_max,
            locks: Mutex::new(members.into_locks()),
        };
        Ok(Opened { directory, catalog, journal, journal_records, interrupted, rebuilt })
    }

    /// Where home is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The data file of each drive.
    pub fn data_paths(&self) -> &[(u8, PathBuf)] {
        &self.data_paths
    }

    /// How often it was opened, this time included.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Journal records without a checkpoint after which one is due. Twice as many fit into the capacity.
    pub fn journal_records_max(&self) -> u64 {
        self.journal_records_max
    }

    /// Lets somebody else own all of it. Whoever calls this writes nothing to it any more.
    pub fn give_back(&self) {
        self.locks.lock().clear();
    }

    /// Notes a namespace's fields, so that people can be told whose chunks these are.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn describe(&self, namespace: &Namespace) -> Result<()> {
        describe(&self.path, namespace)
    }
}

/// Finds the chunks of all drives whose data was there before.
fn found_by_trailers(members: &[Member], direct_io: bool) -> Result<Found> {
    let before: Vec<_> =
        members.iter().filter_map(|member| Some((member, member.since?, data_path(&member.path)))).collect();
    let paths: Vec<_> = before.iter().map(|(member, _, path)| (member.drive, path.clone())).collect();
    let files = DataFiles::open(&paths, direct_io)?;
    let mut drives = Vec::with_capacity(before.len());
    for (member, since, path) in before {
        let file = files.get(member.drive).map_err(|error| Error::io("opening the data files", error))?;
        let blocks = u32::try_from(member.data_bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
        drives.push(DriveData { drive: member.drive, since, file, blocks, path });
    }
    rebuild(&drives)
}

/// Opens the data files of a cache that is open, for a mover that is in another process than its owner.
///
/// # Errors
/// When one of them is not there, or a directory does not say which drive it is.
pub fn open_data_files(directories: &[PathBuf], want_direct: bool) -> Result<DataFiles> {
    let mut paths = Vec::with_capacity(directories.len());
    for (at, directory) in directories.iter().enumerate() {
        let drive = match at {
            0 => Some(0),
            _ => read_format(directory)?.map(|format| format.drive),
        };
        let is_new =
            |drive: &u8| usize::from(*drive) < DRIVES_MAX && paths.iter().all(|(other, _)| other != drive);
        let Some(drive) = drive.filter(is_new) else {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "{} does not say which drive of the cache it is; open the cache with it first",
                    directory.display()
                ),
            ));
        };
        paths.push((drive, data_path(directory)));
    }
    DataFiles::open(&paths, want_direct)
}

/// The data file of a directory.
pub fn data_path(directory: &Path) -> PathBuf {
    directory.join(DATA_FILE)
}

pub(super) fn not_ours(directory: &Path) -> Error {
    Error::new(
        ErrorKind::Format,
        format!(
            "{} holds a file `{DATA_FILE}` that is not Forebay's, or nothing of a cache is left in it; give an \
             empty directory in local_disk",
            directory.display()
        ),
    )
}
