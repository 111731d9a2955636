//! What is counted, what went wrong, and what everybody is to do now.
//!
//! Promises: a failure that was noted once is in the exit code, whatever comes after it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay::Reason;
use parking_lot::Mutex;

/// More failures than these are counted and not kept.
const FAILURES_MAX: usize = 20;

macro_rules! counts {
    ($($name:ident = $text:literal,)*) => {
        /// What is counted.
        #[derive(Debug, Clone, Copy)]
        pub(crate) enum Count { $($name,)* }

        const NAMES: &[&str] = &[$($text,)*];
    };
}

counts! {
    Requests = "requests",
    Hits = "lookups that hit",
    HitChunks = "chunks they found",
    Misses = "lookups that missed",
    Pending = "lookups to be asked again",
    Busy = "lookups too many",
    LoadsBegun = "chunks to be loaded",
    FromMemory = "loaded from memory",
    FromDisk = "loaded from disk",
    FromRemote = "loaded from the server",
    LoadMisses = "loads that missed",
    LoadsFailed = "loads that failed",
    StoresBegun = "chunks to be stored",
    Stored = "stored",
    Present = "stored already",
    Refused = "stores refused",
    StoresFailed = "stores that failed",
    Ended = "ends of chunks",
    Cancelled = "batches cancelled",
    Preempted = "requests preempted",
    HitsDropped = "hits dropped",
    MemoryFaults = "faults of engine memory",
    Evicted = "evicted from disk",
    FoundDamaged = "found damaged",
    Warm = "chunks warm after a restart",
}

/// See the module's documentation.
pub(crate) struct Ledger {
    began: Instant,
    counts: [AtomicU64; NAMES.len()],
    failures: Mutex<(u64, Vec<String>)>,
    /// No new request, no new fault: all is to come to rest.
    pub(crate) is_paused: AtomicBool,
    /// All is to end.
    pub(crate) is_over: AtomicBool,
    slowest_call_us: AtomicU64,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            counts: [const { AtomicU64::new(0) }; NAMES.len()],
            failures: Mutex::default(),
            is_paused: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            slowest_call_us: AtomicU64::new(0),
        }
    }

    pub(crate) fn add(&self, count: Count, by: usize) {
        self.counts[count as usize].fetch_add(by as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// Milliseconds since the beginning.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes something that must not be, and says it at once.
    pub(crate) fn fail(&self, what: impl Into<String>) {
        let what = format!("at {:.1} s: {}", self.began.elapsed().as_secs_f64(), what.into());
        let mut failures = self.failures.lock();
        failures.0 += 1;
        if failures.1.len() < FAILURES_MAX {
            eprintln!("FAILED {what}");
            failures.1.push(what);
        }
    }

    /// Notes a reason that no fault here gives: neither drive nor journal fails, and each plan is the cache's own.
    pub(crate) fn look_at(&self, reason: Option<&Reason>) {
        if let Some(reason @ (Reason::Io(_) | Reason::Journal | Reason::Unknown)) = reason {
            self.fail(format!("a chunk ended for a reason that there is not: {reason}"));
        }
    }

    pub(crate) fn failures(&self) -> (u64, Vec<String>) {
        self.failures.lock().clone()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::SeqCst)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Makes a call that promises to return at once; one that takes longer than `most` is a failure.
    pub(crate) fn prompt<T>(&self, what: &str, most: Duration, call: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let answer = call();
        let took = began.elapsed();
        self.slowest_call_us
            .fetch_max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if took > most {
            self.fail(format!("a call of {what} took {took:?}"));
        }
        answer
    }

    /// All that was counted, by name.
    pub(crate) fn rows(&self) -> Vec<(String, u64)> {
        let counted = NAMES.iter().zip(&self.counts);
        let mut rows: Vec<_> =
            counted.map(|(name, count)| ((*name).to_owned(), count.load(Ordering::Relaxed))).collect();
        rows.push(("slowest call, us".to_owned(), self.slowest_call_us.load(Ordering::Relaxed)));
        rows
    }
}
