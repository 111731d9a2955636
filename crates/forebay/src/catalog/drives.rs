//! Drives: the address spaces a tier is made of, and on which of them a chunk goes.
//!
//! Promises: a chunk lies wholly on one drive; it goes to the one with the largest share of its blocks free (of those
//! that have equal shares each has its turn), or if that has no room in few enough pieces, to the next that has.
//! So drives fill evenly, whatever their sizes. Blocks that are withheld are nobody's and not free, until they are given out
//! again: so a drive becomes smaller whatever lies at its end.

use std::cmp::Reverse;

use super::extent::{Extent, Extents};
use super::space::AddressSpace;

/// So many units may be free of a drive in smaller pieces before those are withheld too: rather scattered pieces than the
/// loss of more chunks.
const FREE_IN_PIECES_MAX: u64 = 8;
/// How many drives a tier may have.
pub const DRIVES_MAX: usize = 16;

/// Blocks of each drive of a tier: at least one drive, at most [`DRIVES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriveBlocks {
    count: usize,
    list: [u32; DRIVES_MAX],
}

impl From<u32> for DriveBlocks {
    /// A single drive.
    fn from(blocks: u32) -> Self {
        let mut list = [0; DRIVES_MAX];
        list[0] = blocks;
        Self { count: 1, list }
    }
}

impl DriveBlocks {
    /// Drives from a slice; `None` when there are none or more than [`DRIVES_MAX`].
    pub fn from_slice(blocks: &[u32]) -> Option<Self> {
        let mut list = [0; DRIVES_MAX];
        list.get_mut(..blocks.len())?.copy_from_slice(blocks);
        (!blocks.is_empty()).then_some(Self { count: blocks.len(), list })
    }

    /// Blocks of each drive.
    pub fn as_slice(&self) -> &[u32] {
        &self.list[..self.count]
    }

    /// Blocks of all drives.
    pub fn total(&self) -> u64 {
        self.as_slice().iter().map(|&blocks| u64::from(blocks)).sum()
    }

    /// Blocks of the largest drive.
    pub fn largest(&self) -> u32 {
        self.list.into_iter().max().unwrap_or(0)
    }
}

/// The free blocks of a tier's drives.
#[derive(Debug, Clone)]
pub struct Drives {
    spaces: Vec<AddressSpace>,
    /// Of each drive what is withheld, and how many blocks those are.
    withheld: Vec<(Vec<Extent>, u32)>,
    /// The drive that is first among equals.
    turn: usize,
}

impl Drives {
    /// Drives of so many blocks, all of them free.
    pub fn new(blocks: &DriveBlocks) -> Self {
        let spaces: Vec<_> = blocks.as_slice().iter().map(|&blocks| AddressSpace::new(blocks)).collect();
        Self { withheld: vec![(Vec::new(), 0); spaces.len()], spaces, turn: 0 }
    }

    /// The address space of each drive.
    pub fn spaces(&self) -> &[AddressSpace] {
        &self.spaces
    }

    /// Blocks in all, without those that are withheld.
    pub fn blocks(&self) -> u64 {
        (0..self.spaces.len()).map(|drive| u64::from(self.blocks_at(drive))).sum()
    }

    /// Blocks of a drive, without those that are withheld; none of one that is not there.
    pub fn blocks_of(&self, drive: u8) -> u32 {
        if usize::from(drive) < self.spaces.len() { self.blocks_at(usize::from(drive)) } else { 0 }
    }

    fn blocks_at(&self, drive: usize) -> u32 {
        self.spaces[drive].blocks() - self.withheld[drive].1
    }

    /// Withholds free blocks in one piece, whole units of them, `most` at most, of the drive that has most blocks if it can;
    /// `None` when no free range has a unit, and no drive many smaller ones.
    pub fn withhold(&mut self, most: u32, unit: u32) -> Option<(u8, Extent)> {
        let mut largest_first: Vec<usize> = (0..self.spaces.len()).collect();
        largest_first.sort_by_key(|&drive| Reverse(self.blocks_at(drive)));
        let in_units =
            largest_first.iter().find_map(|&drive| Some((drive, self.spaces[drive].take_end(most, unit)?)));
        let (drive, extent) = in_units.or_else(|| {
            let mut scattered = largest_first
                .into_iter()
                .filter(|&drive| self.spaces[drive].free_blocks() > FREE_IN_PIECES_MAX * u64::from(unit));
            let drive = scattered.next()?;
            Some((drive, self.spaces[drive].take_end(most, 1)?))
        })?;
        let (extents, blocks) = &mut self.withheld[drive];
        extents.push(extent);
        *blocks += extent.blocks;
        Some((u8::try_from(drive).ok()?, extent))
    }

    /// Blocks of a drive that were withheld last, or the first `most` of them.
    pub fn withheld(&self, drive: u8, most: u32) -> Option<Extent> {
        let (extents, _) = self.withheld.get(usize::from(drive))?;
        extents.last().map(|extent| Extent { blocks: extent.blocks.min(most), ..*extent })
    }

    /// Gives out again what [`Self::withheld`] says.
    ///
    /// # Panics
    /// When it is anything else: a bug of the caller.
    pub fn give_out(&mut self, drive: u8, extent: Extent) {
        let at = usize::from(drive);
        let (extents, blocks) = &mut self.withheld[at];
        let last = extents.pop().expect("what is given out was withheld");
        assert!(last.start == extent.start && last.blocks >= extent.blocks, "the last that was withheld");
        if last.blocks > extent.blocks {
            extents.push(Extent { start: last.start + extent.blocks, blocks: last.blocks - extent.blocks });
        }
        *blocks -= extent.blocks;
        self.spaces[at].free(&Extents::from_slice(&[extent]).expect("one extent"));
    }

    /// Adds blocks behind the last one of a drive, which is there.
    pub fn extend(&mut self, drive: u8, blocks: u32) {
        self.spaces[usize::from(drive)].extend(blocks);
    }

    /// Blocks that are free.
    pub fn free_blocks(&self) -> u64 {
        self.spaces.iter().map(AddressSpace::free_blocks).sum()
    }

    /// Takes `blocks` blocks of one drive, or `None` when on each of them free space is too small or too scattered.
    pub fn allocate(&mut self, blocks: u32) -> Option<(u8, Extents)> {
        let count = self.spaces.len();
        let mut untried = [true; DRIVES_MAX];
        for _ in 0..count {
            let drive = (0..count)
                .map(|after| (self.turn + after) % count)
                .filter(|&drive| untried[drive])
                .reduce(|best, drive| if self.is_freer(drive, best) { drive } else { best })?;
            untried[drive] = false;
            if let Some(extents) = self.spaces[drive].allocate(blocks) {
                self.turn = (drive + 1) % count;
                return Some((u8::try_from(drive).ok()?, extents));
            }
        }
        None
    }

    /// Takes exactly these extents of a drive (recovery); `false`, and nothing taken, when there is no such drive or
    /// any part of them is not free.
    pub fn reserve(&mut self, drive: u8, extents: &Extents) -> bool {
        self.spaces.get_mut(usize::from(drive)).is_some_and(|space| space.reserve(extents))
    }

    /// Gives extents of a drive back.
    pub fn free(&mut self, drive: u8, extents: &Extents) {
        self.spaces[usize::from(drive)].free(extents);
    }

    /// Whether a larger share of one drive is free than of another.
    fn is_freer(&self, one: usize, other: usize) -> bool {
        let free = |drive: usize| self.spaces[drive].free_blocks();
        let all = |drive: usize| u64::from(self.blocks_at(drive));
        // All of them are less than 2^32, so the products have room.
        free(one) * all(other) > free(other) * all(one)
    }
}
