//! One suite for every tier: disk by both I/O engines, each kind of remote store with a real server, and disk and remote
//! store together; near, far, over a narrow line, and failing.
//!
//! A new tier is a new [`Setup`]: what it is made of, how it is opened, and how what it holds is damaged.

mod support;

#[path = "support/servers.rs"]
mod servers;

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use forebay::config::Config;
use forebay::outcome::Tier;
use forebay::tier::disk::block_file::BlockFile;
use forebay::tier::disk::wrappers as disk;
use forebay::tier::remote::client::{Client, Settings};
use forebay::tier::remote::names::Names;
use forebay::tier::remote::objects::{Fault, Objects};
use forebay::tier::remote::wrappers as remote;
use forebay::{Cache, ChunkKey, LoadStatus, Lookup, Reason, StoreStatus, Value};
use parking_lot::Mutex;
use servers::{RIGHT, ServerProcess, inside};
use support::{PATIENCE, assert_nothing_leaked, begin_store, bytes_of, load, prompt, store};
use tempfile::TempDir;

/// The largest chunk: three parts, two of them for a bucket.
const LARGE: usize = 12 << 20;
const SMALL: usize = 20_000;

/// What a cache is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setup {
    /// A disk, by `io_uring` where the kernel has it.
    Uring,
    /// A disk, by threads.
    Threads,
    /// A shared directory.
    Directory,
    /// A Redis server.
    Redis,
    /// An S3 server.
    Bucket,
    /// A disk and a Redis server.
    DiskAndRedis,
    /// A memory tier with a disk behind it.
    MemoryAndDisk,
}

/// What stands between a cache and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Around {
    Nothing,
    Delay,
    Throttle,
    Chaos(u64),
}

impl Setup {
    const fn has_disk(self) -> bool {
        matches!(self, Self::Uring | Self::Threads | Self::DiskAndRedis | Self::MemoryAndDisk)
    }

    const fn has_remote(self) -> bool {
        !matches!(self, Self::Uring | Self::Threads | Self::MemoryAndDisk)
    }

    const fn has_memory(self) -> bool {
        matches!(self, Self::MemoryAndDisk)
    }

    /// Where each chunk ends up.
    fn tiers(self) -> Vec<Tier> {
        self.has_memory().then_some(Tier::Memory).into_iter().chain(self.lasting_tiers()).collect()
    }

    /// Where it still is after a restart.
    fn lasting_tiers(self) -> Vec<Tier> {
        let disk = self.has_disk().then_some(Tier::Disk);
        disk.into_iter().chain(self.has_remote().then_some(Tier::Remote)).collect()
    }
}

/// A setup with its directories and servers.
struct Place {
    setup: Setup,
    around: Around,
    directory: TempDir,
    server: Option<ServerProcess>,
}

impl Place {
    fn new(setup: Setup, around: Around) -> Self {
        let server = match setup {
            Setup::Uring | Setup::Threads | Setup::Directory | Setup::MemoryAndDisk => None,
            Setup::Redis | Setup::DiskAndRedis => Some(ServerProcess::redis(&[])),
            Setup::Bucket => Some(ServerProcess::s3()),
        };
        Self { setup, around, directory: TempDir::new().expect("a temporary directory"), server }
    }

    fn url(&self) -> Option<String> {
        match (&self.server, self.setup) {
            (Some(server), Setup::Bucket) => Some(server.bucket_url()),
            (Some(server), _) => Some(format!("redis://127.0.0.1:{}", server.port())),
            (None, Setup::Directory) => Some(format!("file://{}", self.directory.path().display())),
            (None, _) => None,
        }
    }

    fn config(&self) -> Config {
        // Room for a third of the chunks, beside the staging buffer.
        let mut values = vec![
            ("max_local_cpu_size", Value::from(if self.setup.has_memory() { 92.0 } else { 40.0 } / 1024.0)),
            ("local_cpu", Value::from(self.setup.has_memory())),
        ];
        if self.setup.has_disk() {
            let directory = self.directory.path().to_str().expect("a plain name");
            values.push(("local_disk", Value::from(directory)));
            values.push(("max_local_disk_size", Value::from(256.0 / 1024.0)));
            values.push(("disk_min_free_size", Value::from(0.0)));
        }
        if self.setup == Setup::Threads {
            values.push(("disk_io_engine", Value::from("threads")));
        }
        if self.setup == Setup::Directory {
            values.push(("max_remote_size", Value::from(1.0)));
        }
        let url = self.url();
        if let Some(url) = &url {
            values.push(("remote_url", Value::from(url.as_str())));
        }
        Config::from_values(values).expect("the configuration is right").config
    }

    fn settings(&self) -> Settings {
        let chaos = matches!(self.around, Around::Chaos(_));
        Settings {
            url: self.url().unwrap_or_default(),
            timeout: if chaos { Duration::from_millis(300) } else { PATIENCE },
            requests_max: 32,
            retries: 1,
            breaker_failures: 30,
            breaker_rest: Duration::from_millis(1),
        }
    }

    fn objects(&self) -> Arc<dyn Objects> {
        Client::objects_of(&self.settings()).expect("the URL is right")
    }

    fn open(&self) -> Cache {
        let client = self.setup.has_remote().then(|| {
            let objects = self.objects();
            let objects = match self.around {
                Around::Nothing => objects,
                Around::Delay => Arc::new(remote::delay::Delay::new(objects, Duration::from_millis(2))) as _,
                Around::Throttle => Arc::new(remote::throttle::Throttle::new(objects, 400 << 20)) as _,
                Around::Chaos(seed) => Arc::new(remote::chaos::Chaos::new(objects, seed, REMOTE_ODDS)) as _,
            };
            Arc::new(Client::over(objects, &self.settings()).expect("a client"))
        });
        let around = |file: Arc<dyn BlockFile>| match self.around {
            Around::Nothing => file,
            Around::Delay => Arc::new(disk::delay::Delay::new(file, Duration::from_millis(2))) as _,
            Around::Throttle => Arc::new(disk::throttle::Throttle::new(file, 400 << 20)) as _,
            Around::Chaos(seed) => Arc::new(disk::chaos::Chaos::new(file, seed, disk_odds())) as _,
        };
        Cache::open_over(&self.config(), LARGE as u64, None, around, client).expect("the cache opens")
    }

    /// Damages what is kept of these chunks, on every tier. The cache is closed.
    fn damage(&self, keys: &[ChunkKey]) {
        if self.setup.has_disk() {
            let path = self.directory.path().join("data");
            let data = std::fs::File::options().read(true).write(true).open(path).expect("it is there");
            let mut block = [0; 4096];
            // A chunk can be told by its trailer: the key stands in it, and its payload ends before it.
            for at in (0..data.metadata().expect("a file").len()).step_by(4096) {
                data.read_exact_at(&mut block, at).expect("it can be read");
                let named = |key: &ChunkKey| &block[..7] == b"FOREBAY" && block[32..64] == *key.as_bytes();
                if let Some(index) = keys.iter().position(named) {
                    let victim = if index.is_multiple_of(2) { at + 100 } else { at - 4096 };
                    data.read_exact_at(&mut block[..1], victim).expect("it can be read");
                    data.write_all_at(&[block[0] ^ 1], victim).expect("it can be written");
                }
            }
        }
        if self.setup.has_remote() {
            let slot_bytes = self.config().staging_shape(LARGE as u64).expect("it fits").slot_bytes;
            let (objects, names) = (self.objects(), Names::of(slot_bytes));
            let ends: Vec<String> = keys.iter().map(|key| names.end(key)).collect();
            let damage = async {
                for (index, name) in ends.iter().enumerate() {
                    let Err(Fault::OtherLength(len)) = objects.get(name, &mut []).await else {
                        panic!("{name} is not there")
                    };
                    let mut bytes = vec![0; usize::try_from(len).expect("it fits")];
                    objects.get(name, &mut bytes).await?;
                    let middle = bytes.len() / 2;
                    match index % 3 {
                        0 => bytes[middle] ^= 1,
                        1 => *bytes.last_mut().expect("it has bytes") ^= 0x80,
                        _ => bytes.truncate(middle),
                    }
                    objects.put(name, Bytes::from(bytes)).await?;
                }
                Ok(())
            };
            support::wait_for(Box::pin(damage)).expect("it can be damaged");
        }
    }
}

const REMOTE_ODDS: remote::chaos::ChaosOdds = remote::chaos::ChaosOdds {
    error: 0.05,
    stall: 0.005,
    torn_put: 0.03,
    flipped_bit: 0.05,
    other_object: 0.05,
    wrong_length: 0.03,
    false_there: 0.05,
    false_not_there: 0.05,
};

const fn disk_odds() -> disk::chaos::ChaosOdds {
    disk::chaos::ChaosOdds {
        error: 0.05,
        stall: 0.02,
        stall_time: Duration::from_millis(20),
        short: 0.1,
        torn_write: 0.05,
        flipped_bit: 0.05,
    }
}

/// Stores chunks that must end up on every tier.
fn store_everywhere(cache: &Cache, setup: Setup, keys: &[ChunkKey], len: usize) {
    for outcome in store(cache, keys, len) {
        let ends: Vec<_> = outcome.tiers.iter().map(|end| (end.tier, end.status)).collect();
        let wanted: Vec<_> = setup.tiers().into_iter().map(|tier| (tier, StoreStatus::Stored)).collect();
        assert!(ends == wanted && outcome.status == StoreStatus::Stored, "{setup:?}: {outcome:?}");
    }
}

/// Loads chunks that must come, from the first tier; with a memory tier, which loses what has no room, from any.
fn load_all(cache: &Cache, setup: Setup, keys: &[ChunkKey], len: usize) {
    for (key, (outcome, bytes)) in keys.iter().zip(load(cache, keys, len)) {
        let tiers = setup.tiers();
        let right = if setup.has_memory() { &tiers[..] } else { &tiers[..1] };
        let is_right = outcome.tier.is_some_and(|tier| right.contains(&tier));
        assert!(outcome.status == LoadStatus::Loaded && is_right, "{setup:?}: {outcome:?}");
        assert!(bytes == bytes_of(key, len), "{setup:?}: wrong bytes");
    }
}

fn found(cache: &Cache, keys: &[ChunkKey]) -> usize {
    cache.lookup_within(keys, PATIENCE).chunks()
}

fn conforms(setup: Setup) {
    for around in [Around::Nothing, Around::Delay, Around::Throttle] {
        let place = Place::new(setup, around);
        let cache = place.open();
        what_is_stored_is_found_and_loaded(&cache, setup);
        prefixes(&cache, setup);
        every_length(&cache, setup);
        each_end_is_told_once(&cache);
        at_the_same_time(&cache, setup);
        cancelling(&cache);
        assert_nothing_leaked(&cache);
        closing_and_opening_again(&place, &cache);
        drop(cache);
        damage(&place);
    }
    // What can fail of memory is what is behind it.
    for seed in if setup.has_memory() { 0..0 } else { 0..2 } {
        chaos(&Place::new(setup, Around::Chaos(seed)));
    }
}

fn what_is_stored_is_found_and_loaded(cache: &Cache, setup: Setup) {
    let keys = prompt(1, 5);
    assert!(matches!(cache.lookup_within(&keys, PATIENCE), Lookup::Miss));
    for (outcome, _) in load(cache, &keys, SMALL) {
        let end = (outcome.status, outcome.reason.as_ref());
        assert_eq!(end, (LoadStatus::Miss, Some(&Reason::NotThere)), "{setup:?}");
    }
    store_everywhere(cache, setup, &keys, SMALL);
    assert_eq!(found(cache, &keys), 5);
    load_all(cache, setup, &keys, SMALL);
    for outcome in store(cache, &keys, SMALL) {
        assert_eq!(outcome.status, StoreStatus::Present, "{setup:?}: {outcome:?}");
        assert!(outcome.tiers.iter().all(|end| end.status == StoreStatus::Present), "{outcome:?}");
        assert_eq!(outcome.tiers.len(), setup.tiers().len());
    }
    // Of another length it is not what was stored.
    let (outcome, _) = &load(cache, &keys[..1], SMALL - 4096)[0];
    assert_ne!(outcome.status, LoadStatus::Loaded, "{setup:?}");
    assert!(found(cache, &prompt(2, 1)) == 0);
}

fn prefixes(cache: &Cache, setup: Setup) {
    let keys = prompt(3, 8);
    store_everywhere(cache, setup, &keys[..4], SMALL);
    assert_eq!((found(cache, &keys), found(cache, &keys[..2])), (4, 2));
    assert_eq!((found(cache, &keys[2..]), found(cache, &keys[4..])), (2, 0));
    // A gap ends it.
    store_everywhere(cache, setup, &keys[5..7], SMALL);
    assert_eq!((found(cache, &keys), found(cache, &keys[5..])), (4, 2));
    store_everywhere(cache, setup, &keys[4..5], SMALL);
    assert_eq!(found(cache, &keys), 7);
    assert_eq!(found(cache, &[]), 0);
}

fn every_length(cache: &Cache, setup: Setup) {
    let slot = cache.stats().mover.staging.slot_bytes;
    let lengths = [
        1,
        511,
        4095,
        4096,
        4097,
        1 << 20,
        slot - 1,
        slot,
        slot + 1,
        2 * slot,
        2 * slot + 1,
        LARGE - 1,
        LARGE,
    ];
    for (len, key) in lengths.map(|len| len.min(LARGE)).into_iter().zip(prompt(4, lengths.len())) {
        store_everywhere(cache, setup, &[key], len);
        assert_eq!(found(cache, &[key]), 1, "{len} bytes");
        load_all(cache, setup, &[key], len);
    }
    let chunk = |len| vec![(prompt(5, 1)[0], Box::new(vec![0_u8; len]) as _)];
    assert!(cache.store(chunk(0), None, None).is_err());
    assert!(cache.store(chunk(LARGE + 1), None, None).is_err());
}

fn each_end_is_told_once(cache: &Cache) {
    let keys = prompt(6, 20);
    let told: Arc<Mutex<HashMap<ChunkKey, usize>>> = Arc::default();
    let count = Arc::new(AtomicUsize::new(0));
    let chunks =
        |keys: &[ChunkKey]| keys.iter().map(|key| (*key, Box::new(bytes_of(key, SMALL)) as _)).collect();
    for round in 1..=2 {
        let (told, counted) = (Arc::clone(&told), Arc::clone(&count));
        let on_complete = move |outcome: &forebay::StoreOutcome| {
            *told.lock().entry(outcome.key).or_insert(0) += 1;
            counted.fetch_add(1, Ordering::SeqCst);
        };
        let batch = cache.store(chunks(&keys), None, Some(Arc::new(on_complete))).expect("they are small");
        batch.wait(Some(PATIENCE)).expect("stores end");
        assert_eq!(count.load(Ordering::SeqCst), 20 * round, "done after the last call");
    }
    assert!(told.lock().len() == 20 && told.lock().values().all(|times| *times == 2));
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let sinks =
        keys.iter().map(|key| (*key, Box::new(Arc::new(Mutex::new(vec![0_u8; SMALL]))) as _)).collect();
    let on_loaded = move |_: &forebay::LoadOutcome| {
        counted.fetch_add(1, Ordering::SeqCst);
    };
    cache.load(sinks, Some(Arc::new(on_loaded))).wait(Some(PATIENCE)).expect("loads end");
    assert_eq!(count.load(Ordering::SeqCst), 20);
}

fn at_the_same_time(cache: &Cache, setup: Setup) {
    let keys = prompt(7, 12);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2 {
                    for outcome in store(cache, &keys, SMALL) {
                        assert!(
                            matches!(outcome.status, StoreStatus::Stored | StoreStatus::Present)
                                && outcome.tiers.len() == setup.tiers().len(),
                            "{setup:?}: {outcome:?}"
                        );
                    }
                    load_all(cache, setup, &keys, SMALL);
                    assert_eq!(found(cache, &keys), 12);
                }
            });
        }
    });
}

fn cancelling(cache: &Cache) {
    let keys = prompt(8, 60);
    let batch = begin_store(cache, &keys, SMALL);
    cache.cancel(&batch);
    for outcome in batch.wait(Some(PATIENCE)).expect("what is cancelled ends") {
        let (key, status) = ([outcome.key], outcome.status);
        if status == StoreStatus::Stored {
            assert_eq!(support::count_right(cache, &key, SMALL), 1);
        } else {
            assert_eq!(outcome.reason, Some(Reason::Cancelled), "{outcome:?}");
            assert_eq!(support::count_right(cache, &key, SMALL), 0);
        }
    }
    let buffers: Vec<_> = (0..60).map(|_| Arc::new(Mutex::new(vec![0; SMALL]))).collect();
    let keys = prompt(7, 12);
    let sinks = buffers
        .iter()
        .zip(keys.iter().cycle())
        .map(|(buffer, key)| (*key, Box::new(Arc::clone(buffer)) as _));
    let batch = cache.load(sinks.collect(), None);
    cache.cancel(&batch);
    for (outcome, buffer) in batch.wait(Some(PATIENCE)).expect("what is cancelled ends").iter().zip(&buffers)
    {
        match outcome.status {
            LoadStatus::Loaded => assert!(*buffer.lock() == bytes_of(&outcome.key, SMALL), "wrong bytes"),
            _ => assert_eq!(outcome.reason, Some(Reason::Cancelled), "{outcome:?}"),
        }
    }
}

fn closing_and_opening_again(place: &Place, cache: &Cache) {
    let keys = prompt(9, 30);
    let batch = begin_store(cache, &keys, SMALL);
    cache.close(PATIENCE);
    for outcome in batch.wait(Some(Duration::ZERO)).expect("closed is ended") {
        assert_eq!(outcome.status, StoreStatus::Stored, "{outcome:?}");
        assert!(outcome.tiers.iter().all(|end| end.status == StoreStatus::Stored), "{outcome:?}");
    }
    assert_eq!(store(cache, &prompt(10, 1), SMALL)[0].reason, Some(Reason::Closed));
    assert_nothing_leaked(cache);
    let cache = place.open();
    assert_eq!(found(&cache, &keys), 30);
    load_all(&cache, place.setup, &keys, SMALL);
    load_all(&cache, place.setup, &prompt(4, 13)[12..], LARGE);
}

fn damage(place: &Place) {
    let (bad, good) = (prompt(11, 6), prompt(12, 3));
    let cache = place.open();
    store_everywhere(&cache, place.setup, &bad[..4], SMALL);
    store_everywhere(&cache, place.setup, &bad[4..], LARGE);
    store_everywhere(&cache, place.setup, &good, SMALL);
    drop(cache);
    place.damage(&bad);

    let cache = place.open();
    assert_eq!(found(&cache, &bad), 6, "nobody has looked yet");
    let hit = cache.lookup_within(&bad, PATIENCE);
    // Where there are two tiers, the second answers when the first was found damaged.
    for tier in place.setup.lasting_tiers() {
        for (keys, len) in [(&bad[..4], SMALL), (&bad[4..], LARGE)] {
            for (outcome, _) in load(&cache, keys, len) {
                assert_eq!((outcome.status, outcome.tier), (LoadStatus::Miss, Some(tier)), "{outcome:?}");
                assert!(matches!(outcome.reason, Some(Reason::Corrupt(_))), "{outcome:?}");
            }
        }
    }
    drop(hit);
    assert_eq!(found(&cache, &bad), 0, "what was damaged is not found again");
    let stats = cache.stats();
    let remote = stats.control.remote.as_ref();
    let counted = [place.setup.has_disk().then_some(stats.control.disk.corrupt), remote.map(|it| it.corrupt)];
    assert!(counted.into_iter().flatten().all(|count| count == 6), "{counted:?}");
    assert_eq!(stats.mover.corrupt, 6 * place.setup.lasting_tiers().len() as u64);
    load_all(&cache, place.setup, &good, SMALL);
    assert_nothing_leaked(&cache);
    store_everywhere(&cache, place.setup, &bad[..4], SMALL);
    store_everywhere(&cache, place.setup, &bad[4..], LARGE);
    load_all(&cache, place.setup, &bad[..4], SMALL);
    load_all(&cache, place.setup, &bad[4..], LARGE);
}

/// How chunks ended.
#[derive(Default)]
struct Ends {
    /// On disk and in the remote store.
    stored: [u64; 2],
    tried: [u64; 2],
    loaded: u64,
    loads: u64,
    loads_remote: u64,
}

/// Whatever fails, no byte is wrong, everything ends, and the counters say what happened.
fn chaos(place: &Place) {
    let cache = place.open();
    let ends = Mutex::new(Ends::default());
    let keys = prompt(13, 40);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (cache, ends, keys) = (&cache, &ends, &keys);
            scope.spawn(move || {
                for round in 0..4 {
                    let from = (thread * 7 + round * 5) % 20;
                    let keys = &keys[from..from + 20];
                    chaos_round(cache, keys, ends);
                }
            });
        }
    });
    assert_nothing_leaked(&cache);
    let (ends, stats) = (ends.into_inner(), cache.stats());
    assert!(0 < ends.loaded && ends.loaded < ends.loads, "something succeeds, and something does not");
    assert_eq!(stats.mover.read_bytes, ends.loaded * SMALL as u64);
    let disk = &stats.control.disk;
    assert_eq!(disk.stored, ends.stored[0]);
    assert!(disk.stored + disk.store_failed <= ends.tried[0] && ends.stored[0] <= ends.tried[0]);
    if let Some(remote) = &stats.control.remote {
        assert!(remote.stored <= ends.stored[1] + ends.tried[0], "{remote:?}");
        let loads = remote.loaded + remote.load_failed + remote.corrupt + remote.gone;
        assert_eq!(loads, ends.loads_remote, "{remote:?}");
        let requests = &remote.client.requests;
        let ended = requests.ok
            + requests.not_there
            + requests.other_length
            + requests.timed_out
            + requests.left_alone
            + requests.no_room
            + requests.refused
            + requests.unavailable
            + requests.dropped;
        assert_eq!(requests.requests, ended, "{requests:?}");
    }
    assert!(ends.loads >= ends.loaded);
    cache.close(PATIENCE);
}

fn chaos_round(cache: &Cache, keys: &[ChunkKey], ends: &Mutex<Ends>) {
    for outcome in store(cache, keys, SMALL) {
        for end in &outcome.tiers {
            let tier = usize::from(end.tier == Tier::Remote);
            let mut ends = ends.lock();
            ends.stored[tier] += u64::from(end.status == StoreStatus::Stored);
            ends.tried[tier] += 1;
        }
    }
    let found = found(cache, keys);
    for (key, (outcome, bytes)) in keys.iter().zip(load(cache, keys, SMALL)) {
        let is_right = bytes == bytes_of(key, SMALL);
        assert!(outcome.status != LoadStatus::Loaded || is_right, "wrong bytes, of {found} found");
        let mut ends = ends.lock();
        ends.loads += 1;
        ends.loads_remote += u64::from(outcome.tier == Some(Tier::Remote));
        ends.loaded += u64::from(outcome.status == LoadStatus::Loaded);
    }
}

/// Started as a process of its own, by [`ServerProcess::s3`].
#[test]
#[ignore = "a server, not a test"]
fn serve_s3() {
    servers::serve_s3();
}

#[test]
fn a_disk_by_io_uring() {
    conforms(Setup::Uring);
}

#[test]
fn a_disk_by_threads() {
    conforms(Setup::Threads);
}

#[test]
fn a_shared_directory() {
    conforms(Setup::Directory);
}

#[test]
fn a_redis_server() {
    conforms(Setup::Redis);
}

#[test]
fn an_s3_server() {
    if inside("an_s3_server", &RIGHT) {
        conforms(Setup::Bucket);
    }
}

#[test]
fn a_memory_tier_before_a_disk() {
    conforms(Setup::MemoryAndDisk);
}

#[test]
fn a_disk_and_a_redis_server() {
    conforms(Setup::DiskAndRedis);
}
