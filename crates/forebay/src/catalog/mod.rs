//! The catalog decides: what is stored, where, what goes to make room, who may read what.
//!
//! A plain state machine with one owner. It does no I/O, starts no thread, reads no clock and draws no random
//! number; time comes in as an argument. So it can be tested against a model and driven by a simulator.
//!
//! Promises:
//! * a chunk is found only after its store was committed, and only until it is evicted or dropped;
//! * a chunk lies on one drive, and its blocks belong to one chunk at a time; those of a chunk being written or read are not given to another one;
//! * eviction takes a chunk that nothing hangs on: never a chunk before a chunk that continues it, never one that is
//!   pinned or being written; which of them goes first is its policy's to say ([`CachePolicy`]);
//! * each ticket is answered once; when all are answered no pin and no reservation is left;
//! * it holds at most `chunks_max` chunks and `tickets_max` open tickets.
//!
//! Assumes that its owner records the removals it hands out before it lets anything be written, and calls
//! [`Catalog::commit`] only when payload and trailer are where the plan says.

mod drives;
mod eviction;
mod extent;
mod index;
mod keep;
mod namespaces;
mod places;
mod plan;
mod record;
mod resize;
mod segments;
mod space;
mod table;
mod ties;

use std::collections::{HashMap, HashSet};

pub use drives::{DRIVES_MAX, DriveBlocks, Drives};
pub use eviction::CachePolicy;
pub use extent::{BLOCK_BYTES, EXTENTS_MAX, Extent, Extents, blocks_for};
pub use keep::Kept;
pub use namespaces::{NamespaceId, NamespaceSum};
pub use plan::{LoadDecision, LookupDecision, PLAN_BYTES, Plan, StoreDecision, Ticket};
pub use record::{ChunkRecord, Entry, MEMORY, RECORD_BYTES, REMOTE, grain_blocks};
pub(crate) use record::{u32_at, u64_at};
pub use resize::Withheld;
pub use space::AddressSpace;

use crate::events::{Announcer, Cause, Change};
use crate::key::ChunkKey;
use crate::outcome::Tier;
use eviction::Eviction;
use index::Index;
use namespaces::Namespaces;
use table::{Mark, State, Table};

/// The bounds of a catalog.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Blocks of each of the tier's drives.
    pub blocks: DriveBlocks,
    /// Chunks it may hold, those being written included.
    pub chunks_max: u32,
    /// Tickets it may keep open.
    pub tickets_max: u32,
}

/// How often the directory was opened stands in the upper bits of generations and tickets, so that none is ever used
/// twice.
const EPOCH_SHIFT: u32 = 40;
/// The largest epoch there is room for: the two uppermost bits of a ticket say which tier it is of.
pub const EPOCH_MAX: u32 = (1 << (u64::BITS - 2 - EPOCH_SHIFT)) - 1;
/// The epoch of every catalog of the memory tier, which ends with its process.
const MEMORY_EPOCH: u32 = EPOCH_MAX + 1;

/// How many times the blocks of a chunk are freed for it at most. Chunks of one size need them once; a large one among
/// small ones may find what is freed too scattered, and then grows its room over several stores.
const FREED_FOR_ONE_MAX: u64 = 8;

/// Chunks of a prompt that are looked for in the index at a time.
const GUESSED_AT_ONCE: usize = 16;

/// What has happened to a catalog since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Chunks evicted to make room.
    pub evicted: u64,
    /// Chunks dropped because what was read was not what was stored.
    pub dropped: u64,
    /// Chunks taken out because somebody asked for that.
    pub cleared: u64,
}

#[derive(Debug)]
enum Open {
    Lookup(Vec<u32>),
    Read(u32),
    Write(u32),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Catalog {
    limits: Limits,
    drives: Drives,
    index: Index,
    namespaces: Namespaces,
    table: Table,
    order: Box<dyn Eviction>,
    open: HashMap<Ticket, Open>,
    /// The tickets of chunks that are being written.
    writes: HashMap<u32, Ticket>,
    next_ticket: u64,
    next_generation: u64,
    counts: Counts,
    /// Who is told what comes and goes, and of which tier it is.
    announcer: Option<(Announcer, Tier)>,
    /// What is kept from eviction.
    kept: Kept,
}

impl Catalog {
    /// An empty catalog. `epoch` says how often the directory was opened; it must be larger each time.
    ///
    /// # Panics
    /// When `epoch` is larger than [`EPOCH_MAX`].
    pub fn new(limits: Limits, policy: CachePolicy, epoch: u32) -> Self {
        assert!(epoch <= EPOCH_MAX, "generations have no room for epoch {epoch}");
        Self::of_epoch(limits, policy, epoch)
    }

    /// An empty catalog of the memory tier, whose chunks are gone with the process.
    pub fn of_memory(limits: Limits, policy: CachePolicy) -> Self {
        Self::of_epoch(limits, policy, MEMORY_EPOCH)
    }

    fn of_epoch(limits: Limits, policy: CachePolicy, epoch: u32) -> Self {
        // Each chunk takes a block at least, so there are never more of them than blocks; nor when there are more blocks
        // later, since the index is made for so many.
        let chunks_max = u64::from(limits.chunks_max).min(limits.blocks.total());
        let limits = Limits { chunks_max: u32::try_from(chunks_max).unwrap_or(u32::MAX), ..limits };
        Self {
            limits,
            drives: Drives::new(&limits.blocks),
            index: Index::new(chunks_max),
            namespaces: Namespaces::default(),
            table: Table::new(),
            order: eviction::order(policy, chunks_max),
            open: HashMap::new(),
            writes: HashMap::new(),
            next_ticket: (u64::from(epoch) << EPOCH_SHIFT) + 1,
            next_generation: (u64::from(epoch) << EPOCH_SHIFT) + 1,
            counts: Counts::default(),
            announcer: None,
            kept: Kept::default(),
        }
    }

    /// Has what comes and goes from now on told as of this tier.
    pub(crate) fn announce_by(&mut self, announcer: Announcer, tier: Tier) {
        self.announcer = Some((announcer, tier));
    }

    fn announce(&self, id: u32, change: Change) {
        if let Some((announcer, tier)) = &self.announcer {
            announcer.tell(*tier, self.table[id].key, change);
        }
    }

    /// The epoch in which a generation was made.
    pub fn epoch_of(generation: u64) -> u32 {
        u32::try_from(generation >> EPOCH_SHIFT).unwrap_or(u32::MAX)
    }

    /// Takes in a chunk known from before, as the first to go of those that may. `false` when it cannot be: its blocks
    /// are another chunk's or it has none, its key is there, the catalog is full.
    pub fn restore(&mut self, record: ChunkRecord) -> bool {
        if self.len() >= self.limits.chunks_max as usize
            || record.extents.as_slice().is_empty()
            || self.find(&record.key).is_some()
            || !self.drives.reserve(record.drive, &record.extents)
        {
            return false;
        }
        // Most come after the chunk they continue. Nothing continues a new one yet, so no ring can come of it.
        let parent = self.find(&record.parent);
        let id = self.insert(&record, State::Committed, parent);
        self.order.restore(&mut self.table, id);
        true
    }

    /// Ties restored chunks to those they continue. Call once, after the last [`Self::restore`].
    pub fn tie_restored(&mut self) {
        // Each chunk after those it continues: then few of them have something that continues them, and tying those
        // that have nothing is cheap.
        let mut seen = HashSet::new();
        for id in self.table.with_named_parent() {
            let mut chain = Vec::new();
            let mut next = Some(id);
            while let Some((id, parent)) = next
                .filter(|&id| self.table[id].has(Mark::ParentIsNamed) && seen.insert(id))
                .and_then(|id| Some((id, self.find(&self.table.parent_key(id))?)))
            {
                chain.push((id, parent));
                next = Some(parent);
            }
            chain.into_iter().rev().for_each(|(id, parent)| self.table.tie(id, parent));
        }
        self.table.shrink();
    }

    /// How much of this prompt is there; what is, is pinned and counts as used.
    pub fn lookup(&mut self, keys: &[ChunkKey]) -> LookupDecision {
        let (found, pending) = self.committed_front(keys);
        if found.is_empty() {
            return if pending { LookupDecision::Pending } else { LookupDecision::Miss };
        }
        if self.tickets_left() == 0 {
            return LookupDecision::Busy;
        }
        let chunks = found.len();
        self.order.used(&mut self.table, &found);
        found.iter().for_each(|&id| self.table[id].pins += 1);
        LookupDecision::Hit { chunks, ticket: self.open(Open::Lookup(found)) }
    }

    /// Decides on a store of consecutive chunks of a prompt (key and payload bytes each); `parent` is the chunk
    /// before the first of them. What was evicted for it is added to `removed`.
    pub fn plan_store(
        &mut self,
        chunks: &[(ChunkKey, u32)],
        parent: Option<ChunkKey>,
        now_ms: u64,
        removed: &mut Vec<Entry>,
    ) -> Vec<StoreDecision> {
        let mut before_key = parent.unwrap_or(ChunkKey::NONE);
        let mut before = parent.and_then(|key| self.find(&key));
        let mut depth = before.map_or(0, |id| self.table.depth(id).saturating_add(1));
        let mut chain = before.map_or_else(Vec::new, |id| self.table.ancestors(id));
        let mut present = Vec::new();
        let mut decisions = Vec::with_capacity(chunks.len());
        let mut full = false;
        for &(key, length) in chunks {
            let (decision, id) = if let Some(id) = self.find(&key) {
                if let Some(before) = before {
                    self.table.tie(id, before);
                }
                let decision = match self.table[id].state {
                    State::Writing => StoreDecision::InFlight(self.writes[&id]),
                    _ => StoreDecision::Present,
                };
                present.push(id);
                (decision, Some(id))
            } else {
                let record = ChunkRecord {
                    key,
                    parent: before_key,
                    depth,
                    generation: 0,
                    length,
                    stored_at_ms: now_ms,
                    drive: 0,
                    extents: Extents::default(),
                };
                // Nothing can reach a chunk whose predecessor is not stored: no room is made for it.
                if self.tickets_left() == 0 {
                    (StoreDecision::Busy, None)
                } else {
                    let reserved = if full { None } else { self.reserve(record, before, removed) };
                    full |= reserved.is_none();
                    reserved.map_or((StoreDecision::Full, None), |(plan, id)| {
                        (StoreDecision::Write(plan), Some(id))
                    })
                }
            };
            chain.extend(id);
            depth = id.map_or(depth, |id| self.table.depth(id)).saturating_add(1);
            before_key = key;
            before = id;
            decisions.push(decision);
        }
        // A chunk may have gone again to make room for a later one of the same call.
        present.retain(|&id| self.table[id].is_listed());
        chain.retain(|&id| self.table[id].is_listed());
        self.order.used(&mut self.table, &present);
        self.order.continued(&mut self.table, &chain);
        decisions
    }

    /// Decides on a load: each chunk that is there is pinned until its ticket is answered.
    pub fn plan_load(&mut self, keys: &[ChunkKey]) -> Vec<LoadDecision> {
        keys.iter()
            .map(|key| match self.find(key) {
                Some(id) if self.table[id].state == State::Committed => {
                    if self.tickets_left() == 0 {
                        return LoadDecision::Busy;
                    }
                    self.table[id].pins += 1;
                    let record = self.table.record(id);
                    LoadDecision::Read(Plan { ticket: self.open(Open::Read(id)), record })
                }
                _ => LoadDecision::Miss,
            })
            .collect()
    }

    /// The chunk that is being written under this ticket.
    pub fn writing(&self, ticket: Ticket) -> Option<ChunkRecord> {
        match self.open.get(&ticket)? {
            Open::Write(id) => Some(self.table.record(*id)),
            Open::Lookup(_) | Open::Read(_) => None,
        }
    }

    /// The write under this ticket is done and recorded: the chunk is found from now on. `false` when the ticket
    /// is not that of an open write.
    pub fn commit(&mut self, ticket: Ticket) -> bool {
        let Some(id) = self.close_write(ticket) else { return false };
        self.table[id].state = State::Committed;
        self.announce(id, Change::Stored);
        self.may_come_back(id);
        true
    }

    /// The write under this ticket failed and no longer goes on: its space is free. `false` when the ticket is not
    /// that of an open write.
    pub fn abort(&mut self, ticket: Ticket) -> bool {
        let Some(id) = self.close_write(ticket) else { return false };
        self.unlist(id);
        self.forget(id);
        true
    }

    /// The lookup or read under this ticket is over. `false` when the ticket is not one of an open lookup or read.
    pub fn release(&mut self, ticket: Ticket) -> bool {
        match self.open.remove(&ticket) {
            Some(Open::Lookup(ids)) => ids.into_iter().for_each(|id| self.unpin(id)),
            Some(Open::Read(id)) => self.unpin(id),
            Some(write @ Open::Write(_)) => {
                self.open.insert(ticket, write);
                return false;
            }
            None => return false,
        }
        true
    }

    /// What the read under this ticket found is not what was stored: the chunk is dropped. Gives the removal to
    /// record, if the chunk was not dropped already; `None` when the ticket is not that of an open read.
    pub fn discard(&mut self, ticket: Ticket) -> Option<Option<Entry>> {
        let Some(&Open::Read(id)) = self.open.get(&ticket) else { return None };
        self.open.remove(&ticket);
        let removal = (self.table[id].state == State::Committed).then(|| {
            self.counts.dropped += 1;
            self.announce(id, Change::Removed(Cause::Unsound));
            self.table[id].state = State::Dropped;
            self.unlist(id)
        });
        self.unpin(id);
        Some(removal)
    }

    /// Whether a chunk is there. Does not count as use.
    pub fn contains(&self, key: &ChunkKey) -> bool {
        self.find(key).is_some_and(|id| self.table[id].state == State::Committed)
    }

    /// All committed chunks, those first that would go first. Taken in again the other way round, they go in this
    /// order.
    pub fn committed(&self) -> impl Iterator<Item = ChunkRecord> {
        self.order
            .first_to_go(&self.table)
            .filter(|&id| self.table[id].state == State::Committed)
            .map(|id| self.table.record(id))
    }

    /// Chunks it holds, those being written included.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tickets that are open: zero when nothing is under way.
    pub fn open_tickets(&self) -> usize {
        self.open.len()
    }

    /// Writes that are open.
    pub fn open_writes(&self) -> usize {
        self.writes.len()
    }

    /// The address spaces of the tier's drives.
    pub fn space(&self) -> &Drives {
        &self.drives
    }

    /// The namespaces that take most, and how much, those being written included.
    pub fn namespaces(&self, most: usize) -> Vec<(NamespaceId, NamespaceSum)> {
        self.namespaces.largest(most)
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn tickets_left(&self) -> usize {
        (self.limits.tickets_max as usize).saturating_sub(self.open.len())
    }

    fn open(&mut self, what: Open) -> Ticket {
        let ticket = Ticket::new(self.next_ticket);
        self.next_ticket += 1;
        self.open.insert(ticket, what);
        ticket
    }

    fn close_write(&mut self, ticket: Ticket) -> Option<u32> {
        let Some(&Open::Write(id)) = self.open.get(&ticket) else { return None };
        self.open.remove(&ticket);
        self.writes.remove(&id);
        Some(id)
    }

    /// The chunk of this key, if it is there or being written.
    fn find(&self, key: &ChunkKey) -> Option<u32> {
        self.index.find(key, |id| self.table.is_listed_as(id, key))
    }

    /// The chunks of the longest front of a prompt that is there, and whether the chunk after it is being written.
    fn committed_front(&self, keys: &[ChunkKey]) -> (Vec<u32>, bool) {
        let mut found = Vec::new();
        let Some(mut last) = keys.first().and_then(|key| self.find(key)) else { return (found, false) };
        if self.table[last].state != State::Committed {
            return (found, true);
        }
        found.reserve_exact(keys.len());
        found.push(last);
        let mut step = 1;
        // Memory is what takes time here, so each chunk is looked for where it can be guessed to be without having
        // waited for the one before it.
        let mut guesses = [0; GUESSED_AT_ONCE];
        let mut ahead = guesses.iter();
        for (at, key) in keys.iter().enumerate().skip(1) {
            let id = if ahead.len() == 0 && self.table.is_listed_as(last.wrapping_add(step), key) {
                // Chunks of a prompt that were stored one after the other lie one beside the other.
                last.wrapping_add(step)
            } else {
                if ahead.len() == 0 {
                    guesses
                        .iter_mut()
                        .zip(&keys[at..])
                        .for_each(|(guess, key)| *guess = self.index.guess(key));
                    ahead = guesses.iter();
                }
                let guess = ahead.next().copied().filter(|&guess| self.table.is_listed_as(guess, key));
                let Some(id) = guess.or_else(|| self.find(key)) else { return (found, false) };
                step = id.wrapping_sub(last);
                id
            };
            if self.table[id].state != State::Committed {
                return (found, true);
            }
            found.push(id);
            last = id;
        }
        (found, false)
    }

    /// Makes room for a chunk and takes it in as being written.
    fn reserve(
        &mut self,
        mut record: ChunkRecord,
        parent: Option<u32>,
        removed: &mut Vec<Entry>,
    ) -> Option<(Plan, u32)> {
        let blocks = u32::try_from(ChunkRecord::room_blocks(record.length)).ok()?;
        if blocks > self.limits.blocks.largest() {
            return None;
        }
        // The chunk this one continues may be the very one that would be evicted for it.
        if let Some(id) = parent {
            self.table[id].pins += 1;
        }
        let freed_max = self.drives.free_blocks() + FREED_FOR_ONE_MAX * u64::from(blocks);
        let place = loop {
            if self.len() < self.limits.chunks_max as usize
                && let Some(place) = self.drives.allocate(blocks)
            {
                break Some(place);
            }
            // In small pieces all over the tier: rather no room for one chunk than the loss of all others.
            if self.drives.free_blocks() > freed_max {
                break None;
            }
            match self.evict() {
                Some(removal) => removed.push(removal),
                None => break None,
            }
        };
        let id = place.map(|place| {
            (record.drive, record.extents) = place;
            record.generation = self.next_generation;
            self.next_generation += 1;
            let id = self.insert(&record, State::Writing, parent);
            self.order.add(&mut self.table, id);
            id
        });
        if let Some(id) = parent {
            self.unpin(id);
        }
        let id = id?;
        let ticket = self.open(Open::Write(id));
        self.writes.insert(id, ticket);
        Some((Plan { ticket, record }, id))
    }

    fn insert(&mut self, record: &ChunkRecord, state: State, parent: Option<u32>) -> u32 {
        let id = self.table.insert(record, state, parent);
        self.index.insert(&record.key, id);
        self.namespaces.add(&record.key, record.length);
        id
    }

    /// Evicts the first chunk that may go.
    fn evict(&mut self) -> Option<Entry> {
        let id = self.order.victim(&mut self.table)?;
        self.counts.evicted += 1;
        self.announce(id, Change::Removed(Cause::Capacity));
        let removal = self.unlist(id);
        self.forget(id);
        Some(removal)
    }

    /// Takes a chunk out of the index, so that it is not found any more.
    fn unlist(&mut self, id: u32) -> Entry {
        self.keep_no_more(id);
        let parent = self.table.live_parent(id);
        self.table.untie(id);
        self.order.remove(&mut self.table, id);
        if let Some(parent) = parent {
            self.may_come_back(parent);
        }
        let (key, generation) = (self.table[id].key, self.table[id].generation);
        self.index.remove(&key, id);
        self.namespaces.subtract(&key, self.table.length(id));
        Entry::Remove(key, generation)
    }

    /// Frees what an unlisted chunk holds.
    fn forget(&mut self, id: u32) {
        self.drives.free(self.table[id].drive, &self.table.extents(id));
        self.table.forget(id);
    }

    fn unpin(&mut self, id: u32) {
        let chunk = &mut self.table[id];
        chunk.pins -= 1;
        if chunk.pins == 0 {
            if chunk.state == State::Dropped {
                self.forget(id);
            } else if chunk.has(Mark::Waits) {
                self.may_come_back(id);
            }
        }
    }

    /// One of the things that may have kept a chunk is gone.
    fn may_come_back(&mut self, id: u32) {
        let chunk = &self.table[id];
        if chunk.has(Mark::Waits) && chunk.may_go() {
            self.order.come_back(&mut self.table, id);
        }
    }
}
