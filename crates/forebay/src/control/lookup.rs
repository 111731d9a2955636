//! The answer to a lookup, and the pins that come with a hit.

use super::{disk, memory};
use crate::catalog::{LookupDecision, Ticket};

/// The answer to a lookup: four things that must not be taken for each other.
#[derive(Debug)]
pub enum Lookup {
    /// The first chunks of the prompt are there.
    Hit(Hit),
    /// Not even the first chunk is.
    Miss,
    /// It is not known yet: the first chunk is being stored right now, or the remote store was asked. Ask again.
    Pending,
    /// It cannot be told now: too much is under way. Not a miss.
    Busy,
}

impl Lookup {
    /// Length of the contiguous prefix that is there; zero unless this is a hit.
    pub fn chunks(&self) -> usize {
        match self {
            Self::Hit(hit) => hit.chunks(),
            Self::Miss | Self::Pending | Self::Busy => 0,
        }
    }

    /// A stable short name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hit(_) => "hit",
            Self::Miss => "miss",
            Self::Pending => "pending",
            Self::Busy => "busy",
        }
    }
}

/// Chunks that are there. Those in memory and on disk stay there until this is dropped; those in a remote store are as safe as that
/// keeps them.
pub struct Hit {
    pub(super) chunks: usize,
    pub(super) _pins: Pins,
}

/// How much of a prompt is on one tier; `P` keeps it there.
pub(super) enum TierLookup<P> {
    Hit(usize, P),
    Miss,
    Pending,
    Busy,
}

/// Why a prompt may be there though it was not found.
#[derive(Default)]
pub(super) struct Unsure {
    /// Its first chunk is being written.
    pub(super) is_written: bool,
    pub(super) is_busy: bool,
}

impl<P> TierLookup<P> {
    /// A catalog's decision, with what `pin` makes of the ticket of a hit.
    pub(super) fn of(decision: LookupDecision, pin: impl FnOnce(Ticket) -> P) -> Self {
        match decision {
            LookupDecision::Hit { chunks, ticket } => Self::Hit(chunks, pin(ticket)),
            LookupDecision::Miss => Self::Miss,
            LookupDecision::Pending => Self::Pending,
            LookupDecision::Busy => Self::Busy,
        }
    }

    /// Chunks that were found; keeps what pins them, or notes why it cannot be told.
    pub(super) fn note(self, pins: &mut Vec<P>, unsure: &mut Unsure) -> usize {
        match self {
            Self::Hit(chunks, pin) => {
                pins.push(pin);
                return chunks;
            }
            Self::Miss => {}
            Self::Pending => unsure.is_written = true,
            Self::Busy => unsure.is_busy = true,
        }
        0
    }
}

/// What keeps chunks from being evicted.
#[derive(Default)]
pub(super) struct Pins {
    pub(super) memory: Vec<memory::Pin>,
    pub(super) disk: Vec<disk::Pin>,
}

impl std::fmt::Debug for Hit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hit").field("chunks", &self.chunks).finish_non_exhaustive()
    }
}

impl Hit {
    /// Length of the contiguous prefix.
    pub fn chunks(&self) -> usize {
        self.chunks
    }
}
