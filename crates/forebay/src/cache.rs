//! The façade: control plane and mover in one process.
//!
//! Promises, beyond those of the two: `on_complete` is called exactly once a chunk, when it has ended on every tier
//! it was meant for, and the batch is done after its last chunk's call; a panic in it is caught and logged. In
//! staging-only mode nothing but disk and remote store ever answers.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::catalog::{NamespaceId, Plan};
use crate::config::{Config, DirectIo};
use crate::control::{ControlPlane, ControlStats, LoadPlan, Lookup, Onward, Pinned, Pinning, StorePlan};
use crate::copies::Copies;
use crate::error::{Error, ErrorKind, Result};
use crate::events::Events;
use crate::following::Following;
use crate::key::{ChunkKey, Namespace};
use crate::mover::{Batch, Job, Mover, MoverStats, Sink, Source, Verdict};
use crate::outcome::{LoadOutcome, LoadStatus, Reason, StoreOutcome, Tier, TierEnd};
use crate::sync::{Condvar, Mutex, now, thread_local};
use crate::tier::disk::block_file::BlockFile;
use crate::tier::disk::data_files::DataFiles;
use crate::tier::remote::client::Client;

/// The longest that closing waits for stores to end on all tiers.
const CLOSE_MAX: Duration = Duration::from_hours(24);

thread_local! {
    /// Whether this thread is in a callback: who closes the cache there does not wait for what comes after it.
    static CALLING: Cell<bool> = const { Cell::new(false) };
}

/// Called with the end of each chunk of a store.
pub type OnStored = Arc<dyn Fn(&StoreOutcome) + Send + Sync>;
/// Called with the end of each chunk of a load.
pub type OnLoaded = Arc<dyn Fn(&LoadOutcome) + Send + Sync>;

/// A KV cache on local disk, in a remote store, or both. See the crate's documentation.
pub struct Cache {
    control: Arc<ControlPlane>,
    mover: Arc<Mover>,
    following: Arc<Following>,
    copies: Arc<Copies>,
    stores: Arc<Stores>,
    chunk_bytes: u64,
}

/// Chunks of stores that have not ended on all their tiers.
#[derive(Default)]
struct Stores {
    state: Mutex<StoresState>,
    ended: Condvar,
}

#[derive(Default)]
struct StoresState {
    closed: bool,
    open: usize,
}

/// One of them; it has ended when this is dropped.
struct OpenStore(Arc<Stores>);

impl Stores {
    /// Notes that so many begin; none once they are closed.
    fn begin(self: &Arc<Self>, chunks: usize) -> Vec<OpenStore> {
        let mut state = self.state.lock();
        if state.closed {
            return Vec::new();
        }
        state.open += chunks;
        (0..chunks).map(|_| OpenStore(Arc::clone(self))).collect()
    }

    /// Lets no more begin, and waits for those that have, at most until `deadline`.
    fn close(&self, deadline: Instant) {
        let mut state = self.state.lock();
        state.closed = true;
        while state.open > 0 && !self.ended.wait_until(&mut state, deadline).timed_out() {}
    }
}

impl Drop for OpenStore {
    fn drop(&mut self) {
        self.0.state.lock().open -= 1;
        self.0.ended.notify_all();
    }
}

/// Figures of a cache.
#[derive(Debug, Clone)]
pub struct CacheStats {
    /// What was decided.
    pub control: ControlStats,
    /// What was done.
    pub mover: MoverStats,
}

impl Cache {
    /// Opens the cache that `config` describes, for chunks of up to `chunk_bytes` payload bytes. `namespace` is
    /// noted in the directory for people to read.
    ///
    /// # Errors
    /// When the configuration does not fit, memory is not to be had, or the directory cannot be used.
    pub fn open(config: &Config, chunk_bytes: u64, namespace: Option<&Namespace>) -> Result<Self> {
        Self::open_with(config, chunk_bytes, namespace, |file| file)
    }

    /// As [`Self::open`], with `wrap` around each data file, in the order of their drives: the place for faults, delays and
    /// limits in tests.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        config: &Config,
        chunk_bytes: u64,
        namespace: Option<&Namespace>,
        wrap: impl FnMut(Arc<dyn BlockFile>) -> Arc<dyn BlockFile>,
    ) -> Result<Self> {
        Self::open_over(config, chunk_bytes, namespace, wrap, Client::of(config)?)
    }

    /// As [`Self::open_with`], with a client of the remote store of the caller's making.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_over(
        config: &Config,
        chunk_bytes: u64,
        namespace: Option<&Namespace>,
        wrap: impl FnMut(Arc<dyn BlockFile>) -> Arc<dyn BlockFile>,
        client: Option<Arc<Client>>,
    ) -> Result<Self> {
        // What is wrong with the configuration is said before anything is touched.
        config.staging_shape(chunk_bytes)?;
        let control = Arc::new(ControlPlane::open_with(config, chunk_bytes, namespace, client.clone())?);
        let files = DataFiles::open(control.data_paths(), config.disk_direct_io == DirectIo::Auto)?;
        let mover = Arc::new(Mover::start(config, chunk_bytes, files.wrapped(wrap), client)?);
        let following = Arc::<Following>::default();
        let copies = Copies::new(Arc::clone(&control), &mover, Arc::clone(&following));
        Ok(Self { control, mover, following, copies, stores: Arc::default(), chunk_bytes })
    }

    /// How much of this prompt is there. What is on disk is pinned until the hit is dropped. Never waits: with a remote
    /// store the answer may be [`Lookup::Pending`].
    pub fn lookup(&self, keys: &[ChunkKey]) -> Lookup {
        self.control.lookup(keys)
    }

    /// As [`Self::lookup`], and waits for the remote store for at most `patience`; after it, what is known then is the
    /// answer.
    pub fn lookup_within(&self, keys: &[ChunkKey], patience: Duration) -> Lookup {
        self.control.lookup_within(keys, patience)
    }

    /// Takes all chunks out of memory and disk, or those of a namespace; says how many copies that were. See
    /// [`ControlPlane::clear`].
    pub fn clear(&self, namespace: Option<NamespaceId>) -> u64 {
        self.control.clear(namespace)
    }

    /// What comes onto a tier and what leaves it from now on.
    pub fn events(&self) -> Events {
        self.control.events()
    }

    /// What decides for it. Held, it keeps neither the cache open nor its directories owned.
    pub fn control(&self) -> Arc<ControlPlane> {
        Arc::clone(&self.control)
    }

    /// Keeps chunks on disk from being evicted until they are unpinned; says how many are. See [`ControlPlane::pin`].
    ///
    /// # Errors
    /// As there.
    pub fn pin(&self, which: Pinning<'_>) -> Result<Pinned> {
        self.control.pin(which)
    }

    /// Lets chunks be evicted again; says how many were pinned.
    ///
    /// # Errors
    /// As of [`Self::pin`].
    pub fn unpin(&self, which: Pinning<'_>) -> Result<u64> {
        self.control.unpin(which)
    }

    /// Gives the disk so many bytes until the next start; says how many of them chunks may take. See
    /// [`ControlPlane::set_disk_capacity`].
    ///
    /// # Errors
    /// As there.
    pub fn set_disk_capacity(&self, capacity_bytes: u64) -> Result<u64> {
        self.control.set_disk_capacity(capacity_bytes)
    }

    /// Stores consecutive chunks of a prompt; `parent` is the chunk before the first of them. Returns at once.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`], and nothing is stored, when a chunk is empty or larger than `chunk_bytes`.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the callback is handed over: each chunk keeps a share of it"
    )]
    pub fn store(
        &self,
        chunks: Vec<(ChunkKey, Box<dyn Source>)>,
        parent: Option<ChunkKey>,
        on_complete: Option<OnStored>,
    ) -> Result<Arc<Batch<StoreOutcome>>> {
        let mut lengths = Vec::with_capacity(chunks.len());
        for (key, source) in &chunks {
            lengths.push((*key, self.chunk_length(source.len())?));
        }
        let batch = Batch::new(chunks.len());
        let mut open = self.stores.begin(chunks.len()).into_iter();
        let plans = if open.len() == chunks.len() {
            self.control.plan_store(&lengths, parent)
        } else {
            chunks.iter().map(|_| StorePlan::Refused(Reason::Closed)).collect()
        };
        for (index, ((key, source), plan)) in chunks.into_iter().zip(plans).enumerate() {
            let end = {
                let batch = Arc::clone(&batch);
                let on_complete = on_complete.clone();
                let open = open.next();
                move |ends: Vec<TierEnd>| {
                    // Before the call, which may be what closes the cache.
                    drop(open);
                    let outcome = StoreOutcome::of(key, ends);
                    tell(on_complete.as_deref(), &outcome);
                    batch.end(index, outcome);
                }
            };
            let length = lengths[index].1;
            match plan {
                StorePlan::Write { plan, not_on_disk } => {
                    let control = Arc::clone(&self.control);
                    let (following, copies) = (Arc::clone(&self.following), Arc::clone(&self.copies));
                    let answer = move |plan: Plan, verdict: Verdict| {
                        let committed = control.finish_store(plan.ticket, verdict.is_ok());
                        let onward = verdict.and(committed);
                        let stored = onward.is_ok();
                        let (tier, reason) = (plan.record.tier(), onward.as_ref().err());
                        if tier == Tier::Remote && !control.is_being_copied(&key, tier) {
                            // Another store of it, which went to disk meanwhile, may wait for it to be copied.
                            copies.tell(key, &TierEnd::of(tier, reason), &Onward::default());
                        }
                        let mut ends: Vec<TierEnd> = not_on_disk
                            .map(|reason| TierEnd::refused(Tier::Disk, reason))
                            .into_iter()
                            .collect();
                        ends.push(TierEnd::of(tier, reason));
                        go_onward(&copies, (key, length), onward.unwrap_or_default(), ends, end);
                        following.ended(plan.ticket, stored);
                    };
                    self.mover.store(Job::new(&batch, plan, source, answer));
                }
                StorePlan::Present(onward) => go_onward(&self.copies, (key, length), onward, Vec::new(), end),
                StorePlan::InFlight(ticket) => {
                    let tier = ticket.tier();
                    let before = if index == 0 { parent } else { Some(lengths[index - 1].0) };
                    let (control, copies) = (Arc::clone(&self.control), Arc::clone(&self.copies));
                    let told = move |stored| {
                        if stored {
                            let onward = control.onward_of(tier, key, length, before);
                            go_onward(&copies, (key, length), onward, vec![TierEnd::present(tier)], end);
                        } else {
                            end(vec![TierEnd::refused(tier, Reason::InFlight)]);
                        }
                    };
                    self.following.follow(&self.control, ticket, &key, Box::new(told));
                }
                StorePlan::Refused(reason) => end(vec![TierEnd::refused(self.control.first_tier(), reason)]),
            }
        }
        Ok(batch)
    }

    /// Loads chunks into engine memory. Returns at once. What a chunk that is not
    /// [`Loaded`](LoadStatus::Loaded) has left in its memory is not to be used.
    #[expect(clippy::needless_pass_by_value, reason = "as in `store`")]
    pub fn load(
        &self,
        chunks: Vec<(ChunkKey, Box<dyn Sink>)>,
        on_complete: Option<OnLoaded>,
    ) -> Arc<Batch<LoadOutcome>> {
        // What does not fit is refused by the mover, if it is there at all.
        let length = |sink: &dyn Sink| u32::try_from(sink.len()).unwrap_or(u32::MAX);
        let lengths: Vec<_> = chunks.iter().map(|(key, sink)| (*key, length(&**sink))).collect();
        let batch = Batch::new(chunks.len());
        let plans = self.control.plan_load(&lengths);
        for (index, ((key, sink), plan)) in chunks.into_iter().zip(plans).enumerate() {
            let end = {
                let batch = Arc::clone(&batch);
                let on_complete = on_complete.clone();
                move |status, reason, tier| {
                    let outcome = LoadOutcome { key, status, reason, tier };
                    tell(on_complete.as_deref(), &outcome);
                    batch.end(index, outcome);
                }
            };
            let plan = match plan {
                Ok(plan) => plan,
                Err(Reason::NotThere) => {
                    end(LoadStatus::Miss, Some(Reason::NotThere), None);
                    continue;
                }
                Err(reason) => {
                    end(LoadStatus::Failed, Some(reason), None);
                    continue;
                }
            };
            let LoadPlan { read, write_back } = plan;
            let (control, following) = (Arc::clone(&self.control), Arc::clone(&self.following));
            let kept = write_back.as_ref().map(|plan| plan.record);
            let answer = move |plan: Plan, verdict: Verdict| {
                let (status, reason) = load_status(verdict);
                if let Some(write_back) = write_back {
                    let is_kept = status == LoadStatus::Loaded;
                    control.finish_write_back(write_back.ticket, is_kept);
                    following.ended(write_back.ticket, is_kept);
                }
                control.finish_load(plan.ticket, status, reason.as_ref());
                end(status, reason, Some(plan.record.tier()));
            };
            self.mover.load(Job::new(&batch, read, sink, answer).keeping(kept));
        }
        batch
    }

    /// Ends what has not begun of a batch as cancelled; what has begun goes on to its end.
    pub fn cancel<T>(&self, batch: &Batch<T>) {
        self.mover.cancel(batch);
    }

    /// Figures.
    pub fn stats(&self) -> CacheStats {
        CacheStats { control: self.control.stats(), mover: self.mover.stats() }
    }

    /// Takes no more work, finishes what it has for at most `drain`, ends the rest, writes a checkpoint.
    pub fn close(&self, drain: Duration) {
        let deadline = now().checked_add(drain);
        let stores_end = if CALLING.with(Cell::get) { Some(now()) } else { deadline };
        self.stores.close(stores_end.unwrap_or_else(|| now() + CLOSE_MAX));
        // What ends from now on starts no other.
        self.control.stop_copies();
        self.mover.close(deadline.map_or(drain, |deadline| deadline.saturating_duration_since(now())));
        self.following.give_up();
        self.control.close();
        self.copies.give_up();
    }

    fn chunk_length(&self, bytes: usize) -> Result<u32> {
        match u32::try_from(bytes) {
            Ok(length) if length > 0 && u64::from(length) <= self.chunk_bytes => Ok(length),
            Ok(0) => Err(Error::new(ErrorKind::Argument, "a chunk to be stored is empty")),
            _ => Err(Error::new(
                ErrorKind::Argument,
                format!("a chunk of {bytes} bytes is larger than chunk_bytes, {}", self.chunk_bytes),
            )),
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

/// How a load that ended with `verdict` ended.
pub fn load_status(verdict: Verdict) -> (LoadStatus, Option<Reason>) {
    match verdict {
        Ok(()) => (LoadStatus::Loaded, None),
        Err(reason @ (Reason::Corrupt(_) | Reason::NotThere)) => (LoadStatus::Miss, Some(reason)),
        Err(reason) => (LoadStatus::Failed, Some(reason)),
    }
}

/// Ends a chunk, when it has ended on the tiers behind too.
fn go_onward(
    copies: &Arc<Copies>,
    (key, length): (ChunkKey, u32),
    onward: Onward,
    mut ends: Vec<TierEnd>,
    end: impl FnOnce(Vec<TierEnd>) + Send + 'static,
) {
    ends.extend(onward.ended);
    if let Some(tier) = onward.queued {
        let then = Arc::clone(copies);
        let told = move |ended, onward| {
            ends.push(ended);
            go_onward(&then, (key, length), onward, ends, end);
        };
        copies.follow(key, length, tier, Box::new(told));
        return;
    }
    end(ends);
}

/// Calls a callback that may panic.
fn tell<T>(on_complete: Option<&(dyn Fn(&T) + Send + Sync)>, outcome: &T) {
    let Some(on_complete) = on_complete else { return };
    let outer = CALLING.with(|calling| calling.replace(true));
    if catch_unwind(AssertUnwindSafe(|| on_complete(outcome))).is_err() {
        tracing::error!("an on_complete callback panicked; the chunk's outcome stands");
    }
    CALLING.with(|calling| calling.set(outer));
}

#[cfg(models)]
pub mod models;
