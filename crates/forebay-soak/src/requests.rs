//! A request of an engine, and what it has under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use forebay::control::Hit;
use forebay::mover::Batch;
use forebay::{Cache, ChunkKey, LoadOutcome, StoreOutcome};
use parking_lot::Mutex;

use crate::client::BATCH_MAX;
use crate::engine::Block;
use crate::ledger::{Count, Ledger};

/// Longest call of `cancel`.
const CANCEL_MAX: Duration = Duration::from_secs(5);

/// A prompt that is being served.
pub(crate) struct Request {
    pub(crate) keys: Vec<ChunkKey>,
    pub(crate) state: State,
    pub(crate) blocks: Vec<Block>,
    pub(crate) since: Instant,
    /// How often something came of it.
    pub(crate) steps: u32,
}

/// How far it is.
pub(crate) enum State {
    Looking,
    /// The hit pins what is loaded.
    Loading(Held<LoadOutcome>, Hit),
    Storing(Held<StoreOutcome>),
}

/// A batch under way.
pub(crate) struct Held<T> {
    pub(crate) batch: Arc<Batch<T>>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) cancel_after: Option<Duration>,
    pub(crate) preempt_after: Option<Duration>,
    pub(crate) is_preempted: bool,
    is_cancelled: bool,
}

/// The ends of a batch's chunks as they were told.
pub(crate) struct Tally {
    what: &'static str,
    pub(crate) chunks: usize,
    pub(crate) began: Instant,
    ended: Mutex<Vec<ChunkKey>>,
}

impl Tally {
    pub(crate) fn new(what: &'static str, chunks: usize) -> Arc<Self> {
        Arc::new(Self { what, chunks, began: Instant::now(), ended: Mutex::default() })
    }

    pub(crate) fn note(&self, key: ChunkKey) {
        self.ended.lock().push(key);
    }

    /// Whether each of its chunks, which are all different, has ended, and none more than once.
    pub(crate) fn is_full(&self) -> bool {
        let mut ended = self.ended.lock().clone();
        let told = ended.len();
        ended.sort_unstable();
        ended.dedup();
        told == self.chunks && ended.len() == told
    }

    pub(crate) fn text(&self) -> String {
        let (age, told) = (self.began.elapsed().as_secs_f64(), self.ended.lock().len());
        format!("{} of {age:.1} s, {told} ends of {} chunks told", self.what, self.chunks)
    }
}

impl Request {
    pub(crate) fn new(keys: Vec<ChunkKey>) -> Self {
        Self { keys, state: State::Looking, blocks: Vec::new(), since: Instant::now(), steps: 0 }
    }

    pub(crate) fn begin_anew(&mut self) {
        self.state = State::Looking;
        self.since = Instant::now();
    }

    /// Cancels what it has under way.
    pub(crate) fn cancel(&mut self, cache: &Cache, ledger: &Ledger) {
        match &mut self.state {
            State::Looking => {}
            State::Loading(held, _) => held.cancel(cache, ledger),
            State::Storing(held) => held.cancel(cache, ledger),
        }
    }

    /// What has not ended of it.
    pub(crate) fn is_under_way(&self) -> Option<&'static str> {
        match &self.state {
            State::Looking => None,
            State::Loading(held, _) => held.is_under_way(),
            State::Storing(held) => held.is_under_way(),
        }
    }

    pub(crate) fn text(&self) -> String {
        match &self.state {
            State::Looking => {
                format!("looking up {} for {:.1} s", self.keys.len(), self.since.elapsed().as_secs_f64())
            }
            State::Loading(held, _) => held.tally.text(),
            State::Storing(held) => held.tally.text(),
        }
    }
}

impl<T: Clone> Held<T> {
    /// Sometimes to be cancelled on the way, sometimes to be preempted.
    pub(crate) fn new(batch: Arc<Batch<T>>, tally: Arc<Tally>, random: &mut Rng) -> Self {
        let mut now_and_then = |one_in: u32| {
            let soon = Duration::from_micros(random.u64(..20_000));
            (random.u32(..one_in) == 0).then_some(soon)
        };
        let (cancel_after, preempt_after) = (now_and_then(12), now_and_then(20));
        Self { batch, tally, cancel_after, preempt_after, is_preempted: false, is_cancelled: false }
    }

    pub(crate) fn cancel(&mut self, cache: &Cache, ledger: &Ledger) {
        if !self.is_cancelled {
            self.is_cancelled = true;
            ledger.add(Count::Cancelled, 1);
            ledger.prompt("cancel", CANCEL_MAX, || cache.cancel(&self.batch));
        }
    }

    /// Whether its memory may be used again and nothing more is waited for: all have ended, or, of one that was preempted,
    /// none touches memory.
    pub(crate) fn is_over(&self, ledger: &Ledger, who: &str) -> bool {
        if self.tally.began.elapsed() > BATCH_MAX {
            ledger.fail(format!("{who}: {} is still under way", self.tally.text()));
            ledger.is_over.store(true, std::sync::atomic::Ordering::SeqCst);
        }
        (self.is_preempted || self.batch.is_done()) && self.batch.is_released()
    }

    fn is_under_way(&self) -> Option<&'static str> {
        if !self.batch.is_done() {
            Some("a batch is not done")
        } else if !self.batch.is_released() {
            Some("engine memory is in use")
        } else {
            None
        }
    }
}
