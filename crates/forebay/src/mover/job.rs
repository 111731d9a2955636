//! A chunk that is to be moved: its plan, which must be answered, and the engine memory it comes from or goes to.
//!
//! Promises: a plan is answered exactly once, and answers for itself when it is dropped; engine memory is let go of
//! before that is told, and both before the plan is answered.

use std::sync::Arc;

use tracing::Span;
use tracing::field::Empty;

use super::batch::Batch;
use super::memory::{Sink, Source};
use super::meter::{Meter, Metered, Way};
use crate::catalog::{ChunkRecord, Plan};
use crate::error::Result;
use crate::outcome::Reason;

/// What became of a plan.
pub type Verdict = Result<(), Reason>;

/// Called once with the plan and what became of it.
type AnswerFn = Box<dyn FnOnce(Plan, Verdict) + Send>;

/// A plan that must be answered; left unanswered (a panic, a lost thread) it answers for itself.
pub(super) struct Open {
    plan: Option<(Plan, AnswerFn)>,
    /// Counts the end, once a mover has taken the job.
    metered: Option<Metered>,
    /// The chunk's way, for who traces it: from being taken by a mover until it is answered.
    way: Span,
}

impl Open {
    pub(super) fn way(&self) -> Span {
        self.way.clone()
    }

    pub(super) fn record(&self) -> ChunkRecord {
        self.plan.as_ref().expect("not answered yet").0.record
    }

    pub(super) fn answer(mut self, verdict: Verdict) {
        self.give(verdict);
    }

    fn give(&mut self, verdict: Verdict) {
        let Some((plan, answer)) = self.plan.take() else { return };
        let record = plan.record;
        let outcome = verdict.as_ref().map_or_else(Reason::code, |()| "done");
        let ended = self.metered.take().map(|metered| metered.end(&verdict));
        let span = std::mem::replace(&mut self.way, Span::none()).entered();
        span.record("outcome", outcome);
        answer(plan, verdict);
        drop(span);
        if let Some((way, took)) = ended {
            // In no span: the line says all by itself, and costs half of what a span and a line in it do.
            tracing::debug!(
                target: crate::CHUNK_TRACES, parent: None, tier = record.tier().name(), key = %record.key,
                bytes = record.length, outcome, microseconds = took.as_micros(), "{}", way.name()
            );
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.give(Err(Reason::Abandoned));
    }
}

/// Asked before a job begins.
type CancelledFn = Box<dyn Fn() -> bool + Send>;

/// One chunk to be moved: `M` is the engine memory it comes from or goes to.
pub struct Job<M: ?Sized> {
    pub(super) cancelled: CancelledFn,
    /// Before `open`, so that it is let go of before the end is told.
    pub(super) lent: Lent<M>,
    /// Where in the memory tier a chunk that is loaded is to be kept besides.
    pub(super) kept: Option<ChunkRecord>,
    pub(super) open: Open,
}

/// Engine memory, and the word that it is in use. Dropped in this order: it is let go of before that is told.
pub(super) struct Lent<M: ?Sized> {
    pub(super) memory: Box<M>,
    _touch: Box<dyn Send>,
}

/// A chunk to be written.
pub type StoreJob = Job<dyn Source>;
/// A chunk to be read.
pub type LoadJob = Job<dyn Sink>;

impl<M: ?Sized> Job<M> {
    /// A job of `batch`: carry out `plan` on `memory` and call `answer`.
    pub fn new<T: Send + 'static>(
        batch: &Arc<Batch<T>>,
        plan: Plan,
        memory: Box<M>,
        answer: impl FnOnce(Plan, Verdict) + Send + 'static,
    ) -> Self {
        let watched = Arc::clone(batch);
        Self {
            open: Open { plan: Some((plan, Box::new(answer))), metered: None, way: Span::none() },
            cancelled: Box::new(move || watched.is_cancelled()),
            lent: Lent { memory, _touch: Box::new(batch.touch()) },
            kept: None,
        }
    }

    /// A load that writes what it loads into the memory tier too: `kept` is the record of a plan to write there, which
    /// is answered when this job is.
    #[must_use]
    pub fn keeping(mut self, kept: Option<ChunkRecord>) -> Self {
        self.kept = kept;
        self
    }

    /// Has it counted and traced, from now on.
    pub(super) fn metered(mut self, meter: &Arc<Meter>, way: Way) -> Self {
        let record = self.open.record();
        self.open.metered = Some(meter.begin(way, record, self.kept));
        let (tier, bytes) = (record.tier().name(), record.length);
        self.open.way = match way {
            Way::Store => {
                tracing::trace_span!(target: crate::CHUNK_TRACES, "store", tier, key = %record.key, bytes, outcome = Empty)
            }
            Way::Load => {
                tracing::trace_span!(target: crate::CHUNK_TRACES, "load", tier, key = %record.key, bytes, outcome = Empty)
            }
        };
        self
    }

    /// Answers without moving anything. Engine memory is let go of first.
    pub(super) fn refuse(self, reason: Reason) {
        let Self { open, lent, .. } = self;
        drop(lent);
        open.answer(Err(reason));
    }
}
