//! Small histories of a catalog, for the tests of its order: chunks of one length, each call at its end when it returns.

use forebay::ChunkKey;
use forebay::catalog::{Catalog, Entry, LoadDecision, LookupDecision, StoreDecision, Ticket};

/// Bytes of a chunk: two blocks each, trailer included.
pub(crate) const LENGTH: u32 = 4096;

/// Stores a piece of a prompt and commits it; gives the keys that were evicted for it, in order.
pub(crate) fn store(catalog: &mut Catalog, keys: &[ChunkKey], parent: Option<ChunkKey>) -> Vec<ChunkKey> {
    let chunks: Vec<(ChunkKey, u32)> = keys.iter().map(|&key| (key, LENGTH)).collect();
    let mut removed = Vec::new();
    for decision in catalog.plan_store(&chunks, parent, 0, &mut removed) {
        match decision {
            StoreDecision::Write(plan) => assert!(catalog.commit(plan.ticket)),
            StoreDecision::Present => {}
            other => panic!("{other:?} where there is room"),
        }
    }
    keys_of(&removed)
}

/// The keys of what was removed.
pub(crate) fn keys_of(removed: &[Entry]) -> Vec<ChunkKey> {
    let key_of = |entry: &Entry| match entry {
        Entry::Remove(key, _) => *key,
        Entry::Put(_) => panic!("an eviction is a removal"),
    };
    removed.iter().map(key_of).collect()
}

/// Looks a prompt up and lets it go; gives how many of its chunks were there.
pub(crate) fn used(catalog: &mut Catalog, keys: &[ChunkKey]) -> usize {
    match catalog.lookup(keys) {
        LookupDecision::Hit { chunks, ticket } => {
            assert!(catalog.release(ticket));
            chunks
        }
        LookupDecision::Miss => 0,
        other => panic!("{other:?} while nothing is under way"),
    }
}

/// Pins a chunk by a read of it.
pub(crate) fn read(catalog: &mut Catalog, key: ChunkKey) -> Ticket {
    match catalog.plan_load(&[key]).remove(0) {
        LoadDecision::Read(plan) => plan.ticket,
        other => panic!("{other:?}"),
    }
}
