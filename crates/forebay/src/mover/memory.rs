//! Engine memory: where a store's bytes come from and a load's bytes go, part by part.
//!
//! A store's memory on whole pages is read by the drive where it lies. All other memory is copied from and to a slot.
//!
//! Both run piece by piece: each piece is shown to a checksum, which brings it into the processor's cache, and copied
//! from there: one pass over memory does both. What a failed load has put into a sink is not to be used, so checking need
//! not come first.

use super::stream;
use crate::checksum::PayloadHasher;
#[cfg(doc)]
use crate::memory::PageMemory;
use crate::memory::Pages;
use crate::outcome::Reason;

/// Bytes that are copied and hashed at a time: they stay in a core's first-level cache, and a load's next bytes are fetched
/// while these go out. At 128 KiB a load's processor time is a tenth more.
pub const PIECE_BYTES: usize = 8 << 10;

/// What is shown each piece, in order.
pub type Observer<'a> = &'a mut dyn FnMut(&[u8]);

/// Engine memory that a chunk is stored from. Dropped as soon as it is not needed any more.
pub trait Source: Send {
    /// Bytes of the chunk.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The chunk's memory, all of it, if the drive may read it where it lies. Then it is not copied, and this source
    /// is kept, and not touched, until the drive is done with it. Worth its while on huge pages ([`PageMemory`]): from
    /// others a copy is faster than the drive.
    fn pages(&mut self) -> Option<Pages<'_>> {
        None
    }

    /// Fills `to` with the chunk's bytes from `at` on, from front to back, and shows each piece to `seen`. The parts of a
    /// chunk are asked for in order, each once.
    ///
    /// # Errors
    /// Why the engine's memory cannot be read.
    fn fill(&mut self, at: usize, to: &mut [u8], seen: Observer<'_>) -> Result<(), String>;

    /// Whether what was filled in, and hashed as [`trailer::payload_hasher`](crate::tier::disk::trailer::payload_hasher)
    /// does, is what should have been. Asked before the last part goes, and after an error of [`Self::fill`]; engine
    /// memory has no way to tell.
    ///
    /// # Errors
    /// What is wrong with it.
    fn vouch(&mut self, _payload: &PayloadHasher) -> Result<(), Reason> {
        Ok(())
    }
}

/// Engine memory that a chunk is loaded into.
pub trait Sink: Send {
    /// Bytes of the chunk.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes `from`, the chunk's bytes from `at` on, from front to back, and shows each piece to `seen`. The parts of a
    /// chunk come in order, each once; after an error or a wrong one the others do not come.
    ///
    /// # Errors
    /// Why the engine's memory cannot be written.
    fn drain(&mut self, at: usize, from: &[u8], seen: Observer<'_>) -> Result<(), String>;
}

/// Fills a part from bytes of the same length, as a [`Source`] does.
pub fn fill_from(from: &[u8], to: &mut [u8], seen: Observer<'_>) {
    for (to, from) in to.chunks_mut(PIECE_BYTES).zip(from.chunks(PIECE_BYTES)) {
        seen(from);
        // Not past the cache: the drive fetches it from there.
        to.copy_from_slice(from);
    }
}

/// Empties a part into memory of the same length, as a [`Sink`] does.
pub fn drain_to(from: &[u8], to: &mut [u8], seen: Observer<'_>) {
    for (to, from) in to.chunks_mut(PIECE_BYTES).zip(from.chunks(PIECE_BYTES)) {
        seen(from);
        stream::copy_slice(to, from);
    }
}

/// Bytes that own themselves.
impl<T: AsRef<[u8]> + Send> Source for T {
    fn len(&self) -> usize {
        self.as_ref().len()
    }

    fn fill(&mut self, at: usize, to: &mut [u8], seen: Observer<'_>) -> Result<(), String> {
        fill_from(&self.as_ref()[at..at + to.len()], to, seen);
        Ok(())
    }
}

/// A vector behind a lock, for callers that want their bytes back.
impl Sink for std::sync::Arc<parking_lot::Mutex<Vec<u8>>> {
    fn len(&self) -> usize {
        self.lock().len()
    }

    fn drain(&mut self, at: usize, from: &[u8], seen: Observer<'_>) -> Result<(), String> {
        drain_to(from, &mut self.lock()[at..at + from.len()], seen);
        Ok(())
    }
}
