//! Engine memory: where a store's bytes come from and a load's bytes go.
//!
//! Both run piece by piece: each piece is shown to a checksum, which brings it into the processor's cache, and copied
//! from there: one pass over memory does both. What a failed load has put into a sink is not to be used, so checking need not come first.

use super::stream;

/// Bytes that are copied and hashed at a time: well inside a core's second-level cache.
pub const PIECE_BYTES: usize = 128 << 10;

/// What is shown each piece, in order.
pub type Observer<'a> = &'a mut dyn FnMut(&[u8]);

/// Engine memory that a chunk is stored from. Dropped as soon as it has been read.
pub trait Source: Send {
    /// Bytes of the chunk.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `slot`, which is [`Self::len`] bytes long, from front to back, and shows each piece to `seen`.
    ///
    /// # Errors
    /// Why the engine's memory cannot be read.
    fn fill(&mut self, slot: &mut [u8], seen: Observer<'_>) -> Result<(), String>;
}

/// Engine memory that a chunk is loaded into.
pub trait Sink: Send {
    /// Bytes of the chunk.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the bytes of `slot`, which is [`Self::len`] bytes long, from front to back, and shows each piece to
    /// `seen`.
    ///
    /// # Errors
    /// Why the engine's memory cannot be written.
    fn drain(&mut self, slot: &[u8], seen: Observer<'_>) -> Result<(), String>;
}

/// Bytes that own themselves.
impl<T: AsRef<[u8]> + Send> Source for T {
    fn len(&self) -> usize {
        self.as_ref().len()
    }

    fn fill(&mut self, slot: &mut [u8], seen: Observer<'_>) -> Result<(), String> {
        for (to, from) in slot.chunks_mut(PIECE_BYTES).zip(self.as_ref().chunks(PIECE_BYTES)) {
            seen(from);
            stream::copy_slice(to, from);
        }
        Ok(())
    }
}

/// A vector behind a lock, for callers that want their bytes back.
impl Sink for std::sync::Arc<parking_lot::Mutex<Vec<u8>>> {
    fn len(&self) -> usize {
        self.lock().len()
    }

    fn drain(&mut self, slot: &[u8], seen: Observer<'_>) -> Result<(), String> {
        let mut own = self.lock();
        for (to, from) in own.chunks_mut(PIECE_BYTES).zip(slot.chunks(PIECE_BYTES)) {
            seen(from);
            stream::copy_slice(to, from);
        }
        Ok(())
    }
}
