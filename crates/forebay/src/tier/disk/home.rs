//! The small files of a cache's home as journal and recovery see them.
//!
//! This is the seam at which a simulator puts a directory that loses power: everything above it treats an error as an
//! outcome, and takes nothing for durable that was not synced.
//!
//! What is assumed of a directory: a write that has returned survives the death of the process, and is read by
//! whoever reads next; a file's bytes survive that of the machine once [`HomeFile::sync`] or [`Home::sync`] has returned, its name
//! once [`Home::sync_names`] has. A rename is one step. A write that fails may have written any part of its bytes.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory of small files.
pub trait Home: Debug + Send + Sync {
    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// The names of its files, in any order.
    ///
    /// # Errors
    /// The system's.
    fn list(&self) -> io::Result<Vec<String>>;

    /// All of a file.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::NotFound`] when there is none of that name.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Makes an empty file; one of that name that is there is emptied.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, name: &str) -> io::Result<Arc<dyn HomeFile>>;

    /// Makes what was written to a file survive a power loss, whoever wrote it.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::NotFound`] when there is none of that name.
    fn sync(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name; one that had it is gone.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Deletes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes what was created, renamed and removed survive a power loss.
    ///
    /// # Errors
    /// The system's.
    fn sync_names(&self) -> io::Result<()>;
}

/// A file that is being written.
pub trait HomeFile: Debug + Send + Sync {
    /// Writes all of `bytes` from byte `offset` on.
    ///
    /// # Errors
    /// The system's; any part may be written then.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file, or extends it by zeros.
    ///
    /// # Errors
    /// The system's.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes what was written survive a power loss.
    ///
    /// # Errors
    /// The system's.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct OsHome(PathBuf);

impl OsHome {
    /// The directory at `path`, which is there.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Home for OsHome {
    fn path(&self) -> &Path {
        &self.0
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.0)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(name))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn HomeFile>> {
        Ok(Arc::new(File::create(self.0.join(name))?))
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        File::open(self.0.join(name))?.sync_data()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

impl HomeFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
