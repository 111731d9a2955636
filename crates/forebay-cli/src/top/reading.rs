//! What `/api/now` says, as far as it is shown; what is missing is nothing, so that other versions can be watched too.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A reading.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Reading {
    pub(super) version: String,
    pub(super) started_unix_s: f64,
    pub(super) now_unix_s: f64,
    pub(super) health: Health,
    pub(super) mode: String,
    pub(super) lookups: Lookups,
    pub(super) tiers: Vec<Tier>,
    pub(super) remote: Option<Remote>,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) movers: Vec<Mover>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Health {
    pub(super) live: bool,
    pub(super) ready: bool,
    pub(super) reasons: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Lookups {
    pub(super) hit: u64,
    pub(super) miss: u64,
    pub(super) pending: u64,
    pub(super) busy: u64,
    pub(super) chunks: u64,
    pub(super) hit_chunks: u64,
    pub(super) seconds: Times,
}

impl Lookups {
    pub(super) fn all(&self) -> u64 {
        [self.miss, self.pending, self.busy].into_iter().fold(self.hit, u64::saturating_add)
    }
}

/// How long things took: how many in all, and up to each bound; the last has none.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Times {
    pub(super) count: u64,
    pub(super) buckets: Vec<(Option<f64>, u64)>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tier {
    #[serde(rename = "tier")]
    pub(super) name: String,
    pub(super) state: String,
    pub(super) reason: Option<String>,
    pub(super) chunks: Option<u64>,
    pub(super) used_bytes: Option<u64>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) pinned_chunks: Option<u64>,
    pub(super) stored_bytes: u64,
    pub(super) loaded_bytes: u64,
    pub(super) failed_stores: u64,
    pub(super) failed_loads: u64,
    pub(super) removed_chunks: BTreeMap<String, Option<u64>>,
    pub(super) waiting_chunks: u64,
    pub(super) store_seconds: Times,
    pub(super) load_seconds: Times,
}

impl Tier {
    pub(super) fn failed(&self) -> u64 {
        self.failed_stores.saturating_add(self.failed_loads)
    }

    pub(super) fn removed(&self) -> u64 {
        self.removed_chunks.values().flatten().fold(0, |sum, &count| sum.saturating_add(count))
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Remote {
    pub(super) requests: u64,
    pub(super) failed_requests: u64,
    pub(super) retries: u64,
    pub(super) breaker: String,
    pub(super) in_flight: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Namespace {
    pub(super) name: String,
    pub(super) chunks: u64,
    pub(super) bytes: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Mover {
    pub(super) worker: u64,
    pub(super) age_s: f64,
    pub(super) staging: Staging,
    pub(super) queued: Queued,
    pub(super) io_engine: String,
    pub(super) busy: u64,
    pub(super) corrupt: u64,
    pub(super) io_errors: u64,
    pub(super) timed_out: u64,
    pub(super) loads_in_flight: Vec<Load>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Staging {
    pub(super) slots: u64,
    pub(super) slot_bytes: u64,
    pub(super) in_use: u64,
    pub(super) in_use_max: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Queued {
    pub(super) loads: u64,
    pub(super) stores: u64,
    pub(super) copies: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Load {
    pub(super) tier: String,
    pub(super) bytes: u64,
    pub(super) age_s: f64,
}
