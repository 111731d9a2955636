//! An address space: which blocks of a tier are free.
//!
//! Promises: blocks are handed out at most once until they are given back; neighbouring free ranges are one range;
//! a request is met by the smallest single range that holds it, else by the largest ranges there are, up to
//! [`EXTENTS_MAX`] of them. Never does I/O. Giving back what was not taken is a bug of the caller and panics.

use std::collections::{BTreeMap, BTreeSet};

use super::extent::{EXTENTS_MAX, Extent, Extents};

/// The free blocks of a tier.
#[derive(Debug, Clone)]
pub struct AddressSpace {
    blocks: u32,
    free_by_start: BTreeMap<u32, u32>,
    free_by_size: BTreeSet<(u32, u32)>,
    free_blocks: u64,
}

impl AddressSpace {
    /// A space of `blocks` blocks, all of them free.
    pub fn new(blocks: u32) -> Self {
        let mut space =
            Self { blocks, free_by_start: BTreeMap::new(), free_by_size: BTreeSet::new(), free_blocks: 0 };
        if blocks > 0 {
            space.insert(Extent { start: 0, blocks });
        }
        space
    }

    /// Blocks in all.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Blocks that are free.
    pub fn free_blocks(&self) -> u64 {
        self.free_blocks
    }

    /// Takes `blocks` blocks, or `None` when free space is too small or too scattered.
    pub fn allocate(&mut self, blocks: u32) -> Option<Extents> {
        if blocks == 0 || u64::from(blocks) > self.free_blocks {
            return None;
        }
        if let Some(&(_, start)) = self.free_by_size.range((blocks, 0)..).next() {
            let extent = Extent { start, blocks };
            self.take(extent);
            return Extents::from_slice(&[extent]);
        }
        let mut pieces = Vec::with_capacity(EXTENTS_MAX);
        let mut missing = blocks;
        for &(size, start) in self.free_by_size.iter().rev().take(EXTENTS_MAX) {
            let part = size.min(missing);
            pieces.push(Extent { start, blocks: part });
            missing -= part;
            if missing == 0 {
                break;
            }
        }
        if missing > 0 {
            return None;
        }
        pieces.iter().for_each(|&piece| self.take(piece));
        Extents::from_slice(&pieces)
    }

    /// Takes exactly these extents (recovery); `false`, and nothing taken, when any part of them is not free.
    pub fn reserve(&mut self, extents: &Extents) -> bool {
        for (taken, &extent) in extents.as_slice().iter().enumerate() {
            if !self.is_free(extent) {
                extents.as_slice()[..taken].iter().for_each(|&back| self.insert(back));
                return false;
            }
            self.take(extent);
        }
        true
    }

    /// Gives extents back.
    pub fn free(&mut self, extents: &Extents) {
        extents.as_slice().iter().for_each(|&extent| self.insert(extent));
    }

    /// Adds `blocks` blocks behind the last one, all of them free.
    ///
    /// # Panics
    /// When there are more of them then than 32 bits count.
    pub fn extend(&mut self, blocks: u32) {
        let start = self.blocks;
        self.blocks = start.checked_add(blocks).expect("blocks are numbered in 32 bits");
        if blocks > 0 {
            self.insert(Extent { start, blocks });
        }
    }

    /// Takes the end of the largest free range: whole units of it, `most` blocks at most. `None` when not even that has a
    /// unit.
    pub fn take_end(&mut self, most: u32, unit: u32) -> Option<Extent> {
        let unit = unit.max(1);
        let &(size, start) = self.free_by_size.last()?;
        let blocks = size.min(most) / unit * unit;
        let extent = Extent { start: start + (size - blocks), blocks };
        (blocks > 0).then(|| self.take(extent))?;
        Some(extent)
    }

    fn is_free(&self, extent: Extent) -> bool {
        extent.blocks > 0
            && self
                .free_by_start
                .range(..=extent.start)
                .next_back()
                .is_some_and(|(&start, &blocks)| Extent { start, blocks }.end() >= extent.end())
    }

    /// Cuts `extent` out of the free range that holds it.
    fn take(&mut self, extent: Extent) {
        let (start, blocks) = self
            .free_by_start
            .range(..=extent.start)
            .next_back()
            .map(|(&start, &blocks)| (start, blocks))
            .expect("a free range holds what is taken");
        let range = Extent { start, blocks };
        assert!(range.end() >= extent.end(), "taken blocks must be free");
        self.remove(start, blocks);
        let before = extent.start - start;
        if before > 0 {
            self.add(start, before);
        }
        let after = range.end() - extent.end();
        if after > 0 {
            self.add(extent.start + extent.blocks, u32::try_from(after).expect("part of a 32-bit range"));
        }
    }

    /// Adds a free range, joined with its neighbours.
    fn insert(&mut self, extent: Extent) {
        assert!(
            extent.blocks > 0 && extent.end() <= u64::from(self.blocks),
            "an extent must lie in its space"
        );
        let Extent { mut start, mut blocks } = extent;
        if let Some((&left, &size)) = self.free_by_start.range(..start).next_back() {
            let left_end = Extent { start: left, blocks: size }.end();
            assert!(left_end <= u64::from(start), "blocks given back were free already");
            if left_end == u64::from(start) {
                self.remove(left, size);
                start = left;
                blocks += size;
            }
        }
        if let Some((&right, &size)) = self.free_by_start.range(start..).next() {
            let end = Extent { start, blocks }.end();
            assert!(end <= u64::from(right), "blocks given back were free already");
            if end == u64::from(right) {
                self.remove(right, size);
                blocks += size;
            }
        }
        self.add(start, blocks);
    }

    fn add(&mut self, start: u32, blocks: u32) {
        self.free_by_start.insert(start, blocks);
        self.free_by_size.insert((blocks, start));
        self.free_blocks += u64::from(blocks);
    }

    fn remove(&mut self, start: u32, blocks: u32) {
        self.free_by_start.remove(&start);
        self.free_by_size.remove(&(blocks, start));
        self.free_blocks -= u64::from(blocks);
    }
}
