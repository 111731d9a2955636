//! Every transfer takes so much longer. Transfers do not wait for each other, but each keeps its thread.

use std::io;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use crate::tier::disk::block_file::BlockFile;

/// A file that is far away.
pub struct Delay {
    inner: Arc<dyn BlockFile>,
    latency: Duration,
}

impl Delay {
    /// Puts `latency` before every transfer of `inner`.
    pub fn new(inner: Arc<dyn BlockFile>, latency: Duration) -> Self {
        Self { inner, latency }
    }
}

impl BlockFile for Delay {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        sleep(self.latency);
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        sleep(self.latency);
        self.inner.write_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn is_direct(&self) -> bool {
        self.inner.is_direct()
    }
}
