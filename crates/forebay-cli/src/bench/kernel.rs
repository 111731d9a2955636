//! What the kernel is asked for without a wrapper in between: direct transfers by `io_uring`, which pages of a file it
//! caches, and to be told of signals.
//!
//! The one file of this crate with `unsafe` code. Promises: memory that the kernel may still write to is
//! never given back; a short transfer is an error.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use forebay::PageMemory;
use io_uring::{IoUring, opcode, types};

use super::rig::Direction;

/// Most transfers that are under way at once.
pub(super) const DEPTH_MAX: usize = 32;

/// A ring with buffers that are used in turn.
pub(super) struct Ring {
    /// Before the memory: what it has under way ends when it is dropped.
    queues: IoUring,
    /// `buffers` of them, of `each` bytes: one memory, so that small chunks lie on huge pages too.
    memory: Option<PageMemory>,
    buffers: usize,
    each: usize,
    /// Transfers that the kernel has.
    under_way: u64,
    /// Whether the kernel holds the buffers' pages, and need not pin them for each transfer.
    registered_buffers: bool,
    registered_file: bool,
    file: File,
}

impl Ring {
    /// A ring on `file` with buffers of `each` bytes in `memory`. Registers what the limits allow.
    ///
    /// # Errors
    /// When this system allows no ring.
    pub(super) fn new(file: File, memory: PageMemory, each: usize) -> io::Result<Self> {
        let buffers = memory.len() / each;
        let entries = u32::try_from(buffers.min(DEPTH_MAX)).map_err(io::Error::other)?.next_power_of_two();
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(entries)
            // A kernel before 6.1 does not know these.
            .or_else(|_| IoUring::new(entries))?;
        // As one: their number has a limit that small chunks would pass.
        let vectors = [libc::iovec { iov_base: memory.as_ptr().cast_mut().cast(), iov_len: memory.len() }];
        // SAFETY: the memory is ours until this is dropped, and the ring goes before it.
        let registered_buffers = unsafe { ring.submitter().register_buffers(&vectors) }.is_ok();
        let registered_file = ring.submitter().register_files(&[file.as_raw_fd()]).is_ok();
        Ok(Self {
            queues: ring,
            memory: Some(memory),
            buffers,
            each,
            under_way: 0,
            registered_buffers,
            registered_file,
            file,
        })
    }

    /// Whether the buffers are registered.
    pub(super) fn is_registered(&self) -> bool {
        self.registered_buffers
    }

    /// Moves `count` chunks of `chunk_bytes` between the file and the buffers, one behind the other, `depth` of them at
    /// a time, and tells of each. All buffers take their turns, whatever the depth.
    ///
    /// # Errors
    /// The first of a transfer, after all that were under way have ended.
    pub(super) fn transfer(
        &mut self,
        direction: Direction,
        count: u64,
        chunk_bytes: usize,
        depth: usize,
        told: &mut dyn FnMut(),
    ) -> io::Result<()> {
        assert!(chunk_bytes <= self.each, "a buffer holds a chunk");
        let len = u32::try_from(chunk_bytes).map_err(io::Error::other)?;
        // Taken once: while the kernel writes to the memory there is no slice of it.
        let memory = self.memory.as_deref_mut().expect("there until this is dropped").as_mut_ptr();
        let mut free: VecDeque<usize> = (0..self.buffers).collect();
        let mut failed = None;
        let mut next = 0;
        loop {
            while failed.is_none()
                && next < count
                && self.under_way < depth as u64
                && let Some(buffer) = free.pop_front()
            {
                let address = memory.wrapping_add(buffer * self.each);
                let entry = self.entry(direction, (address, buffer), len, next * u64::from(len));
                // SAFETY: the buffer is ours, holds `len` bytes, and is in no other transfer until it is free again;
                // the file is open as long as the ring.
                if unsafe { self.queues.submission().push(&entry) }.is_err() {
                    failed = Some(io::Error::other("the submission queue is full"));
                    break;
                }
                next += 1;
                self.under_way += 1;
            }
            if self.under_way == 0 {
                break;
            }
            match self.queues.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            while let Some(end) = self.queues.completion().next() {
                self.under_way -= 1;
                free.push_back(usize::try_from(end.user_data()).unwrap_or(0));
                match u32::try_from(end.result()) {
                    Ok(moved) if moved == len => told(),
                    Ok(_) => failed = failed.or(Some(io::ErrorKind::UnexpectedEof.into())),
                    Err(_) => failed = failed.or(Some(io::Error::from_raw_os_error(-end.result()))),
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn entry(
        &self,
        direction: Direction,
        (address, buffer): (*mut u8, usize),
        len: u32,
        offset: u64,
    ) -> io_uring::squeue::Entry {
        macro_rules! on_file {
            ($file:expr) => {
                match (direction, self.registered_buffers) {
                    (Direction::Read, true) => {
                        opcode::ReadFixed::new($file, address, len, 0).offset(offset).build()
                    }
                    (Direction::Read, false) => opcode::Read::new($file, address, len).offset(offset).build(),
                    (Direction::Write, true) => {
                        opcode::WriteFixed::new($file, address, len, 0).offset(offset).build()
                    }
                    (Direction::Write, false) => {
                        opcode::Write::new($file, address, len).offset(offset).build()
                    }
                }
            };
        }
        let entry = if self.registered_file {
            on_file!(types::Fixed(0))
        } else {
            on_file!(types::Fd(self.file.as_raw_fd()))
        };
        entry.user_data(buffer as u64)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The ring broke, or somebody panicked: what the kernel may still write to must never be anybody else's.
        if self.under_way > 0 {
            std::mem::forget(self.memory.take());
        }
    }
}

/// Bytes of a file that are in the page cache.
///
/// # Errors
/// The system's.
pub(super) fn cached_bytes(file: &File) -> io::Result<u64> {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if len == 0 {
        return Ok(0);
    }
    let page_bytes = rustix::param::page_size();
    let mut pages = vec![0_u8; len.div_ceil(page_bytes)];
    // SAFETY: a fresh mapping at an address of the kernel's choice, never read: it only names the file's pages.
    let start = unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, file, 0) }?;
    // SAFETY: the range is what was mapped, and there is one byte for each page of it.
    let asked = match unsafe { libc::mincore(start, len, pages.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: unmaps exactly what was mapped above; nothing points into it.
    unsafe { munmap(start, len) }?;
    asked?;
    Ok(pages.iter().filter(|page| **page & 1 == 1).count() as u64 * page_bytes as u64)
}

/// A flag that the first signal which asks this process to end sets (INT, TERM or HUP); the next one ends it. To be asked
/// for by the first thread, before it starts others.
///
/// # Errors
/// The system's.
pub(super) fn interrupted() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    // SAFETY: a set of signals is plain memory, and these calls only fill it.
    let signals = unsafe {
        let mut signals = std::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&raw mut signals, signal);
        }
        signals
    };
    let mask = move |how| {
        // SAFETY: reads the set; concerns this thread, and those that it starts, alone.
        match unsafe { libc::pthread_sigmask(how, &raw const signals, std::ptr::null_mut()) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    };
    mask(libc::SIG_BLOCK)?;
    thread::Builder::new().name("forebay-signals".into()).spawn(move || {
        let mut signal = 0;
        // SAFETY: waits for one of the set, which all threads hold back, and writes its number.
        while unsafe { libc::sigwait(&raw const signals, &raw mut signal) } != 0 {}
        set.store(true, Ordering::Relaxed);
        // The next one finds a thread that does not hold it back.
        let _ = mask(libc::SIG_UNBLOCK);
        loop {
            thread::park();
        }
    })?;
    Ok(flag)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn memory(len: usize, byte: u8) -> PageMemory {
        let mut memory = PageMemory::new(len).unwrap();
        memory.fill(byte);
        memory
    }

    #[test]
    fn what_is_written_stands_in_the_file_and_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let open =
            || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let file = open();
        let Ok(mut ring) = Ring::new(open(), memory(3 * 8192, 1), 8192) else {
            // Where rings are forbidden the fallback is measured, and tested, instead.
            return;
        };
        let mut told = 0;
        ring.transfer(Direction::Write, 10, 8192, 3, &mut || told += 1).unwrap();
        assert_eq!((told, file.metadata().unwrap().len()), (10, 81_920));
        let mut bytes = vec![0; 81_920];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 1));
        file.write_all_at(&vec![7; 81_920], 0).unwrap();
        ring.transfer(Direction::Read, 10, 8192, 2, &mut || told += 1).unwrap();
        assert_eq!(told, 20);
        let memory = ring.memory.as_deref().unwrap();
        assert!(memory.iter().all(|byte| *byte == 7), "two at a time use all three in turn");
        let error = ring.transfer(Direction::Read, 11, 8192, 3, &mut || {}).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "a file that is too short is seen");
    }

    #[test]
    fn cached_pages_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, vec![1; 10 * 4096 + 1]).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(cached_bytes(&file).unwrap(), 11 * 4096, "it was just written through the cache");
        std::fs::write(&path, "").unwrap();
        assert_eq!(cached_bytes(&file).unwrap(), 0);
    }
}
