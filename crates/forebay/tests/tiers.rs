//! The tiers together: disk, remote, both; in each row of the mode table.

mod support;

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay::config::Config;
use forebay::outcome::{Tier, TierEnd};
use forebay::staging::{Backing, Shape};
use forebay::tier::remote::client::{Client, Settings};
use forebay::tier::remote::layers::timeout::Timeout;
use forebay::tier::remote::objects::{Answer, Objects};
use forebay::tier::remote::wrappers::delay::Delay;
use forebay::tier::remote::wrappers::fake::Fake;
use forebay::{Cache, ChunkKey, LoadStatus, Lookup, Reason, StoreStatus, Value};
use support::{PATIENCE, bytes_of, load, prompt, store};
use tempfile::TempDir;

const CHUNK: usize = 64 << 10;

/// What a cache is made of.
struct Setup {
    directory: TempDir,
    has_disk: bool,
    has_remote: bool,
    /// Chunks that there is room for in the memory tier.
    memory_chunks: usize,
    disk_mib: f64,
    chunk_bytes: usize,
    fake: Arc<Fake>,
}

/// Bytes that a chunk takes in memory: its blocks, and the page that a trailer would have.
const ROOM: usize = CHUNK + 4096;

impl Setup {
    fn new(has_disk: bool) -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            has_disk,
            has_remote: true,
            memory_chunks: 0,
            disk_mib: 64.0,
            chunk_bytes: CHUNK,
            fake: Arc::new(Fake::default()),
        }
    }

    fn config(&self) -> Config {
        let gib = f64::from(1 << 30);
        // The staging buffer takes no more slots than it can use, and the memory tier the rest.
        let staging = if self.memory_chunks == 0 { 16 << 20 } else { self.staging_bytes() };
        let cpu_bytes = staging + self.memory_chunks * ROOM;
        let mut values = vec![
            ("max_local_cpu_size", Value::from(f64::from(u32::try_from(cpu_bytes).unwrap()) / gib)),
            ("local_cpu", Value::from(self.memory_chunks > 0)),
            ("use_only_staging_buffer", Value::from(self.memory_chunks == 0)),
        ];
        if self.has_remote {
            values.push(("remote_url", Value::from("redis://127.0.0.1:1")));
        }
        if self.has_disk {
            values.push(("local_disk", Value::from(self.directory.path().to_str().unwrap())));
            values.push(("max_local_disk_size", Value::from(self.disk_mib / 1024.0)));
            values.push(("disk_min_free_size", Value::from(0.0)));
        }
        Config::from_values(values).unwrap().config
    }

    /// What the staging buffer takes of memory without end.
    fn staging_bytes(&self) -> usize {
        let drives = usize::from(self.has_disk) + usize::from(self.has_remote);
        let shape = Shape::within(1 << 40, self.chunk_bytes as u64, Backing::of_drives(drives)).unwrap();
        usize::try_from(shape.bytes()).unwrap()
    }

    fn open(&self) -> Cache {
        self.open_over(self.fake.clone())
    }

    fn open_over(&self, objects: Arc<dyn Objects>) -> Cache {
        let client = self.has_remote.then(|| Arc::new(Client::over(objects, &settings()).unwrap()));
        Cache::open_over(&self.config(), self.chunk_bytes as u64, None, |file| file, client).unwrap()
    }
}

fn settings() -> Settings {
    Settings {
        url: String::new(),
        timeout: Duration::from_secs(10),
        requests_max: 32,
        retries: 1,
        breaker_failures: 5,
        breaker_rest: Duration::from_millis(100),
    }
}

fn ends(tiers: &[TierEnd]) -> Vec<(Tier, StoreStatus)> {
    tiers.iter().map(|end| (end.tier, end.status)).collect()
}

/// Loads chunks that must come, whole and from this tier.
fn load_from(cache: &Cache, keys: &[ChunkKey], tier: Tier) {
    for (key, (outcome, bytes)) in keys.iter().zip(load(cache, keys, CHUNK)) {
        assert_eq!((outcome.status, outcome.tier), (LoadStatus::Loaded, Some(tier)), "{outcome:?}");
        assert!(bytes == bytes_of(key, CHUNK), "wrong bytes");
    }
}

#[test]
fn a_remote_store_alone_keeps_chunks_for_the_next_instance() {
    let setup = Setup::new(false);
    let keys = prompt(1, 6);
    let cache = setup.open();
    assert!(matches!(cache.lookup_within(&keys, PATIENCE), Lookup::Miss));
    for outcome in store(&cache, &keys, CHUNK) {
        assert_eq!(outcome.status, StoreStatus::Stored, "{outcome:?}");
        assert_eq!(ends(&outcome.tiers), [(Tier::Remote, StoreStatus::Stored)]);
    }
    // What was stored is known without being asked for.
    assert_eq!(cache.lookup(&keys).chunks(), 6);
    load_from(&cache, &keys, Tier::Remote);
    support::assert_nothing_leaked(&cache);
    cache.close(PATIENCE);

    // The next instance knows nothing, asks, and finds it.
    let cache = setup.open();
    assert!(matches!(cache.lookup(&keys), Lookup::Pending));
    assert_eq!(cache.lookup_within(&keys, PATIENCE).chunks(), 6);
    load_from(&cache, &keys, Tier::Remote);
    // Another prompt is not there.
    assert!(matches!(cache.lookup_within(&prompt(2, 3), PATIENCE), Lookup::Miss));
}

#[test]
fn with_a_disk_completion_waits_for_both_tiers_and_the_disk_answers_first() {
    let setup = Setup::new(true);
    let keys = prompt(1, 6);
    let cache = setup.open();
    for outcome in store(&cache, &keys, CHUNK) {
        assert_eq!(outcome.status, StoreStatus::Stored, "{outcome:?}");
        assert_eq!(
            ends(&outcome.tiers),
            [(Tier::Disk, StoreStatus::Stored), (Tier::Remote, StoreStatus::Stored)],
            "{outcome:?}"
        );
    }
    assert_eq!(setup.fake.names().len(), 6, "one object a chunk of this size");
    load_from(&cache, &keys, Tier::Disk);
    // Again: there is nothing to do on either.
    for outcome in store(&cache, &keys, CHUNK) {
        assert_eq!(
            ends(&outcome.tiers),
            [(Tier::Disk, StoreStatus::Present), (Tier::Remote, StoreStatus::Present)]
        );
    }
    support::assert_nothing_leaked(&cache);
    cache.close(PATIENCE);

    // On another machine the disk is empty: the remote store answers.
    let elsewhere = Setup { fake: setup.fake.clone(), ..Setup::new(true) };
    let cache = elsewhere.open();
    assert_eq!(cache.lookup_within(&keys, PATIENCE).chunks(), 6);
    load_from(&cache, &keys, Tier::Remote);
}

#[test]
fn a_prefix_whose_front_is_on_disk_goes_on_in_the_remote_store() {
    let setup = Setup::new(false);
    let keys = prompt(1, 8);
    let cache = setup.open();
    store(&cache, &keys, CHUNK);
    cache.close(PATIENCE);
    let both = Setup { fake: Arc::new(Fake::default()), ..Setup::new(true) };
    let cache = both.open();
    store(&cache, &keys[..3], CHUNK);
    cache.close(PATIENCE);
    let cache = both.open_over(setup.fake.clone());
    assert_eq!(cache.lookup_within(&keys, PATIENCE).chunks(), 8);
    let tiers: Vec<_> = load(&cache, &keys, CHUNK).into_iter().map(|(end, _)| end.tier.unwrap()).collect();
    assert_eq!(tiers, [[Tier::Disk; 3].as_slice(), &[Tier::Remote; 5]].concat());
}

/// Each of the tiers behind memory, alone and together.
fn behind_memory() -> [Setup; 3] {
    let with = |has_disk, has_remote| Setup { has_remote, memory_chunks: 8, ..Setup::new(has_disk) };
    [with(true, false), with(false, true), with(true, true)]
}

#[test]
fn with_a_memory_tier_chunks_go_on_to_the_tiers_behind_and_memory_answers_first() {
    for setup in behind_memory() {
        let keys = prompt(1, 6);
        let cache = setup.open();
        let mut wanted = vec![(Tier::Memory, StoreStatus::Stored)];
        wanted.extend(setup.has_disk.then_some((Tier::Disk, StoreStatus::Stored)));
        wanted.extend(setup.has_remote.then_some((Tier::Remote, StoreStatus::Stored)));
        for outcome in store(&cache, &keys, CHUNK) {
            assert_eq!(ends(&outcome.tiers), wanted, "{outcome:?}");
        }
        assert_eq!(cache.lookup(&keys).chunks(), 6);
        load_from(&cache, &keys, Tier::Memory);
        let there = wanted.iter().map(|(tier, _)| (*tier, StoreStatus::Present)).collect::<Vec<_>>();
        for outcome in store(&cache, &keys, CHUNK) {
            assert_eq!(ends(&outcome.tiers), there, "{outcome:?}");
        }
        support::assert_nothing_leaked(&cache);
        cache.close(PATIENCE);

        // Memory is gone with the process; what is behind is not, and comes back to memory when it is loaded.
        let cache = setup.open();
        let behind = if setup.has_disk { Tier::Disk } else { Tier::Remote };
        assert_eq!(cache.lookup_within(&keys, PATIENCE).chunks(), 6);
        load_from(&cache, &keys, behind);
        load_from(&cache, &keys, Tier::Memory);
        support::assert_nothing_leaked(&cache);
    }
}

#[test]
fn what_is_evicted_from_memory_is_found_behind_it_and_no_byte_is_wrong() {
    for setup in behind_memory() {
        let cache = setup.open();
        let prompts: Vec<_> = (0..20).map(|number| prompt(number, 5)).collect();
        for keys in &prompts {
            for outcome in store(&cache, keys, CHUNK) {
                assert_eq!(outcome.status, StoreStatus::Stored, "{outcome:?}");
            }
        }
        let stats = cache.stats().control.memory.unwrap();
        assert!(stats.used_bytes <= stats.capacity_bytes && stats.evictions > 0, "{stats:?}");
        for keys in prompts.iter().chain(&prompts) {
            let hit = cache.lookup_within(keys, PATIENCE);
            assert_eq!(hit.chunks(), 5);
            for (key, (outcome, bytes)) in keys.iter().zip(load(&cache, keys, CHUNK)) {
                assert_eq!(outcome.status, LoadStatus::Loaded, "{outcome:?}");
                assert!(bytes == bytes_of(key, CHUNK), "wrong bytes from {:?}", outcome.tier);
            }
        }
        support::assert_nothing_leaked(&cache);
    }
}

#[test]
fn many_threads_share_a_small_memory_tier_and_no_byte_is_wrong() {
    for setup in behind_memory() {
        let cache = setup.open();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    for round in 0..30 {
                        let keys = prompt((round * (thread + 1)) % 7, 4);
                        store(cache, &keys, CHUNK);
                        let hit = cache.lookup_within(&keys, PATIENCE);
                        for (key, (outcome, bytes)) in keys.iter().zip(load(cache, &keys, CHUNK)) {
                            let right = outcome.status != LoadStatus::Loaded || bytes == bytes_of(key, CHUNK);
                            assert!(right, "wrong bytes from {:?}", outcome.tier);
                        }
                        drop(hit);
                    }
                });
            }
        });
        support::assert_nothing_leaked(&cache);
    }
}

#[test]
fn in_staging_only_mode_memory_holds_and_answers_nothing() {
    for (has_disk, has_remote, from) in
        [(true, false, Tier::Disk), (false, true, Tier::Remote), (true, true, Tier::Disk)]
    {
        let setup = Setup { has_remote, ..Setup::new(has_disk) };
        let keys = prompt(1, 6);
        let cache = setup.open();
        store(&cache, &keys, CHUNK);
        load_from(&cache, &keys, from);
        load_from(&cache, &keys, from);
        assert!(cache.stats().control.memory.is_none());
        support::assert_nothing_leaked(&cache);
    }
}

#[test]
fn a_lookup_of_a_thousand_chunks_is_pending_at_once_and_known_within_three_round_trips() {
    const TRIP: Duration = Duration::from_millis(20);
    let setup = Setup::new(false);
    let keys = prompt(1, 1000);
    let cache = setup.open();
    // Chunks of one block, so that a thousand of them are quickly stored.
    for keys in keys.chunks(100) {
        store(&cache, keys, 512);
    }
    cache.close(PATIENCE);
    let delayed = Arc::new(Delay::new(setup.fake.clone(), TRIP));
    let cache = setup.open_over(delayed.clone());
    let began = Instant::now();
    assert!(matches!(cache.lookup(&keys), Lookup::Pending));
    assert!(began.elapsed() < TRIP, "it did not wait for the store");
    assert_eq!(cache.lookup_within(&keys, PATIENCE).chunks(), 1000);
    let took = began.elapsed();
    println!("known after {took:?}, {:.1} round trips", took.as_secs_f64() / TRIP.as_secs_f64());
    let requests = cache.stats().control.remote.unwrap().client.requests.requests;
    assert!(requests <= 3 * 32, "{requests} requests, so more than three round trips of 32");
}

/// What waits at a gate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Puts,
    /// Puts of the first part of a chunk that has several.
    FirstParts,
    Gets,
    Removals,
}

/// A store that answers some requests when the gate is open.
struct Gated {
    fake: Arc<Fake>,
    held: Held,
    gate: tokio::sync::Semaphore,
}

impl Gated {
    fn shut(fake: &Arc<Fake>) -> Arc<Self> {
        Self::new(fake, Held::Puts)
    }

    fn new(fake: &Arc<Fake>, held: Held) -> Arc<Self> {
        Arc::new(Self { fake: Arc::clone(fake), held, gate: tokio::sync::Semaphore::new(0) })
    }

    fn open(&self) {
        self.gate.close();
    }

    fn wait(&self) -> Answer<'_, ()> {
        Box::pin(async {
            // Closed is open.
            let _ = self.gate.acquire().await;
            Ok(())
        })
    }
}

impl Objects for Gated {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            if self.held == Held::Puts || (self.held == Held::FirstParts && name.ends_with("-0")) {
                self.wait().await?;
            }
            self.fake.put(name, bytes).await
        })
    }

    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()> {
        Box::pin(async move {
            if self.held == Held::Gets {
                self.wait().await?;
            }
            self.fake.get(name, into).await
        })
    }

    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool> {
        self.fake.has(name)
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            if self.held == Held::Removals {
                self.wait().await?;
            }
            self.fake.remove(name).await
        })
    }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn remote(cache: &Cache) -> forebay::control::RemoteStats {
    cache.stats().control.remote.expect("there is a remote tier")
}

#[test]
fn a_chunk_that_the_disk_does_not_take_ends_truly_on_each_tier_for_everybody_who_stores_it() {
    let setup = Setup { disk_mib: 2.0, ..Setup::new(true) };
    let gated = Gated::shut(&setup.fake);
    let cache = setup.open_over(gated.clone());
    // All that is on disk is in use.
    let pinned = prompt(1, 40);
    let filling = support::begin_store(&cache, &pinned, CHUNK);
    wait_until("the disk fills", || {
        let disk = cache.stats().control.disk;
        disk.stored + disk.refused_full == 40
    });
    let there = usize::try_from(cache.stats().control.disk.stored).unwrap();
    assert!(there < 40);
    let Lookup::Hit(hit) = cache.lookup_within(&pinned, Duration::ZERO) else { panic!("they are there") };
    let keys = prompt(2, 1);
    let (first, second) =
        (support::begin_store(&cache, &keys, CHUNK), support::begin_store(&cache, &keys, CHUNK));
    drop(hit);
    // Now there is room: this one goes to disk, and its copy is on its way already.
    let third = support::begin_store(&cache, &keys, CHUNK);
    wait_until("it is on disk", || cache.stats().control.disk.stored == there as u64 + 1);
    gated.open();
    filling.wait(Some(PATIENCE)).expect("stores end");
    let tiers = |batch: Arc<forebay::mover::Batch<forebay::StoreOutcome>>| {
        ends(&batch.wait(Some(PATIENCE)).expect("stores end")[0].tiers)
    };
    assert_eq!(tiers(first), [(Tier::Disk, StoreStatus::Refused), (Tier::Remote, StoreStatus::Stored)]);
    assert_eq!(tiers(second), [(Tier::Remote, StoreStatus::Present)]);
    assert_eq!(tiers(third), [(Tier::Disk, StoreStatus::Stored), (Tier::Remote, StoreStatus::Stored)]);
    support::assert_nothing_leaked(&cache);
}

#[test]
fn a_chunk_is_not_there_before_all_of_its_parts_are() {
    const LARGE: usize = 12 << 20;
    let setup = Setup { chunk_bytes: LARGE, ..Setup::new(false) };
    let gated = Gated::new(&setup.fake, Held::FirstParts);
    let cache = setup.open_over(gated.clone());
    let keys = prompt(1, 1);
    let storing = support::begin_store(&cache, &keys, LARGE);
    // The one in the middle is there, so the last one has been tried too, if it was.
    wait_until("another part is there", || !setup.fake.names().is_empty());
    std::thread::sleep(Duration::from_millis(100));
    let there = setup.fake.names();
    assert!(!there.iter().any(|name| name.ends_with("-end")), "{there:?}");
    // Whoever shares the store finds nothing.
    let other = setup.open();
    assert!(matches!(other.lookup_within(&keys, PATIENCE), Lookup::Miss));
    gated.open();
    assert_eq!(storing.wait(Some(PATIENCE)).expect("it ends")[0].status, StoreStatus::Stored);
    assert_eq!(setup.fake.names().len(), 3);
    assert!(load(&cache, &keys, LARGE)[0].1 == bytes_of(&keys[0], LARGE), "wrong bytes");
}

#[test]
fn guarantee_8_beside_a_load_one_part_of_a_store_is_with_the_remote_store() {
    let setup = Setup::new(false);
    let gated = Gated::new(&setup.fake, Held::Gets);
    let cache = setup.open_over(Arc::new(Delay::new(gated.clone(), Duration::from_millis(2))));
    let keys = prompt(1, 1);
    store(&cache, &keys, CHUNK);
    let bounded = || remote(&cache).client.bounded;
    let buffer = Arc::new(parking_lot::Mutex::new(vec![0; CHUNK]));
    let loading = cache.load(vec![(keys[0], Box::new(Arc::clone(&buffer)))], None);
    wait_until("the load is with the store", || bounded().under_way == 1);
    for outcome in store(&cache, &prompt(2, 20), CHUNK) {
        assert_eq!(outcome.status, StoreStatus::Stored, "{outcome:?}");
    }
    assert_eq!(bounded().most_under_way, 2, "the load, and one store");
    gated.open();
    assert_eq!(loading.wait(Some(PATIENCE)).expect("it ends")[0].status, LoadStatus::Loaded);
    assert!(*buffer.lock() == bytes_of(&keys[0], CHUNK), "wrong bytes");
    // Without a load there are more at a time.
    store(&cache, &prompt(3, 40), CHUNK);
    assert!(bounded().most_under_way > 2, "{:?}", bounded());
}

#[test]
fn what_is_damaged_on_disk_is_not_copied_to_the_remote_store() {
    let mut setup = Setup { has_remote: false, ..Setup::new(true) };
    let keys = prompt(1, 3);
    store(&setup.open(), &keys, CHUNK);
    let data = std::fs::OpenOptions::new().write(true).open(setup.directory.path().join("data")).unwrap();
    data.write_all_at(b"damaged", CHUNK as u64 / 2).unwrap();
    // The next one has a remote store, and a prompt that is on disk goes there when it comes again.
    setup.has_remote = true;
    let cache = setup.open();
    let outcomes = store(&cache, &keys, CHUNK);
    let (damaged, sound): (Vec<_>, Vec<_>) =
        outcomes.iter().partition(|outcome| outcome.tiers.last().unwrap().status == StoreStatus::Failed);
    assert_eq!((damaged.len(), sound.len()), (1, 2), "{outcomes:?}");
    assert!(matches!(damaged[0].reason, Some(Reason::Corrupt(_))), "{damaged:?}");
    assert_eq!(setup.fake.names().len(), 2, "what was damaged is not there");
    // Nor is it on disk any more.
    store(&cache, &keys, CHUNK);
    assert_eq!(setup.fake.names().len(), 3);
    assert_eq!(support::count_right(&cache, &keys, CHUNK), 3);
}

#[test]
fn what_only_memory_took_is_not_told_as_stored() {
    let mut setup = Setup { disk_mib: 2.0, has_remote: false, ..Setup::new(true) };
    let pinned = prompt(1, 40);
    store(&setup.open(), &pinned, CHUNK);
    // The next one has a memory tier, and all that is on disk is in use.
    setup.memory_chunks = 8;
    let cache = setup.open();
    let hit = cache.lookup_within(&pinned, PATIENCE);
    let outcome = store(&cache, &prompt(2, 1), CHUNK).remove(0);
    assert_eq!(
        ends(&outcome.tiers),
        [(Tier::Memory, StoreStatus::Stored), (Tier::Disk, StoreStatus::Refused)]
    );
    assert_eq!((outcome.status, &outcome.reason), (StoreStatus::Refused, &Some(Reason::Full)), "{outcome:?}");
    drop(hit);
}

#[test]
fn who_stores_what_is_being_stored_waits_for_both_tiers() {
    let setup = Setup::new(true);
    let gated = Gated::shut(&setup.fake);
    let cache = setup.open_over(gated.clone());
    let keys = prompt(1, 20);
    let batches: Vec<_> = (0..3).map(|_| support::begin_store(&cache, &keys, CHUNK)).collect();
    wait_until("they are on disk", || cache.stats().control.disk.stored == 20);
    assert!(
        !batches.iter().any(|batch| batch.wait(Some(Duration::ZERO)).is_some()),
        "none is in the remote store"
    );
    gated.open();
    for batch in batches {
        for outcome in batch.wait(Some(PATIENCE)).expect("stores end") {
            assert_eq!(outcome.tiers.len(), 2, "{outcome:?}");
        }
    }
    assert_eq!(setup.fake.names().len(), 20);
    assert_eq!(remote(&cache).stored, 20, "each once");
}

#[test]
fn closing_drains_what_is_on_its_way_to_the_remote_store() {
    for has_disk in [false, true] {
        let setup = Setup::new(has_disk);
        let cache = setup.open_over(Arc::new(Delay::new(setup.fake.clone(), Duration::from_millis(20))));
        let batch = support::begin_store(&cache, &prompt(1, 30), CHUNK);
        cache.close(PATIENCE);
        for outcome in batch.wait(Some(Duration::ZERO)).expect("closed is ended") {
            assert!(outcome.tiers.iter().all(|end| end.status == StoreStatus::Stored), "{outcome:?}");
        }
        assert_eq!(setup.fake.names().len(), 30);
        let refused = store(&cache, &prompt(2, 1), CHUNK);
        assert_eq!(refused[0].status, StoreStatus::Refused, "{refused:?}");
    }
}

#[test]
fn closing_gives_up_what_the_remote_store_does_not_answer() {
    for has_disk in [false, true] {
        let setup = Setup::new(has_disk);
        let cache = setup.open_over(Arc::new(Timeout::new(Gated::shut(&setup.fake), Duration::from_secs(1))));
        let batch = support::begin_store(&cache, &prompt(1, 30), CHUNK);
        let began = Instant::now();
        cache.close(Duration::from_millis(100));
        assert!(began.elapsed() < PATIENCE / 2);
        for outcome in batch.wait(Some(Duration::ZERO)).expect("closed is ended") {
            let end = outcome.tiers.last().expect("at least one tier");
            assert_eq!(end.tier, Tier::Remote);
            assert!(end.status != StoreStatus::Stored, "{outcome:?}");
        }
        assert_eq!(cache.stats().mover.staging.in_use, 0);
    }
}

#[test]
fn a_chunk_of_which_a_part_has_gone_is_found_once_and_then_stored_anew() {
    const LARGE: usize = 12 << 20;
    let setup = Setup { chunk_bytes: LARGE, ..Setup::new(false) };
    let cache = setup.open();
    let keys = prompt(1, 2);
    store(&cache, &keys, LARGE);
    let names = setup.fake.names();
    assert_eq!(names.len(), 6, "three parts a chunk: {names:?}");
    let lost = names.iter().find(|name| name.contains(&keys[0].to_string()) && name.ends_with("-0")).unwrap();
    support::wait_for(setup.fake.remove(lost)).unwrap();
    cache.close(PATIENCE);

    let cache = setup.open();
    assert_eq!(cache.lookup_within(&keys, PATIENCE).chunks(), 2);
    let (outcome, _) = &load(&cache, &keys[..1], LARGE)[0];
    assert_eq!((outcome.status, &outcome.reason), (LoadStatus::Miss, &Some(Reason::NotThere)));
    assert_eq!(remote(&cache).gone, 1);
    wait_until("its end goes too", || setup.fake.names().len() == 4);
    cache.close(PATIENCE);
    let cache = setup.open();
    assert!(matches!(cache.lookup_within(&keys, PATIENCE), Lookup::Miss));
    store(&cache, &keys, LARGE);
    assert_eq!(support::count_right(&cache, &keys, LARGE), 2);
}

#[test]
fn a_damaged_chunk_that_is_stored_anew_is_not_removed_afterwards() {
    let setup = Setup::new(false);
    let keys = prompt(1, 1);
    let cache = setup.open();
    store(&cache, &keys, CHUNK);
    cache.close(PATIENCE);
    let name = setup.fake.names().remove(0);
    support::wait_for(setup.fake.put(&name, Bytes::from_static(b"damaged"))).unwrap();

    let gated = Gated::new(&setup.fake, Held::Removals);
    let cache = setup.open_over(gated.clone());
    let buffer = Arc::new(parking_lot::Mutex::new(vec![0; CHUNK]));
    let batch = cache.load(vec![(keys[0], Box::new(buffer))], None);
    assert!(batch.wait(Some(Duration::from_millis(100))).is_none(), "told before it is removed");
    gated.open();
    assert_eq!(batch.wait(Some(PATIENCE)).expect("it ends")[0].status, LoadStatus::Miss);
    assert_eq!(support::store(&cache, &keys, CHUNK)[0].status, StoreStatus::Stored);
    assert_eq!(support::count_right(&cache, &keys, CHUNK), 1);
    support::assert_nothing_leaked(&cache);
}

#[test]
fn who_waits_for_a_lookup_does_not_spin_while_a_chunk_is_written_to_disk() {
    let setup = Setup::new(true);
    let faults = support::Faults::new();
    let client = Client::over(setup.fake.clone(), &settings()).unwrap();
    let around = |file| faults.around(file);
    let cache =
        Cache::open_over(&setup.config(), CHUNK as u64, None, around, Some(Arc::new(client))).unwrap();
    faults.stall_writes(true);
    let keys = prompt(1, 1);
    let batch = support::begin_store(&cache, &keys, CHUNK);
    faults.wait_for_arrivals(1);
    for _ in 0..3 {
        assert!(matches!(cache.lookup_within(&keys, Duration::from_millis(200)), Lookup::Pending));
    }
    assert!(cache.stats().control.lookups < 20, "{} lookups", cache.stats().control.lookups);
    faults.stall_writes(false);
    batch.wait(Some(PATIENCE)).expect("it ends");
}

/// The files below a shared directory but for those that are not whole yet, and their bytes.
fn files_below(root: &std::path::Path) -> HashMap<PathBuf, u64> {
    let mut files = HashMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(about) if about.is_dir() && entry.file_name() != ".incoming" => {
                    directories.push(entry.path());
                }
                Ok(about) if about.is_file() => drop(files.insert(entry.path(), about.len())),
                _ => {}
            }
        }
    }
    files
}

#[test]
fn a_shared_directory_stays_below_its_bound_with_two_who_write() {
    const CAPACITY: u64 = 64 << 20;
    const LARGE: usize = 4 << 20;
    const MIB: u64 = 1 << 20;
    let root = TempDir::new().unwrap();
    let url = format!("file://{}", root.path().display());
    let open = || {
        let values = [
            ("remote_url", Value::from(url.as_str())),
            ("max_remote_size", Value::from(64.0 / 1024.0)),
            ("max_local_cpu_size", Value::from(16.0 / 1024.0)),
            ("local_cpu", Value::from(false)),
        ];
        Cache::open(&Config::from_values(values).unwrap().config, LARGE as u64, None).unwrap()
    };
    let caches = [open(), open()];
    let over = std::sync::atomic::AtomicBool::new(false);
    let in_step = std::sync::Barrier::new(2);
    let (mut most, mut samples) = (0, 0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2_u32)
            .zip(&caches)
            .map(|(writer, cache)| {
                let in_step = &in_step;
                scope.spawn(move || {
                    for round in 0..20 {
                        in_step.wait();
                        for outcome in store(cache, &prompt(100 * writer + round, 2), LARGE) {
                            assert_eq!(outcome.status, StoreStatus::Stored, "{outcome:?}");
                        }
                    }
                })
            })
            .collect();
        let watching = scope.spawn(|| {
            // A list takes its time; what two of them have was there all at once, between them.
            let mut before = files_below(root.path());
            while !over.load(std::sync::atomic::Ordering::SeqCst) {
                let files = files_below(root.path());
                let both = files.iter().filter(|(path, _)| before.contains_key(*path));
                most = most.max(both.map(|(_, bytes)| bytes).sum());
                before = files;
                samples += 1;
            }
        });
        writers.into_iter().for_each(|writer| writer.join().expect("no panic"));
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        watching.join().expect("no panic");
    });
    println!("at most {} MiB of {}, in {samples} samples", most / MIB, CAPACITY / MIB);
    // Each may have a sixteenth of the capacity there unseen, and that is the data of one of these chunks.
    let trailers = 2 * 4096;
    assert!(most > CAPACITY / 2 && most <= CAPACITY + trailers, "{most} bytes");
    caches.iter().for_each(|cache| cache.close(PATIENCE));
    // What is left is the newest of each, and whole.
    let cache = open();
    for writer in 0..2_u32 {
        let there: Vec<bool> = (0..20)
            .map(|round| {
                let keys = prompt(100 * writer + round, 2);
                let found = cache.lookup_within(&keys, PATIENCE).chunks();
                assert_eq!(
                    support::count_right(&cache, &keys[..found], LARGE),
                    found,
                    "nothing is there in part"
                );
                found == 2
            })
            .collect();
        assert!(!there[0] && there[19], "{there:?}");
        let oldest = there.iter().position(|is_there| *is_there).unwrap();
        assert!(there[oldest..].iter().all(|is_there| *is_there), "the oldest go first: {there:?}");
    }
    assert_eq!(remote(&cache).gone, 0);
}

#[test]
fn closing_with_thousands_of_copies_waiting_ends_each_and_harms_nothing() {
    const MANY: usize = 5000;
    let setup = Setup { chunk_bytes: 4096, ..Setup::new(true) };
    let keys = prompt(1, MANY);
    let gated = Gated::shut(&setup.fake);
    let cache = setup.open_over(gated);
    let batch = support::begin_store(&cache, &keys, 512);
    wait_until("all are on disk", || cache.stats().control.disk.stored == MANY as u64);
    cache.close(Duration::ZERO);
    for outcome in batch.wait(Some(PATIENCE)).expect("stores end") {
        let [disk, remote] = &*outcome.tiers else { panic!("two tiers: {outcome:?}") };
        assert_eq!((disk.tier, disk.status), (Tier::Disk, StoreStatus::Stored), "{outcome:?}");
        assert!(remote.tier == Tier::Remote && remote.status != StoreStatus::Stored, "{outcome:?}");
    }
    drop(cache);
    let again = Setup { has_remote: false, ..setup };
    assert_eq!(again.open().lookup(&keys).chunks(), MANY, "nothing was evicted for it");
}

/// What CPU memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cpu {
    /// `local_cpu: true`.
    Tier,
    /// `local_cpu: false`.
    Staging,
    /// `use_only_staging_buffer: true`.
    StagingOnly,
}

/// A row of the table of modes: the tiers that a store writes to and a lookup is answered by, in the order in which they
/// answer, the memory tier left out; and that.
#[derive(Debug)]
struct Mode {
    tiers: &'static [Tier],
    cpu: Cpu,
}

impl Mode {
    fn all() -> impl Iterator<Item = Self> {
        let tiers: [&[Tier]; 3] = [&[Tier::Disk], &[Tier::Remote], &[Tier::Disk, Tier::Remote]];
        let cpu = [Cpu::Tier, Cpu::Staging, Cpu::StagingOnly];
        tiers.into_iter().flat_map(move |tiers| cpu.map(|cpu| Self { tiers, cpu }))
    }

    fn has(&self, tier: Tier) -> bool {
        self.tiers.contains(&tier)
    }

    fn has_memory(&self) -> bool {
        self.cpu == Cpu::Tier
    }

    fn config(&self, directory: &std::path::Path) -> Config {
        let mut values = vec![
            ("max_local_cpu_size", Value::from(32.0 / 1024.0)),
            ("local_cpu", Value::from(self.cpu == Cpu::Tier)),
            ("use_only_staging_buffer", Value::from(self.cpu == Cpu::StagingOnly)),
        ];
        if self.has(Tier::Disk) {
            values.push(("local_disk", Value::from(directory.to_str().unwrap())));
            values.push(("max_local_disk_size", Value::from(64.0 / 1024.0)));
            values.push(("disk_min_free_size", Value::from(0.0)));
        }
        if self.has(Tier::Remote) {
            values.push(("remote_url", Value::from("redis://127.0.0.1:1")));
        }
        Config::from_values(values).unwrap().config
    }
}

#[test]
fn the_table_of_modes() {
    for mode in Mode::all() {
        in_this_mode(&mode);
    }
}

fn in_this_mode(mode: &Mode) {
    let name = format!("{mode:?}");
    let (directory, fake) = (TempDir::new().unwrap(), Arc::new(Fake::default()));
    let config = mode.config(directory.path());
    let faults = support::Faults::new();
    let gated = Gated::shut(&fake);
    let open = |faults: &Arc<support::Faults>, objects: Arc<dyn Objects>| {
        let client = mode.has(Tier::Remote).then(|| Arc::new(Client::over(objects, &settings()).unwrap()));
        Cache::open_over(&config, CHUNK as u64, None, |file| faults.around(file), client).unwrap()
    };
    let keys = prompt(1, 4);

    // Completion is told when the last of its tiers has it, and not before.
    let cache = open(&faults, gated.clone());
    faults.stall_writes(true);
    let batch = support::begin_store(&cache, &keys, CHUNK);
    let is_done = || batch.wait(Some(Duration::ZERO)).is_some();
    if mode.has(Tier::Disk) {
        faults.wait_for_arrivals(1);
        assert!(!is_done(), "{name}: nothing is on disk");
        faults.stall_writes(false);
    }
    if mode.has(Tier::Remote) {
        wait_until("the remote store is reached", || remote(&cache).client.requests.in_flight > 0);
        assert!(!is_done(), "{name}: nothing is in the remote store");
        gated.open();
    }
    for outcome in batch.wait(Some(PATIENCE)).expect("stores end") {
        let told: Vec<Tier> = outcome.tiers.iter().map(|end| end.tier).collect();
        let first = if mode.has_memory() { &[Tier::Memory][..] } else { &[] };
        assert_eq!(told, [first, mode.tiers].concat(), "{name}: {outcome:?}");
        assert!(outcome.tiers.iter().all(|end| end.status == StoreStatus::Stored), "{name}: {outcome:?}");
    }
    assert_eq!(cache.stats().control.disk.chunks, if mode.has(Tier::Disk) { 4 } else { 0 }, "{name}");
    assert_eq!(fake.names().len(), if mode.has(Tier::Remote) { 4 } else { 0 }, "{name}");
    // At rest memory holds chunks only if it is a tier.
    assert_eq!(cache.stats().mover.staging.in_use, 0, "{name}");

    // Each tier answers when those before it cannot.
    let from = |cache: &Cache| -> Vec<_> {
        load(cache, &keys, CHUNK).into_iter().map(|(end, _)| (end.status, end.tier)).collect()
    };
    let answered = |tier| vec![(LoadStatus::Loaded, Some(tier)); 4];
    let first = if mode.has_memory() { Tier::Memory } else { mode.tiers[0] };
    assert_eq!(from(&cache), answered(first), "{name}");
    assert_eq!(cache.stats().control.memory.map(|it| it.chunks), mode.has_memory().then_some(4), "{name}");
    cache.close(PATIENCE);
    drop(cache);
    let cache = open(&faults, fake.clone());
    assert_eq!(cache.lookup_within(&keys, PATIENCE).chunks(), 4, "{name}: a restart finds them");
    assert_eq!(from(&cache), answered(mode.tiers[0]), "{name}");
    // What was loaded is written back to memory, if that is a tier.
    assert_eq!(from(&cache), answered(first), "{name}");
    if mode.has(Tier::Disk) && !mode.has_memory() {
        faults.fail_reads.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(from(&cache).iter().all(|end| *end == (LoadStatus::Failed, Some(Tier::Disk))), "{name}");
        let found = cache.lookup_within(&keys, PATIENCE).chunks();
        assert_eq!(found, if mode.has(Tier::Remote) { 4 } else { 0 }, "{name}: without the disk");
        if mode.has(Tier::Remote) {
            assert_eq!(from(&cache), answered(Tier::Remote), "{name}");
        }
    } else if !mode.has(Tier::Disk) && !mode.has_memory() {
        for object in fake.names() {
            support::wait_for(fake.remove(&object)).unwrap();
        }
        assert!(
            from(&cache).iter().all(|(status, _)| *status == LoadStatus::Miss),
            "{name}: no copy in memory"
        );
        assert!(matches!(cache.lookup_within(&keys, PATIENCE), Lookup::Miss), "{name}");
    }
    support::assert_nothing_leaked(&cache);
}
