//! The index: which chunk has a key, in eight bytes a place.
//!
//! A table of fixed size with linear probing. Each place has a chunk's id and 32 bits of its key, from which also
//! follows where the search for it begins: at the front of one of the table's lines, each of which is a cache line of
//! eight places. So nearly always one cache line says where a chunk is, or that it is not there. Keys are digests:
//! those 32 bits are as good a hash as any, and whoever looks compares the whole key.
//!
//! Promises: an entry is found until it is removed; nothing is ever moved but by a removal, and that only to close
//! the gap. So no call takes long because of those before it, as one does in a table that grows or that must be
//! cleaned of removed entries. That is why this is not a hash map of a library's.
//!
//! Assumes at most as many entries as it was made for, each of them added once.

use super::record::u32_at;
use crate::key::ChunkKey;

/// Places in a line.
const LINE: usize = 8;

/// One cache line of the table.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Line {
    /// Of each place the part of the key.
    parts: [u32; LINE],
    /// Of each place one more than the id; 0 where it is empty.
    chunks: [u32; LINE],
}

/// The index of a catalog.
#[derive(Debug)]
pub(super) struct Index {
    /// As many places as a third of the entries there may be are always empty: that keeps searches short.
    lines: Vec<Line>,
    len: usize,
}

/// The part of a key that the index goes by, beside what names the namespace.
fn part_of(key: &ChunkKey) -> u32 {
    u32_at(key.as_bytes(), 8)
}

impl Index {
    /// An index for up to `entries_max` entries. It takes 11 bytes for each of them, at once.
    pub(super) fn new(entries_max: u64) -> Self {
        let entries_max = usize::try_from(entries_max).expect("entries have room in memory");
        let places = entries_max + entries_max / 3 + 1;
        Self { lines: vec![Line::default(); places.div_ceil(LINE)], len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The chunk of this key: the one for which `is_it` says so.
    pub(super) fn find(&self, key: &ChunkKey, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let part = part_of(key);
        let mut at = self.home(part);
        loop {
            let (found, chunk) = self.place(at);
            if chunk == 0 {
                return None;
            }
            if found == part && is_it(chunk - 1) {
                return Some(chunk - 1);
            }
            at = self.after(at);
        }
    }

    /// What is probably the chunk of this key, if there is one. Takes no decision on the way, so that a processor can
    /// wait for the memory of many keys at a time: it is told once only by the chunks themselves whether it was right.
    pub(super) fn guess(&self, key: &ChunkKey) -> u32 {
        let part = part_of(key);
        let Line { parts, chunks } = &self.lines[self.home(part) / LINE];
        let found = parts
            .iter()
            .zip(chunks)
            .fold(0, |found, (&other, &chunk)| found | if other == part { chunk } else { 0 });
        found.wrapping_sub(1)
    }

    /// Adds a chunk, whose key is not there.
    pub(super) fn insert(&mut self, key: &ChunkKey, id: u32) {
        let part = part_of(key);
        let mut at = self.home(part);
        while self.place(at).1 != 0 {
            at = self.after(at);
        }
        self.set(at, (part, id + 1));
        self.len += 1;
        assert!(self.len < LINE * self.lines.len(), "the index has room for what the catalog may hold");
    }

    /// Removes a chunk, which is there.
    pub(super) fn remove(&mut self, key: &ChunkKey, id: u32) {
        let wanted = (part_of(key), id + 1);
        let mut gap = self.home(wanted.0);
        while self.place(gap) != wanted {
            assert!(self.place(gap).1 != 0, "what is removed is there");
            gap = self.after(gap);
        }
        // Whatever would no longer be found behind the gap moves into it.
        let mut at = self.after(gap);
        while self.place(at).1 != 0 {
            let home = self.home(self.place(at).0);
            if self.distance(home, at) >= self.distance(gap, at) {
                self.set(gap, self.place(at));
                gap = at;
            }
            at = self.after(at);
        }
        self.set(gap, (0, 0));
        self.len -= 1;
    }

    fn place(&self, at: usize) -> (u32, u32) {
        let Line { parts, chunks } = &self.lines[at / LINE];
        (parts[at % LINE], chunks[at % LINE])
    }

    fn set(&mut self, at: usize, (part, chunk): (u32, u32)) {
        let Line { parts, chunks } = &mut self.lines[at / LINE];
        (parts[at % LINE], chunks[at % LINE]) = (part, chunk);
    }

    /// Where the search for a key begins: at the line that is as far into the table as this part of it is into all
    /// parts. There are fewer lines than 2^30, so the product has room.
    fn home(&self, part: u32) -> usize {
        let line = (u64::from(part) * self.lines.len() as u64) >> u32::BITS;
        usize::try_from(line).map_or(0, |line| line * LINE)
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == LINE * self.lines.len() { 0 } else { at + 1 }
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + LINE * self.lines.len() - from }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Keys of which many begin their search at the same place, some at the table's end.
    fn key(part: u8, rest: u8) -> ChunkKey {
        let mut bytes = [rest; 32];
        bytes[8..12].copy_from_slice(&[0xff, 0xff, 0xff, part]);
        ChunkKey::new(bytes)
    }

    proptest! {
        #[test]
        fn the_index_is_what_a_map_says(
            calls in vec((prop::sample::select(vec![0_u8, 1, 2, 0x7f, 0x80, 0xfe, 0xff]), 0_u8..4), 1..300),
        ) {
            let keys: Vec<ChunkKey> =
                [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff].into_iter().flat_map(|part| (0..4).map(move |rest| key(part, rest))).collect();
            let mut index = Index::new(20);
            let mut map: HashMap<ChunkKey, u32> = HashMap::new();
            for (part, rest) in calls {
                let called = key(part, rest);
                let id = u32::try_from(keys.iter().position(|&key| key == called).unwrap()).unwrap();
                if map.remove(&called).is_some() {
                    index.remove(&called, id);
                } else if map.len() < 20 {
                    index.insert(&called, id);
                    map.insert(called, id);
                }
                prop_assert_eq!(index.len(), map.len());
                for key in &keys {
                    let found = index.find(key, |id| keys[id as usize] == *key);
                    prop_assert_eq!(found, map.get(key).copied());
                }
            }
        }
    }
}
