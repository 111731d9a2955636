//! The data file as the rest of the disk tier sees it: positioned, vectored reads and writes of whole blocks.
//!
//! This is the seam at which tests put faults: everything above it treats a short transfer, an error or wrong
//! bytes as an outcome. [`read_blocks`] and [`write_blocks`] carry a chunk across its extents and never take a
//! short transfer for success.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Advice, OFlags, fadvise};

use crate::catalog::{BLOCK_BYTES, Extents};
use crate::error::{Error, Result};

/// A file of blocks. Offsets and lengths are multiples of 4 KiB, and so are the buffers' addresses.
pub trait BlockFile: Send + Sync {
    /// Reads into `buffers` from byte `offset` on; gives the bytes read, zero at the end of the file.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize>;

    /// Writes `buffers` from byte `offset` on; gives the bytes written.
    ///
    /// # Errors
    /// The system's.
    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Makes what was written survive a power loss.
    ///
    /// # Errors
    /// The system's.
    fn sync(&self) -> io::Result<()>;

    /// Whether transfers go past the page cache.
    fn is_direct(&self) -> bool;
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
        self.read_at(&mut [IoSliceMut::new(block)], 0).is_ok()
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
    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        let read = rustix::io::retry_on_intr(|| rustix::io::preadv(&self.file, buffers, offset))?;
        self.drop_pages(offset, read);
        Ok(read)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let written = rustix::io::retry_on_intr(|| rustix::io::pwritev(&self.file, buffers, offset))?;
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
}

/// A data file that is opened with its first transfer: a mover may start before the directory's owner has.
pub struct LateBlockFile {
    path: PathBuf,
    want_direct: bool,
    file: OnceLock<OsBlockFile>,
}

impl LateBlockFile {
    /// The file at `path`, for later.
    pub fn new(path: PathBuf, want_direct: bool) -> Self {
        Self { path, want_direct, file: OnceLock::new() }
    }

    fn file(&self) -> io::Result<&OsBlockFile> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = OsBlockFile::open(&self.path, self.want_direct).map_err(io::Error::other)?;
        // Another thread may have been faster; then its file serves as well.
        Ok(self.file.get_or_init(|| file))
    }
}

impl BlockFile for LateBlockFile {
    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        self.file()?.read_at(buffers, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.file()?.write_at(buffers, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file()?.sync()
    }

    fn is_direct(&self) -> bool {
        self.file.get().is_some_and(BlockFile::is_direct)
    }
}

/// Writes a chunk, header page first, through its extents.
///
/// # Errors
/// The file's; [`io::ErrorKind::WriteZero`] when it takes no more.
pub fn write_blocks(
    file: &dyn BlockFile,
    extents: &Extents,
    header: &[u8],
    payload: &[u8],
) -> io::Result<()> {
    let mut done = 0;
    for extent in extents.as_slice() {
        let end = done + extent.byte_len();
        let start = done;
        while done < end {
            let (first, second) = split(header, payload, done, end);
            let written = file.write_at(
                &[IoSlice::new(first), IoSlice::new(second)],
                extent.byte_start() + (done - start) as u64,
            )?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += whole_blocks(written)?;
        }
    }
    Ok(())
}

/// Reads a chunk, header page first, from its extents.
///
/// # Errors
/// The file's; [`io::ErrorKind::UnexpectedEof`] when it ends before the chunk does.
pub fn read_blocks(
    file: &dyn BlockFile,
    extents: &Extents,
    header: &mut [u8],
    payload: &mut [u8],
) -> io::Result<()> {
    let mut done = 0;
    for extent in extents.as_slice() {
        let end = done + extent.byte_len();
        let start = done;
        while done < end {
            let (first, second) = split_mut(header, payload, done, end);
            let read = file.read_at(
                &mut [IoSliceMut::new(first), IoSliceMut::new(second)],
                extent.byte_start() + (done - start) as u64,
            )?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            done += whole_blocks(read)?;
        }
    }
    Ok(())
}

/// A transfer that ends inside a block cannot be continued with direct I/O; at the end of a file that was cut it
/// happens on reads.
fn whole_blocks(bytes: usize) -> io::Result<usize> {
    if bytes.is_multiple_of(BLOCK_BYTES) { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Bytes `from..to` of the header page followed by the payload.
fn split<'a>(header: &'a [u8], payload: &'a [u8], from: usize, to: usize) -> (&'a [u8], &'a [u8]) {
    let edge = header.len();
    (&header[from.min(edge)..to.min(edge)], &payload[from.saturating_sub(edge)..to.saturating_sub(edge)])
}

fn split_mut<'a>(
    header: &'a mut [u8],
    payload: &'a mut [u8],
    from: usize,
    to: usize,
) -> (&'a mut [u8], &'a mut [u8]) {
    let edge = header.len();
    (
        &mut header[from.min(edge)..to.min(edge)],
        &mut payload[from.saturating_sub(edge)..to.saturating_sub(edge)],
    )
}
