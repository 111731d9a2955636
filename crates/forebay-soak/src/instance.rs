//! One instance of the cache: its directory and configuration, and the cache while it is open.
//!
//! Promises: whoever asks for the cache gets the one that is open, or none for the moment; it never waits. Opened again,
//! it answers from disk with what it said was stored there, unless that was evicted or damaged meanwhile.

use std::collections::{HashSet, VecDeque};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay::catalog::ChunkRecord;
use forebay::outcome::Tier;
use forebay::tier::disk::recovery::read_journal;
use forebay::{Cache, ChunkKey, Config, LoadStatus, Value};
use parking_lot::{Mutex, RwLock};

use crate::content::{self, LARGE_BYTES};
use crate::ledger::{Count, Ledger};

/// Chunks that are looked for after a restart.
const TOLD_MAX: usize = 96;
/// A closed cache that is not let go of within this time is a failure, and so is a load of one chunk.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module's documentation.
pub(crate) struct Instance {
    pub(crate) name: &'static str,
    pub(crate) directory: PathBuf,
    config: Config,
    cache: RwLock<Option<Arc<Cache>>>,
    /// How often it was opened.
    epoch: AtomicU64,
    told: Mutex<Told>,
    /// Chunks that were on disk when it was opened.
    chunks_at_start: AtomicU64,
}

/// What the cache said is on disk.
#[derive(Default)]
struct Told {
    keys: VecDeque<ChunkKey>,
    /// Of them, those that were damaged since.
    damaged: HashSet<ChunkKey>,
    /// Something was damaged, and it is not known what.
    is_unsure: bool,
}

impl Instance {
    /// Opens it for the first time.
    pub(crate) fn open<const N: usize>(
        name: &'static str,
        directory: PathBuf,
        url: &str,
        more: [(&str, Value); N],
    ) -> Result<Self, String> {
        let mut values = vec![
            ("local_disk", Value::from(directory.to_str().ok_or("the directory's name is no text")?)),
            ("disk_min_free_size", Value::from(0.0)),
            ("remote_url", Value::from(url)),
            ("remote_timeout_s", Value::from(1.0)),
            ("remote_remember_s", Value::from(2.0)),
            ("load_timeout_s", Value::from(5.0)),
            ("store_timeout_s", Value::from(5.0)),
            ("max_queued_chunks", Value::from(512)),
        ];
        values.extend(more);
        let config = Config::from_values(values).map_err(|error| error.to_string())?.config;
        let cache = Cache::open(&config, LARGE_BYTES as u64, None).map_err(|error| error.to_string())?;
        let cache = RwLock::new(Some(Arc::new(cache)));
        let (epoch, told) = (AtomicU64::new(1), Mutex::default());
        Ok(Self { name, directory, config, cache, epoch, told, chunks_at_start: AtomicU64::new(0) })
    }

    /// The cache, and how often it was opened; none while it is closed.
    pub(crate) fn cache(&self) -> Option<(Arc<Cache>, u64)> {
        let cache = self.cache.try_read()?;
        cache.as_ref().map(|cache| (Arc::clone(cache), self.epoch.load(Ordering::SeqCst)))
    }

    pub(crate) fn chunks_at_start(&self) -> u64 {
        self.chunks_at_start.load(Ordering::SeqCst)
    }

    /// Notes that the cache said that this is on disk.
    pub(crate) fn told(&self, key: ChunkKey) {
        let mut told = self.told.lock();
        told.keys.push_back(key);
        if told.keys.len() > TOLD_MAX {
            told.keys.pop_front();
        }
    }

    /// The chunks that are on disk, as its files say; none while they change under who reads.
    pub(crate) fn records(&self) -> Option<Vec<ChunkRecord>> {
        let found = read_journal(&self.directory).ok()?;
        found.damage.is_none().then_some(found.records)
    }

    /// Writes `bytes` over the data file, in the chunk that `choose` chooses, from where it says on. `bytes` is given what
    /// stands there.
    pub(crate) fn damage(
        &self,
        choose: impl FnOnce(&[ChunkRecord]) -> Option<(ChunkRecord, u64)>,
        bytes: impl FnOnce(&mut Vec<u8>),
        len: usize,
    ) -> Option<()> {
        let (victim, at) = choose(&self.records()?)?;
        let path = self.directory.join("data");
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).ok()?;
        let mut there = vec![0; len];
        let mut told = self.told.lock();
        file.read_exact_at(&mut there, at).ok()?;
        bytes(&mut there);
        file.write_all_at(&there, at).ok()?;
        // Its blocks may be another chunk's by now.
        let is_still = self.records().is_some_and(|records| {
            records.iter().any(|it| it.key == victim.key && it.generation == victim.generation)
        });
        told.is_unsure |= !is_still;
        told.damaged.insert(victim.key);
        Some(())
    }

    /// Closes it after `drain`, does something to its files, and opens it again. `is_warm`: what was told is looked for.
    pub(crate) fn reopen(&self, ledger: &Ledger, drain: Duration, is_warm: bool, between: impl FnOnce()) {
        let Some(cache) = self.cache.write().take() else { return };
        cache.close(drain);
        count_what_it_did(ledger, &cache);
        let deadline = Instant::now() + PATIENCE;
        while Arc::strong_count(&cache) > 1 {
            if Instant::now() > deadline {
                ledger.fail(format!("{}: somebody holds the cache that was closed", self.name));
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(cache);
        let records = self.records();
        if records.is_none() {
            ledger.fail(format!("{}: its journal is damaged after it was closed", self.name));
        }
        let on_disk: HashSet<ChunkKey> =
            records.unwrap_or_default().iter().map(|record| record.key).collect();
        between();
        let cache = match Cache::open(&self.config, LARGE_BYTES as u64, None) {
            Ok(cache) => cache,
            Err(error) => return ledger.fail(format!("{}: it does not open again: {error}", self.name)),
        };
        self.chunks_at_start.store(cache.stats().control.disk.chunks, Ordering::SeqCst);
        let told = std::mem::take(&mut *self.told.lock());
        if is_warm && !told.is_unsure {
            let rebuilt = cache.stats().control.disk.rebuilt;
            if let Some(why) = rebuilt {
                ledger.fail(format!("{}: rebuilt after it was closed: {why}", self.name));
            }
            // Once each: what is loaded from disk is in memory then.
            let told: HashSet<ChunkKey> =
                told.keys.into_iter().filter(|key| !told.damaged.contains(key)).collect();
            let wanted = told.iter().filter(|key| on_disk.contains(*key));
            wanted.for_each(|key| self.look_for(ledger, &cache, *key));
        }
        *self.cache.write() = Some(Arc::new(cache));
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Notes what the open cache did, at the end of all.
    pub(crate) fn conclude(&self, ledger: &Ledger) {
        if let Some((cache, _)) = self.cache() {
            count_what_it_did(ledger, &cache);
        }
    }

    fn look_for(&self, ledger: &Ledger, cache: &Cache, key: ChunkKey) {
        let memory = Arc::new(Mutex::new(vec![0; content::length_of(&key)]));
        let batch = cache.load(vec![(key, Box::new(Arc::clone(&memory)))], None);
        let outcome = batch.wait(Some(PATIENCE)).map(|mut ends| ends.remove(0));
        match outcome {
            Some(end) if end.status == LoadStatus::Loaded && end.tier == Some(Tier::Disk) => {
                if let Some(at) = content::first_wrong(&key, &memory.lock()) {
                    ledger.fail(format!("{}: {key} is wrong at byte {at} after a restart", self.name));
                }
                ledger.add(Count::Warm, 1);
            }
            other => ledger.fail(format!("{}: {key} is not on disk after a restart: {other:?}", self.name)),
        }
    }
}

/// Figures that begin anew when a cache is opened again.
fn count_what_it_did(ledger: &Ledger, cache: &Cache) {
    let stats = cache.stats().control;
    let damaged = stats.disk.corrupt + stats.remote.map_or(0, |remote| remote.corrupt);
    ledger.add(Count::Evicted, usize::try_from(stats.disk.evictions).unwrap_or(usize::MAX));
    ledger.add(Count::FoundDamaged, usize::try_from(damaged).unwrap_or(usize::MAX));
}
