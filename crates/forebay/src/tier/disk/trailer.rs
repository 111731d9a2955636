//! The trailer behind every chunk on disk: 4 KiB that say what stands before it and prove it.
//!
//! It stands behind the payload, so that it goes with the last of it, when the checksum is known, and so that the payload
//! begins where the file likes large transfers to begin.
//!
//! Promises: what [`verify`] accepts is the trailer that [`encode`] made for exactly this record, and the payload
//! checksum it gives is the one that was stored with it. Every byte of the page takes part in its checksum, so any
//! flipped bit is seen. `docs/FORMAT.md` draws the page.

use std::hash::Hasher;

use twox_hash::XxHash3_64;

use crate::catalog::{BLOCK_BYTES, ChunkRecord, Entry, RECORD_BYTES, u32_at, u64_at};
use crate::checksum::PayloadHasher;

/// The first bytes of a trailer.
pub const MAGIC: [u8; 8] = *b"FOREBAY\x03";
/// The version of trailer, journal and directory that this code reads and writes.
pub const FORMAT_VERSION: u32 = 3;

const RECORD_AT: usize = 16;
const PAYLOAD_SUM_AT: usize = RECORD_AT + RECORD_BYTES;
const PAGE_SUM_AT: usize = BLOCK_BYTES - 8;

/// A hash of a chunk's payload and its padding, which is the same wherever the chunk lies: one pass over the bytes does
/// for all of its places.
pub fn payload_hasher() -> PayloadHasher {
    PayloadHasher::default()
}

/// The checksum of a payload, bound to its record: the same bytes under another key, generation, length or place have
/// another one.
pub fn payload_sum(record: &ChunkRecord, payload: &PayloadHasher) -> u64 {
    XxHash3_64::oneshot_with_seed(payload.finish(), &Entry::Put(*record).encode())
}

/// Writes the trailer of `record` into `page`.
pub fn encode(record: &ChunkRecord, payload_sum: u64, page: &mut [u8]) {
    page.fill(0);
    page[..8].copy_from_slice(&MAGIC);
    page[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    page[RECORD_AT..PAYLOAD_SUM_AT].copy_from_slice(&Entry::Put(*record).encode());
    page[PAYLOAD_SUM_AT..PAYLOAD_SUM_AT + 8].copy_from_slice(&payload_sum.to_le_bytes());
    let sum = XxHash3_64::oneshot(&page[..PAGE_SUM_AT]);
    page[PAGE_SUM_AT..].copy_from_slice(&sum.to_le_bytes());
}

/// The record and payload checksum in a trailer page; `None` when it is no sound one of this version.
pub fn decode(page: &[u8]) -> Option<(ChunkRecord, u64)> {
    if page.len() != BLOCK_BYTES
        || page[..8] != MAGIC
        || u32_at(page, 8) != FORMAT_VERSION
        || XxHash3_64::oneshot(&page[..PAGE_SUM_AT]) != u64_at(page, PAGE_SUM_AT)
    {
        return None;
    }
    let mut record = [0; RECORD_BYTES];
    record.copy_from_slice(&page[RECORD_AT..PAYLOAD_SUM_AT]);
    match Entry::decode(&record)? {
        Entry::Put(record) => Some((record, u64_at(page, PAYLOAD_SUM_AT))),
        Entry::Remove(..) => None,
    }
}

/// Why what was read is not the chunk that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Corruption {
    /// No sound trailer: torn, overwritten or damaged.
    Trailer,
    /// A sound trailer of another chunk.
    OtherChunk,
    /// A sound trailer of this key, from another store of it.
    Generation,
    /// The payload is not the one the trailer was written with.
    Payload,
    /// The file ends before the chunk does.
    Truncated,
}

impl Corruption {
    /// A stable short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trailer => "trailer",
            Self::OtherChunk => "other chunk",
            Self::Generation => "generation",
            Self::Payload => "payload",
            Self::Truncated => "truncated",
        }
    }
}

/// Checks a trailer page against the record it should be of; gives the payload's checksum.
///
/// # Errors
/// What is wrong with it.
pub fn verify(page: &[u8], expected: &ChunkRecord) -> Result<u64, Corruption> {
    let (found, payload_sum) = decode(page).ok_or(Corruption::Trailer)?;
    if found.key != expected.key {
        return Err(Corruption::OtherChunk);
    }
    if found.generation != expected.generation {
        return Err(Corruption::Generation);
    }
    if found.length != expected.length || found.place() != expected.place() {
        return Err(Corruption::Trailer);
    }
    Ok(payload_sum)
}
