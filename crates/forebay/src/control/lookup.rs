//! The answer to a lookup, and the pin that comes with a hit.

use std::sync::Arc;

use super::Shared;
use crate::catalog::Ticket;

/// The answer to a lookup: four things that must not be taken for each other.
#[derive(Debug)]
pub enum Lookup {
    /// The first chunks of the prompt are there.
    Hit(Hit),
    /// Not even the first chunk is.
    Miss,
    /// The first chunk is being stored right now: ask again.
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

/// Chunks that are there and stay there until this is dropped.
pub struct Hit {
    pub(super) chunks: usize,
    pub(super) ticket: Ticket,
    pub(super) shared: Arc<Shared>,
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

impl Drop for Hit {
    fn drop(&mut self) {
        self.shared.state.lock().catalog.release(self.ticket);
    }
}
