//! A cache's directories as they are found, home and those that it names: nothing in them is changed, and no lock is
//! taken.
//!
//! Promises: what is no cache directory, or one of another format, is refused before anything else is read. While
//! another process owns the directory, what is seen is a snapshot: a checkpoint that takes the journal's place just
//! now is waited for, not reported as damage.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay::catalog::ChunkRecord;
use forebay::tier::disk::directory::data_path;
use forebay::tier::disk::format_file::{Format, OtherDrive, read_format};
use forebay::tier::disk::lock::{Owner, owner};
use forebay::tier::disk::recovery::{Found, read_journal};
use forebay::{Error, ErrorKind, Result};

/// How often a journal that changes while it is read is read again, and after how long.
const READS_MAX: u32 = 20;
const READ_AGAIN_AFTER: Duration = Duration::from_millis(25);

/// What is in a directory.
pub(crate) struct Sight {
    /// What its format file says; `None` when that is missing or damaged.
    pub(crate) format: Option<Format>,
    /// The process that owns it now.
    pub(crate) owner: Option<Owner>,
    /// The drives, home first.
    pub(crate) drives: Vec<Drive>,
    /// What checkpoint and journal say.
    pub(crate) found: Found,
}

/// A drive as it is found.
pub(crate) struct Drive {
    /// Its number, since when it has that, and the name of its directory.
    pub(crate) noted: OtherDrive,
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// Its data file; `None` when that is not there, or the directory is another drive now.
    pub(crate) data: Option<DataFile>,
}

impl Drive {
    fn home(directory: &Path, format: Option<&Format>) -> Self {
        let since = format.map_or(0, |format| format.since);
        let noted = OtherDrive { drive: 0, since, path: directory.display().to_string() };
        Self { noted, directory: directory.to_owned(), data: data_file(directory) }
    }

    fn other(noted: &OtherDrive, home: &Format) -> Self {
        let directory = Path::new(&noted.path);
        let is_it = match read_format(directory) {
            Ok(Some(format)) => {
                (format.cache, format.drive, format.since) == (home.cache.clone(), noted.drive, noted.since)
            }
            // Without its own word home's is taken, as the cache does.
            Ok(None) => true,
            Err(_) => false,
        };
        let data = data_file(directory).filter(|_| is_it);
        Self { noted: noted.clone(), directory: directory.to_owned(), data }
    }
}

fn data_file(directory: &Path) -> Option<DataFile> {
    let data = fs::metadata(data_path(directory)).ok()?;
    Some(DataFile { bytes: data.len(), allocated_bytes: data.blocks() * 512 })
}

/// The size of a data file.
#[derive(Clone, Copy)]
pub(crate) struct DataFile {
    pub(crate) bytes: u64,
    pub(crate) allocated_bytes: u64,
}

impl Sight {
    /// Looks at the directories of the cache whose home this is.
    pub(crate) fn of(directory: &Path) -> Result<Self> {
        let format = read_format(directory)?;
        let lock = directory.join("LOCK");
        if format.is_none() && !(lock.is_file() && data_path(directory).is_file()) {
            let what =
                if directory.is_dir() { "it has no file FORMAT" } else { "there is no such directory" };
            return Err(Error::new(
                ErrorKind::Format,
                format!(
                    "{} is no cache directory of Forebay: {what}; name the directory that local_disk names",
                    directory.display()
                ),
            ));
        }
        if let Some(format) = format.as_ref().filter(|format| format.drive > 0) {
            return Err(Error::new(
                ErrorKind::Format,
                format!(
                    "{} is drive {} of the cache whose home is {}; name that directory",
                    directory.display(),
                    format.drive,
                    format.home
                ),
            ));
        }
        let (owner, mut found) = read(directory)?;
        let mut drives = vec![Drive::home(directory, format.as_ref())];
        if let Some(home) = &format {
            drives.extend(home.drives.iter().map(|noted| Drive::other(noted, home)));
        }
        let holds_bytes = drives.iter().any(|drive| drive.data.is_some_and(|data| data.bytes > 0));
        if found.is_empty() && holds_bytes {
            found.damage.get_or_insert_with(|| "checkpoint and journal are missing".into());
        }
        // What was another directory's under the same number is not there any more. Where no FORMAT says which
        // directories there are, nothing is taken out: what lies on another drive shows as unreadable.
        if format.is_some() {
            found.records.retain(|record| drives.iter().any(|drive| drive.noted.holds(record)));
        }
        Ok(Self { format, owner, drives, found })
    }

    /// Length of the data files, and what they take of their file systems; `None` when there are none.
    pub(crate) fn data(&self) -> Option<DataFile> {
        self.drives.iter().filter_map(|drive| drive.data).reduce(|sum, data| DataFile {
            bytes: sum.bytes + data.bytes,
            allocated_bytes: sum.allocated_bytes + data.allocated_bytes,
        })
    }

    /// The drive that a chunk is on.
    pub(crate) fn drive_of(&self, record: &ChunkRecord) -> Option<&Drive> {
        self.drives.iter().find(|drive| drive.noted.drive == record.drive)
    }
}

/// Reads the journal, again where its owner has changed it meanwhile.
fn read(directory: &Path) -> Result<(Option<Owner>, Found)> {
    let mut reads = 1;
    loop {
        let owner = owner(directory);
        let found = read_journal(directory);
        let whole = found.as_ref().is_ok_and(|found| found.damage.is_none());
        if whole || owner.is_none() || reads == READS_MAX {
            return Ok((owner, found?));
        }
        reads += 1;
        std::thread::sleep(READ_AGAIN_AFTER);
    }
}
