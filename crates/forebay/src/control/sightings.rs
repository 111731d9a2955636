//! How often chunks were to be stored, for `store_after`: what is seen once need not be kept.
//!
//! Bounded: counts that have not grown while as many others were begun are forgotten.

use std::collections::HashMap;

use crate::key::ChunkKey;
use crate::sync::Mutex;

/// Counts in one generation, of which there are two.
const COUNTS_MAX: usize = 1 << 18;

/// See the module's documentation.
pub(super) struct Sightings {
    wanted: u32,
    counts: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashMap<ChunkKey, u32>,
    old: HashMap<ChunkKey, u32>,
}

impl Sightings {
    pub(super) fn new(wanted: u32) -> Self {
        Self { wanted, counts: Mutex::default() }
    }

    /// Counts once more that these are to be stored; how many of them, from the front, have been so often enough.
    pub(super) fn count(&self, keys: impl ExactSizeIterator<Item = ChunkKey>) -> usize {
        if self.wanted <= 1 {
            return keys.len();
        }
        let mut counts = self.counts.lock();
        let mut enough = 0;
        for (at, key) in keys.enumerate() {
            if counts.young.len() >= COUNTS_MAX {
                counts.old = std::mem::take(&mut counts.young);
            }
            let before = counts.young.get(&key).or_else(|| counts.old.get(&key)).copied().unwrap_or(0);
            let now = before.saturating_add(1);
            counts.young.insert(key, now);
            if now >= self.wanted && enough == at {
                enough += 1;
            }
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> ChunkKey {
        let mut bytes = [0; 32];
        bytes[8..12].copy_from_slice(&number.to_le_bytes());
        ChunkKey::new(bytes)
    }

    #[test]
    fn a_front_is_stored_when_all_of_it_was_seen_often_enough() {
        let sightings = Sightings::new(2);
        assert_eq!(sightings.count([1, 2].map(key).into_iter()), 0);
        assert_eq!(sightings.count([1, 2, 3].map(key).into_iter()), 2);
        assert_eq!(sightings.count([1, 2, 3].map(key).into_iter()), 3);
        assert_eq!(sightings.count([9, 1].map(key).into_iter()), 0, "what follows a stranger is of no use");
        assert_eq!(Sightings::new(1).count([7, 8].map(key).into_iter()), 2);
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let sightings = Sightings::new(2);
        let most = u32::try_from(COUNTS_MAX).unwrap();
        assert_eq!(sightings.count((0..3 * most).map(key).collect::<Vec<_>>().into_iter()), 0);
        let counts = sightings.counts.lock();
        assert!(counts.young.len() + counts.old.len() <= 2 * COUNTS_MAX);
    }
}
