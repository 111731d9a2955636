//! How much of the catalog each namespace takes.
//!
//! Promises: the sums are those of the chunks that are listed, at any time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::key::{ChunkKey, NAMESPACE_ID_BYTES};

/// What the keys of a namespace begin with.
pub type NamespaceId = [u8; NAMESPACE_ID_BYTES];

/// Chunks of a namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NamespaceSum {
    /// How many.
    pub chunks: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

/// The sums.
#[derive(Debug, Default)]
pub(super) struct Namespaces(HashMap<NamespaceId, NamespaceSum>);

impl Namespaces {
    pub(super) fn add(&mut self, key: &ChunkKey, length: u32) {
        let sum = self.0.entry(key.namespace_id()).or_default();
        sum.chunks += 1;
        sum.bytes += u64::from(length);
    }

    pub(super) fn subtract(&mut self, key: &ChunkKey, length: u32) {
        let id = key.namespace_id();
        let Some(sum) = self.0.get_mut(&id) else { return };
        sum.chunks -= 1;
        sum.bytes -= u64::from(length);
        if sum.chunks == 0 {
            self.0.remove(&id);
        }
    }

    /// Those that take most, the largest first. Takes a look at each, and keeps no more than it gives.
    pub(super) fn largest(&self, most: usize) -> Vec<(NamespaceId, NamespaceSum)> {
        let mut largest = BinaryHeap::with_capacity(most + 1);
        for (id, sum) in &self.0 {
            largest.push(Reverse((sum.bytes, sum.chunks, *id)));
            if largest.len() > most {
                largest.pop();
            }
        }
        let sorted = largest.into_sorted_vec().into_iter();
        sorted.map(|Reverse((bytes, chunks, id))| (id, NamespaceSum { chunks, bytes })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_what_is_empty_is_gone() {
        let key = |namespace: u8| {
            let mut bytes = [0; 32];
            bytes[0] = namespace;
            ChunkKey::new(bytes)
        };
        let mut namespaces = Namespaces::default();
        for namespace in 1..=9 {
            (0..namespace).for_each(|_| namespaces.add(&key(namespace), 100));
        }
        let of = |sums: Vec<(NamespaceId, NamespaceSum)>| -> Vec<(u8, u64)> {
            sums.into_iter().map(|(id, sum)| (id[0], sum.bytes)).collect()
        };
        assert_eq!(of(namespaces.largest(3)), [(9, 900), (8, 800), (7, 700)]);
        (0..9).for_each(|_| namespaces.subtract(&key(9), 100));
        assert_eq!(of(namespaces.largest(1)), [(8, 800)]);
        assert_eq!(namespaces.largest(20).len(), 8);
    }
}
