//! The directories of a cache, opened by their one owner: home, which has the journal, and one for each further drive.
//!
//! Promises: at most one process owns a directory; bytes in all of them never exceed the capacity given, journal and
//! checkpoint included, nor those in one its even share; what is in them is in the catalog when they are open. Opening
//! never changes what is not Forebay's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::capacity::{Division, reserve_space};
use super::data_files::DataFiles;
use super::format_file::read_format;
use super::home::{Home, OsHome};
use super::lock::Lock;
use super::members::{Member, Members};
use super::namespaces::describe;
use super::recovery::{DriveData, Found, rebuild};
use super::resize::Resize;
use super::stock::{Ground, Stock, take_stock};
use crate::catalog::{BLOCK_BYTES, CachePolicy, ChunkRecord, DRIVES_MAX, Limits};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Namespace;
use crate::sync::Mutex;

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
    home: Arc<dyn Home>,
    data_paths: Vec<(u8, PathBuf)>,
    epoch: u32,
    journal_records_max: u64,
    /// How its data files are made larger and smaller; one owner's own has none.
    resize: Option<Resize>,
    locks: Mutex<Vec<Lock>>,
}

/// What opening a directory gives.
#[derive(Debug)]
pub struct Opened {
    /// The directories, locked.
    pub directory: Directory,
    /// All that is in them.
    pub stock: Stock,
}

/// Directories that are being opened.
struct Directories<'a> {
    settings: &'a Settings,
    division: Division,
    members: Members,
    home: Arc<dyn Home>,
}

impl Ground for Directories<'_> {
    fn home(&self) -> &Arc<dyn Home> {
        &self.home
    }

    fn have_data(&self) -> bool {
        self.members.have_data()
    }

    fn noted_epoch(&self) -> u32 {
        self.members.epoch()
    }

    fn by_trailers(&self) -> Result<Found> {
        let found = found_by_trailers(self.members.list(), self.settings.direct_io)?;
        if !self.members.home_is_noted() && found.records.iter().all(|record| record.drive != 0) {
            return Err(not_ours(self.members.home()));
        }
        Ok(found)
    }

    fn settle(&mut self, epoch: u32) -> Result<Limits> {
        self.members.settle(epoch)?;
        let blocks = reserve_space(self.settings, self.division, self.members.list())?;
        Ok(Limits { blocks, chunks_max: self.division.chunks_max, tickets_max: TICKETS_MAX })
    }

    fn holds(&self, record: &ChunkRecord) -> bool {
        self.members.hold(record)
    }
}

impl Directory {
    /// Opens a cache's directories and reads what is in them.
    ///
    /// # Errors
    /// With a message that says what to do: not to be made or written, owned by another process, not Forebay's, of
    /// another cache or of a format this version does not read, no room.
    pub fn open(settings: &Settings) -> Result<Opened> {
        let division = Division::of(settings)?;
        let members = Members::gather(&settings.directories)?;
        let home: Arc<dyn Home> = Arc::new(OsHome::new(members.home()));
        let mut ground = Directories { settings, division, members, home };
        let stock = take_stock(&mut ground, settings.cache_policy)?;
        let Directories { members, home, .. } = ground;
        let directory = Self {
            home,
            data_paths: members.list().iter().map(|member| (member.drive, data_path(&member.path))).collect(),
            epoch: stock.epoch,
            journal_records_max: division.journal_records_max,
            resize: Some(Resize::of(settings.clone(), division, members.list())?),
            locks: Mutex::new(members.into_locks()),
        };
        Ok(Opened { directory, stock })
    }

    /// A cache that is nobody's but the caller's: `home` is what [`take_stock`] began `epoch` in, and its journal is to
    /// have a checkpoint after so many records.
    pub fn of_one_owner(home: Arc<dyn Home>, epoch: u32, journal_records_max: u64) -> Self {
        let (data_paths, locks) = (Vec::new(), Mutex::default());
        Self { home, data_paths, epoch, journal_records_max, resize: None, locks }
    }

    /// Where the journal is.
    pub fn home(&self) -> &dyn Home {
        &*self.home
    }

    /// Where home is.
    pub fn path(&self) -> &Path {
        self.home.path()
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

    /// How its data files are made larger and smaller, if they can be.
    pub(crate) fn resize(&self) -> Option<&Resize> {
        self.resize.as_ref()
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
        describe(self.path(), namespace)
    }
}

/// Finds the chunks of all drives whose data was there before.
pub(super) fn found_by_trailers(members: &[Member], direct_io: bool) -> Result<Found> {
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
