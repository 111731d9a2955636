//! Clearing: what was taken out is found no more, also after a restart; everything else is as it was.

mod support;

use forebay::{Lookup, Namespace};
use support::{Home, assert_nothing_leaked, bytes_of, count_right, load, store_all};

const CHUNK: usize = 16 << 10;

fn keys(model: &str, prompt: u32, chunks: usize) -> Vec<forebay::ChunkKey> {
    Namespace::of_model(model).chunk_keys(&vec![prompt; 4 * chunks], 4, &[]).unwrap()
}

#[test]
fn a_namespace_is_cleared_and_the_others_stay_also_after_a_restart() {
    let home = Home::new(CHUNK, 4, 16 << 20);
    let cache = home.open();
    let (mine, others) = (keys("mine", 1, 40), keys("others", 1, 40));
    store_all(&cache, &mine, CHUNK);
    store_all(&cache, &others, CHUNK);
    let sums = cache.stats().control.disk.namespaces;
    assert_eq!(
        sums.iter().map(|sum| (sum.chunks, sum.bytes)).collect::<Vec<_>>(),
        [(40, 40 * CHUNK as u64); 2]
    );

    assert_eq!(cache.clear(Some(Namespace::of_model("mine").id())), 40);
    assert_eq!(cache.clear(Some(Namespace::of_model("mine").id())), 0, "they are gone");
    assert!(matches!(cache.lookup(&mine), Lookup::Miss));
    assert_eq!(count_right(&cache, &others, CHUNK), 40);
    let stats = cache.stats().control.disk;
    assert_eq!((stats.chunks, stats.cleared, stats.evictions), (40, 40, 0));
    assert_eq!(stats.namespaces.len(), 1);
    assert_nothing_leaked(&cache);
    drop(cache);

    let cache = home.open();
    assert!(matches!(cache.lookup(&mine), Lookup::Miss), "the journal knows it");
    assert_eq!(count_right(&cache, &others, CHUNK), 40);
    store_all(&cache, &mine, CHUNK);
    assert_eq!(count_right(&cache, &mine, CHUNK), 40, "their room is to be had again");
    assert_eq!(cache.clear(None), 80);
    assert_eq!(cache.stats().control.disk.used_bytes, 0);
}

#[test]
fn what_is_pinned_goes_when_it_is_let_go_of() {
    let home = Home::new(CHUNK, 4, 16 << 20);
    let cache = home.open();
    let prompt = keys("mine", 1, 8);
    store_all(&cache, &prompt, CHUNK);
    let Lookup::Hit(hit) = cache.lookup(&prompt) else { panic!("it was stored") };
    let used = cache.stats().control.disk.used_bytes;
    assert_eq!(cache.clear(None), 8);
    assert!(matches!(cache.lookup(&prompt), Lookup::Miss));
    assert_eq!(cache.stats().control.disk.used_bytes, used, "its blocks are nobody else's yet");
    // A load that comes now is a miss, and never wrong bytes.
    for (outcome, bytes) in load(&cache, &prompt, CHUNK) {
        assert!(outcome.status != forebay::LoadStatus::Loaded || bytes == bytes_of(&outcome.key, CHUNK));
    }
    drop(hit);
    assert_eq!(cache.stats().control.disk.used_bytes, 0);
    assert_nothing_leaked(&cache);
}

#[test]
fn clearing_while_others_store_and_load_loses_nobody_a_byte() {
    let home = Home::new(CHUNK, 8, 16 << 20);
    let cache = home.open();
    std::thread::scope(|scope| {
        let cache = &cache;
        for worker in 0..3 {
            scope.spawn(move || {
                for round in 0..60 {
                    let prompt = keys("mine", worker * 1000 + round % 7, 6);
                    support::store(cache, &prompt, CHUNK);
                    for (outcome, bytes) in load(cache, &prompt, CHUNK) {
                        let loaded = outcome.status == forebay::LoadStatus::Loaded;
                        assert!(!loaded || bytes == bytes_of(&outcome.key, CHUNK));
                    }
                }
            });
        }
        for _ in 0..200 {
            cache.clear(None);
            std::thread::yield_now();
        }
    });
    cache.clear(None);
    let stats = cache.stats().control.disk;
    assert_eq!((stats.chunks, stats.used_bytes, stats.namespaces.len()), (0, 0, 0));
    assert_nothing_leaked(&cache);
}
