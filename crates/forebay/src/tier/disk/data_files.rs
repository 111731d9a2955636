//! The data files of a tier, one for each of its drives.
//!
//! Promises: a file is found by the number of its drive, as records have it; that a drive is not there is an error of
//! the transfer that asks for it and of no other one.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::block_file::{BlockFile, OsBlockFile};
use crate::catalog::DRIVES_MAX;
use crate::error::Result;

/// Files by the number of their drive.
#[derive(Clone, Default)]
pub struct DataFiles {
    files: [Option<Arc<dyn BlockFile>>; DRIVES_MAX],
}

impl From<Arc<dyn BlockFile>> for DataFiles {
    /// The file of a tier that has one drive.
    fn from(file: Arc<dyn BlockFile>) -> Self {
        let mut files = Self::default();
        files.files[0] = Some(file);
        files
    }
}

impl DataFiles {
    /// Opens the existing data files of these drives: see [`OsBlockFile::open`].
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub fn open(paths: &[(u8, PathBuf)], want_direct: bool) -> Result<Self> {
        let mut files = Self::default();
        for (drive, path) in paths {
            files.files[usize::from(*drive)] = Some(Arc::new(OsBlockFile::open(path, want_direct)?));
        }
        Ok(files)
    }

    /// Puts a file in the place of a drive, which is less than [`DRIVES_MAX`].
    pub fn set(&mut self, drive: u8, file: Arc<dyn BlockFile>) {
        self.files[usize::from(drive)] = Some(file);
    }

    /// These files with `wrap` around each, called in the order of their drives' numbers.
    #[must_use]
    pub fn wrapped(self, mut wrap: impl FnMut(Arc<dyn BlockFile>) -> Arc<dyn BlockFile>) -> Self {
        Self { files: self.files.map(|file| file.map(&mut wrap)) }
    }

    /// The file of a drive.
    ///
    /// # Errors
    /// When there is no such drive.
    pub fn get(&self, drive: u8) -> io::Result<&dyn BlockFile> {
        self.files.get(usize::from(drive)).and_then(Option::as_deref).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("there is no drive {drive} any more"))
        })
    }

    /// All of them, each with the number of its drive, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &dyn BlockFile)> {
        (0..).zip(&self.files).filter_map(|(drive, file)| Some((drive, file.as_deref()?)))
    }

    /// Whether transfers go past the page cache, on all drives.
    pub fn is_direct(&self) -> bool {
        self.iter().all(|(_, file)| file.is_direct())
    }

    /// Makes what was written survive a power loss, on all drives.
    ///
    /// # Errors
    /// The first that a file gave; the others were synced all the same.
    pub fn sync(&self) -> io::Result<()> {
        let sync = |(drive, file): (u8, &dyn BlockFile)| {
            file.sync().map_err(|error| io::Error::new(error.kind(), format!("drive {drive}: {error}")))
        };
        self.iter().map(sync).fold(Ok(()), io::Result::and)
    }
}
