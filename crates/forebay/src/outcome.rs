//! What became of one chunk of a store or a load, and why.

use std::fmt;

use crate::key::ChunkKey;
use crate::tier::disk::trailer::Corruption;

/// How the store of a chunk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreStatus {
    /// It is committed: found from now on, after a death of the process too, unless it is stored to memory alone
    /// ([`StoreTo`](crate::config::StoreTo)).
    Stored,
    /// It was there already.
    Present,
    /// It was not tried; the reason says why. Nothing is wrong with the cache.
    Refused,
    /// It was tried and did not succeed.
    Failed,
}

impl StoreStatus {
    /// A stable short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Present => "present",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// How the load of a chunk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoadStatus {
    /// The buffer holds exactly the bytes that were stored under the key.
    Loaded,
    /// The chunk is not there, or not what was stored: the buffer is not to be used.
    Miss,
    /// It could not be told; the buffer is not to be used.
    Failed,
}

impl LoadStatus {
    /// A stable short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Miss => "miss",
            Self::Failed => "failed",
        }
    }
}

/// Why something did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The staging buffer or a queue was full for too long. Not a miss.
    Busy,
    /// No room on disk that may be freed: everything is in use, or the chunk is larger than the tier.
    Full,
    /// Another store of the same chunk is under way.
    InFlight,
    /// It was not asked to be stored often enough (`store_after`).
    Seldom,
    /// The caller cancelled it before it began.
    Cancelled,
    /// The cache is closed or closing.
    Closed,
    /// The device took too long.
    TimedOut,
    /// The journal cannot be written, so nothing can be committed.
    Journal,
    /// The chunk is not there.
    NotThere,
    /// What was read is not what was stored.
    Corrupt(Corruption),
    /// The operating system refused a transfer.
    Io(String),
    /// The remote store did not do it.
    Remote(String),
    /// The engine's memory could not be read or written.
    Engine(String),
    /// The plan is not, or no longer, open.
    Unknown,
    /// The transfer was given up because the code that carried it out failed.
    Abandoned,
}

impl Reason {
    /// The [`code`](Self::code)s that a mover's job may end with.
    pub const CODES_OF_JOBS: [&str; 10] = [
        "busy",
        "cancelled",
        "closed",
        "timed out",
        "not there",
        "corrupt",
        "io",
        "remote",
        "engine",
        "abandoned",
    ];

    /// A stable short name; [`fmt::Display`] adds the details.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Full => "full",
            Self::InFlight => "in flight",
            Self::Seldom => "seldom",
            Self::Cancelled => "cancelled",
            Self::Closed => "closed",
            Self::TimedOut => "timed out",
            Self::Journal => "journal",
            Self::NotThere => "not there",
            Self::Corrupt(_) => "corrupt",
            Self::Io(_) => "io",
            Self::Remote(_) => "remote",
            Self::Engine(_) => "engine",
            Self::Unknown => "unknown plan",
            Self::Abandoned => "abandoned",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(corruption) => write!(f, "corrupt: {}", corruption.name()),
            Self::Io(detail) | Self::Remote(detail) | Self::Engine(detail) => {
                write!(f, "{}: {detail}", self.code())
            }
            _ => f.write_str(self.code()),
        }
    }
}

/// Where a chunk lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// The memory tier.
    Memory,
    /// The local disk.
    Disk,
    /// The remote store.
    Remote,
}

impl Tier {
    /// All, the fastest first.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Remote];

    /// A stable short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Remote => "remote",
        }
    }
}

/// What became of one chunk of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOutcome {
    /// The chunk.
    pub key: ChunkKey,
    /// How it ended, all tiers together.
    pub status: StoreStatus,
    /// Why, where there is something to say.
    pub reason: Option<Reason>,
    /// How it ended on each tier it was meant for.
    pub tiers: Vec<TierEnd>,
}

/// How a store ended on one tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierEnd {
    /// The tier.
    pub tier: Tier,
    /// How.
    pub status: StoreStatus,
    /// Why, where there is something to say.
    pub reason: Option<Reason>,
}

impl TierEnd {
    /// It was written, or why not.
    pub fn of(tier: Tier, reason: Option<&Reason>) -> Self {
        let status = match reason {
            None => StoreStatus::Stored,
            Some(Reason::Busy | Reason::Closed) => StoreStatus::Refused,
            Some(_) => StoreStatus::Failed,
        };
        Self { tier, status, reason: reason.cloned() }
    }

    /// It was there already.
    pub const fn present(tier: Tier) -> Self {
        Self { tier, status: StoreStatus::Present, reason: None }
    }

    /// It was not tried.
    pub const fn refused(tier: Tier, reason: Reason) -> Self {
        Self { tier, status: StoreStatus::Refused, reason: Some(reason) }
    }
}

impl StoreOutcome {
    /// Of a chunk that ended so on its tiers, at least one: as well as on the one where it ended best. Memory forgets, so it
    /// counts only where there is no other.
    pub(crate) fn of(key: ChunkKey, tiers: Vec<TierEnd>) -> Self {
        let rank = |status| match status {
            StoreStatus::Stored => 0,
            StoreStatus::Present => 1,
            StoreStatus::Refused => 2,
            StoreStatus::Failed => 3,
        };
        let is_behind_memory = |end: &&TierEnd| end.tier != Tier::Memory;
        let is_in_memory_alone = !tiers.iter().any(|end| is_behind_memory(&end));
        let those_that_count = tiers.iter().filter(|end| is_in_memory_alone || is_behind_memory(end));
        let status = those_that_count.map(|end| end.status).min_by_key(|&status| rank(status));
        let reason = tiers.iter().find_map(|end| end.reason.clone());
        Self { key, status: status.unwrap_or(StoreStatus::Failed), reason, tiers }
    }
}

/// What became of one chunk of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOutcome {
    /// The chunk.
    pub key: ChunkKey,
    /// How it ended.
    pub status: LoadStatus,
    /// Why, where there is something to say.
    pub reason: Option<Reason>,
    /// The tier it came from.
    pub tier: Option<Tier>,
}
