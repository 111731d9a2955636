//! The record of a chunk: what the catalog knows of it, in 128 bytes.
//!
//! The same bytes stand in the journal, in a checkpoint and (behind a ticket) in the plans that travel to a mover.
//! `docs/FORMAT.md` draws them. A record proves itself: its last eight bytes are the xxh3-64 of those before.

use twox_hash::XxHash3_64;

use super::drives::DRIVES_MAX;
use super::extent::{BLOCK_BYTES, EXTENTS_MAX, Extent, Extents, blocks_for};
use crate::key::ChunkKey;
use crate::outcome::Tier;

/// Length of an encoded record.
pub const RECORD_BYTES: usize = 128;

/// Blocks of the largest address space.
const BLOCKS_MAX: u64 = 1 << 32;

/// Chunks of 2 MiB and more begin on borders of as many blocks, 64 KiB, if all in their address space do so. What lies
/// beneath a file often works in units that are larger than a block (drives of large capacity map 16 to 64 KiB at a
/// time, and so may what is behind a virtual drive); chunks that share one cost a fifth of such a drive's speed
/// (`docs/BENCHMARKS.md`).
const GRAIN_BLOCKS_MAX: u64 = 16;
/// At most one in so many blocks is left empty for that.
const FILLED_FOR_ONE_EMPTY: u64 = 32;

/// On which borders a chunk of so many blocks is laid, and cut into parts: a power of two, in blocks.
pub const fn grain_blocks(blocks: u64) -> u64 {
    let most = blocks / FILLED_FOR_ONE_EMPTY;
    if most >= GRAIN_BLOCKS_MAX {
        GRAIN_BLOCKS_MAX
    } else if most == 0 {
        1
    } else {
        1 << most.ilog2()
    }
}

/// What stands where the number of a drive would, of a chunk in the remote tier.
pub const REMOTE: u8 = u8::MAX;
/// The same, of a chunk in the memory tier.
pub const MEMORY: u8 = u8::MAX - 1;

/// What the catalog knows of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRecord {
    /// Name of the content.
    pub key: ChunkKey,
    /// The chunk before this one in its prompt; [`ChunkKey::NONE`] for a first one.
    pub parent: ChunkKey,
    /// Chunks before this one in its prompt, as far as is known.
    pub depth: u32,
    /// Unique to this store of this chunk, in the life of its directory.
    pub generation: u64,
    /// Payload bytes.
    pub length: u32,
    /// When it was stored, in milliseconds since 1970.
    pub stored_at_ms: u64,
    /// The drive on which payload and trailer lie; [`REMOTE`] and [`MEMORY`] for those tiers.
    pub drive: u8,
    /// Where on it they lie: their blocks, and what is left empty behind them.
    pub extents: Extents,
}

impl ChunkRecord {
    /// The record of a chunk in the remote tier. It follows from key and length alone, so that whoever looks for the chunk
    /// knows it: there is one store of it as far as anybody can tell, and its blocks are counted from its own front.
    ///
    /// # Panics
    /// Never: a chunk's blocks are fewer than 2^32, since its length is.
    pub fn in_remote(key: ChunkKey, length: u32) -> Self {
        let blocks = u32::try_from(Self::blocks(length)).expect("2^32 bytes are 2^20 blocks");
        Self {
            key,
            parent: ChunkKey::NONE,
            depth: 0,
            generation: 0,
            length,
            stored_at_ms: 0,
            drive: REMOTE,
            extents: Extents::from_slice(&[Extent { start: 0, blocks }]).unwrap_or_default(),
        }
    }

    /// The tier that the chunk is in.
    pub const fn tier(&self) -> Tier {
        match self.drive {
            REMOTE => Tier::Remote,
            MEMORY => Tier::Memory,
            _ => Tier::Disk,
        }
    }

    /// Blocks that a chunk of `length` payload bytes takes, its trailer included.
    pub const fn blocks(length: u32) -> u64 {
        1 + blocks_for(length as u64)
    }

    /// Blocks that are set aside for such a chunk, so that the next one begins on a border too.
    pub const fn room_blocks(length: u32) -> u64 {
        let blocks = Self::blocks(length);
        blocks.next_multiple_of(grain_blocks(blocks))
    }

    /// Drive and extents.
    pub const fn place(&self) -> (u8, Extents) {
        (self.drive, self.extents)
    }

    /// Bytes of the payload with its padding, a whole number of blocks.
    pub const fn padded_bytes(&self) -> usize {
        (self.length as usize).next_multiple_of(BLOCK_BYTES)
    }
}

/// What a journal says of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The chunk is there.
    Put(ChunkRecord),
    /// The chunk of this key and generation is gone.
    Remove(ChunkKey, u64),
}

const KIND_PUT: u8 = 1;
const KIND_REMOVE: u8 = 2;

impl Entry {
    /// The entry's bytes.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        match self {
            Self::Put(record) => {
                let extents = record.extents.as_slice();
                out[0] = KIND_PUT;
                out[1] = u8::try_from(extents.len()).unwrap_or(0);
                out[2] = record.drive;
                out[4..8].copy_from_slice(&record.depth.to_le_bytes());
                out[8..16].copy_from_slice(&record.generation.to_le_bytes());
                out[16..48].copy_from_slice(record.key.as_bytes());
                out[48..80].copy_from_slice(record.parent.as_bytes());
                out[80..84].copy_from_slice(&record.length.to_le_bytes());
                out[88..96].copy_from_slice(&record.stored_at_ms.to_le_bytes());
                for (place, extent) in out[96..120].chunks_exact_mut(8).zip(extents) {
                    place[..4].copy_from_slice(&extent.start.to_le_bytes());
                    place[4..].copy_from_slice(&extent.blocks.to_le_bytes());
                }
            }
            Self::Remove(key, generation) => {
                out[0] = KIND_REMOVE;
                out[8..16].copy_from_slice(&generation.to_le_bytes());
                out[16..48].copy_from_slice(key.as_bytes());
            }
        }
        let sum = XxHash3_64::oneshot(&out[..RECORD_BYTES - 8]);
        out[RECORD_BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// The entry in these bytes; `None` when they are no whole, sound entry.
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        if XxHash3_64::oneshot(&bytes[..RECORD_BYTES - 8]) != u64_at(bytes, RECORD_BYTES - 8) {
            return None;
        }
        let generation = u64_at(bytes, 8);
        let key = key_at(bytes, 16);
        match bytes[0] {
            KIND_REMOVE => Some(Self::Remove(key, generation)),
            KIND_PUT => {
                let count = usize::from(bytes[1]);
                if count == 0 || count > EXTENTS_MAX {
                    return None;
                }
                let mut list = [Extent::default(); EXTENTS_MAX];
                for (extent, place) in list.iter_mut().zip(bytes[96..120].chunks_exact(8)) {
                    *extent = Extent { start: u32_at(place, 0), blocks: u32_at(place, 4) };
                }
                let extents = Extents::from_slice(&list[..count])?;
                let length = u32_at(bytes, 80);
                let drive = bytes[2];
                let room = ChunkRecord::blocks(length)..=ChunkRecord::room_blocks(length);
                let lies_somewhere = |extent: &Extent| extent.blocks > 0 && extent.end() <= BLOCKS_MAX;
                let whole = (usize::from(drive) < DRIVES_MAX || drive == REMOTE || drive == MEMORY)
                    && length > 0
                    && room.contains(&extents.blocks())
                    && extents.as_slice().iter().all(lies_somewhere);
                whole.then(|| {
                    Self::Put(ChunkRecord {
                        key,
                        parent: key_at(bytes, 48),
                        depth: u32_at(bytes, 4),
                        generation,
                        length,
                        stored_at_ms: u64_at(bytes, 88),
                        drive,
                        extents,
                    })
                })
            }
            _ => None,
        }
    }
}

/// The little-endian `u32` at `at`, which must lie within `bytes`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// The little-endian `u64` at `at`, which must lie within `bytes`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// The key at `at`, which must lie within `bytes`.
pub(crate) fn key_at(bytes: &[u8], at: usize) -> ChunkKey {
    let mut key = [0; 32];
    key.copy_from_slice(&bytes[at..at + 32]);
    ChunkKey::new(key)
}
