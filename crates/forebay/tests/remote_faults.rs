//! Guarantee 9 with a remote store: however that fails under load, every call ends within its bound, is counted, and what
//! is on disk goes on being served and stored. And guarantee 10 under chaos, a hundred thousand times.

mod support;

#[path = "support/servers.rs"]
mod servers;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay::config::Config;
use forebay::control::RemoteStats;
use forebay::outcome::Tier;
use forebay::tier::remote::client::{Client, Settings};
use forebay::tier::remote::names::Names;
use forebay::tier::remote::objects::Objects;
use forebay::tier::remote::wrappers::chaos::{Chaos, ChaosOdds};
use forebay::tier::remote::wrappers::fake::Fake;
use forebay::tier::remote::wrappers::throttle::Throttle;
use forebay::{Cache, ChunkKey, LoadStatus, StoreOutcome, StoreStatus, Value};
use parking_lot::Mutex;
use servers::{ServerProcess, noisy_server};
use support::{KIB, PATIENCE, assert_nothing_leaked, begin_store, bytes_of, load, prompt, store};
use tempfile::TempDir;

const CHUNK: usize = 64 * KIB;
const TIMEOUT: Duration = Duration::from_millis(500);
/// No request takes longer, however often it is tried; the rest is for a busy machine.
const BOUND: Duration = Duration::from_secs(5);

fn config<const N: usize>(disk: Option<&Path>, more: [(&str, Value); N]) -> Config {
    let mut values = vec![
        ("max_local_cpu_size", Value::from(16.0 / 1024.0)),
        ("local_cpu", Value::from(false)),
        ("use_only_staging_buffer", Value::from(true)),
        ("remote_timeout_s", Value::from(TIMEOUT.as_secs_f64())),
        ("load_timeout_s", Value::from(2.0)),
    ];
    if let Some(directory) = disk {
        values.push(("local_disk", Value::from(directory.to_str().expect("a plain name"))));
        values.push(("max_local_disk_size", Value::from(0.25)));
        values.push(("disk_min_free_size", Value::from(0.0)));
    }
    values.extend(more);
    Config::from_values(values).expect("the configuration is right").config
}

fn open(disk: Option<&Path>, url: &str) -> Cache {
    Cache::open(&config(disk, [("remote_url", Value::from(url))]), CHUNK as u64, None).expect("it opens")
}

fn remote(cache: &Cache) -> RemoteStats {
    cache.stats().control.remote.expect("there is a remote tier")
}

/// What a thread under load saw.
#[derive(Default)]
struct Seen {
    stored: [AtomicU64; 2],
    failed: AtomicU64,
    loaded: [AtomicU64; 2],
    not_loaded: AtomicU64,
    slowest_ms: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::SeqCst);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::SeqCst)
}

impl Seen {
    fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = work();
        let took = u64::try_from(began.elapsed().as_millis()).expect("less than for ever");
        self.slowest_ms.fetch_max(took, Ordering::SeqCst);
        done
    }

    fn store(&self, cache: &Cache, keys: &[ChunkKey]) {
        for outcome in self.timed(|| store(cache, keys, CHUNK)) {
            for end in outcome.tiers {
                match end.status {
                    StoreStatus::Stored | StoreStatus::Present => {
                        add(&self.stored[usize::from(end.tier == Tier::Remote)]);
                    }
                    StoreStatus::Refused | StoreStatus::Failed => add(&self.failed),
                }
            }
        }
    }

    fn load(&self, cache: &Cache, keys: &[ChunkKey]) {
        self.timed(|| cache.lookup_within(keys, Duration::from_secs(1)));
        for (key, (outcome, bytes)) in keys.iter().zip(self.timed(|| load(cache, keys, CHUNK))) {
            match (outcome.status, outcome.tier) {
                (LoadStatus::Loaded, Some(tier)) => {
                    assert!(bytes == bytes_of(key, CHUNK), "wrong bytes");
                    add(&self.loaded[usize::from(tier == Tier::Remote)]);
                }
                _ => add(&self.not_loaded),
            }
        }
    }
}

/// Keeps a cache busy while something happens to its remote store: stores what is new, loads what is there.
fn under_load(cache: &Cache, there: &[ChunkKey], something: impl FnOnce()) -> Seen {
    let (seen, over) = (Seen::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for thread in 0..2_u32 {
            let (seen, over) = (&seen, &over);
            scope.spawn(move || {
                let mut round = 0;
                while !over.load(Ordering::SeqCst) {
                    seen.store(cache, &prompt(1000 * (thread + 1) + round % 200, 4));
                    round += 1;
                }
            });
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    seen.load(cache, there);
                }
            });
        }
        something();
        over.store(true, Ordering::SeqCst);
    });
    seen
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The breaker closes when somebody asks again, and things are stored and loaded as before.
fn recovers(cache: &Cache, has_disk: bool) {
    let mut prompts = 500_000..;
    until("the store is not asked again", || {
        let keys = prompt(prompts.clone().next().expect("endless"), 1);
        cache.lookup_within(&keys, TIMEOUT);
        remote(cache).client.breaker.state == "closed"
    });
    let keys = prompt(prompts.next().expect("endless"), 4);
    until("nothing is stored again", || {
        store(cache, &keys, CHUNK).iter().all(|outcome| {
            let end = outcome.tiers.last().expect("a tier");
            end.tier == Tier::Remote && matches!(end.status, StoreStatus::Stored | StoreStatus::Present)
        })
    });
    assert_eq!(support::count_right(cache, &keys, CHUNK), 4);
    let breaker = remote(cache).client.breaker;
    assert!(breaker.opened >= 1 && breaker.closed >= 1, "{breaker:?}");
    assert!(has_disk || remote(cache).store_failed > 0);
    assert_nothing_leaked(cache);
}

/// A server that fails under load, and comes back.
fn fails_and_comes_back(
    has_disk: bool,
    fail: impl FnOnce(&mut ServerProcess),
    come_back: impl FnOnce(&mut ServerProcess),
    for_so_long: Duration,
) {
    let directory = TempDir::new().expect("a temporary directory");
    let mut server = ServerProcess::redis(&[]);
    let cache = open(has_disk.then(|| directory.path()), &format!("redis://127.0.0.1:{}", server.port()));
    let there = prompt(1, 8);
    for outcome in store(&cache, &there, CHUNK) {
        assert!(outcome.tiers.iter().all(|end| end.status == StoreStatus::Stored), "{outcome:?}");
    }
    let seen = under_load(&cache, &there, || {
        let before = cache.stats().mover.read_bytes;
        until("it is busy", || cache.stats().mover.read_bytes > before + 20 * CHUNK as u64);
        fail(&mut server);
        let before = (cache.stats().control.disk.stored, cache.stats().mover.read_bytes);
        std::thread::sleep(for_so_long);
        if has_disk {
            let after = (cache.stats().control.disk.stored, cache.stats().mover.read_bytes);
            assert!(after.0 > before.0 && after.1 > before.1, "the disk goes on: {before:?}, {after:?}");
        }
        come_back(&mut server);
    });
    let (disk, slowest) = (usize::from(!has_disk), get(&seen.slowest_ms));
    assert!(Duration::from_millis(slowest) < BOUND, "a call took {slowest} ms");
    assert!(get(&seen.loaded[disk]) > 0);
    if has_disk {
        assert_eq!(get(&seen.not_loaded), 0, "what is on disk is loaded all the time");
    }
    assert!(get(&seen.failed) > 0, "nobody noticed");
    let stats = remote(&cache);
    assert!(stats.client.requests.unavailable + stats.client.requests.timed_out > 0, "{stats:?}");
    assert!(stats.client.requests.left_alone > 0 && stats.store_failed > 0, "{stats:?}");
    recovers(&cache, has_disk);
    cache.close(PATIENCE);
}

#[test]
fn guarantee_9_a_server_that_is_killed_under_load_and_started_again() {
    for has_disk in [false, true] {
        let long = Duration::from_secs(2);
        fails_and_comes_back(has_disk, ServerProcess::kill_9, ServerProcess::start_again, long);
    }
}

#[test]
fn guarantee_9_a_server_that_halts_under_load_and_goes_on() {
    for has_disk in [false, true] {
        fails_and_comes_back(has_disk, |it| it.stop(), |it| it.cont(), Duration::from_secs(4));
    }
}

#[test]
#[ignore = "takes two minutes"]
fn guarantee_9_a_server_that_halts_for_a_minute() {
    for has_disk in [false, true] {
        fails_and_comes_back(has_disk, |it| it.stop(), |it| it.cont(), Duration::from_mins(1));
    }
}

/// A store that never works, with a disk and without one.
fn never_works(url: &str, what_is_counted: impl Fn(&RemoteStats) -> u64) {
    for has_disk in [false, true] {
        let directory = TempDir::new().expect("a temporary directory");
        let cache = open(has_disk.then(|| directory.path()), url);
        let there = prompt(1, 8);
        store(&cache, &there, CHUNK);
        let seen = under_load(&cache, &there, || std::thread::sleep(Duration::from_millis(700)));
        let slowest = get(&seen.slowest_ms);
        assert!(Duration::from_millis(slowest) < BOUND, "{url}: a call took {slowest} ms");
        assert_eq!((get(&seen.stored[1]), get(&seen.loaded[1])), (0, 0));
        assert_eq!(get(&seen.stored[0]) > 0 && get(&seen.loaded[0]) > 0, has_disk);
        assert!(!has_disk || get(&seen.not_loaded) == 0);
        let stats = remote(&cache);
        assert!(what_is_counted(&stats) > 0 && stats.client.breaker.opened > 0, "{url}: {stats:?}");
        assert!(stats.store_failed > 0 && (has_disk || stats.unanswered > 0), "{url}: {stats:?}");
        assert_nothing_leaked(&cache);
        cache.close(PATIENCE);
    }
}

#[test]
fn guarantee_9_a_server_that_answers_nonsense() {
    let port = noisy_server(b"$99999999999999999999\r\n".to_vec(), true);
    never_works(&format!("redis://127.0.0.1:{port}"), |stats| {
        stats.client.requests.unavailable + stats.client.requests.refused
    });
}

#[test]
fn guarantee_9_a_server_that_refuses_credentials() {
    let server = ServerProcess::redis(&["--requirepass", "right"]);
    let url = format!("redis://:wrong@127.0.0.1:{}", server.port());
    never_works(&url, |stats| stats.client.requests.refused);
}

fn settings(timeout: Duration) -> Settings {
    Settings {
        url: String::new(),
        timeout,
        requests_max: 32,
        retries: 1,
        breaker_failures: 5,
        breaker_rest: Duration::from_millis(100),
    }
}

fn over(disk: Option<&Path>, chunk_bytes: usize, objects: Arc<dyn Objects>, settings: &Settings) -> Cache {
    let more = [("remote_url", Value::from("redis://127.0.0.1:1")), ("max_queued_chunks", Value::from(4096))];
    let client = Some(Arc::new(Client::over(objects, settings).expect("a client")));
    Cache::open_over(&config(disk, more), chunk_bytes as u64, None, |file| file, client).expect("it opens")
}

#[test]
fn guarantee_9_a_store_behind_a_narrow_line_does_not_hold_up_the_disk() {
    const LARGE: usize = 4 << 20;
    let directory = TempDir::new().expect("a temporary directory");
    let narrow = Arc::new(Throttle::new(Arc::new(Fake::default()), 1 << 20));
    let cache = over(Some(directory.path()), LARGE, narrow, &settings(Duration::from_secs(5)));
    let keys = prompt(1, 24);
    let began = Instant::now();
    let batch = begin_store(&cache, &keys, LARGE);
    until("they are on disk", || cache.stats().control.disk.stored == 24);
    let took = began.elapsed();
    // Over the line they would take a minute and a half.
    assert!(took < Duration::from_secs(8), "96 MiB took {took:?} to the disk");
    let began = Instant::now();
    assert_eq!(support::count_right(&cache, &keys, LARGE), 24);
    assert!(began.elapsed() < Duration::from_secs(8), "and {:?} back", began.elapsed());
    cache.close(Duration::ZERO);
    let ends = batch.wait(Some(Duration::ZERO)).expect("closed is ended");
    assert!(ends.iter().all(|outcome| outcome.tiers[0].status == StoreStatus::Stored));
}

#[test]
fn guarantee_9_a_narrow_line_alone_ends_every_call_within_its_bound() {
    let narrow = Arc::new(Throttle::new(Arc::new(Fake::default()), 1 << 20));
    let cache = over(None, CHUNK, narrow, &settings(TIMEOUT));
    let there = prompt(1, 4);
    store(&cache, &there, CHUNK);
    let seen = under_load(&cache, &there, || std::thread::sleep(Duration::from_secs(2)));
    let slowest = get(&seen.slowest_ms);
    assert!(Duration::from_millis(slowest) < BOUND, "a call took {slowest} ms");
    assert!(get(&seen.stored[1]) > 0 && get(&seen.loaded[1]) > 0, "what passes is passed");
    assert_nothing_leaked(&cache);
}

/// Ends of chunks, by key: how often each was told.
#[derive(Default)]
struct Told {
    times: HashMap<ChunkKey, u32>,
    last: Option<Instant>,
}

/// A hundred thousand chunks through a store that fails and lies.
fn a_hundred_thousand(has_disk: bool, seed: u64) {
    const SMALL: usize = 300;
    const BATCH: usize = 500;
    let odds = ChaosOdds { error: 0.02, stall: 0.0001, torn_put: 0.01, ..ChaosOdds::default() };
    let directory = TempDir::new().expect("a temporary directory");
    let fake = Arc::new(Fake::default());
    let chaos = Arc::new(Chaos::new(fake.clone(), seed, odds));
    let quick =
        Settings { breaker_failures: 50, breaker_rest: Duration::from_millis(1), ..settings(TIMEOUT) };
    let cache = over(has_disk.then(|| directory.path()), 4 * KIB, chaos.clone(), &quick);
    let names = Names::of(cache.stats().mover.staging.slot_bytes);
    let (told, stored) = (Arc::new(Mutex::new(Told::default())), Arc::new(AtomicU64::new(0)));
    let (failed, untrue) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut under_way = std::collections::VecDeque::new();
    for number in 0..100_000 / BATCH + 4 {
        if number < 100_000 / BATCH {
            let keys = prompt(u32::try_from(number).expect("few"), BATCH);
            let chunks = keys.iter().map(|key| (*key, Box::new(bytes_of(key, SMALL)) as _)).collect();
            let (told, stored, failed) = (Arc::clone(&told), Arc::clone(&stored), Arc::clone(&failed));
            let (untrue, fake) = (Arc::clone(&untrue), Arc::clone(&fake));
            let on_complete = move |outcome: &StoreOutcome| {
                let mut told = told.lock();
                *told.times.entry(outcome.key).or_insert(0) += 1;
                told.last = Some(Instant::now());
                drop(told);
                let end = outcome.tiers.iter().find(|end| end.tier == Tier::Remote);
                if end.is_some_and(|end| end.status == StoreStatus::Stored) {
                    add(&stored);
                    if fake.bytes_of(&names.end(&outcome.key)).is_none() {
                        add(&untrue);
                    }
                } else {
                    add(&failed);
                }
            };
            let batch = cache.store(chunks, None, Some(Arc::new(on_complete))).expect("they are small");
            under_way.push_back((keys, batch));
        }
        if under_way.len() > 4 || number >= 100_000 / BATCH {
            let Some((keys, batch)) = under_way.pop_front() else { continue };
            let ends = batch.wait(Some(PATIENCE)).expect("stores end");
            let told = told.lock();
            assert!(
                keys.iter().all(|key| told.times.get(key) == Some(&1)),
                "done after the last of its calls"
            );
            assert_eq!(ends.len(), BATCH);
        }
    }
    assert!(under_way.is_empty());
    let told = told.lock();
    assert_eq!(told.times.len(), 100_000);
    assert!(told.times.values().all(|times| *times == 1), "each is told once");
    assert_eq!(get(&untrue), 0, "stored is there");
    assert_eq!(get(&stored) + get(&failed), 100_000);
    assert!(get(&failed) > 0 && get(&stored) > 50_000, "{} failed", get(&failed));
    let stats = remote(&cache);
    assert_eq!(stats.stored, get(&stored), "{stats:?}");
    assert!(chaos.stats().errors > 1000 && chaos.stats().torn_puts > 100, "{:?}", chaos.stats());
    assert!(!has_disk || cache.stats().control.disk.stored == 100_000);
    assert_nothing_leaked(&cache);
    println!("{} stored, {} failed, {:?}", get(&stored), get(&failed), chaos.stats());
}

#[test]
fn guarantee_10_a_hundred_thousand_chunks_to_a_remote_store_that_fails() {
    a_hundred_thousand(false, 1);
}

#[test]
fn guarantee_10_a_hundred_thousand_chunks_to_disk_and_a_remote_store_that_fails() {
    a_hundred_thousand(true, 2);
}
