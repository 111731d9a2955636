//! What the catalog tells a mover to do, and the bytes in which that travels to another process.
//!
//! A plan names one chunk, where its bytes lie and a ticket under which the catalog waits for the outcome. It is
//! not `Clone`: in one process the type system sees to it that a plan is carried out once; across processes the
//! catalog answers a ticket once and refuses it after.

use twox_hash::XxHash3_64;

use crate::outcome::Tier;

use super::record::{ChunkRecord, Entry, RECORD_BYTES, u64_at};

/// Under what the catalog keeps something open: pins, a reservation. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Set in tickets of the remote tier.
const REMOTE_BIT: u64 = 1 << 63;
/// Set in tickets of the memory tier's catalog, whose epoch has it.
const MEMORY_BIT: u64 = 1 << 62;

impl Ticket {
    pub(super) const fn new(number: u64) -> Self {
        Self(number)
    }

    /// A ticket of the remote tier.
    pub(crate) const fn of_remote(number: u64) -> Self {
        Self(REMOTE_BIT | number)
    }

    /// Whose it is.
    pub const fn tier(self) -> Tier {
        if self.0 & REMOTE_BIT != 0 {
            Tier::Remote
        } else if self.0 & MEMORY_BIT != 0 {
            Tier::Memory
        } else {
            Tier::Disk
        }
    }
}

/// Length of an encoded plan.
pub const PLAN_BYTES: usize = SUM_AT + 8;
const SUM_AT: usize = 8 + RECORD_BYTES;

/// One chunk to be written or read: which of the two, the caller's type says.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the outcome is to be reported under.
    pub ticket: Ticket,
    /// The chunk, and where its bytes lie.
    pub record: ChunkRecord,
}

impl Plan {
    /// The plan's bytes.
    pub fn encode(&self) -> [u8; PLAN_BYTES] {
        let mut out = [0; PLAN_BYTES];
        out[..8].copy_from_slice(&self.ticket.0.to_le_bytes());
        out[8..SUM_AT].copy_from_slice(&Entry::Put(self.record).encode());
        let sum = XxHash3_64::oneshot(&out[..SUM_AT]);
        out[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// The plan in these bytes; `None` when they are no sound plan.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; PLAN_BYTES] = bytes.try_into().ok()?;
        if XxHash3_64::oneshot(&bytes[..SUM_AT]) != u64_at(bytes, SUM_AT) {
            return None;
        }
        let mut record = [0; RECORD_BYTES];
        record.copy_from_slice(&bytes[8..SUM_AT]);
        match Entry::decode(&record)? {
            Entry::Put(record) => Some(Self { ticket: Ticket(u64_at(bytes, 0)), record }),
            Entry::Remove(..) => None,
        }
    }
}

/// What becomes of one chunk of a store.
#[derive(Debug, PartialEq, Eq)]
pub enum StoreDecision {
    /// Write it; the space is reserved until the ticket is answered.
    Write(Plan),
    /// It is there already.
    Present,
    /// Another store of it is under way.
    InFlight(Ticket),
    /// There is no room that may be freed.
    Full,
    /// The catalog keeps as many tickets open as it may.
    Busy,
}

/// What becomes of one chunk of a load.
#[derive(Debug, PartialEq, Eq)]
pub enum LoadDecision {
    /// Read it; it stays where it is until the ticket is answered.
    Read(Plan),
    /// It is not there.
    Miss,
    /// The catalog keeps as many tickets open as it may.
    Busy,
}

/// How much of a prompt is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupDecision {
    /// The first `chunks` chunks (at least one), pinned until the ticket is released.
    Hit {
        /// Length of the contiguous prefix.
        chunks: usize,
        /// Holds the pins.
        ticket: Ticket,
    },
    /// Not even the first chunk.
    Miss,
    /// Not yet: the first chunk is being stored.
    Pending,
    /// The catalog keeps as many tickets open as it may.
    Busy,
}
