//! The names of a chunk's objects in a remote store.
//!
//! A chunk is several objects: each part of it that crosses a staging slot is one, and the part with the trailer is
//! called `end`. It is put last, so a chunk is there if its end is. Parts of every store are cut alike for one slot size;
//! that size is in the name, so that caches which cut in another way do not find each other's chunks instead of finding
//! them unreadable.
//!
//! `NAMESPACE/KEY/SLOT-PART`: 16 hexadecimal digits of the namespace, 64 of the key, the slot's payload in KiB, and
//! the number of the part or `end`.

use crate::catalog::{BLOCK_BYTES, ChunkRecord};
use crate::key::ChunkKey;
use crate::mover::cut;

/// Names for one slot size.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    slot_kib: usize,
}

impl Names {
    /// Names of parts that are cut for slots of `slot_bytes` payload bytes.
    pub const fn of(slot_bytes: usize) -> Self {
        Self { slot_kib: slot_bytes.div_ceil(1024) }
    }

    /// The name of a part; what it is called follows the last slash.
    pub fn part(self, key: &ChunkKey, part: usize) -> String {
        self.name(key, &part.to_string())
    }

    /// The name of the part that a chunk is there with.
    pub fn end(self, key: &ChunkKey) -> String {
        self.name(key, "end")
    }

    /// The names of all objects of a chunk of `length` payload bytes, the end first: without it the rest is of no use.
    pub fn of_chunk(self, key: &ChunkKey, length: u32) -> Vec<String> {
        let slot_blocks = (self.slot_kib * 1024).div_ceil(BLOCK_BYTES) as u64 + 1;
        let parts = cut::parts(ChunkRecord::blocks(length), slot_blocks).count();
        std::iter::once(self.end(key)).chain((0..parts - 1).map(|part| self.part(key, part))).collect()
    }

    /// What stands before the first slash of all names of a key's namespace.
    pub fn namespace(key: &ChunkKey) -> String {
        format!("{:016x}", u64::from_be_bytes(key.namespace_id()))
    }

    fn name(self, key: &ChunkKey, part: &str) -> String {
        let namespace = Self::namespace(key);
        format!("{namespace}/{key}/{}-{part}", self.slot_kib)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_key_cut_and_part() {
        let key = ChunkKey::new(std::array::from_fn(|byte| u8::try_from(byte).unwrap()));
        let names = Names::of(2 << 20);
        let of_key = "0001020304050607/000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        assert_eq!(names.end(&key), format!("{of_key}/2048-end"));
        assert_eq!(names.part(&key, 3), format!("{of_key}/2048-3"));
        let all: Vec<String> = ["end", "0", "1", "2"].map(|part| format!("{of_key}/2048-{part}")).into();
        assert_eq!(names.of_chunk(&key, 8 << 20), all);
        assert_eq!(names.of_chunk(&key, 1), all[..1]);
        assert_ne!(Names::of(4096).end(&key), names.end(&key));
    }
}
