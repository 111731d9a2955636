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

    /// Blocks in all of them.
    pub fn blocks(&self) -> u64 {
        self.as_slice().iter().map(|extent| u64::from(extent.blocks)).sum()
    }
}

/// Blocks that `bytes` bytes take.
pub const fn blocks_for(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES as u64)
}
