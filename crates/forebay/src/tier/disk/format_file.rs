//! The file `FORMAT`: which format a directory is of, and how often it was opened.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::header::FORMAT_VERSION;
use crate::error::{Error, ErrorKind, Result};

const FORMAT_FILE: &str = "FORMAT";

/// What stands in the file.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Format {
    /// Version of everything in the directory.
    pub forebay_format: u32,
    /// How often the directory was opened by an owner.
    pub epoch: u32,
}

/// Reads the file; `None` when there is none or it is not to be understood (then the headers decide).
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
    match format {
        Some(format) if format.forebay_format != FORMAT_VERSION => Err(Error::new(
            ErrorKind::Format,
            format!(
                "{} is of format {}, this version reads format {FORMAT_VERSION}; use the version that wrote it, or \
                 give this one another local_disk",
                directory.display(),
                format.forebay_format
            ),
        )),
        format => Ok(format),
    }
}

/// Writes the file for the epoch that begins.
pub(super) fn write_format(directory: &Path, epoch: u32) -> Result<()> {
    let path = directory.join(FORMAT_FILE);
    let text = serde_json::to_vec(&Format { forebay_format: FORMAT_VERSION, epoch }).unwrap_or_default();
    replace(&path, &text).map_err(|error| Error::io(format!("writing {}", path.display()), error))
}

/// Replaces a small file in one step.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
