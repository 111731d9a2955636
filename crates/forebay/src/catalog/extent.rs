//! Extents: where in a tier's address space a chunk lies.
//!
//! Addresses and lengths count blocks of 4 KiB, in 32 bits: an address space ends at 16 TiB. A chunk takes at
//! most [`EXTENTS_MAX`] extents, in the order in which its bytes run through them.

/// Bytes in a block, the unit of allocation and of direct I/O (the physical sector of today's drives).
pub const BLOCK_BYTES: usize = 4096;
/// How many extents a chunk may span. Equal chunks never need a second one; mixed sizes rarely a third.
pub const EXTENTS_MAX: usize = 3;

/// A range of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Extent {
    /// First block.
    pub start: u32,
    /// Number of blocks.
    pub blocks: u32,
}

impl Extent {
    /// The block after the last.
    pub const fn end(self) -> u64 {
        self.start as u64 + self.blocks as u64
    }

    /// Position of the first byte.
    pub const fn byte_start(self) -> u64 {
        self.start as u64 * BLOCK_BYTES as u64
    }

    /// Length in bytes.
    pub const fn byte_len(self) -> usize {
        self.blocks as usize * BLOCK_BYTES
    }
}

/// The extents of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extents {
    count: u8,
    list: [Extent; EXTENTS_MAX],
}

impl Extents {
    /// Extents from a slice; `None` when it is longer than [`EXTENTS_MAX`].
    pub fn from_slice(list: &[Extent]) -> Option<Self> {
        let mut extents = Self::default();
        extents.list.get_mut(..list.len())?.copy_from_slice(list);
        extents.count = u8::try_from(list.len()).ok()?;
        Some(extents)
    }

    /// The extents, in the order of the chunk's bytes.
    pub fn as_slice(&self) -> &[Extent] {
        &self.list[..usize::from(self.count)]
    }

    /// Where `blocks` blocks of the chunk lie, from its block `first` on.
    #[must_use]
    pub fn part(&self, first: u64, blocks: u64) -> Self {
        let (mut part, mut before) = (Self::default(), 0);
        for extent in self.as_slice() {
            let from = first.clamp(before, before + u64::from(extent.blocks)) - before;
            let to = (first + blocks).clamp(before, before + u64::from(extent.blocks)) - before;
            before += u64::from(extent.blocks);
            // Both are at most the extent's own length, which has 32 bits.
            if let (Ok(from), Ok(to)) = (u32::try_from(from), u32::try_from(to))
                && from < to
            {
                part.list[usize::from(part.count)] = Extent { start: extent.start + from, blocks: to - from };
                part.count += 1;
            }
        }
        part
    }

    /// Blocks in all of them.
    pub fn blocks(&self) -> u64 {
        self.as_slice().iter().map(|extent| u64::from(extent.blocks)).sum()
    }
}

/// Blocks that `bytes` bytes take.
pub const fn blocks_for(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_one_behind_the_other_are_the_whole() {
        let list = [(100, 5), (7, 1), (50, 4)].map(|(start, blocks)| Extent { start, blocks });
        let extents = Extents::from_slice(&list).unwrap();
        let numbers = |extents: &Extents| -> Vec<u32> {
            let of = |extent: &Extent| extent.start..extent.start + extent.blocks;
            extents.as_slice().iter().flat_map(of).collect()
        };
        let all = numbers(&extents);
        for first in 0..=10_usize {
            for blocks in 0..=12_usize {
                let part = extents.part(first as u64, blocks as u64);
                assert_eq!(numbers(&part), all[first..(first + blocks).min(10)], "{first} {blocks}");
                assert!(part.as_slice().iter().all(|extent| extent.blocks > 0));
            }
        }
        assert_eq!(extents.part(0, 10), extents);
    }
}
