//! Chunks larger than a slot: they cross the staging buffer in parts.

mod support;

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use forebay::catalog::ChunkRecord;
use forebay::mover::{Observer, Sink, Source};
use forebay::outcome::{LoadStatus, Reason, StoreStatus};
use forebay::tier::disk::recovery::read_journal;
use forebay::{Cache, ChunkKey, Value};
use parking_lot::Mutex;
use support::{Faults, Home, KIB, PATIENCE, assert_nothing_leaked, config_with, count_right, load};
use support::{prompt, store, store_all};
use tempfile::TempDir;

/// Four parts of 4.25 MiB each and a bit, the last of them not whole blocks.
const CHUNK: usize = 17 * KIB * KIB + 1234;

/// A cache whose staging buffer holds two parts: less than half a chunk.
fn home(engine: &str) -> (TempDir, Cache) {
    let home = TempDir::new().unwrap();
    let small = [("disk_io_engine", Value::from(engine)), ("max_local_cpu_size", Value::from(9.0 / 1024.0))];
    let config = config_with(home.path(), CHUNK, 2, 512 << 20, small);
    let cache = Cache::open(&config, CHUNK as u64, None).unwrap();
    assert_eq!(cache.stats().mover.staging.slots, 2);
    (home, cache)
}

#[test]
fn guarantee_3_two_slots_of_a_quarter_of_a_chunk_move_any_number_of_chunks() {
    for engine in ["auto", "threads"] {
        let (_home, cache) = home(engine);
        let keys = prompt(0, 20);
        // Loads and stores at once, from several threads.
        std::thread::scope(|scope| {
            for keys in keys.chunks(5) {
                let cache = &cache;
                scope.spawn(move || {
                    store_all(cache, keys, CHUNK);
                    assert_eq!(count_right(cache, keys, CHUNK), 5);
                });
            }
        });
        assert_eq!(count_right(&cache, &keys, CHUNK), 20);
        assert_nothing_leaked(&cache);
    }
}

#[test]
fn lengths_around_the_borders_of_parts_come_back_whole() {
    let (_home, cache) = home("auto");
    let part = cache.stats().mover.staging.slot_bytes;
    for (number, length) in
        [1, 4095, part - 1, part, part + 1, part + 4096, part + 4097, 2 * part, 3 * part + 5000, CHUNK]
            .into_iter()
            .enumerate()
    {
        let keys = prompt(u32::try_from(number).unwrap(), 3);
        store_all(&cache, &keys, length);
        assert_eq!(count_right(&cache, &keys, length), 3, "{length}");
    }
    assert_nothing_leaked(&cache);
}

#[test]
fn guarantee_1_a_flipped_bit_in_any_part_is_seen() {
    let home = Home::new(CHUNK, 2, 256 << 20);
    let cache = home.open();
    let keys = prompt(0, 12);
    store_all(&cache, &keys, CHUNK);
    let data = std::fs::OpenOptions::new().read(true).write(true).open(home.data()).unwrap();
    let length = u32::try_from(CHUNK).unwrap();
    let (bytes, stride) = (ChunkRecord::blocks(length) * 4096, ChunkRecord::room_blocks(length) * 4096);
    for tenth in 0..10 {
        let mut byte = [0];
        let at = tenth * stride + tenth * (bytes - 1) / 9;
        data.read_exact_at(&mut byte, at).unwrap();
        data.write_all_at(&[byte[0] ^ 16], at).unwrap();
    }
    data.sync_all().unwrap();
    let ends: Vec<_> = load(&cache, &keys, CHUNK).into_iter().map(|(end, _)| end.status).collect();
    assert_eq!(ends[..10], [LoadStatus::Miss; 10]);
    assert_eq!(ends[10..], [LoadStatus::Loaded; 2]);
    assert_eq!(cache.stats().control.disk.corrupt, 10);
    assert_nothing_leaked(&cache);
}

/// Engine memory that fails, or panics, at one of its parts.
struct Breaks {
    panics: bool,
    parts_left: usize,
}

impl Breaks {
    fn part(&mut self) -> Result<(), String> {
        assert!(self.parts_left > 0 || !self.panics, "engine memory that panics");
        self.parts_left = self.parts_left.checked_sub(1).ok_or("engine memory is gone")?;
        Ok(())
    }
}

impl Source for Breaks {
    fn len(&self) -> usize {
        CHUNK
    }

    fn fill(&mut self, _: usize, to: &mut [u8], seen: Observer<'_>) -> Result<(), String> {
        to.fill(7);
        seen(to);
        self.part()
    }
}

impl Sink for Breaks {
    fn len(&self) -> usize {
        CHUNK
    }

    fn drain(&mut self, _: usize, from: &[u8], seen: Observer<'_>) -> Result<(), String> {
        seen(from);
        self.part()
    }
}

#[test]
fn guarantee_4_a_chunk_that_breaks_off_in_the_middle_leaves_nothing_behind() {
    for engine in ["auto", "threads"] {
        let (_home, cache) = home(engine);
        let stored = prompt(1000, 1);
        store_all(&cache, &stored, CHUNK);
        for (round, panics) in [(0, false), (1, true), (2, false), (3, true)] {
            let keys = prompt(round, 1);
            let chunk = (keys[0], Box::new(Breaks { panics, parts_left: 2 }) as _);
            let end = cache
                .store(vec![chunk], None, None)
                .unwrap()
                .wait(Some(PATIENCE))
                .expect("it ends")
                .remove(0);
            assert_eq!(end.status, StoreStatus::Failed, "never taken for whole");
            assert_eq!(count_right(&cache, &keys, CHUNK), 0);
            let chunk = (stored[0], Box::new(Breaks { panics, parts_left: 2 }) as _);
            let end = cache.load(vec![chunk], None).wait(Some(PATIENCE)).expect("it ends").remove(0);
            let reason =
                if panics { Reason::Abandoned } else { Reason::Engine("engine memory is gone".into()) };
            assert_eq!((end.status, end.reason), (LoadStatus::Failed, Some(reason)));
        }
        assert_eq!(count_right(&cache, &stored, CHUNK), 1, "the chunk itself is right");
        // A slot may come back a moment after a panic has been told.
        cache.close(PATIENCE);
        assert_nothing_leaked(&cache);
    }
}

#[test]
fn guarantee_1_a_store_that_panics_while_a_part_is_with_the_device_is_not_taken_for_whole() {
    let home = Home::new(CHUNK, 2, 256 << 20);
    let faults = Faults::new();
    let cache = home.open_with(&faults);
    let keys = prompt(0, 1);
    faults.stall_writes(true);
    let chunk = (keys[0], Box::new(Breaks { panics: true, parts_left: 1 }) as _);
    let batch = cache.store(vec![chunk], None, None).unwrap();
    faults.wait_for_arrivals(1);
    // The next part has panicked when another chunk has its turn.
    let other = prompt(1, 1);
    let next = support::begin_store(&cache, &other, CHUNK);
    faults.wait_for_arrivals(2);
    assert!(!batch.is_done(), "its first part is with the device");
    faults.stall_writes(false);
    let end = batch.wait(Some(PATIENCE)).expect("it ends").remove(0);
    assert_eq!((end.status, end.reason), (StoreStatus::Failed, Some(Reason::Abandoned)));
    assert_eq!(next.wait(Some(PATIENCE)).expect("it ends")[0].status, StoreStatus::Stored);
    assert_eq!(count_right(&cache, &[keys, other].concat(), CHUNK), 1);
    assert_nothing_leaked(&cache);
}

#[test]
fn guarantee_9_a_device_that_fails_or_stops_short_in_the_middle() {
    let home = Home::new(CHUNK, 2, 256 << 20);
    let faults = Faults::new();
    let cache = home.open_with(&faults);
    let keys = prompt(0, 2);
    faults.short_bytes.store(64 * 4096, Ordering::SeqCst);
    store_all(&cache, &keys, CHUNK);
    assert_eq!(count_right(&cache, &keys, CHUNK), 2, "what stops short is gone on with");
    faults.short_bytes.store(0, Ordering::SeqCst);
    faults.fail_reads.store(true, Ordering::SeqCst);
    for (end, _) in load(&cache, &keys, CHUNK) {
        assert!(matches!((end.status, end.reason), (LoadStatus::Failed, Some(Reason::Io(_)))));
    }
    faults.fail_reads.store(false, Ordering::SeqCst);
    faults.write_errno.store(5, Ordering::SeqCst);
    for end in store(&cache, &prompt(1, 2), CHUNK) {
        assert!(matches!((end.status, end.reason), (StoreStatus::Failed, Some(Reason::Io(_)))));
    }
    assert_nothing_leaked(&cache);
}

#[test]
fn guarantee_9_a_load_that_is_given_up_in_the_middle_lets_go_of_its_memory_at_once() {
    let home = TempDir::new().unwrap();
    let config = config_with(home.path(), CHUNK, 2, 256 << 20, [("load_timeout_s", Value::from(0.3))]);
    let faults = Faults::new();
    let cache = Cache::open_with(&config, CHUNK as u64, None, |file| faults.around(file)).unwrap();
    let keys: Vec<ChunkKey> = prompt(0, 1);
    store_all(&cache, &keys, CHUNK);
    faults.stall_reads(true);
    let buffer = Arc::new(Mutex::new(vec![0_u8; CHUNK]));
    let batch = cache.load(vec![(keys[0], Box::new(Arc::clone(&buffer)) as _)], None);
    let end = batch.wait(Some(PATIENCE)).expect("it is given up").remove(0);
    assert_eq!((end.status, end.reason), (LoadStatus::Failed, Some(Reason::TimedOut)));
    assert!(batch.is_released(), "though the device has not answered");
    assert_eq!(Arc::strong_count(&buffer), 1);
    faults.stall_reads(false);
    assert!(buffer.lock().iter().all(|&byte| byte == 0), "nothing is written to it any more");
    // A busy machine may take longer for it than this cache gives a load.
    let deadline = Instant::now() + PATIENCE;
    while count_right(&cache, &keys, CHUNK) != 1 {
        assert!(Instant::now() < deadline, "it is still there");
    }
    cache.close(PATIENCE);
    assert_nothing_leaked(&cache);
}

#[test]
fn guarantee_6_large_chunks_begin_on_borders_and_are_found_without_a_journal() {
    const MIB: usize = KIB * KIB;
    // Blocks of the borders: a chunk leaves at most one block in 32 empty.
    for (length, border) in [(2 * MIB, 16), (9 * MIB + 1234, 16), (3 * MIB / 2, 8), (MIB / 8, 1)] {
        let home = Home::new(length, 4, 256 << 20);
        let keys = prompt(0, 9);
        store_all(&home.open(), &keys, length);
        let records = read_journal(home.directory.path()).unwrap().records;
        assert_eq!(records.len(), 9);
        for record in records {
            let [extent] = record.extents.as_slice() else { panic!("{length} in pieces") };
            assert_eq!((extent.start % border, extent.blocks % border), (0, 0), "{length}");
            let empty = u64::from(extent.blocks) - ChunkRecord::blocks(record.length);
            assert!(32 * empty <= u64::from(extent.blocks), "{length}: {empty} blocks are empty");
        }
        for file in std::fs::read_dir(home.directory.path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name == "checkpoint" || name.starts_with("journal.") {
                std::fs::remove_file(path).unwrap();
            }
        }
        let cache = home.open();
        assert!(cache.stats().control.disk.rebuilt.is_some());
        assert_eq!(count_right(&cache, &keys, length), 9, "{length}");
    }
}
