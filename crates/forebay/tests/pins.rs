//! Pins that somebody asked for: what is pinned stays whatever else is stored, and the cache goes on.

mod support;

use forebay::catalog::CachePolicy;
use forebay::control::{Pinned, Pinning};
use forebay::{Cache, ChunkKey, ErrorKind, Lookup, Namespace, Value};
use support::{Home, KIB, assert_nothing_leaked, config_with, count_right, prompt, store, store_all};

const CHUNK: usize = 60 * KIB;
/// Chunks of a prompt that is pinned: more than the floods are times as much as there is room for.
const MINE: usize = 80;
/// What such a chunk takes.
const ROOM: u64 = 64 << 10;
const MIB: u64 = 1 << 20;

fn disk(cache: &Cache) -> forebay::control::DiskStats {
    cache.stats().control.disk
}

fn pinned(chunks: u64, left_out: u64) -> Pinned {
    Pinned { chunks, left_out }
}

/// Far more than there is room for.
fn flood(cache: &Cache, model: &str) {
    for number in 0..40 {
        let keys = Namespace::of_model(model).chunk_keys(&[number; 40], 4, &[]).unwrap();
        store(cache, &keys, CHUNK);
    }
}

#[test]
fn what_is_pinned_stays_with_each_policy_until_it_is_unpinned() {
    for policy in CachePolicy::ALL {
        let home = Home::new(CHUNK, 4, 12 * MIB);
        let more = [("cache_policy", Value::from(policy.name()))];
        let config = config_with(home.directory.path(), CHUNK, 4, 12 * MIB, more);
        let cache = Cache::open(&config, CHUNK as u64, None).unwrap();
        let (mine, others) = (prompt(1, MINE), prompt(2, 20));
        for keys in [&mine, &others] {
            store_all(&cache, keys, CHUNK);
        }
        // The end alone: what it continues is pinned with it.
        let all = MINE as u64;
        assert_eq!(cache.pin(Pinning::Keys(&mine[MINE - 1..])).unwrap(), pinned(1, 0));
        assert_eq!((disk(&cache).pinned_chunks, disk(&cache).pinned_bytes), (all, all * ROOM));
        assert_eq!(cache.pin(Pinning::Keys(&mine)).unwrap(), pinned(all, 0), "twice is once");
        assert_eq!(disk(&cache).pinned_chunks, all);
        flood(&cache, "a-flood");
        assert!(disk(&cache).evictions > 100);
        assert_eq!(count_right(&cache, &mine, CHUNK), MINE);
        assert_eq!(count_right(&cache, &others, CHUNK), 0);
        assert_eq!(cache.lookup(&mine).chunks(), MINE);
        assert_eq!(cache.unpin(Pinning::Keys(&mine)).unwrap(), all);
        assert_eq!((disk(&cache).pinned_chunks, disk(&cache).pinned_bytes), (0, 0));
        // What was used so often fades slowly where fame counts.
        (0..12).for_each(|round| flood(&cache, &format!("flood {round}")));
        assert_eq!(count_right(&cache, &mine, CHUNK), 0, "{policy:?}: and then they go like all others");
        assert_nothing_leaked(&cache);
    }
}

#[test]
fn half_of_the_capacity_is_pinned_at_most_and_the_cache_goes_on() {
    let home = Home::new(CHUNK, 4, 12 * MIB);
    let cache = home.open();
    let keys: Vec<ChunkKey> = (0..150).map(|number| prompt(number, 1)[0]).collect();
    keys.iter().for_each(|key| store_all(&cache, &[*key], CHUNK));
    let most = disk(&cache).capacity_bytes / 2 / ROOM;
    let namespace = Pinning::Namespace(Namespace::of_model("test").id());
    assert_eq!(cache.pin(namespace).unwrap(), pinned(most, 150 - most));
    assert_eq!(cache.pin(Pinning::Namespace(*b"not here")).unwrap(), pinned(0, 0));
    assert_eq!(disk(&cache).pinned_chunks, most);
    for round in 0..3 {
        flood(&cache, &format!("flood {round}"));
        let last = Namespace::of_model(format!("flood {round}")).chunk_keys(&[39; 40], 4, &[]).unwrap();
        assert_eq!(count_right(&cache, &last, CHUNK), 10, "there is room for others");
    }
    assert_eq!(count_right(&cache, &keys, CHUNK) as u64, most);
    // No smaller than twice that.
    let error = cache.set_disk_capacity(8 * MIB).unwrap_err();
    assert!(error.kind() == ErrorKind::Argument && error.to_string().contains("pinned"), "{error}");
    assert_eq!(count_right(&cache, &keys, CHUNK) as u64, most);
    assert_eq!(cache.unpin(namespace).unwrap(), most);
    assert!(cache.set_disk_capacity(8 * MIB).is_ok());
    assert_nothing_leaked(&cache);
}

#[test]
fn what_a_pinned_chunk_continues_counts_whoever_unpins_it() {
    let home = Home::new(CHUNK, 4, 12 * MIB);
    let cache = home.open();
    let [one, other] = [[1; 4], [2; 4]].map(|end| {
        let tokens = [vec![9; 40], end.to_vec()].concat();
        Namespace::of_model("test").chunk_keys(&tokens, 4, &[]).unwrap()
    });
    assert_eq!(one[..10], other[..10]);
    for keys in [&one, &other] {
        store(&cache, keys, CHUNK);
        assert_eq!(cache.pin(Pinning::Keys(keys)).unwrap(), pinned(11, 0));
    }
    assert_eq!(disk(&cache).pinned_chunks, 12);
    assert_eq!(cache.unpin(Pinning::Keys(&one)).unwrap(), 11);
    assert_eq!(disk(&cache).pinned_chunks, 11, "the front is the other's as well");
    flood(&cache, "a-flood");
    assert_eq!((count_right(&cache, &other, CHUNK), count_right(&cache, &one[10..], CHUNK)), (11, 0));
    assert_eq!(cache.unpin(Pinning::All).unwrap(), 11);
    assert_nothing_leaked(&cache);
}

#[test]
fn what_is_cleared_or_damaged_is_pinned_no_more_and_its_room_is_free() {
    let home = Home::new(CHUNK, 4, 12 * MIB);
    let cache = home.open();
    let keys = prompt(1, 20);
    store_all(&cache, &keys, CHUNK);
    cache.pin(Pinning::All).unwrap();
    // One is damaged, and found to be.
    let data = std::fs::OpenOptions::new().write(true).open(home.data()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&data, &[0xA5; 4096], 5 * ROOM).unwrap();
    assert_eq!(count_right(&cache, &keys, CHUNK), 19);
    assert_eq!((disk(&cache).pinned_chunks, disk(&cache).chunks), (19, 19));
    let Lookup::Hit(hit) = cache.lookup(&keys) else { panic!("it was stored") };
    assert_eq!(cache.clear(None), 19);
    assert_eq!((disk(&cache).pinned_chunks, disk(&cache).pinned_bytes), (0, 0));
    drop(hit);
    assert_eq!((disk(&cache).chunks, disk(&cache).used_bytes), (0, 0));
    assert_nothing_leaked(&cache);
    store_all(&cache, &keys, CHUNK);
    cache.pin(Pinning::Keys(&keys)).unwrap();
    drop(cache);
    let cache = home.open();
    assert_eq!(
        (disk(&cache).pinned_chunks, count_right(&cache, &keys, CHUNK)),
        (0, 20),
        "a restart knows of no pins"
    );
    cache.close(std::time::Duration::ZERO);
    assert_eq!(cache.pin(Pinning::All).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(cache.unpin(Pinning::All).unwrap_err().kind(), ErrorKind::Closed);
}
