//! The arena: the memory under the staging buffer, mapped once and never grown.
//!
//! Promises: `slots` slots of equal length, each a payload area and the page of a trailer behind it, as a chunk lies on
//! disk, and on such borders as chunks of that length have there ([`grain_blocks`]); all of it resident from the start,
//! on huge pages where the system gives them (their share is reported): [`PageMemory`] sees to that. Never hands out memory by itself: [`super::Staging`] decides who may use
//! which slot, and `Arena::slot` trusts it.

use std::ptr::NonNull;

use crate::catalog::{BLOCK_BYTES, blocks_for, grain_blocks};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::PageMemory;

/// Memory for `slots` chunks.
#[derive(Debug)]
pub(super) struct Arena {
    memory: PageMemory,
    slots: u32,
    payload_bytes: usize,
    /// From one slot to the next.
    stride: usize,
}

impl Arena {
    pub(super) fn new(slots: u32, payload_bytes: usize) -> Result<Self> {
        assert!(payload_bytes > 0 && payload_bytes.is_multiple_of(BLOCK_BYTES), "slots are whole blocks");
        let (block_bytes, payload) = (BLOCK_BYTES as u64, payload_bytes as u64);
        let grain_bytes = grain_blocks(blocks_for(payload)) * block_bytes;
        let stride = payload
            .checked_add(block_bytes)
            .and_then(|bytes| usize::try_from(bytes.checked_next_multiple_of(grain_bytes)?).ok())
            .ok_or_else(too_large)?;
        let memory = memory(stride.checked_mul(slots as usize).ok_or_else(too_large)?)?;
        Ok(Self { memory, slots, payload_bytes, stride })
    }

    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    pub(super) fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Bytes that lie on huge pages.
    pub(super) fn huge_bytes(&self) -> usize {
        self.memory.huge_bytes()
    }

    /// Where all of it lies.
    pub(super) fn range(&self) -> (NonNull<u8>, usize) {
        self.memory.range()
    }

    /// A slot: payload area and trailer page.
    ///
    /// # Safety
    /// Nobody else may use slot `index` for as long as the slice lives.
    #[expect(clippy::mut_from_ref, reason = "exclusive by the caller's promise, as in an allocator")]
    pub(super) unsafe fn slot(&self, index: u32) -> &mut [u8] {
        assert!(index < self.slots, "slot {index} of {}", self.slots);
        // SAFETY: the range lies in the memory, since `index < slots`; ranges of different slots do not meet, and
        // the caller promises that this slot is its own.
        let slot = unsafe { self.memory.part(index as usize, self.stride) };
        &mut slot[..self.payload_bytes + BLOCK_BYTES]
    }
}

fn too_large() -> Error {
    Error::new(ErrorKind::Config, "max_local_cpu_size is larger than the address space; make it smaller")
}

fn memory(len: usize) -> Result<PageMemory> {
    PageMemory::map(len).map_err(|error| {
        let remedy = "max_local_cpu_size: make it smaller, or free memory";
        Error::io(format!("allocating {len} bytes of staging memory ({remedy})"), error)
    })
}
