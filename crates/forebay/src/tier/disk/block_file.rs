//! The data file as the rest of the disk tier sees it: positioned reads and writes of whole blocks.
//!
//! This is the seam at which tests put faults: everything above it treats a short transfer, an error or wrong
//! bytes as an outcome.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{Advice, OFlags, fadvise};

use crate::catalog::{BLOCK_BYTES, Extents};
use crate::error::{Error, Result};

/// A file of blocks. Offsets and lengths are multiples of 4 KiB, and so are the buffers' addresses.
pub trait BlockFile: Send + Sync {
    /// Reads into `buffer` from byte `offset` on; gives the bytes read, zero at the end of the file.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes `buffer` from byte `offset` on; gives the bytes written.
    ///
    /// # Errors
    /// The system's.
    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes what was written survive a power loss.
    ///
    /// # Errors
    /// The system's.
    fn sync(&self) -> io::Result<()>;

    /// Whether transfers go past the page cache.
    fn is_direct(&self) -> bool;

    /// The descriptor with which the kernel, asked directly, does all that [`Self::read_at`] and [`Self::write_at`]
    /// do; `None` when there is more to them than that.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A file of the operating system.
#[derive(Debug)]
pub struct OsBlockFile {
    file: File,
    direct: bool,
}

impl OsBlockFile {
    /// Opens an existing data file: past the page cache if `want_direct` and the file system can, else through it,
    /// with pages dropped after use.
    ///
    /// # Errors
    /// When the file cannot be opened at all.
    pub fn open(path: &Path, want_direct: bool) -> Result<Self> {
        Self::open_as(path, want_direct, true)
    }

    /// As [`Self::open`], for reading only: a write through it is an error.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_read_only(path: &Path, want_direct: bool) -> Result<Self> {
        Self::open_as(path, want_direct, false)
    }

    fn open_as(path: &Path, want_direct: bool, writable: bool) -> Result<Self> {
        let open = |flags: OFlags| {
            OpenOptions::new().read(true).write(writable).custom_flags(flags.bits().cast_signed()).open(path)
        };
        if want_direct && let Ok(file) = open(OFlags::DIRECT | OFlags::CLOEXEC) {
            let file = Self { file, direct: true };
            if file.direct_works() {
                return Ok(file);
            }
        }
        let file = open(OFlags::CLOEXEC)
            .map_err(|error| Error::io(format!("opening the data file {}", path.display()), error))?;
        if want_direct {
            tracing::info!(path = %path.display(), "no direct I/O here; going through the page cache instead");
        }
        Ok(Self { file, direct: false })
    }

    /// Some file systems take the flag and refuse the transfer.
    fn direct_works(&self) -> bool {
        let mut memory = vec![0_u8; 2 * BLOCK_BYTES];
        let skip = memory.as_ptr().align_offset(BLOCK_BYTES);
        let block = &mut memory[skip..skip + BLOCK_BYTES];
        self.read_at(block, 0).is_ok()
    }

    /// Keeps the page cache from growing by what passed through it.
    fn drop_pages(&self, offset: u64, len: usize) {
        if !self.direct
            && let Some(len) = std::num::NonZeroU64::new(len as u64)
        {
            // Advice only: what is still dirty stays, and goes at a later call or when the kernel needs room.
            let _ = fadvise(self.file.as_fd(), offset, Some(len), Advice::DontNeed);
        }
    }
}

impl BlockFile for OsBlockFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(&self.file, &mut *buffer, offset))?;
        self.drop_pages(offset, read);
        Ok(read)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(&self.file, buffer, offset))?;
        if !self.direct {
            // Dirty pages cannot be dropped: write them out first.
            self.file.sync_data()?;
            self.drop_pages(offset, written);
        }
        Ok(written)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn is_direct(&self) -> bool {
        self.direct
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        // Through the page cache there is more to do: writing out and dropping pages.
        self.direct.then(|| self.file.as_fd())
    }
}

/// Reads what lies in `extents` into `bytes`, which is as long as they are.
///
/// # Errors
/// The file's; [`io::ErrorKind::UnexpectedEof`] when it ends before they do.
pub fn read_blocks(file: &dyn BlockFile, extents: &Extents, mut bytes: &mut [u8]) -> io::Result<()> {
    for extent in extents.as_slice() {
        let mut offset = extent.byte_start();
        let (mut part, rest) = std::mem::take(&mut bytes).split_at_mut(extent.byte_len());
        bytes = rest;
        while !part.is_empty() {
            let read = whole_blocks(file.read_at(part, offset)?)?;
            offset += read as u64;
            part = &mut std::mem::take(&mut part)[read..];
        }
    }
    Ok(())
}

/// What a read gave, if it can be gone on from: one that ends inside a block cannot be, with direct I/O. It happens at
/// the end of a file that was cut.
pub(super) fn whole_blocks(bytes: usize) -> io::Result<usize> {
    if bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES) {
        Ok(bytes)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
