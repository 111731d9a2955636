//! What the mover's jobs came to: chunks, bytes and time, by tier and by way, and what is under way.
//!
//! Promises: a job is counted once, when it is answered, whatever its answer is; the figures of a job are there before
//! whoever waits for it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::job::Verdict;
use crate::catalog::ChunkRecord;
use crate::histogram::{Histogram, Times};
use crate::outcome::{Reason, Tier};
use crate::sync::{Mutex, now};

/// Loads under way that are shown, the oldest of them.
const SHOWN_MAX: usize = 64;

/// Which way a chunk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To a tier.
    Store,
    /// From a tier to the engine.
    Load,
}

impl Way {
    /// As traces call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Load => "load",
        }
    }
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Meter {
    stores: [Counters; Tier::ALL.len()],
    loads: [Counters; Tier::ALL.len()],
    under_way: Mutex<UnderWay>,
}

#[derive(Default)]
struct Counters {
    chunks: AtomicU64,
    bytes: AtomicU64,
    times: Histogram,
    /// By [`Reason::code`].
    failures: Mutex<BTreeMap<&'static str, u64>>,
}

/// Loads that were taken and are not answered, in the order in which they came.
#[derive(Default)]
struct UnderWay {
    next: u64,
    loads: BTreeMap<u64, (Tier, u32, Instant)>,
}

/// A job that is counted.
pub(super) struct Metered {
    meter: Arc<Meter>,
    way: Way,
    record: ChunkRecord,
    /// Where it is kept besides.
    kept: Option<ChunkRecord>,
    began: Instant,
    number: Option<u64>,
}

/// What went one way to or from a tier.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayStats {
    /// Chunks that went.
    pub chunks: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// How long each of them took, from being asked for to its end.
    pub times: Times,
    /// Chunks that did not go, by [`Reason::code`].
    pub failures: BTreeMap<String, u64>,
}

/// What went to and from a tier.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierTraffic {
    /// To it.
    pub stores: WayStats,
    /// From it, to the engine.
    pub loads: WayStats,
}

impl TierTraffic {
    /// These and others.
    pub fn add(&mut self, other: &Self) {
        self.stores.add(&other.stores);
        self.loads.add(&other.loads);
    }
}

impl WayStats {
    fn add(&mut self, other: &Self) {
        self.chunks += other.chunks;
        self.bytes += other.bytes;
        self.times.add(&other.times);
        for (code, count) in &other.failures {
            *self.failures.entry(code.clone()).or_default() += count;
        }
    }
}

/// A load that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadUnderWay {
    /// Where it comes from: [`Tier::name`].
    pub tier: String,
    /// Its payload bytes.
    pub bytes: u64,
    /// For how long.
    pub age: Duration,
}

impl Meter {
    /// A job that is taken now.
    pub(super) fn begin(
        self: &Arc<Self>,
        way: Way,
        record: ChunkRecord,
        kept: Option<ChunkRecord>,
    ) -> Metered {
        let began = now();
        let number = (way == Way::Load).then(|| {
            let mut under_way = self.under_way.lock();
            let number = under_way.next;
            under_way.next += 1;
            under_way.loads.insert(number, (record.tier(), record.length, began));
            number
        });
        Metered { meter: Arc::clone(self), way, record, kept, began, number }
    }

    fn counters(&self, way: Way, tier: Tier) -> &Counters {
        match way {
            Way::Store => &self.stores[tier as usize],
            Way::Load => &self.loads[tier as usize],
        }
    }

    pub(super) fn traffic(&self, tier: Tier) -> TierTraffic {
        TierTraffic {
            stores: self.counters(Way::Store, tier).stats(),
            loads: self.counters(Way::Load, tier).stats(),
        }
    }

    /// The oldest loads under way.
    pub(super) fn loads_under_way(&self) -> Vec<LoadUnderWay> {
        let under_way = self.under_way.lock();
        let shown = under_way.loads.values().take(SHOWN_MAX);
        let load = |&(tier, bytes, began): &(Tier, u32, Instant)| LoadUnderWay {
            tier: tier.name().to_owned(),
            bytes: u64::from(bytes),
            age: now() - began,
        };
        shown.map(load).collect()
    }

    /// To or from disk and remote store.
    pub(super) fn bytes_behind_memory(&self, way: Way) -> u64 {
        let of = |tier| self.counters(way, tier).bytes.load(Ordering::Relaxed);
        of(Tier::Disk) + of(Tier::Remote)
    }

    /// Jobs that failed for this reason ([`Reason::code`]), on all tiers.
    pub(super) fn failures(&self, way: Way, code: &str) -> u64 {
        let of = |tier| self.counters(way, tier).failures.lock().get(code).copied().unwrap_or_default();
        Tier::ALL.into_iter().map(of).sum()
    }
}

impl Counters {
    fn went(&self, record: &ChunkRecord, took: Duration) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(u64::from(record.length), Ordering::Relaxed);
        self.times.note(took);
    }

    fn failed(&self, reason: &Reason) {
        *self.failures.lock().entry(reason.code()).or_default() += 1;
    }

    fn stats(&self) -> WayStats {
        let failures = self.failures.lock();
        WayStats {
            chunks: self.chunks.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            times: self.times.times(),
            failures: failures.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect(),
        }
    }
}

impl Metered {
    /// It is answered now; says which way it went, and how long that took.
    pub(super) fn end(self, verdict: &Verdict) -> (Way, Duration) {
        let took = now() - self.began;
        let counters = self.meter.counters(self.way, self.record.tier());
        match verdict {
            Ok(()) => {
                counters.went(&self.record, took);
                if let Some(kept) = &self.kept {
                    self.meter.counters(Way::Store, kept.tier()).went(kept, took);
                }
            }
            Err(reason) => counters.failed(reason),
        }
        (self.way, took)
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.meter.under_way.lock().loads.remove(&number);
        }
    }
}
