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

    /// Cuts the chunk into pieces that lie in one region each: (address or null, offset in the chunk, length).
    fn pieces(&self) -> impl Iterator<Item = (*mut u8, usize, usize)> {
        let mut start = 0;
        self.list.iter().flat_map(move |region| {
            let first = start;
            start += region.len;
            (0..region.len)
                .step_by(PIECE_BYTES)
                .map(move |at| {
                    (region.address.wrapping_add(at), first + at, PIECE_BYTES.min(region.len - at))
                })
                .map({
                    let null = region.address.is_null();
                    move |(address, offset, len)| {
                        (if null { std::ptr::null_mut() } else { address }, offset, len)
                    }
                })
        })
    }
}

impl Source for Regions {
    fn len(&self) -> usize {
        self.len
    }

    fn fill(&mut self, slot: &mut [u8], seen: Observer<'_>) -> Result<(), String> {
        if !self.is_whole() {
            return Err("a chunk to be stored has pages without memory".into());
        }
        for (address, offset, len) in self.pieces() {
            let to = &mut slot[offset..offset + len];
            // SAFETY: the piece lies in a region of at least this length, valid by `new`'s promise; `to` is of the
            // same length and in a staging slot, which no engine memory overlaps.
            unsafe {
                seen(std::slice::from_raw_parts(address, len));
                stream::copy(to.as_mut_ptr(), address, len);
            }
        }
        Ok(())
    }
}

impl Sink for Regions {
    fn len(&self) -> usize {
        self.len
    }

    fn drain(&mut self, slot: &[u8], seen: Observer<'_>) -> Result<(), String> {
        for (address, offset, len) in self.pieces() {
            let from = &slot[offset..offset + len];
            seen(from);
            if !address.is_null() {
                // SAFETY: as above, the other way.
                unsafe { stream::copy(address, from.as_ptr(), len) };
            }
        }
        Ok(())
    }
}
