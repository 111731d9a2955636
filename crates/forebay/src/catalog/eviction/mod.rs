//! Eviction: which of the chunks that may go goes first.
//!
//! What may go is the catalog's to say and the same for all policies ([`Chunk::may_go`](super::table::Chunk::may_go)):
//! nothing hangs on it, nobody uses it, it is whole. A policy has an order, and gives the first of that order that may.
//!
//! Promises, of each policy: no clock and no randomness, so the same calls evict the same chunks; each call takes constant
//! time for each chunk or piece of a prompt it is about, and a search for a victim as much for each chunk it passes over,
//! taken over many calls. For that a chunk whose turn has come before it may go leaves the order, and waits
//! ([`Waiting`](waiting::Waiting)): however many such there are, each of them is looked at once, not at each eviction. It comes
//! back, as the next to go, when the last thing goes that kept it. (The least recently used needs none of that: a
//! chunk that something hangs on was nearly always used after it.) Chunks that are to be kept wait from the start.
//!
//! Assumes that its caller removes a chunk before that chunk's place is used again, and says so when a chunk that waits may
//! go.

mod ends_first;
mod fifo;
mod ghost;
mod lfu;
mod lru;
mod queue;
mod s3_fifo;
mod waiting;

use std::fmt::Debug;

pub(super) use queue::Links;

use super::table::{Mark, Table};

/// What is evicted first when a tier is full, of the chunks that nothing hangs on and nobody uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CachePolicy {
    /// The chunk unused for longest.
    #[default]
    Lru,
    /// The chunk stored first, used or not.
    Fifo,
    /// The chunk used least often, of late; among equals the one unused for longest.
    Lfu,
    /// The chunk stored first of those that were hardly used since; those that were are kept apart.
    S3Fifo,
}

impl CachePolicy {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Lru, Self::Fifo, Self::Lfu, Self::S3Fifo];

    /// Its name, as it stands in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lru => "LRU",
            Self::Fifo => "FIFO",
            Self::Lfu => "LFU",
            Self::S3Fifo => "S3-FIFO",
        }
    }

    /// The policy of this name; case does not matter, and `_` is as good as `-`.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.trim().replace('_', "-");
        Self::ALL.into_iter().find(|policy| policy.name().eq_ignore_ascii_case(&name))
    }
}

/// The order in which chunks go. Chains are given as a prompt has them, its first chunk first.
pub(super) trait Eviction: Debug + Send + Sync {
    /// Takes in a chunk that is being stored.
    fn add(&mut self, table: &mut Table, id: u32);

    /// Takes in a chunk known from before, as the first to go.
    fn restore(&mut self, table: &mut Table, id: u32);

    /// Forgets a chunk.
    fn remove(&mut self, table: &mut Table, id: u32);

    /// All of this chain was asked for at once, and was there.
    fn used(&mut self, table: &mut Table, chain: &[u32]);

    /// The end of this chain was just stored. That says that all of it is of use still, and no more: who stored it
    /// has asked for the rest before.
    fn continued(&mut self, _table: &mut Table, _chain: &[u32]) {}

    /// The chunk that is to go now. Its caller removes it.
    fn victim(&mut self, table: &mut Table) -> Option<u32>;

    /// A chunk is to be kept for long: it waits from now on, unless it does.
    fn set_aside(&mut self, table: &mut Table, id: u32);

    /// A chunk is to be kept no more. It comes back if it may go; else it waits for that.
    fn let_go(&mut self, table: &mut Table, id: u32) {
        if table[id].has(Mark::Waits) && table[id].may_go() {
            self.come_back(table, id);
        }
    }

    /// A chunk that waits may go now.
    fn come_back(&mut self, table: &mut Table, id: u32);

    /// All chunks, the first to go first, as far as can be told today.
    fn first_to_go<'a>(&'a self, table: &'a Table) -> Box<dyn Iterator<Item = u32> + 'a>;
}

/// An order without chunks, of a catalog that will hold at most so many.
pub(super) fn order(policy: CachePolicy, chunks_max: u64) -> Box<dyn Eviction> {
    match policy {
        CachePolicy::Lru => Box::<lru::Lru>::default(),
        CachePolicy::Fifo => Box::<fifo::Fifo>::default(),
        CachePolicy::Lfu => Box::<lfu::Lfu>::default(),
        CachePolicy::S3Fifo => Box::new(s3_fifo::S3Fifo::new(chunks_max)),
    }
}
