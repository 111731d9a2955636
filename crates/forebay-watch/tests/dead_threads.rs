//! Guarantee 9, and that it is seen: a background thread that dies turns health red within a second, and whoever uses the
//! cache goes on, if without it.

use std::time::{Duration, Instant};

use forebay::crash_points::{kill_thread, last_death};
use forebay::{Cache, Value};
use tempfile::TempDir;

mod support;
use support::{CHUNK, PATIENCE, Watched, config, get, gib, load, prompt, store, watched_in};

/// From a thread's death until health is red.
const SEEN_WITHIN: Duration = Duration::from_secs(1);
/// What one prompt's lookup, store and load may take on a cache of which a part is dead: the journal's writer is waited for
/// two seconds.
const ONE_PROMPT_MAX: Duration = Duration::from_secs(20);

/// What the cache has, and so which threads.
#[derive(Clone, Copy)]
enum Tiers {
    /// A disk, by this engine.
    Disk(&'static str),
    /// Memory before a disk, and a directory that others use too behind it.
    All,
    /// A disk, and that directory behind it.
    DiskAndRemote,
}

impl Tiers {
    fn values(self, home: &TempDir) -> Vec<(&'static str, Value)> {
        let shared = home.path().join("shared");
        let remote = || {
            std::fs::create_dir_all(&shared).expect("a directory");
            let url = format!("file://{}", shared.to_str().expect("text"));
            [("remote_url", Value::from(url.as_str())), ("max_remote_size", gib(64 << 20))]
        };
        match self {
            Self::Disk(engine) => vec![("disk_io_engine", Value::from(engine))],
            Self::DiskAndRemote => remote().to_vec(),
            Self::All => {
                // More than the staging buffer can use.
                let memory_size = ("max_local_cpu_size", gib(64 << 20));
                let memory =
                    [("local_cpu", true.into()), ("use_only_staging_buffer", false.into()), memory_size];
                memory.into_iter().chain(remote()).collect()
            }
        }
    }
}

/// As many as there are unless the configuration says otherwise.
const IO_THREADS: [&str; 4] = ["forebay-io-0", "forebay-io-1", "forebay-io-2", "forebay-io-3"];

/// Has the thread die, with work to wake it, while another one asks for health; gives how long nobody said so.
fn kill(watched: &Watched, name: &str) -> Duration {
    let begun = Instant::now();
    kill_thread(name);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !get(&watched.server, "/healthz").body.contains(name) {
                assert!(begun.elapsed() < PATIENCE, "{name} did not die, or nobody says so");
                std::thread::sleep(Duration::from_millis(5));
            }
            Instant::now()
        });
        for number in 0.. {
            if asking.is_finished() {
                break;
            }
            let keys = prompt(1000 + number, 2);
            store(&watched.cache, &keys, None);
            load(&watched.cache, &keys);
        }
        let seen = asking.join().expect("it is seen");
        seen.duration_since(last_death().expect("it died"))
    })
}

/// Of each of these threads, one after the other, of a cache of `tiers`.
fn deaths_are_seen_and_inference_goes_on(names: &[&str], tiers: Tiers) {
    let home = TempDir::new().expect("a directory");
    let mut values = vec![
        ("disk_sync", Value::from(0.02)),
        ("load_timeout_s", 2.into()),
        ("store_timeout_s", 2.into()),
        ("remote_timeout_s", 2.into()),
    ];
    values.extend(tiers.values(&home));
    let watched = watched_in(home, 64 << 20, values);
    let before = prompt(1, 4);
    store(&watched.cache, &before, None);
    assert_eq!(get(&watched.server, "/healthz").status, 200, "{names:?}");
    for (index, name) in names.iter().enumerate() {
        let unseen = kill(&watched, name);
        assert!(unseen < SEEN_WITHIN, "{name} was dead for {unseen:?} and nobody said so");
        assert_eq!(get(&watched.server, "/healthz").status, 503, "{name}");
        let count = format!("forebay_dead_threads {}\n", index + 1);
        assert!(get(&watched.server, "/metrics").body.contains(&count), "{name}");
    }

    // Whoever uses it is answered, in time.
    for number in 0..5 {
        let began = Instant::now();
        let keys = prompt(2000 + number, 3);
        let chunks = watched.cache.lookup(&keys).chunks();
        assert_eq!(chunks, 0);
        store(&watched.cache, &keys, None);
        load(&watched.cache, &before);
        assert!(began.elapsed() < ONE_PROMPT_MAX, "{names:?}: {:?}", began.elapsed());
    }
    let began = Instant::now();
    watched.cache.close(Duration::from_secs(1));
    assert!(began.elapsed() < Duration::from_secs(40), "{names:?}: closing took {:?}", began.elapsed());
}

/// One after the other: threads of all caches of a process have the same names.
#[test]
fn g9_each_threads_death_is_seen_and_inference_goes_on() {
    // A thread is dead, and known to be, once this has returned: to print where it was takes its time.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let all = ["forebay-stores", "forebay-loads", "forebay-watch", "forebay-keeper", "forebay-journal"];
    for name in all {
        deaths_are_seen_and_inference_goes_on(&[name], Tiers::Disk("threads"));
    }
    deaths_are_seen_and_inference_goes_on(&["forebay-io-0"], Tiers::Disk("threads"));
    // Nobody is left to end what is under way.
    deaths_are_seen_and_inference_goes_on(&IO_THREADS, Tiers::Disk("threads"));
    if has_io_uring() {
        for name in ["forebay-ring", "forebay-stored", "forebay-loaded"] {
            deaths_are_seen_and_inference_goes_on(&[name], Tiers::Disk("io_uring"));
        }
        for names in [["forebay-stored", "forebay-stored-too"], ["forebay-loaded", "forebay-loaded-too"]] {
            deaths_are_seen_and_inference_goes_on(&names, Tiers::Disk("io_uring"));
        }
    }
    for name in ["forebay-recalls", "forebay-carries", "forebay-stores", "forebay-trim"] {
        deaths_are_seen_and_inference_goes_on(&[name], Tiers::All);
    }
    for name in ["forebay-copies", "forebay-ends"] {
        deaths_are_seen_and_inference_goes_on(&[name], Tiers::DiskAndRemote);
    }
    // Nobody is left to tell how a request ended.
    deaths_are_seen_and_inference_goes_on(&["forebay-ends", "forebay-ends-too"], Tiers::DiskAndRemote);
    what_a_thread_that_dies_was_woken_for_ends();
}

/// Of threads that all wait, the one that is woken for a store dies of it: the store is another's.
fn what_a_thread_that_dies_was_woken_for_ends() {
    for name in IO_THREADS {
        let home = TempDir::new().expect("a directory");
        let values = Tiers::Disk("threads").values(&home);
        let watched = watched_in(home, 64 << 20, values);
        let before = last_death();
        kill_thread(name);
        for number in 0.. {
            let ends = store(&watched.cache, &prompt(number, 1), None);
            assert!(ends[0].reason.is_none(), "{ends:?}");
            if last_death() != before {
                break;
            }
        }
    }
}

/// Where the system forbids it none of its threads can die.
fn has_io_uring() -> bool {
    let home = TempDir::new().expect("a directory");
    let config = config(&home, 64 << 20, [("disk_io_engine", Value::from("io_uring"))]);
    match Cache::open(&config, CHUNK as u64, None) {
        Err(error) if error.to_string().contains("Operation not permitted") => false,
        opened => opened.map(|_| true).expect("a cache"),
    }
}
