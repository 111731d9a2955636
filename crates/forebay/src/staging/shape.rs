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

/// Large chunks are cut into parts of about this size. Of 2 MiB they cost a tenth more of the processor, since each is
/// handed from thread to thread; of 8 MiB loads are slower.
const PART_BYTES: u64 = 4 << 20;

/// On the way to a bucket each part is a request, which costs the server more than its bytes do.
const BUCKET_PART_BYTES: u64 = 8 << 20;

/// What loads may hold at once for each drive, and stores: two parts keep a drive busy while a third is checked and
/// copied. With twice as much a load costs a third more of the processor, since parts are not in its cache any more.
const SHARE_BYTES: u64 = 12 << 20;

/// Small chunks are worth no more than this many transfers at once, for each drive.
const SHARE_SLOTS_MAX: u64 = 64;

/// How much of either there is at least.
const SLOTS_MIN: u64 = 2;

/// A bucket has the share of so many drives: with that of one an S3 server on the same machine is at a third of its
/// speed, and one that is farther away is slower still.
const BUCKET_DRIVES: usize = 4;

/// What is behind the staging buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backing {
    /// Drives, and a remote store that is no bucket.
    pub drives: usize,
    /// Whether there is a bucket too. Then large chunks are cut for it, on the way to a drive as well: all who share a
    /// bucket must cut them alike.
    pub has_bucket: bool,
}

impl Backing {
    /// Drives alone, or stores that are like them.
    pub const fn of_drives(drives: usize) -> Self {
        Self { drives, has_bucket: false }
    }

    const fn part_bytes(self) -> u64 {
        if self.has_bucket { BUCKET_PART_BYTES } else { PART_BYTES }
    }

    /// Slots of this size that loads may hold at once, and stores.
    fn share(self, slot_bytes: usize) -> u64 {
        let drives = self.drives + if self.has_bucket { BUCKET_DRIVES } else { 0 };
        (SHARE_BYTES / slot_bytes as u64).clamp(SLOTS_MIN, SHARE_SLOTS_MAX) * drives.max(1) as u64
    }
}

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
    pub fn slot_bytes(chunk_bytes: u64, backing: Backing) -> Option<usize> {
        let part_bytes = backing.part_bytes();
        let parts = ((chunk_bytes.checked_add(part_bytes / 2)?) / part_bytes).max(1);
        let grain = if parts > 1 { grain_blocks(blocks_for(chunk_bytes)) } else { 1 };
        let slot_bytes = chunk_bytes.div_ceil(parts).checked_next_multiple_of(grain * BLOCK_BYTES as u64)?;
        usize::try_from(slot_bytes).ok()
    }

    /// The shape for chunks of `chunk_bytes` in at most `bytes` of memory. `None` when there is no room for two slots.
    pub fn within(bytes: u64, chunk_bytes: u64, backing: Backing) -> Option<Self> {
        let slot_bytes = Self::slot_bytes(chunk_bytes, backing)?;
        let share = backing.share(slot_bytes);
        let slots = (bytes / slot_bytes as u64).min(2 * share);
        let whole = slots >= SLOTS_MIN;
        whole.then_some(Self {
            slots: u32::try_from(slots).ok()?,
            slot_bytes,
            share: u32::try_from(share).ok()?,
        })
    }

    /// Payload bytes of all slots.
    pub fn bytes(self) -> u64 {
        u64::from(self.slots) * self.slot_bytes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const DRIVE: Backing = Backing::of_drives(1);
    const BUCKET: Backing = Backing { drives: 0, has_bucket: true };

    #[test]
    fn a_chunk_is_cut_into_equal_parts() {
        let slot = |chunk_bytes, backing| Shape::slot_bytes(chunk_bytes, backing).unwrap() as u64;
        let chunks = [MIB, 4 * MIB, 6 * MIB - 1, 8 * MIB, 32 * MIB];
        assert_eq!(slot(1, DRIVE), 4096);
        assert_eq!(
            chunks.map(|chunk_bytes| slot(chunk_bytes, DRIVE)),
            [MIB, 4 * MIB, 6 * MIB, 4 * MIB, 4 * MIB]
        );
        assert_eq!(
            chunks.map(|chunk_bytes| slot(chunk_bytes, BUCKET)),
            [MIB, 4 * MIB, 6 * MIB, 8 * MIB, 8 * MIB]
        );
        for chunk_bytes in (1..40 * MIB).step_by(333_333) {
            let slot = slot(chunk_bytes, DRIVE);
            let slots = chunk_bytes.div_ceil(slot);
            assert!(slot <= 6 * MIB, "{chunk_bytes}");
            assert!(slots * slot < chunk_bytes + slots * 65_536, "{chunk_bytes}: little is left empty");
        }
        assert_eq!(Shape::slot_bytes(u64::MAX, DRIVE), None);
    }

    #[test]
    fn who_shares_a_bucket_cuts_alike_whatever_else_there_is() {
        for chunk_bytes in (1..40 * MIB).step_by(333_333) {
            let slot = |drives| Shape::slot_bytes(chunk_bytes, Backing { drives, has_bucket: true });
            assert_eq!(slot(0), slot(2), "{chunk_bytes}");
        }
    }

    #[test]
    fn no_more_memory_is_taken_than_can_be_used_and_none_with_less_than_two_slots() {
        let shape = |bytes, chunk_bytes, backing| {
            Shape::within(bytes, chunk_bytes, backing).map(|shape| (shape.slots, shape.share))
        };
        let three = Backing::of_drives(3);
        assert_eq!(shape(1 << 40, 32 * MIB, DRIVE), Some((6, 3)));
        assert_eq!(shape(1 << 40, 32 * MIB, three), Some((18, 9)));
        assert_eq!(shape(1 << 40, 32 * MIB, BUCKET), Some((16, 8)));
        assert_eq!(shape(1 << 40, 32 * MIB, Backing { drives: 1, ..BUCKET }), Some((20, 10)));
        assert_eq!(shape(1 << 40, 4096, DRIVE), Some((128, 64)));
        assert_eq!(shape(9 * MIB, 32 * MIB, DRIVE), Some((2, 3)), "much less than a chunk");
        assert_eq!(shape(8 * MIB - 1, 32 * MIB, DRIVE), None);
    }
}
