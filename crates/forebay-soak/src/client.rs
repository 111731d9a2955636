//! An engine that uses the cache as vLLM's connector does: it looks up the front of each prompt, asks again while the answer
//! is not known, loads what was found into its own memory, computes the rest and what could not be loaded, and stores that.
//! It never waits: it goes around its requests, a step for each.
//!
//! It also does what engines do besides: drops hits, cancels, preempts requests and begins them anew, loses interest.
//!
//! Checks: every call returns promptly; every byte of a chunk that was loaded; each chunk ends once; each batch in
//! time; its memory comes back when the cache says that it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use forebay::mover::Batch;
use forebay::outcome::Tier;
use forebay::{Cache, ChunkKey, LoadOutcome, LoadStatus, Lookup, StoreOutcome, StoreStatus};
use parking_lot::Mutex;

use crate::engine::{Block, Pool};
use crate::instance::Instance;
use crate::ledger::{Count, Ledger};
use crate::prompts::Prompts;
use crate::requests::{Held, Request, State, Tally};

/// Requests that an engine has under way.
const RUNNING_MAX: usize = 6;
/// How long a lookup that is pending may hold a request up.
const LOOKUP_WAIT: Duration = Duration::from_secs(1);
/// What promises to return at once takes no longer, on a busy machine.
const CALL_MAX: Duration = Duration::from_secs(5);
/// The end of a batch, however the remote store fails: some waits for slots (5 s each), requests (2 s) and queues.
pub(crate) const BATCH_MAX: Duration = Duration::from_secs(45);

/// See the module's documentation.
pub(crate) struct Client {
    pub(crate) name: &'static str,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) instance: Arc<Instance>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) prompts: Prompts,
    pub(crate) random: Rng,
    pub(crate) running: Vec<Request>,
    /// Ends of batches that nobody waits for any more.
    pub(crate) left: Vec<Arc<Tally>>,
    pub(crate) epoch: u64,
}

/// What an engine says of itself, and is told, by others.
#[derive(Default)]
pub(crate) struct Signals {
    /// When it last went around.
    pub(crate) beat_ms: AtomicU64,
    /// It was told to come to rest, and has nothing under way.
    pub(crate) is_idle: AtomicBool,
    /// It is to cancel all it has.
    pub(crate) cancel_all: AtomicBool,
    /// What it has under way, for people.
    pub(crate) doing: Mutex<String>,
}

impl Client {
    /// The engine's life.
    pub(crate) fn run(mut self) {
        while !self.ledger.is_over() {
            self.signals.beat_ms.store(self.ledger.now_ms(), Ordering::Relaxed);
            let moved = match self.instance.cache() {
                Some((cache, epoch)) => self.step(&cache, epoch),
                None => false,
            };
            if !moved {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Goes around once; whether anything moved.
    fn step(&mut self, cache: &Cache, epoch: u64) -> bool {
        if epoch != self.epoch {
            self.epoch = epoch;
            self.after_a_restart();
        }
        let is_paused = self.ledger.is_paused();
        let cancel_all = self.signals.cancel_all.swap(false, Ordering::Relaxed);
        let mut moved = false;
        if self.running.len() < RUNNING_MAX && !is_paused {
            self.admit();
            moved = true;
        }
        for mut request in std::mem::take(&mut self.running) {
            if cancel_all {
                request.cancel(cache, &self.ledger);
            }
            let before = request.steps;
            let goes_on = self.advance(cache, &mut request);
            moved |= request.steps != before || !goes_on;
            if goes_on {
                self.running.push(request);
            }
        }
        let ledger = &self.ledger;
        self.left.retain(|tally| {
            if tally.began.elapsed() > BATCH_MAX {
                ledger.fail(format!("{}: {}, which nobody waits for, did not end", self.name, tally.text()));
                return false;
            }
            !tally.is_full()
        });
        let is_idle = is_paused && self.running.is_empty() && self.left.is_empty();
        self.signals.is_idle.store(is_idle, Ordering::SeqCst);
        *self.signals.doing.lock() = self.running.iter().map(Request::text).collect::<Vec<_>>().join("; ");
        moved
    }

    fn admit(&mut self) {
        match self.prompts.next(&mut self.random) {
            Ok(keys) if self.pool.could_take(&keys) => {
                self.ledger.add(Count::Requests, 1);
                self.running.push(Request::new(keys));
            }
            Ok(_) => {}
            Err(error) => self.ledger.fail(format!("{}: no keys: {error}", self.name)),
        }
    }

    /// The cache was closed: all that was under way with it has ended, and no memory is lent.
    fn after_a_restart(&mut self) {
        for request in std::mem::take(&mut self.running) {
            if let Some(what) = request.is_under_way() {
                self.ledger.fail(format!("{}: after closing, {what}: {}", self.name, request.text()));
            }
            self.finish(request);
        }
        for tally in std::mem::take(&mut self.left) {
            if !tally.is_full() {
                self.ledger.fail(format!("{}: after closing, {} has not ended", self.name, tally.text()));
            }
        }
    }

    /// Gives back what a request has.
    fn finish(&mut self, request: Request) {
        self.give(request.blocks);
    }

    fn give(&self, blocks: Vec<Block>) {
        for key in self.pool.give(blocks) {
            self.ledger.fail(format!("{}: the memory of {key} did not come back", self.name));
        }
    }

    /// A step of a request; whether it goes on.
    fn advance(&mut self, cache: &Cache, request: &mut Request) -> bool {
        match std::mem::replace(&mut request.state, State::Looking) {
            State::Looking => self.look_up(cache, request),
            State::Loading(held, hit) => self.go_on_loading(cache, request, held, hit),
            State::Storing(held) => self.go_on_storing(cache, request, held),
        }
    }

    fn look_up(&mut self, cache: &Cache, request: &mut Request) -> bool {
        let is_late = request.since.elapsed() > LOOKUP_WAIT;
        let keys = &request.keys;
        let answer = self.ledger.prompt("lookup", CALL_MAX, || {
            if is_late { cache.lookup_within(keys, Duration::ZERO) } else { cache.lookup(keys) }
        });
        let hit = match answer {
            Lookup::Pending if !is_late => {
                self.ledger.add(Count::Pending, 1);
                return true;
            }
            Lookup::Busy if !is_late => {
                self.ledger.add(Count::Busy, 1);
                return true;
            }
            Lookup::Hit(hit) => Some(hit),
            Lookup::Miss | Lookup::Pending | Lookup::Busy => None,
        };
        // What it will need, all at once, or nothing.
        let Some(blocks) = self.pool.take(&request.keys) else { return true };
        request.blocks = blocks;
        request.steps += 1;
        let Some(hit) = hit else {
            self.ledger.add(Count::Misses, 1);
            return self.compute_and_store(cache, request, 0);
        };
        self.ledger.add(Count::Hits, 1);
        self.ledger.add(Count::HitChunks, hit.chunks());
        if hit.chunks() == 0 || hit.chunks() > request.keys.len() {
            self.ledger.fail(format!("{}: a hit of {} chunks", self.name, hit.chunks()));
        }
        if self.random.u32(..20) == 0 {
            self.ledger.add(Count::HitsDropped, 1);
            drop(hit);
            return self.compute_and_store(cache, request, 0);
        }
        let found = &request.blocks[..hit.chunks().min(request.blocks.len())];
        let tally = Tally::new("a load", found.len());
        let chunks: Vec<(ChunkKey, Box<dyn forebay::mover::Sink>)> = found
            .iter()
            .map(|block| {
                block.spoil();
                (block.key, Box::new(block.lend(&self.pool)) as _)
            })
            .collect();
        self.ledger.add(Count::LoadsBegun, chunks.len());
        let (ends, ledger) = (Arc::clone(&tally), Arc::clone(&self.ledger));
        let on_loaded = move |outcome: &LoadOutcome| {
            ledger.add(Count::Ended, 1);
            ends.note(outcome.key);
        };
        let batch = self.ledger.prompt("load", CALL_MAX, || cache.load(chunks, Some(Arc::new(on_loaded))));
        request.state = State::Loading(Held::new(batch, tally, &mut self.random), hit);
        true
    }

    fn go_on_loading(
        &mut self,
        cache: &Cache,
        request: &mut Request,
        mut held: Held<LoadOutcome>,
        hit: forebay::control::Hit,
    ) -> bool {
        self.upset(cache, &mut held);
        let chunks = held.tally.chunks;
        if !held.is_over(&self.ledger, self.name) {
            request.state = State::Loading(held, hit);
            return true;
        }
        request.steps += 1;
        drop(hit);
        let Some(ends) = self.ends(&held) else {
            // Preempted: its memory is free though its batch has not ended, and it begins anew.
            self.left.push(Arc::clone(&held.tally));
            self.give(std::mem::take(&mut request.blocks));
            request.begin_anew();
            return true;
        };
        let mut first_missing = chunks;
        for (index, end) in ends.iter().enumerate() {
            let count = match (end.status, end.tier) {
                (LoadStatus::Loaded, Some(Tier::Memory)) => Count::FromMemory,
                (LoadStatus::Loaded, Some(Tier::Disk)) => Count::FromDisk,
                (LoadStatus::Loaded, _) => Count::FromRemote,
                (LoadStatus::Miss, _) => Count::LoadMisses,
                (LoadStatus::Failed, _) => Count::LoadsFailed,
            };
            self.ledger.add(count, 1);
            self.ledger.look_at(end.reason.as_ref());
            if end.status == LoadStatus::Loaded {
                if let Some(what) = request.blocks[index].wrong() {
                    let name = self.name;
                    self.ledger.fail(format!("{name}: {} from {:?}: {what}", end.key, end.tier));
                }
            } else {
                first_missing = first_missing.min(index);
            }
        }
        self.compute_and_store(cache, request, first_missing)
    }

    /// Computes and stores what stands from `from` on.
    fn compute_and_store(&mut self, cache: &Cache, request: &mut Request, from: usize) -> bool {
        if from == request.keys.len() {
            self.give(std::mem::take(&mut request.blocks));
            return false;
        }
        let rest = &request.blocks[from..];
        if !rest.iter().all(Block::compute) {
            self.ledger.fail(format!("{}: memory of a load that ended is still lent", self.name));
            return false;
        }
        let parent = from.checked_sub(1).map(|before| request.keys[before]);
        let tally = Tally::new("a store", rest.len());
        let chunks: Vec<(ChunkKey, Box<dyn forebay::mover::Source>)> =
            rest.iter().map(|block| (block.key, Box::new(block.lend(&self.pool)) as _)).collect();
        self.ledger.add(Count::StoresBegun, chunks.len());
        let (ends, ledger, instance) =
            (Arc::clone(&tally), Arc::clone(&self.ledger), Arc::clone(&self.instance));
        let on_stored = move |outcome: &StoreOutcome| {
            ledger.add(Count::Ended, 1);
            let count = match outcome.status {
                StoreStatus::Stored => Count::Stored,
                StoreStatus::Present => Count::Present,
                StoreStatus::Refused => Count::Refused,
                StoreStatus::Failed => Count::StoresFailed,
            };
            ledger.add(count, 1);
            ledger.look_at(outcome.reason.as_ref());
            let on_disk = |end: &forebay::outcome::TierEnd| {
                end.tier == Tier::Disk && matches!(end.status, StoreStatus::Stored)
            };
            if outcome.tiers.iter().any(on_disk) {
                instance.told(outcome.key);
            }
            ends.note(outcome.key);
        };
        let stored =
            self.ledger.prompt("store", CALL_MAX, || cache.store(chunks, parent, Some(Arc::new(on_stored))));
        match stored {
            Ok(batch) => {
                request.state = State::Storing(Held::new(batch, tally, &mut self.random));
                true
            }
            Err(error) => {
                self.ledger.fail(format!("{}: a store was not taken: {error}", self.name));
                false
            }
        }
    }

    fn go_on_storing(&mut self, cache: &Cache, request: &mut Request, mut held: Held<StoreOutcome>) -> bool {
        self.upset(cache, &mut held);
        if !held.is_over(&self.ledger, self.name) {
            request.state = State::Storing(held);
            return true;
        }
        request.steps += 1;
        if self.ends(&held).is_none() {
            self.left.push(Arc::clone(&held.tally));
        }
        self.give(std::mem::take(&mut request.blocks));
        false
    }

    /// What engines do to what is under way: now and then one is cancelled, or its request preempted.
    fn upset<T: Clone>(&mut self, cache: &Cache, held: &mut Held<T>) {
        if held.preempt_after.is_some_and(|after| held.tally.began.elapsed() > after) {
            held.preempt_after = None;
            held.is_preempted = true;
            self.ledger.add(Count::Preempted, 1);
            held.cancel(cache, &self.ledger);
        }
        if held.cancel_after.is_some_and(|after| held.tally.began.elapsed() > after) {
            held.cancel_after = None;
            held.cancel(cache, &self.ledger);
        }
    }

    /// The ends of a batch that is done, each told once; none of one that is not.
    fn ends<T: Clone>(&self, held: &Held<T>) -> Option<Vec<T>> {
        let batch: &Batch<T> = &held.batch;
        let ends = batch.wait(Some(Duration::ZERO))?;
        if !held.tally.is_full() {
            self.ledger.fail(format!("{}: a batch is done, and {}", self.name, held.tally.text()));
        }
        Some(ends)
    }
}
