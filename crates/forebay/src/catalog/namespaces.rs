//! How much of the catalog each namespace takes.
//!
//! Promises: the sums are those of the chunks that are listed, at any time.

use std::collections::HashMap;

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

    pub(super) fn largest(&self, most: usize) -> Vec<(NamespaceId, NamespaceSum)> {
        let mut all: Vec<_> = self.0.iter().map(|(id, sum)| (*id, *sum)).collect();
        all.sort_unstable_by_key(|(id, sum)| (std::cmp::Reverse(sum.bytes), *id));
        all.truncate(most);
        all
    }
}
