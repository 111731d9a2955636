//! The memory tier's memory: one mapping, addressed by extents as a data file is.
//!
//! Promises: its size never changes; what lies outside of it is an error, never touched. A chunk is sealed with its record
//! when all of it is there, and read only under that seal: a plan of another process's memory, or of an older store, finds
//! another one. The payload has no checksum: its bytes come straight out of the engine's memory, or were checked on their
//! way from another tier, and never leave this process; the catalog gives an extent to one chunk at a time and frees none
//! that is being read or written. A checksum would find what memory itself gets wrong, which is what ECC is for, and cost
//! twice what the copy does.
//!
//! Assumes just that of plans: whoever reads an extent has a plan to read it, and whoever writes one a plan to write it.

use std::sync::Arc;

use crate::catalog::{ChunkRecord, Entry, Extents, MEMORY, RECORD_BYTES};
use crate::error::Result;
use crate::memory::PageMemory;
use crate::outcome::{Reason, Tier};
use crate::tier::disk::trailer::Corruption;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct MemoryTier {
    memory: PageMemory,
}

impl MemoryTier {
    /// A tier of so many bytes; none of zero.
    pub(crate) fn new(bytes: u64) -> Result<Option<Arc<Self>>> {
        if bytes == 0 {
            return Ok(None);
        }
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Ok(Some(Arc::new(Self { memory: PageMemory::new(bytes)? })))
    }

    /// The place of a chunk.
    pub(crate) fn place(self: &Arc<Self>, record: &ChunkRecord) -> Result<Place, Reason> {
        let fits = |extents: &Extents| {
            extents
                .as_slice()
                .iter()
                .all(|extent| extent.byte_start() + extent.byte_len() as u64 <= self.memory.len() as u64)
        };
        let is_here = record.tier() == Tier::Memory && record.drive == MEMORY;
        if !is_here || !fits(&record.extents) || record.extents.blocks() < ChunkRecord::blocks(record.length)
        {
            return Err(Reason::Engine(
                "the plan is of another memory tier; is the configuration the same?".into(),
            ));
        }
        Ok(Place { tier: Arc::clone(self), record: *record })
    }
}

/// Where one chunk lies.
#[derive(Debug)]
pub(crate) struct Place {
    tier: Arc<MemoryTier>,
    record: ChunkRecord,
}

impl Place {
    /// The payload's pieces from byte `at` on, `len` bytes of them: where in the payload each begins, where in memory,
    /// and how long it is.
    fn pieces(&self, at: usize, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let end = (at + len).min(self.length());
        self.pieces_of_room(at, end)
    }

    /// The same of all that is set aside for the chunk.
    fn pieces_of_room(&self, at: usize, end: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let mut start = 0;
        self.record.extents.as_slice().iter().filter_map(move |extent| {
            let (first, last) = (start, start + extent.byte_len());
            start = last;
            let (from, to) = (first.max(at), last.min(end));
            let place = usize::try_from(extent.byte_start()).ok()? + (from.max(first) - first);
            (from < to).then(|| (from, place, to - from))
        })
    }

    /// The payload, piece by piece from its front: where in it a piece begins, and the piece.
    ///
    /// # Safety
    /// The caller has a plan to read the chunk: nobody writes it meanwhile.
    pub(crate) unsafe fn read(&self, at: usize, len: usize) -> impl Iterator<Item = (usize, &[u8])> {
        self.pieces(at, len).map(|(at, place, len)| {
            // SAFETY: in bounds, since `place` checked the extents; not written by the caller's promise.
            (at, unsafe { self.tier.memory.shared_piece(place, len) })
        })
    }

    /// The same, to be written.
    ///
    /// # Safety
    /// The caller has a plan to write the chunk: nobody reads or writes it meanwhile.
    pub(crate) unsafe fn write(&self, at: usize, len: usize) -> impl Iterator<Item = (usize, &mut [u8])> {
        self.pieces(at, len).map(|(at, place, len)| {
            // SAFETY: in bounds, since `place` checked the extents; exclusive by the caller's promise.
            (at, unsafe { self.tier.memory.piece(place, len) })
        })
    }

    /// Bytes of the payload.
    pub(crate) fn length(&self) -> usize {
        self.record.length as usize
    }

    /// Says that all of the chunk is there, or with `false` that it is not.
    ///
    /// # Safety
    /// As of [`Self::write`].
    pub(crate) unsafe fn seal(&self, whole: bool) {
        let seal = if whole { self.seal_of() } else { [0; RECORD_BYTES] };
        for (at, place, len) in self.pieces_of_room(self.seal_at(), self.seal_at() + RECORD_BYTES) {
            let from = at - self.seal_at();
            // SAFETY: in bounds, since `place` checked the extents; exclusive by the caller's promise.
            unsafe { self.tier.memory.piece(place, len) }.copy_from_slice(&seal[from..from + len]);
        }
    }

    /// Whether all of the chunk is there: this one, of this store.
    ///
    /// # Errors
    /// [`Reason::Corrupt`] if not.
    ///
    /// # Safety
    /// As of [`Self::read`].
    pub(crate) unsafe fn check(&self) -> Result<(), Reason> {
        let seal = self.seal_of();
        let is_whole =
            self.pieces_of_room(self.seal_at(), self.seal_at() + RECORD_BYTES).all(|(at, place, len)| {
                let from = at - self.seal_at();
                // SAFETY: in bounds, since `place` checked the extents; not written by the caller's promise.
                let there = unsafe { self.tier.memory.shared_piece(place, len) };
                there == &seal[from..from + len]
            });
        if is_whole { Ok(()) } else { Err(Reason::Corrupt(Corruption::OtherChunk)) }
    }

    /// It stands where a trailer would.
    fn seal_at(&self) -> usize {
        self.record.padded_bytes()
    }

    fn seal_of(&self) -> [u8; RECORD_BYTES] {
        Entry::Put(self.record).encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Extent;
    use crate::key::ChunkKey;

    const BLOCK: usize = 4096;

    fn record(extents: &[(u32, u32)], length: u32) -> ChunkRecord {
        let extents: Vec<Extent> = extents.iter().map(|&(start, blocks)| Extent { start, blocks }).collect();
        let extents = Extents::from_slice(&extents).unwrap();
        ChunkRecord { drive: MEMORY, extents, ..ChunkRecord::in_remote(ChunkKey::new([7; 32]), length) }
    }

    fn tier() -> Arc<MemoryTier> {
        MemoryTier::new(8 * BLOCK as u64).unwrap().unwrap()
    }

    fn fill(place: &Place, byte: u8) {
        // SAFETY: nobody else is at it in these tests.
        unsafe { place.write(0, place.length()) }.for_each(|(_, piece)| piece.fill(byte));
    }

    #[test]
    fn miri_a_chunk_in_pieces_is_read_as_it_was_written_from_any_byte_on() {
        let tier = tier();
        // The second block of the payload and the seal's lie elsewhere.
        let record = record(&[(6, 1), (1, 1), (4, 1)], 5000);
        let place = tier.place(&record).unwrap();
        let bytes: Vec<u8> = (0..5000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        // SAFETY: nobody else is at it.
        unsafe {
            place.write(0, 5000).for_each(|(at, piece)| piece.copy_from_slice(&bytes[at..at + piece.len()]));
            place.seal(true);
            for (at, len) in [(0, 5000), (1, 4095), (4000, 200), (4096, 904), (4999, 100)] {
                let read: Vec<u8> = place.read(at, len).flat_map(|(_, piece)| piece.to_vec()).collect();
                assert!(read == bytes[at..5000.min(at + len)], "{at} {len}");
            }
            assert_eq!(place.check(), Ok(()));
        }
    }

    #[test]
    fn miri_what_is_not_whole_or_of_another_store_is_not_read() {
        let tier = tier();
        let old = record(&[(0, 2)], 4096);
        let place = tier.place(&old).unwrap();
        let other = Err(Reason::Corrupt(Corruption::OtherChunk));
        // SAFETY: nobody else is at it.
        unsafe {
            assert_eq!(place.check(), other, "never written");
            fill(&place, 1);
            assert_eq!(place.check(), other, "not sealed");
            place.seal(true);
            assert_eq!(place.check(), Ok(()));
            let again = tier.place(&ChunkRecord { generation: 9, ..old }).unwrap();
            assert_eq!(again.check(), other, "of an older store");
            again.seal(false);
            assert_eq!(place.check(), other, "about to be written over");
        }
    }

    #[test]
    fn miri_a_plan_that_lies_outside_is_refused() {
        let tier = tier();
        for wrong in [
            record(&[(7, 2)], 4096),
            record(&[(u32::MAX, 2)], 4096),
            record(&[(0, 1)], 4096),
            ChunkRecord { drive: 0, ..record(&[(0, 2)], 4096) },
        ] {
            assert!(matches!(tier.place(&wrong), Err(Reason::Engine(_))), "{wrong:?}");
        }
        assert!(MemoryTier::new(0).unwrap().is_none());
    }
}
