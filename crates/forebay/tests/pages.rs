//! Chunks that the drive reads where the engine has them.

mod support;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use forebay::mover::{Observer, Source};
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
}

impl Drop for InPlace {
    fn drop(&mut self) {
        let _ = self.back.send(self.memory.take().expect("only dropping takes it"));
    }
}

impl Source for InPlace {
    fn len(&self) -> usize {
        self.memory.as_ref().map_or(0, PageMemory::len)
    }

    fn pages(&mut self) -> Option<Pages<'_>> {
        let len = Source::len(self);
        self.memory.as_mut().and_then(|memory| Pages::of(memory, len))
    }

    fn fill(&mut self, _: usize, _: &mut [u8], _: Observer<'_>) -> Result<(), String> {
        Err("it was to be read in place".into())
    }
}

fn store_in_place(cache: &Cache, keys: &[ChunkKey], chunk: usize) {
    let chunks =
        keys.iter().map(|key| (*key, Box::new(InPlace::new(&bytes_of(key, chunk)).0) as _)).collect();
    for end in cache.store(chunks, None, None).unwrap().wait(Some(PATIENCE)).expect("stores end") {
        assert_eq!(end.status, StoreStatus::Stored, "{end:?}");
    }
}

#[test]
fn what_is_stored_in_place_is_what_is_loaded() {
    // Of one part, and of several.
    for (chunk, slots) in [(CHUNK, 3), (9 * KIB * KIB, 2)] {
        for engine in ["auto", "threads"] {
            let home = TempDir::new().unwrap();
            let more = [("disk_io_engine", Value::from(engine))];
            let config = config_with(home.path(), chunk, slots, 256 << 20, more);
            let cache = Cache::open(&config, chunk as u64, None).unwrap();
            let keys = prompt(0, 20);
            store_in_place(&cache, &keys[..10], chunk);
            store_all(&cache, &keys[10..], chunk);
            assert_eq!(count_right(&cache, &keys, chunk), 20, "{engine}");
            assert_nothing_leaked(&cache);
        }
    }
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
