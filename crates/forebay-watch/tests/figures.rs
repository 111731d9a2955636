//! What is shown is what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use forebay::tier::disk::block_file::BlockFile;
use forebay::{Cache, LoadStatus, Lookup, Reason, StoreStatus};
use forebay_watch::{Watched, metrics};

use parking_lot::Mutex;

mod support;
use support::{CHUNK, get, load, prompt, samples, store, watched};

const OPERATIONS: u32 = 10_000;

/// What the client counted.
#[derive(Default)]
struct Counted(BTreeMap<String, u64>);

impl Counted {
    fn add(&mut self, what: &str, by: u64) {
        *self.0.entry(what.to_owned()).or_default() += by;
    }
}

#[test]
fn metrics_agree_with_a_client_that_counts_for_itself() {
    let watched = watched(64 * 80_000, []);
    let (cache, server) = (&watched.cache, &watched.server);
    let mut chance = fastrand::Rng::with_seed(7);
    let mut counted = Counted::default();
    let of_disk = |metric: &str| format!("{metric}{{tier=\"disk\"}}");
    for _ in 0..OPERATIONS {
        let keys = prompt(chance.u32(0..60), 4);
        let keys = &keys[..chance.usize(1..=4)];
        match chance.u32(0..10) {
            0..4 => {
                let found = cache.lookup(keys);
                if matches!(found, Lookup::Hit(_) | Lookup::Miss) {
                    counted.add("forebay_lookup_chunks_total", keys.len() as u64);
                    counted.add("forebay_lookup_hit_chunks_total", found.chunks() as u64);
                }
                let result = match found {
                    Lookup::Hit(_) => "hit",
                    Lookup::Miss => "miss",
                    Lookup::Pending => "pending",
                    Lookup::Busy => "busy",
                };
                counted.add(&format!("forebay_lookups_total{{result=\"{result}\"}}"), 1);
                counted.add("forebay_lookup_duration_seconds_count", 1);
            }
            4..7 => {
                for outcome in store(cache, keys, None) {
                    match outcome.status {
                        StoreStatus::Stored => {
                            counted.add(&of_disk("forebay_stored_chunks_total"), 1);
                            counted.add(&of_disk("forebay_stored_bytes_total"), CHUNK as u64);
                            counted.add(&of_disk("forebay_store_duration_seconds_count"), 1);
                        }
                        StoreStatus::Present => {}
                        StoreStatus::Refused => {
                            assert_eq!(outcome.reason, Some(Reason::Full), "nothing else is in the way");
                            counted.add("forebay_refused_full_total", 1);
                        }
                        StoreStatus::Failed => panic!("{outcome:?}"),
                    }
                }
            }
            _ => {
                for outcome in load(cache, keys) {
                    if outcome.status == LoadStatus::Loaded {
                        counted.add(&of_disk("forebay_loaded_chunks_total"), 1);
                        counted.add(&of_disk("forebay_loaded_bytes_total"), CHUNK as u64);
                        counted.add(&of_disk("forebay_load_duration_seconds_count"), 1);
                    }
                }
            }
        }
    }
    let shown = samples(server);
    assert!(counted.0.len() >= 11, "everything happened: {:?}", counted.0.keys());
    for (metric, count) in &counted.0 {
        assert_eq!(shown.get(metric).copied(), Some(*count), "{metric}");
    }
    // What was stored is there, or was evicted.
    let evicted = shown["forebay_removed_chunks_total{tier=\"disk\",cause=\"capacity\"}"];
    assert!(evicted > 0, "the cache was too small for all");
    let stored = shown[&of_disk("forebay_stored_chunks_total")];
    assert_eq!(shown[&of_disk("forebay_chunks")] + evicted, stored);
    assert_eq!(shown["forebay_staging_used_bytes{worker=\"0\"}"], 0);

    // The page is told the same.
    let now: serde_json::Value = serde_json::from_str(&get(server, "/api/now").body).unwrap();
    let disk = &now["tiers"][0];
    assert_eq!((disk["tier"].as_str(), disk["state"].as_str()), (Some("disk"), Some("ok")));
    assert_eq!(disk["stored_chunks"].as_u64(), Some(stored));
    assert_eq!(
        now["lookups"]["hit"].as_u64(),
        counted.0.get("forebay_lookups_total{result=\"hit\"}").copied()
    );
    let buckets = disk["load_seconds"]["buckets"].as_array().unwrap();
    assert_eq!(buckets.last().unwrap()[1], disk["loaded_chunks"], "the last bucket holds all");
}

#[test]
fn every_metric_is_documented_and_nothing_else_is() {
    let remote = tempfile::TempDir::new().unwrap();
    let url = format!("file://{}", remote.path().display());
    let watched = watched(64 << 20, [("remote_url", url.as_str().into()), ("max_remote_size", 0.1.into())]);
    let figures = std::sync::Arc::downgrade(&watched.cache).figures().expect("it is open");
    let shown: BTreeSet<String> =
        metrics::families(&figures).iter().map(metrics::Family::full_name).collect();
    let documentation = include_str!("../../../docs/METRICS.md");
    let rows = documentation.lines().filter_map(|line| line.strip_prefix("| `forebay_"));
    let documented: BTreeSet<String> =
        rows.filter_map(|row| Some(format!("forebay_{}", row.split_once('`')?.0))).collect();
    assert_eq!(documented, shown);
    let text = metrics::text(&figures);
    for family in metrics::families(&figures) {
        assert!(documentation.contains(family.help), "{}: {}", family.name, family.help);
        assert!(
            text.contains(&format!("# TYPE {}", family.full_name().trim_end_matches("_total"))),
            "{text}"
        );
    }
}

/// A data file whose reads wait at a gate.
struct Gated {
    inner: Arc<dyn BlockFile>,
    gate: Arc<Mutex<()>>,
}

impl BlockFile for Gated {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        drop(self.gate.lock());
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        self.inner.write_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn is_direct(&self) -> bool {
        self.inner.is_direct()
    }
}

#[test]
fn a_load_under_way_is_shown_with_its_age_until_it_ends() {
    let home = tempfile::TempDir::new().unwrap();
    let config = support::config(&home, 64 << 20, []);
    let gate = Arc::new(Mutex::new(()));
    let wrap = |inner| Arc::new(Gated { inner, gate: Arc::clone(&gate) }) as Arc<dyn BlockFile>;
    let cache = Cache::open_with(&config, CHUNK as u64, None, wrap).unwrap();
    let keys = prompt(1, 2);
    store(&cache, &keys, None);
    let held = gate.lock();
    std::thread::scope(|scope| {
        scope.spawn(|| load(&cache, &keys));
        let shown = || cache.stats().mover.loads_under_way;
        while shown().len() < 2 {
            std::thread::yield_now();
        }
        let (first, then) = (shown(), shown());
        assert!(first.iter().all(|load| load.tier == "disk" && load.bytes == CHUNK as u64), "{first:?}");
        assert!(then[0].age > first[0].age, "it grows older");
        assert!(then[0].age >= then[1].age, "the oldest is first");
        drop(held);
    });
    let stats = cache.stats().mover;
    assert_eq!((stats.loads_under_way.len(), stats.traffic[1].loads.chunks), (0, 2));
    assert!(stats.traffic[1].loads.times.sum_ns > 0);
}

#[test]
fn health_is_green_and_closed_is_said() {
    let watched = watched(64 << 20, []);
    assert_eq!(get(&watched.server, "/healthz").status, 200);
    assert_eq!(get(&watched.server, "/readyz").status, 200);
    watched.cache.close(Duration::ZERO);
    assert_eq!(get(&watched.server, "/healthz").status, 200, "its figures are still there");
    let (server, cache) = (watched.server, watched.cache);
    drop(cache);
    for path in ["/healthz", "/readyz", "/metrics", "/api/now"] {
        assert_eq!(get(&server, path).status, 503, "{path}");
    }
    assert_eq!(get(&server, "/").status, 200, "the page says it");
}
