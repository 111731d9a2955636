//! What the control plane plans, and what each tier's part of it answers when it is asked to store a chunk.

#[cfg(doc)]
use super::ControlPlane;
use crate::catalog::{Plan, StoreDecision, Ticket};
use crate::key::ChunkKey;
use crate::outcome::{Reason, Tier, TierEnd};

/// What becomes of a chunk that is to be stored.
#[derive(Debug)]
pub enum StorePlan {
    /// To be written, and reported with [`ControlPlane::finish_store`].
    Write {
        /// Where.
        plan: Plan,
        /// Why it does not go to disk, if it was meant to and goes to the remote store right away.
        not_on_disk: Option<Reason>,
    },
    /// There already: the tiers on which it has ended are these, and there may be others behind.
    Present(Onward),
    /// Another store of it is under way, under this ticket.
    InFlight(Ticket),
    /// Not to be stored now.
    Refused(Reason),
}

/// What becomes of a chunk on the tiers behind one where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Onward {
    /// Tiers on which it has ended.
    pub ended: Vec<TierEnd>,
    /// The tier that it waits to be copied to: see [`ControlPlane::next_copy`].
    pub queued: Option<Tier>,
}

/// A chunk to be copied from one tier to another. Both plans are answered by one [`ControlPlane::finish_copy`].
#[derive(Debug)]
pub struct CopyPlan {
    /// What is to be read.
    pub from: Plan,
    /// What is to be written.
    pub to: Plan,
}

/// What is next among the chunks that wait to be copied.
#[derive(Debug)]
pub enum CopyStep {
    /// To be copied.
    Copy(CopyPlan),
    /// A chunk has come to its end on a tier without that.
    Ended {
        /// The chunk.
        key: ChunkKey,
        /// How it ended there.
        end: TierEnd,
        /// What becomes of it on the tiers behind.
        onward: Onward,
        /// Under what others may wait for it as for a store, if it had begun.
        ticket: Option<Ticket>,
    },
}

/// A chunk to be loaded.
#[derive(Debug, PartialEq, Eq)]
pub struct LoadPlan {
    /// What is to be read, and reported with [`ControlPlane::finish_load`].
    pub read: Plan,
    /// Where in the memory tier it is to be kept besides, reported with [`ControlPlane::finish_write_back`].
    pub write_back: Option<Plan>,
}

impl Onward {
    pub(super) fn ended(end: TierEnd) -> Self {
        Self { ended: vec![end], queued: None }
    }

    pub(crate) fn queued(tier: Tier) -> Self {
        Self { ended: Vec::new(), queued: Some(tier) }
    }
}

/// What becomes on one tier of a chunk that is to be stored.
pub(super) enum TierStore {
    /// To be written; the tier keeps it open under the plan's ticket.
    Write(Plan),
    /// There already.
    Present,
    /// Another store of it is under way.
    InFlight(Ticket),
    /// Not now.
    Refused(Reason),
}

impl From<StoreDecision> for TierStore {
    fn from(decision: StoreDecision) -> Self {
        match decision {
            StoreDecision::Write(plan) => Self::Write(plan),
            StoreDecision::Present => Self::Present,
            StoreDecision::InFlight(ticket) => Self::InFlight(ticket),
            StoreDecision::Full => Self::Refused(Reason::Full),
            StoreDecision::Busy => Self::Refused(Reason::Busy),
        }
    }
}
