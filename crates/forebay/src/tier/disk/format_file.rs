//! The file `FORMAT`: which format a directory is of, which drive of which cache it is, and how often it was opened.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::trailer::FORMAT_VERSION;
use crate::catalog::{Catalog, ChunkRecord};
use crate::crash_points::{Point, pass, pass_with};
use crate::error::{Error, ErrorKind, Result};

const FORMAT_FILE: &str = "FORMAT";
/// It, half written.
pub(super) const FORMAT_NEW_FILE: &str = "FORMAT.new";

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// Version of everything in the directory.
    pub forebay_format: u32,
    /// How often the cache was opened by an owner.
    pub epoch: u32,
    /// Which cache: what no two caches have in common.
    pub cache: String,
    /// Which drive of it: 0 is home, where the journal is.
    pub drive: u8,
    /// The epoch since which the directory is this drive. What is of an earlier one was another directory's.
    pub since: u32,
    /// Where home is. Not in home's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub home: String,
    /// The other drives of the cache. In home's only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drives: Vec<OtherDrive>,
}

/// A drive that is not home, as home's `FORMAT` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherDrive {
    /// Its number.
    pub drive: u8,
    /// The epoch since which it is that.
    pub since: u32,
    /// Where its directory was when the cache was last opened.
    pub path: String,
}

impl OtherDrive {
    /// Whether a chunk of this record is one of this drive, and not of one that had its number before.
    pub fn holds(&self, record: &ChunkRecord) -> bool {
        holds(record, self.drive, self.since)
    }
}

/// Whether a chunk is one of the drive that has had this number since that epoch.
pub(super) fn holds(record: &ChunkRecord, drive: u8, since: u32) -> bool {
    record.drive == drive && Catalog::epoch_of(record.generation) >= since
}

/// What stands in the file of every version.
#[derive(Deserialize)]
struct Version {
    forebay_format: u32,
}

/// Reads the file; `None` when there is none or it is not to be understood (then the trailers decide).
///
/// # Errors
/// [`ErrorKind::Format`] when it names a format that this version does not read.
pub fn read_format(directory: &Path) -> Result<Option<Format>> {
    let path = directory.join(FORMAT_FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("reading {}", path.display()), error)),
    };
    // The version first: of another one nothing else can be expected to be as it is here.
    match serde_json::from_slice(&text) {
        Ok(Version { forebay_format }) if forebay_format != FORMAT_VERSION => Err(Error::new(
            ErrorKind::Format,
            format!(
                "{} is of format {forebay_format}, this version reads format {FORMAT_VERSION}; use the version that \
                 wrote it, or give this one another local_disk",
                directory.display(),
            ),
        )),
        Ok(_) => Ok(serde_json::from_slice(&text).ok()),
        Err(_) => Ok(None),
    }
}

/// Writes the file.
pub(super) fn write_format(directory: &Path, format: &Format) -> Result<()> {
    let path = directory.join(FORMAT_FILE);
    let text = serde_json::to_vec(format).unwrap_or_default();
    replace(&path, &text).map_err(|error| Error::io(format!("writing {}", path.display()), error))
}

/// Replaces a small file in one step.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    pass(Point::SmallFileCreated);
    pass_with(Point::SmallFileHalfWritten, || drop(file.write_all(&bytes[..bytes.len() / 2])));
    file.write_all(bytes)?;
    file.sync_all()?;
    pass(Point::SmallFileSynced);
    fs::rename(&new, path)?;
    pass(Point::SmallFileRenamed);
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
