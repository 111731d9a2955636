//! How much staging memory there is, and how it is cut up.
//!
//! Promises: a slot holds a chunk, or a part of one where chunks are large, and a trailer besides, which is not counted;
//! there are never more slots than loads and stores may hold at once, however much memory they were allowed: what could
//! not be used is not taken.
//!
//! Both bounds are for speed. A byte that the drive has just written, or is about to read, is found in the processor's
//! cache if not too many others have passed since; then checking and copying it costs half as much, and the memory's
//! speed is left to the drive (`docs/BENCHMARKS.md` has the figures). That needs parts that are small and few of them
//! under way, and no more of them keep a drive busy.

use crate::catalog::{BLOCK_BYTES, blocks_for, grain_blocks};

/// Large chunks are cut into parts of about this size. On a virtual drive parts of 1 and 4 MiB came out slower.
const PART_BYTES: u64 = 2 << 20;

/// What loads may hold at once for each drive, and stores: two parts keep a drive busy while a third is checked and
/// copied. With twice as much a load costs a fifth more of the processor, since parts are not in its cache any more.
const SHARE_BYTES: u64 = 6 << 20;

/// Small chunks are worth no more than this many transfers at once, for each drive.
const SHARE_SLOTS_MAX: u64 = 64;

/// How much of either there is at least.
const SLOTS_MIN: u64 = 2;

/// Slots, and who may hold how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Slots there are.
    pub slots: u32,
    /// Payload bytes a slot holds.
    pub slot_bytes: usize,
    /// Slots that loads may hold at once, and stores.
    pub share: u32,
}

impl Shape {
    /// Payload bytes of a slot for chunks of `chunk_bytes`: all of one in whole blocks, or of about equal parts of it that
    /// begin and end where the file likes it. `None` when that is larger than the address space.
    pub fn slot_bytes(chunk_bytes: u64) -> Option<usize> {
        let parts = ((chunk_bytes.checked_add(PART_BYTES / 2)?) / PART_BYTES).max(1);
        let grain = if parts > 1 { grain_blocks(blocks_for(chunk_bytes)) } else { 1 };
        let slot_bytes = chunk_bytes.div_ceil(parts).checked_next_multiple_of(grain * BLOCK_BYTES as u64)?;
        usize::try_from(slot_bytes).ok()
    }

    /// The shape for chunks of `chunk_bytes` in at most `bytes` of memory, with so many drives behind it. `None` when
    /// there is no room for two slots.
    pub fn within(bytes: u64, chunk_bytes: u64, drives: usize) -> Option<Self> {
        let slot_bytes = Self::slot_bytes(chunk_bytes)?;
        let share =
            (SHARE_BYTES / slot_bytes as u64).clamp(SLOTS_MIN, SHARE_SLOTS_MAX) * drives.max(1) as u64;
        let slots = (bytes / slot_bytes as u64).min(2 * share);
        let whole = slots >= SLOTS_MIN;
        whole.then_some(Self {
            slots: u32::try_from(slots).ok()?,
            slot_bytes,
            share: u32::try_from(share).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_chunk_is_cut_into_equal_parts_of_about_two_mib() {
        let slot = |chunk_bytes| Shape::slot_bytes(chunk_bytes).unwrap() as u64;
        assert_eq!(slot(1), 4096);
        assert_eq!(
            [MIB, 2 * MIB, 3 * MIB - 1, 8 * MIB, 32 * MIB].map(slot),
            [MIB, 2 * MIB, 3 * MIB, 2 * MIB, 2 * MIB]
        );
        for chunk_bytes in (1..40 * MIB).step_by(333_333) {
            let slots = chunk_bytes.div_ceil(slot(chunk_bytes));
            assert!(slot(chunk_bytes) <= 3 * MIB, "{chunk_bytes}");
            assert!(
                slots * slot(chunk_bytes) < chunk_bytes + slots * 65_536,
                "{chunk_bytes}: little is left empty"
            );
        }
        assert_eq!(Shape::slot_bytes(u64::MAX), None);
    }

    #[test]
    fn no_more_memory_is_taken_than_can_be_used_and_none_with_less_than_two_slots() {
        let shape = |bytes, chunk_bytes, drives| Shape::within(bytes, chunk_bytes, drives);
        assert_eq!(shape(1 << 40, 32 * MIB, 1).map(|shape| (shape.slots, shape.share)), Some((6, 3)));
        assert_eq!(shape(1 << 40, 32 * MIB, 3).map(|shape| (shape.slots, shape.share)), Some((18, 9)));
        assert_eq!(shape(1 << 40, 4096, 1).map(|shape| (shape.slots, shape.share)), Some((128, 64)));
        assert_eq!(shape(5 * MIB, 32 * MIB, 1).map(|shape| shape.slots), Some(2), "much less than a chunk");
        assert_eq!(shape(4 * MIB - 1, 32 * MIB, 1), None);
    }
}
