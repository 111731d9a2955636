//! So many bytes a second each way, which all transfers share.

use std::io;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::sync::Mutex;
use crate::tier::disk::block_file::BlockFile;

/// A file on a slow drive.
pub struct Throttle {
    inner: Arc<dyn BlockFile>,
    reads: Line,
    writes: Line,
}

struct Line {
    bytes_per_s: u64,
    free_at: Mutex<Option<Instant>>,
}

impl Line {
    fn pass(&self, bytes: usize) {
        let nanoseconds = (bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_s.max(1);
        let now = Instant::now();
        let until = {
            let mut free_at = self.free_at.lock();
            let until = free_at.map_or(now, |at| at.max(now)) + Duration::from_nanos(nanoseconds);
            *free_at = Some(until);
            until
        };
        sleep(until - now);
    }
}

impl Throttle {
    /// Lets at most `bytes_per_s` each way to `inner` and back.
    pub fn new(inner: Arc<dyn BlockFile>, bytes_per_s: u64) -> Self {
        let line = || Line { bytes_per_s, free_at: Mutex::new(None) };
        Self { inner, reads: line(), writes: line() }
    }
}

impl BlockFile for Throttle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.inner.read_at(buffer, offset)?;
        self.reads.pass(read);
        Ok(read)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        self.writes.pass(buffer.len());
        self.inner.write_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn is_direct(&self) -> bool {
        self.inner.is_direct()
    }
}
