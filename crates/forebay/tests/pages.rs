//! Chunks that the drive reads and writes where the engine has them.

mod support;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use forebay::mover::{Observer, Sink, Source};
use forebay::outcome::{LoadStatus, Reason};
use forebay::{Cache, ChunkKey, PageMemory, Pages, StoreStatus, Value};
use support::{Faults, Home, KIB, PATIENCE, assert_nothing_leaked, bytes_of, config_with, count_right};
use support::{prompt, store_all};
use tempfile::TempDir;

const CHUNK: usize = 256 * KIB;

/// Memory on whole pages that comes back when it is let go of. Copying from or to it is a failure.
struct InPlace {
    memory: Option<PageMemory>,
    back: Sender<PageMemory>,
}

impl InPlace {
    fn new(bytes: &[u8]) -> (Self, Receiver<PageMemory>) {
        let mut memory = PageMemory::new(bytes.len()).expect("memory");
        memory.copy_from_slice(bytes);
        let (back, returned) = channel();
        (Self { memory: Some(memory), back }, returned)
    }

    fn whole(&mut self) -> Option<Pages<'_>> {
        self.memory.as_mut().and_then(|memory| Pages::of(memory, CHUNK))
    }
}

impl Drop for InPlace {
    fn drop(&mut self) {
        let _ = self.back.send(self.memory.take().expect("only dropping takes it"));
    }
}

impl Source for InPlace {
    fn len(&self) -> usize {
        CHUNK
    }

    fn pages(&mut self) -> Option<Pages<'_>> {
        self.whole()
    }

    fn fill(&mut self, _: &mut [u8], _: Observer<'_>) -> Result<(), String> {
        Err("it was to be read in place".into())
    }
}

impl Sink for InPlace {
    fn len(&self) -> usize {
        CHUNK
    }

    fn pages(&mut self) -> Option<Pages<'_>> {
        self.whole()
    }

    fn drain(&mut self, _: &[u8], _: Observer<'_>) -> Result<(), String> {
        Err("it was to be written in place".into())
    }
}

fn store_in_place(cache: &Cache, keys: &[ChunkKey]) {
    let chunks =
        keys.iter().map(|key| (*key, Box::new(InPlace::new(&bytes_of(key, CHUNK)).0) as _)).collect();
    for end in cache.store(chunks, None, None).unwrap().wait(Some(PATIENCE)).expect("stores end") {
        assert_eq!(end.status, StoreStatus::Stored, "{end:?}");
    }
}

/// Loads chunks where they are wanted; gives how each ended, and what is there.
fn load_in_place(cache: &Cache, keys: &[ChunkKey]) -> Vec<(LoadStatus, Option<Reason>, PageMemory)> {
    let (chunks, returned): (Vec<_>, Vec<_>) = keys
        .iter()
        .map(|key| {
            let (sink, returned) = InPlace::new(&vec![0xEE; CHUNK]);
            ((*key, Box::new(sink) as _), returned)
        })
        .unzip();
    let ends = cache.load(chunks, None).wait(Some(PATIENCE)).expect("loads end");
    let memory = returned.into_iter().map(|returned| returned.recv_timeout(PATIENCE).expect("let go of"));
    ends.into_iter().zip(memory).map(|(end, memory)| (end.status, end.reason, memory)).collect()
}

#[test]
fn what_is_stored_in_place_is_loaded_in_place_and_by_copy_and_the_other_way_round() {
    for engine in ["auto", "threads"] {
        let home = TempDir::new().unwrap();
        let config = config_with(home.path(), CHUNK, 3, 64 << 20, [("disk_io_engine", Value::from(engine))]);
        let cache = Cache::open(&config, CHUNK as u64, None).unwrap();
        let keys = prompt(0, 40);
        store_in_place(&cache, &keys[..20]);
        store_all(&cache, &keys[20..], CHUNK);
        assert_eq!(count_right(&cache, &keys, CHUNK), 40, "{engine}");
        for (key, (status, _, memory)) in keys.iter().zip(load_in_place(&cache, &keys)) {
            assert_eq!(status, LoadStatus::Loaded, "{engine}");
            assert!(*memory == *bytes_of(key, CHUNK), "{engine}: wrong bytes under {key}");
        }
        assert_nothing_leaked(&cache);
    }
}

#[test]
fn guarantee_1_a_flipped_bit_is_seen_in_place_too() {
    use std::os::unix::fs::FileExt;
    let home = Home::new(CHUNK, 3, 64 << 20);
    let cache = home.open();
    let keys = prompt(0, 6);
    store_in_place(&cache, &keys);
    let data = std::fs::OpenOptions::new().read(true).write(true).open(home.data()).unwrap();
    let stride = (4 * KIB + CHUNK) as u64;
    // In the header, at both ends of the payload, and in the middle of it.
    for (chunk, at) in [(0, 100), (1, 4096), (2, stride - 1), (3, stride / 2)] {
        let mut byte = [0];
        data.read_exact_at(&mut byte, chunk * stride + at).unwrap();
        data.write_all_at(&[byte[0] ^ 4], chunk * stride + at).unwrap();
    }
    data.sync_all().unwrap();
    let ends: Vec<_> = load_in_place(&cache, &keys).into_iter().map(|(status, ..)| status).collect();
    let (miss, loaded) = (LoadStatus::Miss, LoadStatus::Loaded);
    assert_eq!(ends, [miss, miss, miss, miss, loaded, loaded]);
    assert_eq!(cache.stats().control.corrupt, 4);
    assert_nothing_leaked(&cache);
}

#[test]
fn guarantee_9_a_load_in_place_is_given_up_in_time_and_its_memory_kept_until_the_device_answers() {
    let home = TempDir::new().unwrap();
    let more = [("load_timeout_s", Value::from(0.2))];
    let config = config_with(home.path(), CHUNK, 3, 64 << 20, more);
    let faults = Faults::new();
    let cache = Cache::open_with(&config, CHUNK as u64, None, |file| faults.around(file)).unwrap();
    let keys = prompt(0, 1);
    store_in_place(&cache, &keys);
    faults.stall_reads(true);
    let (sink, returned) = InPlace::new(&vec![0xEE; CHUNK]);
    let batch = cache.load(vec![(keys[0], Box::new(sink) as _)], None);
    let end = batch.wait(Some(PATIENCE)).expect("it is given up").remove(0);
    assert_eq!((end.status, end.reason), (LoadStatus::Failed, Some(Reason::TimedOut)));
    assert!(!batch.is_released(), "the device may still write to it");
    assert!(returned.try_recv().is_err(), "the device may still write to it");
    faults.stall_reads(false);
    assert!(batch.wait_released(PATIENCE));
    assert!(returned.recv_timeout(PATIENCE).is_ok());
    cache.close(PATIENCE);
    assert_nothing_leaked(&cache);
}

#[test]
fn guarantee_4_memory_of_a_store_in_place_is_kept_until_the_device_has_it_and_no_longer() {
    let home = Home::new(CHUNK, 3, 64 << 20);
    let faults = Faults::new();
    let cache = home.open_with(&faults);
    faults.stall_writes(true);
    let keys = prompt(0, 1);
    let (source, returned) = InPlace::new(&bytes_of(&keys[0], CHUNK));
    let batch = cache.store(vec![(keys[0], Box::new(source) as _)], None, None).unwrap();
    faults.wait_for_arrivals(1);
    cache.cancel(&batch);
    assert!(!batch.wait_released(Duration::from_millis(20)), "the device still reads it");
    faults.stall_writes(false);
    assert_eq!(batch.wait(Some(PATIENCE)).unwrap()[0].status, StoreStatus::Stored);
    assert!(batch.wait_released(PATIENCE));
    assert!(returned.recv_timeout(PATIENCE).is_ok());
    assert_eq!(count_right(&cache, &keys, CHUNK), 1);
    assert_nothing_leaked(&cache);
}

#[test]
fn what_is_no_whole_block_or_too_short_is_no_pages() {
    let mut memory = PageMemory::new(64 * KIB).unwrap();
    assert!(
        Pages::of(&mut memory, 64 * KIB).is_some_and(|pages| pages.len() == 64 * KIB && !pages.is_empty())
    );
    assert!(Pages::of(&mut memory, 64 * KIB + 4096).is_none());
    assert!(Pages::of(&mut memory, 5000).is_none());
}
