//! Scattered host memory: pieces of an engine's KV cache that make up one chunk, copied without the engine's help.
//!
//! The one file that reads and writes memory it does not own. Whoever makes a [`Regions`] promises that the memory
//! stays; everything after that is bounds-checked arithmetic on that promise.

use std::sync::Arc;

use super::memory::{Observer, PIECE_BYTES, Sink, Source};
use super::stream;

/// A contiguous piece of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Its address; null stands for bytes that a load passes over.
    pub address: *mut u8,
    /// Its length in bytes.
    pub len: usize,
}

/// The pieces of a chunk, in order, and whatever keeps their memory alive.
pub struct Regions {
    list: Vec<Region>,
    len: usize,
    _owner: Arc<dyn Send + Sync>,
}

// SAFETY: the addresses are plain memory, not tied to a thread; `new`'s caller promised that they stay valid.
unsafe impl Send for Regions {}

impl Regions {
    /// # Safety
    /// Until the returned value is dropped, every region that is not null must be memory that may be read and, for a
    /// load, written, from any thread. `owner` may be what sees to that. Others may read it meanwhile, or during a
    /// load not even that.
    pub unsafe fn new(regions: Vec<Region>, owner: Arc<dyn Send + Sync>) -> Self {
        let len = regions.iter().map(|region| region.len).sum();
        Self { list: regions, len, _owner: owner }
    }

    /// Whether every region has memory behind it.
    pub fn is_whole(&self) -> bool {
        self.list.iter().all(|region| !region.address.is_null())
    }

    /// Cuts `len` bytes of the chunk, from `at` on, into pieces that lie in one region each: address or null, offset from
    /// `at`, length.
    fn pieces(&self, at: usize, len: usize) -> impl Iterator<Item = (*mut u8, usize, usize)> {
        let mut start = 0;
        self.list.iter().flat_map(move |region| {
            // What of the region is wanted, counted from the chunk's front.
            let (first, end) = (start.max(at), (start + region.len).min(at + len));
            let skipped = first - start;
            start += region.len;
            let wanted = end.saturating_sub(first);
            let null = region.address.is_null();
            (0..wanted).step_by(PIECE_BYTES).map(move |piece| {
                let address = region.address.wrapping_add(skipped + piece);
                let address = if null { std::ptr::null_mut() } else { address };
                (address, first + piece - at, PIECE_BYTES.min(wanted - piece))
            })
        })
    }
}

impl Source for Regions {
    fn len(&self) -> usize {
        self.len
    }

    fn fill(&mut self, at: usize, to: &mut [u8], seen: Observer<'_>) -> Result<(), String> {
        if !self.is_whole() {
            return Err("a chunk to be stored has pages without memory".into());
        }
        for (address, offset, len) in self.pieces(at, to.len()) {
            // SAFETY: the piece lies in a region of at least this length, valid by `new`'s promise.
            let from = unsafe { std::slice::from_raw_parts(address, len) };
            seen(from);
            to[offset..offset + len].copy_from_slice(from);
        }
        Ok(())
    }
}

impl Sink for Regions {
    fn len(&self) -> usize {
        self.len
    }

    fn drain(&mut self, at: usize, from: &[u8], seen: Observer<'_>) -> Result<(), String> {
        for (address, offset, len) in self.pieces(at, from.len()) {
            let from = &from[offset..offset + len];
            seen(from);
            if !address.is_null() {
                // SAFETY: the piece lies in a region of at least this length, valid by `new`'s promise; `from` is of
                // the same length and in a staging slot, which no engine memory overlaps.
                unsafe { stream::copy(address, from.as_ptr(), len) };
            }
        }
        Ok(())
    }
}
