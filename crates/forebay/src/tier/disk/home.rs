//! The small files of a cache's home as journal and recovery see them.
//!
//! This is the seam at which a simulator puts a directory that loses power: everything above it treats an error as an
//! outcome, and takes nothing for durable that was not synced.
//!
//! What is assumed of a directory: a write that has returned survives the death of the process, and is read by
//! whoever reads next; a file's bytes survive that of the machine once [`HomeFile::sync`] or [`Home::sync`] has returned, its name
//! once [`Home::sync_names`] has. A rename is one step. A write that fails may have written any part of its bytes.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;

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
    /// The system's, or that the file has no name any more; any part may be written then.
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

/// A directory of the operating system: that which has this path now. If it is removed and another one made in its place, that
/// is somebody else's, and nothing is done to it.
#[derive(Debug)]
pub struct OsHome {
    path: PathBuf,
    directory: Result<OwnedFd, Errno>,
}

impl OsHome {
    /// The directory at `path`, which is there.
    pub fn new(path: &Path) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self { path: path.to_owned(), directory: rustix::fs::open(path, flags, Mode::empty()) }
    }

    fn directory(&self) -> io::Result<&OwnedFd> {
        self.directory.as_ref().map_err(|&error| error.into())
    }

    fn open(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let mode = Mode::from_raw_mode(0o666);
        let open = || openat(self.directory()?, name, flags | OFlags::CLOEXEC, mode).map_err(io::Error::from);
        Ok(open()?.into())
    }
}

impl Home for OsHome {
    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = Dir::read_from(self.directory()?)?
            .map(|entry| Ok(entry?.file_name().to_str().ok().map(str::to_owned)));
        names.filter_map(io::Result::transpose).collect()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(name, OFlags::RDONLY)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn HomeFile>> {
        Ok(Arc::new(self.open(name, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?))
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.open(name, OFlags::RDONLY)?.sync_data()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let directory = self.directory()?;
        Ok(renameat(directory, from, directory, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(self.directory()?, name, AtFlags::empty())?)
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(fsync(self.directory()?)?)
    }
}

impl HomeFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)?;
        // What is written there, nobody will ever read.
        if self.metadata()?.nlink() == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the file was removed"));
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
