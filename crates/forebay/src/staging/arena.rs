//! The arena: the memory under the staging buffer, mapped once and never grown.
//!
//! Promises: `slots` slots of equal length on 4 KiB borders, each a 4 KiB header page and the payload area after it, as
//! a chunk lies on disk; all of it resident from the start, on huge pages where the system gives them (their share is
//! reported): [`PageMemory`] sees to that. Never hands out memory by itself: [`super::Staging`] decides who may use
//! which slot, and `Arena::slot` trusts it.

use std::ptr::NonNull;

use crate::catalog::BLOCK_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::PageMemory;

/// Memory for `slots` chunks.
#[derive(Debug)]
pub(super) struct Arena {
    memory: PageMemory,
    slots: u32,
    payload_bytes: usize,
}

impl Arena {
    pub(super) fn new(slots: u32, payload_bytes: usize) -> Result<Self> {
        assert!(payload_bytes > 0 && payload_bytes.is_multiple_of(BLOCK_BYTES), "slots are whole blocks");
        let len = payload_bytes.checked_add(BLOCK_BYTES).and_then(|each| each.checked_mul(slots as usize));
        let memory = memory(len.ok_or_else(too_large)?)?;
        Ok(Self { memory, slots, payload_bytes })
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

    /// A slot: header page and payload area.
    ///
    /// # Safety
    /// Nobody else may use slot `index` for as long as the slice lives.
    #[expect(clippy::mut_from_ref, reason = "exclusive by the caller's promise, as in an allocator")]
    pub(super) unsafe fn slot(&self, index: u32) -> &mut [u8] {
        assert!(index < self.slots, "slot {index} of {}", self.slots);
        // SAFETY: the range lies in the memory, since `index < slots`; ranges of different slots do not meet, and
        // the caller promises that this slot is its own.
        unsafe { self.memory.part(index as usize, BLOCK_BYTES + self.payload_bytes) }
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
