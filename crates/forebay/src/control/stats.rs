//! Figures of a control plane: how often what happened, and what is there now.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::disk::Shared;
use super::remote::RemoteStats;
use crate::catalog::BLOCK_BYTES;
use crate::histogram::{Histogram, Times};
use crate::tier::disk::namespaces::hex;

/// What is counted of lookups and plans, over all tiers.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) lookups: AtomicU64,
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) pending: AtomicU64,
    pub(super) busy_lookups: AtomicU64,
    /// Stores.
    pub(super) busy: AtomicU64,
    pub(super) hit_chunks: AtomicU64,
    pub(super) lookup_chunks: AtomicU64,
    pub(super) lookup_times: Histogram,
}

/// What is counted of the disk tier.
#[derive(Default)]
pub(super) struct DiskCounters {
    pub(super) stored: AtomicU64,
    pub(super) store_failed: AtomicU64,
    pub(super) refused_full: AtomicU64,
    pub(super) corrupt: AtomicU64,
    pub(super) io_failed: AtomicU64,
    pub(super) journal_errors: AtomicU64,
    pub(super) journal_failing: AtomicBool,
}

/// Figures of a control plane.
#[derive(Debug, Clone, Default)]
pub struct ControlStats {
    /// Lookups, and how they were answered.
    pub lookups: u64,
    /// Lookups that found at least one chunk.
    pub hits: u64,
    /// Lookups that found none.
    pub misses: u64,
    /// Lookups that could not be answered yet: a chunk was being stored, or the remote store was asked.
    pub pending: u64,
    /// Lookups and stores that came faster than they could be answered.
    pub busy: u64,
    /// Of them, the lookups.
    pub busy_lookups: u64,
    /// Chunks asked for in lookups that were answered, as a hit or as a miss.
    pub lookup_chunks: u64,
    /// Chunks found in lookups.
    pub hit_chunks: u64,
    /// How long each lookup took.
    pub lookup_times: Times,
    /// Threads that died of a panic.
    pub dead_threads: Vec<String>,
    /// The memory tier, if there is one.
    pub memory: Option<MemoryStats>,
    /// The disk tier; zeros without one.
    pub disk: DiskStats,
    /// The remote tier, if there is one.
    pub remote: Option<RemoteStats>,
}

/// Figures of the memory tier.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryStats {
    /// Chunks that are there.
    pub chunks: u64,
    /// Bytes they take.
    pub used_bytes: u64,
    /// Bytes chunks may take.
    pub capacity_bytes: u64,
    /// Chunks evicted.
    pub evictions: u64,
    /// Chunks taken out because somebody asked for that.
    pub cleared: u64,
    /// Chunks on their way to the tier behind.
    pub outgoing: u64,
    /// Plans and lookups that are open.
    pub open_tickets: u64,
}

/// Figures of the disk tier.
#[derive(Debug, Clone, Default)]
pub struct DiskStats {
    /// Chunks that are there.
    pub chunks: u64,
    /// Bytes of disk they take, trailers included.
    pub used_bytes: u64,
    /// Bytes of disk chunks may take.
    pub capacity_bytes: u64,
    /// Of the chunks, those that are pinned.
    pub pinned_chunks: u64,
    /// Bytes of disk these take.
    pub pinned_bytes: u64,
    /// Chunks stored.
    pub stored: u64,
    /// Stores that failed.
    pub store_failed: u64,
    /// Stores refused because nothing could be evicted for them.
    pub refused_full: u64,
    /// Chunks evicted.
    pub evictions: u64,
    /// Chunks taken out because somebody asked for that.
    pub cleared: u64,
    /// Chunks whose bytes on disk were not what was stored.
    pub corrupt: u64,
    /// Chunks that could not be read.
    pub io_failed: u64,
    /// Times the journal could not be written.
    pub journal_errors: u64,
    /// Why stores are refused now, if they are.
    pub degraded: Option<&'static str>,
    /// Plans and lookups that are open.
    pub open_tickets: u64,
    /// Journal records that death had interrupted, found at the start.
    pub journal_interrupted: u64,
    /// Why the index was rebuilt from the trailers at the start, if it was.
    pub rebuilt: Option<String>,
    /// Whether data goes past the page cache, on all drives.
    pub direct_io: bool,
    /// The namespaces that take most of it, the largest first.
    pub namespaces: Vec<NamespaceStats>,
}

/// What a namespace takes of a tier.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceStats {
    /// What its keys begin with, in hexadecimal digits.
    pub id: String,
    /// Its model, where that was noted.
    pub model: Option<String>,
    /// Chunks that are there.
    pub chunks: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

/// Namespaces that are shown.
const NAMESPACES_SHOWN_MAX: usize = 20;

/// Counts something.
pub(super) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl DiskStats {
    pub(super) fn of(shared: &Shared) -> Self {
        let state = shared.state.lock();
        let counts = state.catalog.counts();
        let space = state.catalog.space();
        let block = BLOCK_BYTES as u64;
        let counters = &shared.counters;
        Self {
            chunks: state.catalog.len() as u64,
            used_bytes: (space.blocks() - space.free_blocks()) * block,
            capacity_bytes: space.blocks() * block,
            pinned_chunks: state.catalog.kept().chunks,
            pinned_bytes: state.catalog.kept().blocks * block,
            stored: read(&counters.stored),
            store_failed: read(&counters.store_failed),
            refused_full: read(&counters.refused_full),
            evictions: counts.evicted,
            cleared: counts.cleared,
            corrupt: read(&counters.corrupt),
            io_failed: read(&counters.io_failed),
            journal_errors: read(&counters.journal_errors),
            degraded: if counters.journal_failing.load(Ordering::Relaxed) {
                Some("the journal cannot be written, so nothing is stored: see the log for the error")
            } else if state.journal_stands() {
                Some("the file system of the first directory does not answer, so nothing is stored")
            } else if state.journal_is_behind(&shared.directory) {
                Some("stores come faster than the journal's checkpoints are written, and wait for them")
            } else {
                None
            },
            open_tickets: state.catalog.open_tickets() as u64,
            journal_interrupted: shared.interrupted,
            rebuilt: shared.rebuilt.clone(),
            direct_io: shared.data.is_direct(),
            namespaces: state
                .catalog
                .namespaces(NAMESPACES_SHOWN_MAX)
                .into_iter()
                .map(|(id, sum)| {
                    let id = hex(&id);
                    let model = shared.models.get().and_then(|models| models.get(&id)).cloned();
                    NamespaceStats { id, model, chunks: sum.chunks, bytes: sum.bytes }
                })
                .collect(),
        }
    }
}
