//! Guarantee 9: whatever fails under the cache ends as an outcome, is counted, and loses nothing that was committed.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use forebay::cache::load_status;
use forebay::catalog::Plan;
use forebay::mover::{Batch, Job, Observer, Sink};
use forebay::outcome::Tier;
use forebay::tier::disk::journal::{segment_path, segments};
use forebay::{Cache, ControlPlane, ErrorKind, LoadStatus, Lookup, Mover, Reason, StoreStatus, Value};
use parking_lot::Mutex;
use support::*;

const CHUNK: usize = 64 * KIB;
const EIO: u64 = 5;
const ENOSPC: u64 = 28;

fn reason_of(reason: Option<&Reason>) -> &'static str {
    reason.map_or("none", Reason::code)
}

#[test]
fn guarantee_9_an_error_on_write_fails_the_store_and_nothing_else() {
    for errno in [EIO, ENOSPC] {
        let home = Home::new(CHUNK, 2, 64 << 20);
        let faults = Faults::new();
        let cache = home.open_with(&faults);
        let (before, during, after) = (prompt(0, 5), prompt(1, 5), prompt(2, 5));
        store_all(&cache, &before, CHUNK);
        faults.write_errno.store(errno, Ordering::SeqCst);
        for end in store(&cache, &during, CHUNK) {
            assert_eq!((end.status, reason_of(end.reason.as_ref())), (StoreStatus::Failed, "io"), "{end:?}");
        }
        assert!(matches!(cache.lookup(&during), Lookup::Miss), "a failed store is visible");
        assert_eq!(cache.stats().mover.io_errors, 5);
        assert_eq!(cache.stats().control.disk.store_failed, 5);
        assert_eq!(count_right(&cache, &before, CHUNK), 5, "what was committed is lost");
        // Space is freed again: the failed chunks are stuck nowhere.
        faults.write_errno.store(0, Ordering::SeqCst);
        store_all(&cache, &during, CHUNK);
        store_all(&cache, &after, CHUNK);
        assert_nothing_leaked(&cache);
        drop(cache);
        let cache = home.open();
        assert_eq!([&before, &during, &after].map(|keys| count_right(&cache, keys, CHUNK)), [5, 5, 5]);
    }
}

#[test]
fn guarantee_9_an_error_on_read_fails_the_load_and_is_not_found_again() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let faults = Faults::new();
    let cache = home.open_with(&faults);
    let (bad, good) = (prompt(0, 5), prompt(1, 5));
    store_all(&cache, &bad, CHUNK);
    store_all(&cache, &good, CHUNK);
    faults.fail_reads.store(true, Ordering::SeqCst);
    for (end, _) in load(&cache, &bad, CHUNK) {
        assert_eq!((end.status, reason_of(end.reason.as_ref())), (LoadStatus::Failed, "io"), "{end:?}");
    }
    faults.fail_reads.store(false, Ordering::SeqCst);
    // Found again, they would fail again, for ever: they are stored anew instead.
    assert!(matches!(cache.lookup(&bad), Lookup::Miss));
    assert_eq!(cache.stats().control.disk.io_failed, 5);
    assert_eq!(count_right(&cache, &good, CHUNK), 5);
    store_all(&cache, &bad, CHUNK);
    assert_eq!(count_right(&cache, &bad, CHUNK), 5);
    assert_nothing_leaked(&cache);
}

#[test]
fn guarantee_9_a_transfer_that_stops_short_is_continued() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let faults = Faults::new();
    let cache = home.open_with(&faults);
    faults.short_bytes.store(8192, Ordering::SeqCst);
    let keys = prompt(0, 5);
    store_all(&cache, &keys, CHUNK);
    assert_eq!(count_right(&cache, &keys, CHUNK), 5);
    faults.short_bytes.store(0, Ordering::SeqCst);
    assert_eq!(count_right(&cache, &keys, CHUNK), 5);
}

#[test]
fn guarantee_9_a_transfer_that_stops_inside_a_block_is_no_success() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let faults = Faults::new();
    let cache = home.open_with(&faults);
    let keys = prompt(0, 2);
    store_all(&cache, &keys, CHUNK);
    // Through the page cache a read may stop anywhere: here it does, after 100 bytes of each transfer.
    let buffered =
        config_with(home.directory.path(), CHUNK, 2, 64 << 20, [("disk_direct_io", Value::from("off"))]);
    drop(cache);
    let cache = Cache::open_with(&buffered, CHUNK as u64, None, |file| faults.around(file)).unwrap();
    assert!(!cache.stats().mover.direct_io);
    faults.short_bytes.store(100, Ordering::SeqCst);
    for (end, _) in load(&cache, &keys, CHUNK) {
        assert_eq!(end.status, LoadStatus::Miss, "{end:?}");
    }
    assert_nothing_leaked(&cache);
}

#[test]
fn guarantee_9_the_cache_works_through_the_page_cache_too() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let config =
        config_with(home.directory.path(), CHUNK, 2, 64 << 20, [("disk_direct_io", Value::from("off"))]);
    let keys = prompt(0, 20);
    {
        let cache = Cache::open(&config, CHUNK as u64, None).unwrap();
        store_all(&cache, &keys, CHUNK);
        assert_eq!(count_right(&cache, &keys, CHUNK), 20);
    }
    // And what one way has written the other way reads.
    assert_eq!(count_right(&home.open(), &keys, CHUNK), 20);
}

#[test]
fn guarantee_9_a_device_that_does_not_answer_fails_the_load_in_time() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let config =
        config_with(home.directory.path(), CHUNK, 2, 64 << 20, [("load_timeout_s", Value::from(0.2))]);
    let faults = Faults::new();
    let cache = Cache::open_with(&config, CHUNK as u64, None, |file| faults.around(file)).unwrap();
    let keys = prompt(0, 6);
    store_all(&cache, &keys, CHUNK);
    faults.stall_reads(true);
    let started = Instant::now();
    let ends = load(&cache, &keys, CHUNK);
    assert!(started.elapsed() < Duration::from_secs(10));
    // Two stand at the device with their slots; the others found no slot. Neither is a miss.
    for (end, buffer) in &ends {
        assert_eq!(end.status, LoadStatus::Failed, "{end:?}");
        assert!(["timed out", "busy"].contains(&reason_of(end.reason.as_ref())), "{end:?}");
        assert!(buffer.iter().all(|&byte| byte == 0xEE));
    }
    assert!(ends.iter().any(|(end, _)| end.reason == Some(Reason::TimedOut)));
    assert!(ends.iter().any(|(end, _)| end.reason == Some(Reason::Busy)));
    // The slots come back when the device does, and what came late was not used.
    faults.stall_reads(false);
    let started = Instant::now();
    while cache.stats().mover.staging.in_use > 0 {
        assert!(started.elapsed() < PATIENCE, "the slots do not come back");
        std::thread::yield_now();
    }
    assert_eq!(count_right(&cache, &keys, CHUNK), 6, "a slow device is no reason to forget");
    assert_nothing_leaked(&cache);
}

#[test]
fn guarantee_9_a_device_that_panics_costs_the_transfer_only() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let faults = Faults::new();
    let cache = home.open_with(&faults);
    let keys = prompt(0, 20);
    store_all(&cache, &keys, CHUNK);
    faults.panic.store(true, Ordering::SeqCst);
    // More than there are threads: each of them lives on.
    for end in store(&cache, &prompt(1, 20), CHUNK) {
        assert!(matches!(end.reason, Some(Reason::Io(_))), "{end:?}");
    }
    // As after any error of the device: what could not be read is dropped.
    for (end, _) in load(&cache, &keys, CHUNK) {
        assert!(matches!(end.reason, Some(Reason::Io(_))), "{end:?}");
    }
    faults.panic.store(false, Ordering::SeqCst);
    store_all(&cache, &keys, CHUNK);
    assert_eq!(count_right(&cache, &keys, CHUNK), 20);
    assert_nothing_leaked(&cache);
}

#[test]
fn guarantee_9_a_full_queue_is_busy_and_not_a_miss() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let config =
        config_with(home.directory.path(), CHUNK, 2, 64 << 20, [("max_queued_chunks", Value::from(4))]);
    let faults = Faults::new();
    let cache = Cache::open_with(&config, CHUNK as u64, None, |file| faults.around(file)).unwrap();
    faults.stall_writes(true);
    let keys = prompt(0, 30);
    let batch = begin_store(&cache, &keys, CHUNK);
    let refused = batch.poll();
    assert!(refused.len() >= 20, "{} refused", refused.len());
    for end in refused {
        assert_eq!((end.status, end.reason), (StoreStatus::Refused, Some(Reason::Busy)));
    }
    faults.stall_writes(false);
    batch.wait(Some(PATIENCE)).expect("stores end");
    assert!(cache.stats().mover.busy >= 20);
    assert_nothing_leaked(&cache);
}

/// Engine memory that takes a chunk when its gate is open.
struct Gated(Arc<Mutex<()>>);

impl Sink for Gated {
    fn len(&self) -> usize {
        CHUNK
    }

    fn drain(&mut self, _: usize, from: &[u8], seen: Observer<'_>) -> Result<(), String> {
        seen(from);
        drop(self.0.lock());
        Ok(())
    }
}

#[test]
fn guarantee_2_no_more_loads_wait_in_line_than_may() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let values = [("max_queued_chunks", Value::from(4))];
    let in_memory = [
        ("local_cpu", Value::from(true)),
        ("use_only_staging_buffer", false.into()),
        // More than the staging buffer can use.
        ("max_local_cpu_size", (64.0 / 1024.0).into()),
        ("max_queued_chunks", 4.into()),
    ];
    let from_disk = config_with(&home.directory.path().join("disk"), CHUNK, 2, 64 << 20, values);
    let from_memory = config_with(&home.directory.path().join("memory"), CHUNK, 2, 64 << 20, in_memory);
    for (config, tier) in [(from_disk, Tier::Disk), (from_memory, Tier::Memory)] {
        let faults = Faults::new();
        let cache = Cache::open_with(&config, CHUNK as u64, None, |file| faults.around(file)).unwrap();
        let keys = prompt(0, 30);
        for key in &keys {
            store_all(&cache, &[*key], CHUNK);
        }
        let gate = Arc::new(Mutex::new(()));
        let batch = {
            // The drive does not answer, and who copies from memory waits for the engine.
            faults.stall_reads(true);
            let _shut = gate.lock();
            let chunks = keys.iter().map(|key| (*key, Box::new(Gated(Arc::clone(&gate))) as _)).collect();
            let batch = cache.load(chunks, None);
            let refused = batch.poll();
            assert!(refused.len() >= 20, "{tier:?}: {} refused", refused.len());
            for end in refused {
                assert_eq!((end.status, end.reason), (LoadStatus::Failed, Some(Reason::Busy)), "{tier:?}");
            }
            batch
        };
        faults.stall_reads(false);
        let ends = batch.wait(Some(PATIENCE)).expect("loads end");
        let loaded = ends.iter().filter(|end| end.status == LoadStatus::Loaded).count();
        assert!((4..=10).contains(&loaded), "{tier:?}: {loaded} loaded");
        let traffic = &cache.stats().mover.traffic[tier as usize];
        assert_eq!(traffic.loads.chunks, loaded as u64, "{tier:?}: from there");
        assert_nothing_leaked(&cache);
    }
}

#[test]
fn guarantee_9_a_store_of_more_than_fits_is_refused_as_full() {
    let home = Home::new(CHUNK, 2, 4 << 20);
    let cache = home.open();
    let keys = prompt(0, 200);
    let ends = store(&cache, &keys, CHUNK);
    let stored = ends.iter().take_while(|end| end.status == StoreStatus::Stored).count();
    assert!(stored > 20);
    // A chain is not evicted for its own continuation: what is stored of it is its front.
    for end in &ends[stored..] {
        assert_eq!((end.status, &end.reason), (StoreStatus::Refused, &Some(Reason::Full)), "{end:?}");
    }
    assert_eq!(cache.lookup(&keys).chunks(), stored);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_directory_that_is_owned_is_refused_with_its_owners_pid() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let cache = home.open();
    store_all(&cache, &prompt(0, 3), CHUNK);
    let error = Cache::open(&home.config, CHUNK as u64, None).err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.can_retry());
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    assert_eq!(count_right(&cache, &prompt(0, 3), CHUNK), 3);
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let file = home.path("a-file");
    std::fs::write(&file, "not a directory").unwrap();
    for path in [file.clone(), file.join("below")] {
        let config = config(&path, CHUNK, 2, 64 << 20);
        let error = Cache::open(&config, CHUNK as u64, None).err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert!(error.to_string().contains("local_disk") && error.to_string().contains("a-file"), "{error}");
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), "not a directory");
}

#[test]
fn a_directory_of_another_format_is_refused_and_left_alone() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    store_all(&home.open(), &prompt(0, 3), CHUNK);
    let format = std::fs::read_to_string(home.path("FORMAT")).unwrap();
    std::fs::write(home.path("FORMAT"), r#"{"forebay_format":1,"epoch":1}"#).unwrap();
    let error = Cache::open(&home.config, CHUNK as u64, None).err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Format);
    assert!(error.to_string().contains("format 1"), "{error}");
    std::fs::write(home.path("FORMAT"), format).unwrap();
    assert_eq!(count_right(&home.open(), &prompt(0, 3), CHUNK), 3);
}

#[test]
fn every_sync_policy_stores_and_comes_back() {
    for policy in [Value::from("none"), Value::from("always"), Value::from(0.01)] {
        let home = Home::new(CHUNK, 2, 64 << 20);
        let config = config_with(home.directory.path(), CHUNK, 2, 64 << 20, [("disk_sync", policy)]);
        let keys = prompt(0, 10);
        store_all(&Cache::open(&config, CHUNK as u64, None).unwrap(), &keys, CHUNK);
        let cache = Arc::new(Cache::open(&config, CHUNK as u64, None).unwrap());
        assert_eq!(count_right(&cache, &keys, CHUNK), 10);
    }
}

#[test]
fn a_capacity_that_shrinks_keeps_what_still_fits() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let keys = prompt(0, 400);
    {
        let cache = home.open();
        store_all(&cache, &keys, CHUNK);
    }
    let smaller = config(home.directory.path(), CHUNK, 2, 16 << 20);
    let kept = {
        let cache = Cache::open(&smaller, CHUNK as u64, None).unwrap();
        let kept = cache.lookup(&keys).chunks();
        assert!(kept > 150, "{kept}");
        assert_eq!(count_right(&cache, &keys, CHUNK), kept);
        kept
    };
    // Growing again does not bring back what was given up.
    let cache = home.open();
    assert_eq!(cache.lookup(&keys).chunks(), kept);
    assert_eq!(count_right(&cache, &keys, CHUNK), kept);
    assert_eq!(cache.stats().control.disk.corrupt, 0);
}

#[test]
fn a_directory_with_somebody_elses_data_is_refused_and_left_alone() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let theirs = vec![b'x'; 1 << 20];
    std::fs::write(home.data(), &theirs).unwrap();
    let error = Cache::open(&home.config, CHUNK as u64, None).err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Format);
    assert!(error.to_string().contains("not Forebay's"), "{error}");
    assert!(std::fs::read(home.data()).unwrap() == theirs, "their file was changed");
}

#[test]
fn a_data_file_that_is_lost_leaves_no_ghosts() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let keys = prompt(0, 6);
    store_all(&home.open(), &keys, CHUNK);
    std::fs::remove_file(home.data()).unwrap();
    for _ in 0..2 {
        let cache = home.open();
        assert_eq!((cache.lookup(&keys).chunks(), cache.stats().control.disk.chunks), (0, 0));
    }
    let cache = home.open();
    store_all(&cache, &keys, CHUNK);
    assert_eq!(cache.stats().control.disk.corrupt, 0);
}

#[test]
fn a_lock_that_a_forked_child_inherited_ends_with_its_owner() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let cache = home.open();
    // A second descriptor of the same lock, as a child has between fork and exec.
    let fd = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| std::fs::read_link(path).is_ok_and(|to| to == home.path("LOCK")))
        .expect("the lock is open");
    let fd: i32 = fd.file_name().unwrap().to_str().unwrap().parse().unwrap();
    // SAFETY: the descriptor is open for as long as the cache is.
    let inherited = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().unwrap();
    drop(cache);
    drop(home.open());
    drop(inherited);
}

#[test]
fn guarantee_9_a_checkpoint_that_fails_for_a_while_is_made_up_for() {
    let home = Home::new(CHUNK, 2, 8 << 20);
    let cache = home.open();
    // No file can be made where a directory stands.
    std::fs::create_dir(home.path("checkpoint.new")).unwrap();
    let refused = (0..1000).any(|number| {
        store(&cache, &prompt(number, 50), 1).iter().any(|end| end.reason == Some(Reason::Busy))
    });
    assert!(refused, "the journal was never full: the test is too small");
    assert!(cache.stats().control.disk.degraded.is_some());
    assert!(allocated_bytes(home.directory.path()) <= 8 << 20);
    // It is tried again without anybody asking for a store.
    let tried = cache.stats().control.disk.journal_errors;
    let waiting = Instant::now();
    while cache.stats().control.disk.journal_errors < tried + 3 {
        assert!(waiting.elapsed() < PATIENCE, "the checkpoint is not tried again");
        std::thread::yield_now();
    }
    let segments = segments(home.directory.path()).unwrap();
    assert!(segments.len() <= 4, "each try leaves a segment behind: {segments:?}");
    std::fs::remove_dir(home.path("checkpoint.new")).unwrap();
    let started = Instant::now();
    let keys = prompt(9999, 1);
    while store(&cache, &keys, 1)[0].status != StoreStatus::Stored {
        assert!(started.elapsed() < PATIENCE, "stores are refused for ever");
        std::thread::yield_now();
    }
    assert!(cache.stats().control.disk.degraded.is_none());
}

#[test]
fn guarantee_7_segments_that_a_death_left_behind_a_checkpoint_are_deleted_at_start() {
    let home = Home::new(CHUNK, 2, 8 << 20);
    let keys = prompt(1, 5);
    store_all(&home.open(), &keys, CHUNK);
    let directory = home.directory.path();
    let counts = segments(directory).unwrap().pop().expect("there is a journal");
    let void = segment_path(directory, 0);
    std::fs::copy(segment_path(directory, counts), &void).unwrap();
    let cache = home.open();
    assert!(!void.exists(), "{} is still there", void.display());
    assert_eq!(cache.lookup(&keys).chunks(), 5);
}

#[test]
fn guarantee_10_a_panic_at_the_end_of_one_batch_is_no_other_batchs() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let faults = Faults::new();
    let cache = home.open_with(&faults);
    faults.stall_writes(true);
    let keys = prompt(0, 1);
    let batches = [(); 3].map(|()| begin_store(&cache, &keys, CHUNK));
    batches.iter().for_each(|batch| batch.on_done(|| panic!("what was to be called panics")));
    faults.stall_writes(false);
    let ends = batches.map(|batch| batch.wait(Some(PATIENCE)).expect("each batch ends").remove(0).status);
    assert_eq!(ends, [StoreStatus::Stored, StoreStatus::Present, StoreStatus::Present]);
    assert_nothing_leaked(&cache);
}

#[test]
fn guarantee_4_a_cache_may_be_closed_from_a_callback_and_opened_again() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let cache = Arc::new(home.open());
    let closed = Arc::clone(&cache);
    let keys = prompt(0, 5);
    let chunks = keys.iter().map(|key| (*key, Box::new(bytes_of(key, CHUNK)) as _)).collect();
    let close = move |_: &forebay::StoreOutcome| closed.close(Duration::MAX);
    let started = Instant::now();
    let batch = cache.store(chunks, None, Some(Arc::new(close))).unwrap();
    batch.wait(Some(PATIENCE)).expect("the store ends");
    assert!(started.elapsed() < Duration::from_secs(5), "closing waited for itself");
    // A pinned lookup and a batch may outlive it; the directory is free all the same.
    assert!(count_right(&home.open(), &keys, CHUNK) >= 1);
}

#[test]
fn guarantee_6_a_mover_that_cannot_reach_the_disk_costs_no_chunk() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let keys = prompt(0, 3);
    store_all(&home.open(), &keys, CHUNK);
    let control = ControlPlane::open(&home.config, CHUNK as u64, None).unwrap();
    let unreachable =
        || Err(forebay::Error::io("opening the data file", std::io::Error::from_raw_os_error(13)));
    let mover = Mover::start_late(&home.config, CHUNK as u64, Box::new(unreachable), None).unwrap();
    let length = u32::try_from(CHUNK).unwrap();
    for plan in control.plan_load(&keys.iter().map(|key| (*key, length)).collect::<Vec<_>>()) {
        let batch = Batch::new(1);
        let ends = Arc::clone(&batch);
        let buffer: Box<dyn forebay::mover::Sink> = Box::new(Arc::new(Mutex::new(vec![0; CHUNK])));
        let answer = move |plan: Plan, verdict| ends.end(0, (plan.ticket, load_status(verdict)));
        mover.load(Job::new(&batch, plan.unwrap().read, buffer, answer));
        let (ticket, (status, reason)) = batch.wait(Some(PATIENCE)).expect("it ends").remove(0);
        assert!(matches!((status, &reason), (LoadStatus::Failed, Some(Reason::Engine(_)))), "{reason:?}");
        assert!(control.finish_load(ticket, status, reason.as_ref()));
    }
    assert_eq!(control.lookup(&keys).chunks(), 3, "nothing was read, so nothing is known to be wrong");
}
