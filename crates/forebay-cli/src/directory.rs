//! A cache directory as it is found: nothing in it is changed, and no lock is taken.
//!
//! Promises: what is no cache directory, or one of another format, is refused before anything else is read. While
//! another process owns the directory, what is seen is a snapshot: a checkpoint that takes the journal's place just
//! now is waited for, not reported as damage.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use forebay::tier::disk::directory::data_path;
use forebay::tier::disk::format_file::{Format, read_format};
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
    /// Length of the data file, and what it takes of the file system; `None` when there is none.
    pub(crate) data: Option<DataFile>,
    /// What checkpoint and journal say.
    pub(crate) found: Found,
}

/// The size of a data file.
#[derive(Clone, Copy)]
pub(crate) struct DataFile {
    pub(crate) bytes: u64,
    pub(crate) allocated_bytes: u64,
}

impl Sight {
    /// Looks at a directory.
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
        let (owner, mut found) = read(directory)?;
        let data = fs::metadata(data_path(directory))
            .ok()
            .map(|data| DataFile { bytes: data.len(), allocated_bytes: data.blocks() * 512 });
        let holds_bytes = data.is_some_and(|data| data.bytes > 0);
        if found.is_empty() && holds_bytes {
            found.damage.get_or_insert_with(|| "checkpoint and journal are missing".into());
        }
        Ok(Self { format, owner, data, found })
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
