//! The guarantees of `docs/DESIGN.md`, one test or more each, over a whole cache on a real directory. Guarantee 1 has
//! more in `corruption.rs`, 3 and 4 in `stress.rs`, 6 in `crash.rs`, 9 in `faults.rs`.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay::config::Config;
use forebay::mover::{Observer, Source};
use forebay::{Cache, ErrorKind, LoadStatus, Lookup, Reason, StoreOutcome, StoreStatus, Value};
use parking_lot::Mutex;
use support::*;

const CHUNK: usize = 64 * KIB;

#[test]
fn guarantee_1_a_load_gives_the_bytes_that_were_stored() {
    // Lengths on, below and above a block's border, in one cache.
    let home = Home::new(CHUNK, 4, 64 << 20);
    let cache = home.open();
    for (number, len) in [1, 4095, 4096, 4097, CHUNK - 1, CHUNK].into_iter().enumerate() {
        let keys = prompt(u32::try_from(number).unwrap(), 3);
        store_all(&cache, &keys, len);
        assert_eq!(count_right(&cache, &keys, len), 3, "{len} bytes");
    }
}

#[test]
fn guarantee_1_a_buffer_of_another_length_is_refused_and_not_touched() {
    let home = Home::new(CHUNK, 4, 64 << 20);
    let cache = home.open();
    let keys = prompt(0, 1);
    store_all(&cache, &keys, CHUNK);
    let (outcome, buffer) = load(&cache, &keys, CHUNK / 2).remove(0);
    assert_eq!(outcome.status, LoadStatus::Failed);
    assert!(buffer.iter().all(|&byte| byte == 0xEE), "the buffer was written to");
    // That was the caller's mistake: the chunk is still there.
    assert_eq!(count_right(&cache, &keys, CHUNK), 1);
}

#[test]
fn guarantee_2_staging_never_exceeds_what_was_configured() {
    let home = Home::new(CHUNK, 3, 64 << 20);
    let cache = home.open();
    let keys = prompt(0, 200);
    store_all(&cache, &keys, CHUNK);
    assert_eq!(count_right(&cache, &keys, CHUNK), 200);
    let staging = cache.stats().mover.staging;
    assert_eq!(staging.slots, 3);
    assert!((1..=3).contains(&staging.in_use_max), "{staging:?}");
    assert!(u64::from(staging.slots) * staging.slot_bytes as u64 <= home.config.max_local_cpu_bytes);
}

/// Resident memory of this process in bytes, without pages that belong to files.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let kib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a known line");
        line.split_ascii_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).expect("a number")
    };
    kib("RssAnon:") << 10
}

/// Bytes that many chunks share.
#[derive(Clone)]
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[test]
fn guarantee_2_memory_does_not_grow_with_the_traffic() {
    const LARGE: usize = 1 << 20;
    let home = Home::new(LARGE, 4, 256 << 20);
    let cache = home.open();
    // One source for all: what grows is the cache's.
    let shared: Arc<Vec<u8>> = Arc::new(vec![7; LARGE]);
    let pass = |number: u32| {
        let keys = prompt(number, 100);
        let chunks = keys.iter().map(|key| (*key, Box::new(Shared(Arc::clone(&shared))) as _)).collect();
        cache.store(chunks, None, None).unwrap().wait(Some(PATIENCE)).expect("stores end");
        let buffer = Arc::new(Mutex::new(vec![0; LARGE]));
        for key in keys {
            cache
                .load(vec![(key, Box::new(Arc::clone(&buffer)))], None)
                .wait(Some(PATIENCE))
                .expect("loads end");
        }
    };
    pass(0);
    let before = resident_bytes();
    (1..9).for_each(pass);
    let grown = resident_bytes().saturating_sub(before);
    // 1.6 GB went through. Other tests of this process run meanwhile, so the bound is not tight.
    assert!(grown < 64 << 20, "resident memory grew by {grown} bytes");
}

#[test]
fn guarantee_3_two_slots_move_a_prompt_of_any_length() {
    let home = Home::new(4 * KIB, 2, 64 << 20);
    let cache = home.open();
    let keys = prompt(0, 2000);
    store_all(&cache, &keys, 4 * KIB);
    let Lookup::Hit(hit) = cache.lookup(&keys) else { panic!("stored") };
    assert_eq!(hit.chunks(), 2000);
    assert_eq!(count_right(&cache, &keys, 4 * KIB), 2000);
    drop(hit);
    assert_nothing_leaked(&cache);
}

#[test]
fn guarantee_3_a_load_is_served_while_stores_fill_the_buffer() {
    let home = Home::new(4 * KIB, 2, 64 << 20);
    let faults = Faults::new();
    let cache = home.open_with(&faults);
    let first = prompt(0, 1);
    store_all(&cache, &first, 4 * KIB);
    faults.stall_writes(true);
    let keys = prompt(1, 50);
    let stores = begin_store(&cache, &keys, 4 * KIB);
    faults.wait_for_arrivals(2);
    // One store stands at the device, the others wait for its slot; the other slot is the load's.
    assert_eq!(count_right(&cache, &first, 4 * KIB), 1);
    assert!(!stores.is_done());
    faults.stall_writes(false);
    assert!(stores.wait(Some(PATIENCE)).unwrap().iter().all(|end| end.status == StoreStatus::Stored));
    assert_nothing_leaked(&cache);
}

struct Panics(usize);

impl Source for Panics {
    fn len(&self) -> usize {
        self.0
    }

    fn fill(&mut self, _: usize, _: &mut [u8], _: Observer<'_>) -> Result<(), String> {
        panic!("engine memory that panics")
    }
}

struct Refuses(usize);

impl Source for Refuses {
    fn len(&self) -> usize {
        self.0
    }

    fn fill(&mut self, _: usize, _: &mut [u8], _: Observer<'_>) -> Result<(), String> {
        Err("engine memory is gone".into())
    }
}

#[test]
fn guarantee_4_nothing_leaks_when_engine_memory_panics_or_fails() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let cache = home.open();
    for round in 0..10 {
        let keys = prompt(round, 2);
        let chunks: Vec<(_, Box<dyn Source>)> =
            vec![(keys[0], Box::new(Panics(CHUNK))), (keys[1], Box::new(Refuses(CHUNK)))];
        let ends = cache.store(chunks, None, None).unwrap().wait(Some(PATIENCE)).expect("stores end");
        assert_eq!(ends[0].reason, Some(Reason::Abandoned));
        assert_eq!(ends[1].reason, Some(Reason::Engine("engine memory is gone".into())));
        assert!(matches!(cache.lookup(&keys), Lookup::Miss));
    }
    assert_nothing_leaked(&cache);
    assert_eq!(cache.stats().control.disk.used_bytes, 0, "space of failed stores");
    store_all(&cache, &prompt(99, 20), CHUNK);
}

#[test]
fn guarantee_4_nothing_leaks_when_a_batch_is_cancelled() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let faults = Faults::new();
    let cache = home.open_with(&faults);
    faults.stall_writes(true);
    let keys = prompt(0, 50);
    let batch = begin_store(&cache, &keys, CHUNK);
    faults.wait_for_arrivals(1);
    cache.cancel(&batch);
    // Engine memory is free again though the device does not move.
    assert!(batch.wait_released(PATIENCE));
    assert!(!batch.is_done());
    faults.stall_writes(false);
    let ends = batch.wait(Some(PATIENCE)).expect("stores end");
    let cancelled = ends.iter().filter(|end| end.reason == Some(Reason::Cancelled)).count();
    let stored = ends.iter().filter(|end| end.status == StoreStatus::Stored).count();
    assert!(cancelled >= 47 && cancelled + stored == 50, "{cancelled} cancelled, {stored} stored");
    assert_nothing_leaked(&cache);
    assert_eq!(cache.stats().control.disk.chunks, stored as u64);
}

#[test]
fn guarantee_4_closing_ends_everything_under_way() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let faults = Faults::new();
    let cache = home.open_with(&faults);
    faults.stall_writes(true);
    let keys = prompt(0, 50);
    let batch = begin_store(&cache, &keys, CHUNK);
    faults.wait_for_arrivals(1);
    std::thread::scope(|scope| {
        scope.spawn(|| cache.close(Duration::ZERO));
        // The chunks that had not begun end though the device does not move.
        let started = std::time::Instant::now();
        while batch.poll().iter().filter(|end| end.reason == Some(Reason::Closed)).count() == 0 {
            assert!(started.elapsed() < PATIENCE, "nothing ends");
            std::thread::yield_now();
        }
        faults.stall_writes(false);
    });
    let ends = batch.wait(Some(PATIENCE)).expect("all chunks end");
    assert!(
        ends.iter().all(|end| matches!(end.status, StoreStatus::Stored | StoreStatus::Refused)),
        "{ends:?}"
    );
    assert_nothing_leaked(&cache);
    let refused = store(&cache, &prompt(1, 1), CHUNK).remove(0);
    assert_eq!(refused.reason, Some(Reason::Closed));
}

#[test]
fn guarantee_5_a_chunk_being_written_is_not_a_hit() {
    let home = Home::new(CHUNK, 4, 64 << 20);
    let faults = Faults::new();
    let cache = home.open_with(&faults);
    faults.stall_writes(true);
    let keys = prompt(0, 2);
    let batch = begin_store(&cache, &keys, CHUNK);
    faults.wait_for_arrivals(2);
    // All of it is in the staging buffer now, and none of it may be found there.
    assert!(matches!(cache.lookup(&keys), Lookup::Pending));
    assert!(matches!(cache.lookup(&prompt(1, 2)), Lookup::Miss));
    let (outcome, buffer) = load(&cache, &keys[..1], CHUNK).remove(0);
    assert_eq!((outcome.status, outcome.reason), (LoadStatus::Miss, Some(Reason::NotThere)));
    assert!(buffer.iter().all(|&byte| byte == 0xEE), "the staging buffer answered");
    faults.stall_writes(false);
    batch.wait(Some(PATIENCE)).expect("stores end");
    assert_eq!(cache.lookup(&keys).chunks(), 2);
}

#[test]
fn guarantee_5_every_load_reads_the_disk() {
    let home = Home::new(CHUNK, 4, 64 << 20);
    let faults = Faults::new();
    let cache = home.open_with(&faults);
    let keys = prompt(0, 1);
    store_all(&cache, &keys, CHUNK);
    for _ in 0..3 {
        let before = cache.stats().mover.read_bytes;
        assert_eq!(count_right(&cache, &keys, CHUNK), 1);
        assert_eq!(cache.stats().mover.read_bytes - before, CHUNK as u64);
    }
    // Without the disk there is nothing left to answer from.
    faults.fail_reads.store(true, Ordering::SeqCst);
    assert_eq!(count_right(&cache, &keys, CHUNK), 0);
}

#[test]
fn guarantee_6_what_was_stored_is_there_after_a_restart() {
    let home = Home::new(CHUNK, 4, 64 << 20);
    let keys = prompt(0, 40);
    {
        let cache = home.open();
        store_all(&cache, &keys, CHUNK);
        cache.close(PATIENCE);
    }
    for _ in 0..3 {
        let cache = home.open();
        assert_eq!(cache.lookup(&keys).chunks(), 40);
        assert_eq!(count_right(&cache, &keys, CHUNK), 40);
    }
}

/// Stores chunks, again as long as the journal of so small a cache is behind.
fn store_when_not_busy(cache: &Cache, keys: &[forebay::ChunkKey], len: usize) {
    let started = std::time::Instant::now();
    loop {
        let ends = store(cache, keys, len);
        if ends.iter().all(|end| end.status == StoreStatus::Stored) {
            return;
        }
        assert!(ends.iter().all(|end| end.reason == Some(Reason::Busy)), "{ends:?}");
        assert!(started.elapsed() < PATIENCE, "busy for ever");
        std::thread::yield_now();
    }
}

#[test]
fn guarantee_7_the_directory_never_exceeds_its_capacity() {
    const CAPACITY: u64 = 8 << 20;
    let home = Home::new(CHUNK, 4, CAPACITY);
    let cache = home.open();
    for round in 0..60 {
        store_when_not_busy(&cache, &prompt(round, 20), CHUNK);
        let bytes = allocated_bytes(home.directory.path());
        assert!(bytes <= CAPACITY, "{bytes} bytes after round {round}");
    }
    let stats = cache.stats().control.disk;
    assert!(stats.evictions > 1000, "{stats:?}");
    assert_eq!(stats.chunks + stats.evictions, 60 * 20);
    // Journals of many generations do not pile up either.
    for round in 0..200 {
        store_when_not_busy(&cache, &prompt(1000 + round, 100), 1);
    }
    assert!(allocated_bytes(home.directory.path()) <= CAPACITY);
    // Nor is anything refused for their sake.
    let stats = cache.stats().control.disk;
    assert_eq!((stats.journal_errors, stats.degraded.is_some()), (0, false));
    store_when_not_busy(&cache, &prompt(9999, 1), CHUNK);
}

#[test]
fn guarantee_7_a_floor_of_free_space_is_respected() {
    let home = Home::new(CHUNK, 4, 64 << 20);
    let mut config: Config = home.config.clone();
    config.disk_min_free_bytes = 1 << 60;
    let error = Cache::open(&config, CHUNK as u64, None).err().expect("there is not that much free");
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.to_string().contains("disk_min_free_size"), "{error}");
}

#[test]
fn guarantee_7_the_least_recently_used_goes_first_and_never_before_its_continuation() {
    let home = Home::new(CHUNK, 4, 4 << 20);
    let cache = home.open();
    let old = prompt(0, 10);
    let kept = prompt(1, 10);
    store_all(&cache, &old, CHUNK);
    store_all(&cache, &kept, CHUNK);
    for round in 2..40 {
        assert_eq!(cache.lookup(&kept).chunks(), 10, "round {round}");
        store(&cache, &prompt(round, 3), CHUNK);
        // What is left of a prompt is always its front.
        let there: Vec<bool> = old.iter().map(|key| count_right(&cache, &[*key], CHUNK) == 1).collect();
        assert!(there.is_sorted_by(|a, b| a >= b), "{there:?}");
    }
}

#[test]
fn guarantee_10_on_complete_fires_once_a_chunk_and_before_the_batch_is_done() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let cache = home.open();
    let mut keys = prompt(0, 60);
    store_all(&cache, &keys[..10], CHUNK);
    keys.push(keys[59]); // The same chunk twice in one call: one is written, the other follows it.
    let told: Arc<Mutex<Vec<StoreOutcome>>> = Arc::default();
    let teller = Arc::clone(&told);
    let chunks = keys.iter().map(|key| (*key, Box::new(bytes_of(key, CHUNK)) as _)).collect();
    let batch =
        cache.store(chunks, None, Some(Arc::new(move |end: &StoreOutcome| teller.lock().push(end.clone()))));
    let ends = batch.unwrap().wait(Some(PATIENCE)).expect("stores end");
    let told = told.lock();
    assert_eq!(told.len(), 61, "one call a chunk, all before the batch was done");
    for end in &ends {
        assert!(told.contains(end), "{end:?}");
        let [on_disk] = &*end.tiers else { panic!("one tier: {end:?}") };
        assert_eq!((on_disk.tier, on_disk.status), (forebay::outcome::Tier::Disk, end.status));
    }
    let stored = ends.iter().filter(|end| end.status == StoreStatus::Stored).count();
    let present = ends.iter().filter(|end| end.status == StoreStatus::Present).count();
    assert_eq!((stored, present), (50, 11));
}

#[test]
fn guarantee_10_a_chunk_told_to_be_stored_is_found_in_the_callback() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let cache = Arc::new(home.open());
    let missing = Arc::new(AtomicU64::new(0));
    let (asked, counted) = (Arc::clone(&cache), Arc::clone(&missing));
    let keys = prompt(0, 30);
    let chunks = keys.iter().map(|key| (*key, Box::new(bytes_of(key, CHUNK)) as _)).collect();
    let on_complete = move |end: &StoreOutcome| {
        if asked.lookup(&[end.key]).chunks() != 1 {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    };
    cache.store(chunks, None, Some(Arc::new(on_complete))).unwrap().wait(Some(PATIENCE)).expect("stores end");
    assert_eq!(missing.load(Ordering::SeqCst), 0);
}

#[test]
fn guarantee_10_a_callback_that_panics_costs_nothing() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let cache = home.open();
    let keys = prompt(0, 10);
    let chunks = keys.iter().map(|key| (*key, Box::new(bytes_of(key, CHUNK)) as _)).collect();
    let batch =
        cache.store(chunks, None, Some(Arc::new(|_: &StoreOutcome| panic!("a callback that panics"))));
    let ends = batch.unwrap().wait(Some(PATIENCE)).expect("stores end");
    assert!(ends.iter().all(|end| end.status == StoreStatus::Stored), "{ends:?}");
    assert_nothing_leaked(&cache);
}

#[test]
fn a_chunk_larger_than_chunk_bytes_is_an_error() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let cache = home.open();
    let keys = prompt(0, 1);
    for len in [0, CHUNK + 1] {
        let refused =
            cache.store(vec![(keys[0], Box::new(vec![0; len]))], None, None).err().expect("refused");
        assert_eq!(refused.kind(), ErrorKind::Argument, "{refused}");
    }
    assert_nothing_leaked(&cache);
}

#[test]
fn a_staging_buffer_of_less_than_two_chunks_is_refused_by_name() {
    let home = Home::new(CHUNK, 4, 64 << 20);
    let config = config_with(home.directory.path(), CHUNK, 1, 64 << 20, [("disk_sync", Value::from("none"))]);
    let error = Cache::open(&config, CHUNK as u64, None).err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("max_local_cpu_size"), "{error}");
}
