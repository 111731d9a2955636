//! Everything that is seen, at one moment.

use std::sync::Weak;
use std::time::Duration;

use forebay::catalog::NamespaceId;
use forebay::control::{ControlStats, Pinned, Pinning};
use forebay::mover::{MoverStats, TierTraffic};
use forebay::outcome::Tier;

/// What can be seen.
pub trait Watched: Send + Sync {
    /// Its figures now; none once it is closed. Answers at once.
    fn figures(&self) -> Option<Figures>;

    /// Takes all chunks out, or those of a namespace; says how many copies that were. None once it is closed.
    fn clear(&self, namespace: Option<NamespaceId>) -> Option<u64>;

    /// Keeps the chunks of a namespace that are on disk from being evicted; says how many. None once it is closed.
    fn pin(&self, namespace: NamespaceId) -> Option<forebay::Result<Pinned>>;

    /// Lets all chunks, or those of a namespace, be evicted again; says how many were pinned. None once it is closed.
    fn unpin(&self, namespace: Option<NamespaceId>) -> Option<forebay::Result<u64>>;

    /// Gives the disk so many bytes; says how many of them chunks may take, or why not. None once it is closed.
    fn set_disk_capacity(&self, capacity_bytes: u64) -> Option<forebay::Result<u64>>;
}

/// The figures of a cache: of the one that decides, and of all that move.
#[derive(Debug, Clone)]
pub struct Figures {
    /// What was decided.
    pub control: ControlStats,
    /// What was done, by each worker.
    pub workers: Vec<Worker>,
}

/// A mover's figures.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Its number, from zero.
    pub number: u32,
    /// How old the figures are.
    pub age: Duration,
    /// The figures.
    pub stats: MoverStats,
}

/// Does not keep the cache.
impl Watched for Weak<forebay::Cache> {
    fn figures(&self) -> Option<Figures> {
        let forebay::CacheStats { control, mover } = self.upgrade()?.stats();
        Some(Figures { control, workers: vec![Worker { number: 0, age: Duration::ZERO, stats: mover }] })
    }

    fn clear(&self, namespace: Option<NamespaceId>) -> Option<u64> {
        Some(self.upgrade()?.clear(namespace))
    }

    fn pin(&self, namespace: NamespaceId) -> Option<forebay::Result<Pinned>> {
        Some(self.upgrade()?.pin(Pinning::Namespace(namespace)))
    }

    fn unpin(&self, namespace: Option<NamespaceId>) -> Option<forebay::Result<u64>> {
        Some(self.upgrade()?.unpin(namespace.map_or(Pinning::All, Pinning::Namespace)))
    }

    fn set_disk_capacity(&self, capacity_bytes: u64) -> Option<forebay::Result<u64>> {
        // It takes its time, and whoever closes the cache meanwhile is not to wait for that.
        let control = self.upgrade()?.control();
        Some(control.set_disk_capacity(capacity_bytes))
    }
}

impl Figures {
    /// The tiers there are.
    pub fn tiers(&self) -> impl Iterator<Item = Tier> {
        Tier::ALL.into_iter().filter(|tier| match tier {
            Tier::Memory => self.control.memory.is_some(),
            Tier::Disk => self.control.disk.capacity_bytes > 0,
            Tier::Remote => self.control.remote.is_some(),
        })
    }

    /// What all workers moved to and from a tier.
    pub fn traffic(&self, tier: Tier) -> TierTraffic {
        let mut all = TierTraffic::default();
        for worker in &self.workers {
            all.add(&worker.stats.traffic[tier as usize]);
        }
        all
    }

    /// Chunks that are on their way to this tier from the one before it.
    pub fn waiting(&self, tier: Tier) -> u64 {
        let behind_memory = if self.control.disk.capacity_bytes > 0 { Tier::Disk } else { Tier::Remote };
        let outgoing = self.control.memory.filter(|_| tier == behind_memory).map(|memory| memory.outgoing);
        let queued =
            self.control.remote.as_ref().filter(|_| tier == Tier::Remote).map(|remote| remote.queued);
        outgoing.unwrap_or_default() + queued.unwrap_or_default()
    }
}
