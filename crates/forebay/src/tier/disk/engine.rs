//! The I/O engine: carries whole chunks between leased slots and the data file.
//!
//! A transfer owns its lease until the device is done with it, so a slot cannot be used again while the kernel may
//! still touch it. What is done with the outcome is the caller's: it comes as a closure that gets the lease back.

use std::io;
use std::time::Instant;

use crate::catalog::ChunkRecord;
use crate::staging::Lease;

/// Which way a chunk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Disk to slot.
    Read,
    /// Slot to disk.
    Write,
}

/// What is called with the lease when the device is done.
pub type Finish = Box<dyn FnOnce(Lease, io::Result<()>) + Send>;

/// A chunk to be moved.
pub struct ChunkTransfer {
    /// Which way.
    pub direction: Direction,
    /// Where on disk, and how much.
    pub record: ChunkRecord,
    /// Header page and payload, whole blocks of it.
    pub lease: Lease,
    /// Called when the device is done, on a thread of the engine; at once, if that is shut down. Dropped uncalled if
    /// the transfer panics: what it holds must see to itself then.
    pub finish: Finish,
}

/// Moves chunks. Reads go before writes but do not starve them, and writes never occupy the whole engine.
pub trait IoEngine: Send + Sync {
    /// Takes a transfer over; returns at once. There are never more of them than there are slots.
    fn submit(&self, transfer: ChunkTransfer);

    /// Finishes what was submitted and ends the engine's threads, waiting for them until `deadline` at most. A
    /// transfer submitted later is finished with an error at once.
    fn shutdown(&self, deadline: Instant);
}
