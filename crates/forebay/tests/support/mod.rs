//! What the tests over a whole cache share: a cache in a directory of its own, and chunks whose bytes follow from
//! their key, so that any chunk can be checked without having been kept.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay::config::Config;
use forebay::mover::Batch;
use forebay::tier::disk::block_file::BlockFile;
use forebay::{Cache, ChunkKey, LoadOutcome, Namespace, StoreOutcome, StoreStatus, Value};
use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;

/// No wait in a test is longer; what takes longer hangs.
pub const PATIENCE: Duration = Duration::from_mins(1);

pub const KIB: usize = 1 << 10;

/// A staging-only configuration of `slots` slots.
pub fn config(directory: &Path, chunk_bytes: usize, slots: usize, disk_bytes: u64) -> Config {
    config_with(directory, chunk_bytes, slots, disk_bytes, [])
}

#[expect(clippy::cast_precision_loss, reason = "sizes of tests are small")]
pub fn config_with<const N: usize>(
    directory: &Path,
    chunk_bytes: usize,
    slots: usize,
    disk_bytes: u64,
    more: [(&str, Value); N],
) -> Config {
    let gib = f64::from(1 << 30);
    let slot_bytes = chunk_bytes.next_multiple_of(4096);
    let mut values = vec![
        ("local_disk", Value::from(directory.to_str().expect("a temporary directory has a plain name"))),
        ("max_local_disk_size", Value::from(disk_bytes as f64 / gib)),
        ("max_local_cpu_size", Value::from((slots * slot_bytes) as f64 / gib)),
        ("local_cpu", Value::from(false)),
        ("use_only_staging_buffer", Value::from(true)),
        ("disk_min_free_size", Value::from(0.0)),
    ];
    values.extend(more);
    Config::from_values(values).expect("the configuration of a test is right").config
}

/// A directory of its own, and the configuration of a cache in it.
pub struct Home {
    pub directory: TempDir,
    pub config: Config,
    pub chunk_bytes: usize,
}

impl Home {
    pub fn new(chunk_bytes: usize, slots: usize, disk_bytes: u64) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let config = config(directory.path(), chunk_bytes, slots, disk_bytes);
        Self { directory, config, chunk_bytes }
    }

    pub fn open(&self) -> Cache {
        Cache::open(&self.config, self.chunk_bytes as u64, None).expect("the cache opens")
    }

    pub fn open_with(&self, faults: &Arc<Faults>) -> Cache {
        Cache::open_with(&self.config, self.chunk_bytes as u64, None, |file| faults.around(file))
            .expect("the cache opens")
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub fn data(&self) -> PathBuf {
        self.path("data")
    }
}

/// The keys of a prompt of `chunks` chunks; another `prompt`, other keys.
pub fn prompt(prompt: u32, chunks: usize) -> Vec<ChunkKey> {
    let tokens: Vec<u32> = std::iter::once(prompt).chain(1..).take(chunks * 4).collect();
    Namespace::of_model("test").chunk_keys(&tokens, 4, &[]).expect("a chunk size above zero")
}

/// The bytes of a chunk, as they follow from its key.
pub fn bytes_of(key: &ChunkKey, len: usize) -> Vec<u8> {
    let mut state = u64::from_le_bytes(key.as_bytes()[16..24].try_into().expect("eight bytes"));
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Begins to store chunks of `len` bytes.
pub fn begin_store(cache: &Cache, keys: &[ChunkKey], len: usize) -> Arc<Batch<StoreOutcome>> {
    let chunks = keys.iter().map(|key| (*key, Box::new(bytes_of(key, len)) as _)).collect();
    cache.store(chunks, None, None).expect("the chunks are not too large")
}

/// Stores chunks of `len` bytes and waits for their ends.
pub fn store(cache: &Cache, keys: &[ChunkKey], len: usize) -> Vec<StoreOutcome> {
    begin_store(cache, keys, len).wait(Some(PATIENCE)).expect("stores end")
}

/// Stores chunks that must end up stored.
pub fn store_all(cache: &Cache, keys: &[ChunkKey], len: usize) {
    for outcome in store(cache, keys, len) {
        assert_eq!(outcome.status, StoreStatus::Stored, "{outcome:?}");
    }
}

/// Loads chunks of `len` bytes; gives outcomes and what the buffers hold.
pub fn load(cache: &Cache, keys: &[ChunkKey], len: usize) -> Vec<(LoadOutcome, Vec<u8>)> {
    let buffers: Vec<_> = keys.iter().map(|_| Arc::new(Mutex::new(vec![0xEE; len]))).collect();
    let chunks =
        keys.iter().zip(&buffers).map(|(key, buffer)| (*key, Box::new(Arc::clone(buffer)) as _)).collect();
    let outcomes = cache.load(chunks, None).wait(Some(PATIENCE)).expect("loads end");
    outcomes
        .into_iter()
        .zip(buffers)
        .map(|(outcome, buffer)| (outcome, std::mem::take(&mut *buffer.lock())))
        .collect()
}

/// How many of `keys` a load gives; each of them must be right.
pub fn count_right(cache: &Cache, keys: &[ChunkKey], len: usize) -> usize {
    let mut right = 0;
    for (key, (outcome, bytes)) in keys.iter().zip(load(cache, keys, len)) {
        if outcome.status == forebay::LoadStatus::Loaded {
            assert!(bytes == bytes_of(key, len), "wrong bytes under {key}");
            right += 1;
        }
    }
    right
}

/// The answer of a store that answers at once.
pub fn wait_for<T>(
    answer: forebay::tier::remote::objects::Answer<'_, T>,
) -> Result<T, forebay::tier::remote::objects::Fault> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(answer)
}

/// No lease, pin, reservation, queued job or request is left, a moment after the last outcome at the latest.
pub fn assert_nothing_leaked(cache: &Cache) {
    let deadline = Instant::now() + PATIENCE;
    // What was found damaged in a remote store is removed there without anybody waiting for it.
    while cache.stats().control.remote.is_some_and(|remote| remote.client.requests.in_flight > 0) {
        assert!(Instant::now() < deadline, "requests under way");
        std::thread::sleep(Duration::from_millis(1));
    }
    let stats = cache.stats();
    if let Some(remote) = &stats.control.remote {
        assert_eq!((remote.open_tickets, remote.queued), (0, 0), "plans and copies");
        assert_eq!(stats.mover.queued_copies, 0, "queued copies");
    }
    assert_eq!(stats.mover.staging.in_use, 0, "leases");
    assert_eq!(stats.control.disk.open_tickets, 0, "pins and reservations");
    let remote = stats.control.remote.map_or(0, |remote| remote.open_tickets);
    let memory = stats.control.memory.map_or(0, |memory| memory.open_tickets);
    assert_eq!((memory, remote), (0, 0), "of memory and remote store");
    assert_eq!((stats.mover.queued_loads, stats.mover.queued_stores), (0, 0), "queued jobs");
}

/// Bytes of all files in a directory, as the file system has allocated them.
pub fn allocated_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.and_then(|entry| entry.metadata()).map_or(0, |meta| meta.blocks() * 512)).sum()
}

/// A gate that transfers wait at.
#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, shut: bool) {
        *self.shut.lock() = shut;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut shut = self.shut.lock();
        while *shut {
            self.changed.wait(&mut shut);
        }
    }
}

/// Faults to be put around a data file.
#[derive(Default)]
pub struct Faults {
    pub fail_reads: AtomicBool,
    pub fail_syncs: AtomicBool,
    /// What writes fail with, as an errno; zero for none.
    pub write_errno: AtomicU64,
    /// Bytes after which a transfer stops short; zero for whole transfers.
    pub short_bytes: AtomicU64,
    /// Makes the device panic.
    pub panic: AtomicBool,
    reads: Gate,
    writes: Gate,
    /// Transfers that have reached the device.
    arrived: Mutex<u64>,
    arrival: Condvar,
}

impl Faults {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn around(self: &Arc<Self>, file: Arc<dyn BlockFile>) -> Arc<dyn BlockFile> {
        Arc::new(Faulty { file, faults: Arc::clone(self) })
    }

    /// Writes wait at the device until this is called with `false`.
    pub fn stall_writes(&self, stall: bool) {
        self.writes.set(stall);
    }

    /// Reads wait at the device until this is called with `false`.
    pub fn stall_reads(&self, stall: bool) {
        self.reads.set(stall);
    }

    /// Waits until `transfers` transfers have reached the device.
    pub fn wait_for_arrivals(&self, transfers: u64) {
        let mut arrived = self.arrived.lock();
        while *arrived < transfers {
            assert!(
                !self.arrival.wait_for(&mut arrived, PATIENCE).timed_out(),
                "no transfer reached the device"
            );
        }
    }

    fn arrive(&self) {
        *self.arrived.lock() += 1;
        self.arrival.notify_all();
        assert!(!self.panic.load(Ordering::SeqCst), "a device that panics");
    }
}

struct Faulty {
    file: Arc<dyn BlockFile>,
    faults: Arc<Faults>,
}

impl BlockFile for Faulty {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.faults.arrive();
        self.faults.reads.pass();
        if self.faults.fail_reads.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        match usize::try_from(self.faults.short_bytes.load(Ordering::SeqCst)).unwrap_or(0) {
            0 => self.file.read_at(buffer, offset),
            short => {
                let end = short.min(buffer.len());
                self.file.read_at(&mut buffer[..end], offset)
            }
        }
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        self.faults.arrive();
        self.faults.writes.pass();
        match i32::try_from(self.faults.write_errno.load(Ordering::SeqCst)).unwrap_or(0) {
            0 => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
        match usize::try_from(self.faults.short_bytes.load(Ordering::SeqCst)).unwrap_or(0) {
            0 => self.file.write_at(buffer, offset),
            short => self.file.write_at(&buffer[..short.min(buffer.len())], offset),
        }
    }

    fn sync(&self) -> io::Result<()> {
        if self.faults.fail_syncs.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.file.sync()
    }

    fn is_direct(&self) -> bool {
        self.file.is_direct()
    }
}
