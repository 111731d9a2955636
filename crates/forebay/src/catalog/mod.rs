//! The catalog decides: what is stored, where, what goes to make room, who may read what.
//!
//! A plain state machine with one owner. It does no I/O, starts no thread, reads no clock and draws no random
//! number; time comes in as an argument. So it can be tested against a model and driven by a simulator.
//!
//! Promises:
//! * a chunk is found only after its store was committed, and only until it is evicted or dropped;
//! * blocks belong to one chunk at a time; those of a chunk being written or read are not given to another one;
//! * eviction takes the least recently used chunk that nothing hangs on: never a chunk before a chunk that
//!   continues it, never one that is pinned or being written;
//! * each ticket is answered once; when all are answered no pin and no reservation is left;
//! * it holds at most `chunks_max` chunks and `tickets_max` open tickets.
//!
//! Assumes that its owner records the removals it hands out before it lets anything be written, and calls
//! [`Catalog::commit`] only when header and payload are where the plan says.

mod extent;
mod plan;
mod recency;
mod record;
mod space;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

pub use extent::{BLOCK_BYTES, EXTENTS_MAX, Extent, Extents, blocks_for};
pub use plan::{LoadDecision, LookupDecision, PLAN_BYTES, Plan, StoreDecision, Ticket};
pub use record::{ChunkRecord, Entry, RECORD_BYTES};
pub(crate) use record::{u32_at, u64_at};
pub use space::AddressSpace;

use crate::key::ChunkKey;
use recency::{Links, Recency};

/// The bounds of a catalog.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Blocks in the tier.
    pub blocks: u32,
    /// Chunks it may hold, those being written included.
    pub chunks_max: u32,
    /// Tickets it may keep open.
    pub tickets_max: u32,
}

/// How often the directory was opened stands in the upper bits of generations and tickets, so that none is ever used
/// twice.
const EPOCH_SHIFT: u32 = 40;
/// The largest epoch there is room for.
pub const EPOCH_MAX: u32 = (1 << (u64::BITS - EPOCH_SHIFT)) - 1;

/// How many times the blocks of a chunk are freed for it at most. Chunks of one size need them once; a large one among
/// small ones may find what is freed too scattered, and then grows its room over several stores.
const FREED_FOR_ONE_MAX: u64 = 8;

/// What has happened to a catalog since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Chunks evicted to make room.
    pub evicted: u64,
    /// Chunks dropped because what was read was not what was stored.
    pub dropped: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Writing(Ticket),
    Committed,
    /// No longer found; its blocks are freed when the last reader is done.
    Dropped,
}

/// Points at a chunk for as long as that chunk is there: ids are used again, generations are not.
#[derive(Debug, Clone, Copy)]
struct Link {
    id: u32,
    generation: u64,
}

#[derive(Debug)]
struct Chunk {
    record: ChunkRecord,
    state: State,
    pins: u32,
    parent: Option<Link>,
    /// Chunks in the catalog that continue this one.
    children: u32,
    links: Links,
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
    space: AddressSpace,
    index: HashMap<ChunkKey, u32, BuildHasherDefault<KeyHasher>>,
    chunks: Vec<Chunk>,
    unused: Vec<u32>,
    recency: Recency,
    open: HashMap<Ticket, Open>,
    next_ticket: u64,
    next_generation: u64,
    counts: Counts,
}

/// Keys are digests: the eight bytes they hash themselves to are taken as they are.
#[derive(Debug, Default)]
struct KeyHasher(u64);

impl std::hash::Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

impl Catalog {
    /// An empty catalog. `epoch` says how often the directory was opened; it must be larger each time.
    ///
    /// # Panics
    /// When `epoch` is larger than [`EPOCH_MAX`].
    pub fn new(limits: Limits, epoch: u32) -> Self {
        assert!(epoch <= EPOCH_MAX, "generations have no room for epoch {epoch}");
        Self {
            limits,
            space: AddressSpace::new(limits.blocks),
            index: HashMap::default(),
            chunks: Vec::new(),
            unused: Vec::new(),
            recency: Recency::default(),
            open: HashMap::new(),
            next_ticket: (u64::from(epoch) << EPOCH_SHIFT) + 1,
            next_generation: (u64::from(epoch) << EPOCH_SHIFT) + 1,
            counts: Counts::default(),
        }
    }

    /// The epoch in which a generation was made.
    pub fn epoch_of(generation: u64) -> u32 {
        u32::try_from(generation >> EPOCH_SHIFT).unwrap_or(u32::MAX)
    }

    /// Takes in a chunk known from before, as the least recently used one. `false` when it cannot be: its blocks
    /// are another chunk's, its key is there, the catalog is full.
    pub fn restore(&mut self, record: ChunkRecord) -> bool {
        if self.len() >= self.limits.chunks_max as usize
            || self.index.contains_key(&record.key)
            || !self.space.reserve(&record.extents)
        {
            return false;
        }
        let id = self.insert(record, State::Committed);
        self.recency.push_oldest(&mut self.chunks, id);
        true
    }

    /// Ties restored chunks to those they continue. Call once, after the last [`Self::restore`].
    pub fn tie_restored(&mut self) {
        // Each chunk after those it continues: then it has no children yet, and tying it is cheap.
        let mut tied = vec![false; self.chunks.len()];
        let ids: Vec<u32> = self.index.values().copied().collect();
        for id in ids {
            let mut chain = Vec::new();
            let mut next = Some(id);
            while let Some(id) = next.filter(|&id| !std::mem::replace(&mut tied[id as usize], true)) {
                chain.push(id);
                next = self.index.get(&self.chunk(id).record.parent).copied();
            }
            for id in chain.into_iter().rev() {
                let parent = self.index.get(&self.chunk(id).record.parent).copied();
                self.tie(id, parent);
            }
        }
    }

    /// How much of this prompt is there; what is, is pinned and counts as used.
    pub fn lookup(&mut self, keys: &[ChunkKey]) -> LookupDecision {
        let mut found = Vec::new();
        let mut pending = false;
        for key in keys {
            match self.index.get(key).map(|&id| (id, self.chunk(id).state)) {
                Some((id, State::Committed)) => found.push(id),
                other => {
                    pending = matches!(other, Some((_, State::Writing(_))));
                    break;
                }
            }
        }
        if found.is_empty() {
            return if pending { LookupDecision::Pending } else { LookupDecision::Miss };
        }
        if self.tickets_left() == 0 {
            return LookupDecision::Busy;
        }
        let chunks = found.len();
        self.touch_chain(&found);
        found.iter().for_each(|&id| self.chunk_mut(id).pins += 1);
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
        let mut before = parent.and_then(|key| self.index.get(&key).copied());
        let mut depth = before.map_or(0, |id| self.chunk(id).record.depth.saturating_add(1));
        let mut chain = before.map_or_else(Vec::new, |id| self.ancestors(id));
        let mut decisions = Vec::with_capacity(chunks.len());
        let mut full = false;
        for &(key, length) in chunks {
            let (decision, id) = if let Some(id) = self.index.get(&key).copied() {
                self.tie(id, before);
                let decision = match self.chunk(id).state {
                    State::Writing(ticket) => StoreDecision::InFlight(ticket),
                    State::Committed | State::Dropped => StoreDecision::Present,
                };
                (decision, Some(id))
            } else {
                let record = ChunkRecord {
                    key,
                    parent: before_key,
                    depth,
                    generation: 0,
                    length,
                    stored_at_ms: now_ms,
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
            depth = id.map_or(depth, |id| self.chunk(id).record.depth).saturating_add(1);
            before_key = key;
            before = id;
            decisions.push(decision);
        }
        // A chunk may have gone again to make room for a later one of the same call.
        chain.retain(|&id| self.chunk(id).links.listed());
        self.touch_chain(&chain);
        decisions
    }

    /// Decides on a load: each chunk that is there is pinned until its ticket is answered.
    pub fn plan_load(&mut self, keys: &[ChunkKey]) -> Vec<LoadDecision> {
        keys.iter()
            .map(|key| match self.index.get(key).copied() {
                Some(id) if self.chunk(id).state == State::Committed => {
                    if self.tickets_left() == 0 {
                        return LoadDecision::Busy;
                    }
                    let chunk = self.chunk_mut(id);
                    chunk.pins += 1;
                    let record = chunk.record;
                    LoadDecision::Read(Plan { ticket: self.open(Open::Read(id)), record })
                }
                _ => LoadDecision::Miss,
            })
            .collect()
    }

    /// The chunk that is being written under this ticket.
    pub fn writing(&self, ticket: Ticket) -> Option<ChunkRecord> {
        match self.open.get(&ticket)? {
            Open::Write(id) => Some(self.chunk(*id).record),
            Open::Lookup(_) | Open::Read(_) => None,
        }
    }

    /// The write under this ticket is done and recorded: the chunk is found from now on. `false` when the ticket
    /// is not that of an open write.
    pub fn commit(&mut self, ticket: Ticket) -> bool {
        let Some(id) = self.close_write(ticket) else { return false };
        self.chunk_mut(id).state = State::Committed;
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
        let removal = (self.chunk(id).state == State::Committed).then(|| {
            self.counts.dropped += 1;
            self.chunk_mut(id).state = State::Dropped;
            self.unlist(id)
        });
        self.unpin(id);
        Some(removal)
    }

    /// Whether a chunk is there. Does not count as use.
    pub fn contains(&self, key: &ChunkKey) -> bool {
        self.index.get(key).is_some_and(|&id| self.chunk(id).state == State::Committed)
    }

    /// All committed chunks, least recently used first.
    pub fn committed(&self) -> impl Iterator<Item = &ChunkRecord> {
        self.recency
            .oldest_first(&self.chunks)
            .map(|id| self.chunk(id))
            .filter(|chunk| chunk.state == State::Committed)
            .map(|chunk| &chunk.record)
    }

    /// Chunks it holds, those being written included.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Tickets that are open: zero when nothing is under way.
    pub fn open_tickets(&self) -> usize {
        self.open.len()
    }

    /// Writes that are open.
    pub fn open_writes(&self) -> usize {
        self.open.values().filter(|open| matches!(open, Open::Write(_))).count()
    }

    /// The tier's address space.
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn tickets_left(&self) -> usize {
        (self.limits.tickets_max as usize).saturating_sub(self.open.len())
    }

    fn open(&mut self, what: Open) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.open.insert(ticket, what);
        ticket
    }

    fn close_write(&mut self, ticket: Ticket) -> Option<u32> {
        let Some(&Open::Write(id)) = self.open.get(&ticket) else { return None };
        self.open.remove(&ticket);
        Some(id)
    }

    /// Makes room for a chunk and takes it in as being written.
    fn reserve(
        &mut self,
        mut record: ChunkRecord,
        parent: Option<u32>,
        removed: &mut Vec<Entry>,
    ) -> Option<(Plan, u32)> {
        let blocks = u32::try_from(ChunkRecord::blocks(record.length)).ok()?;
        if blocks > self.space.blocks() {
            return None;
        }
        // The chunk this one continues may be the very one that would be evicted for it.
        if let Some(id) = parent {
            self.chunk_mut(id).pins += 1;
        }
        let freed_max = self.space.free_blocks() + FREED_FOR_ONE_MAX * u64::from(blocks);
        let extents = loop {
            if self.len() < self.limits.chunks_max as usize
                && let Some(extents) = self.space.allocate(blocks)
            {
                break Some(extents);
            }
            // In small pieces all over the tier: rather no room for one chunk than the loss of all others.
            if self.space.free_blocks() > freed_max {
                break None;
            }
            match self.evict() {
                Some(removal) => removed.push(removal),
                None => break None,
            }
        };
        if let Some(id) = parent {
            self.chunk_mut(id).pins -= 1;
        }
        record.extents = extents?;
        record.generation = self.next_generation;
        self.next_generation += 1;
        let ticket = Ticket(self.next_ticket);
        let id = self.insert(record, State::Writing(ticket));
        self.recency.push_newest(&mut self.chunks, id);
        self.tie(id, parent);
        Some((Plan { ticket: self.open(Open::Write(id)), record }, id))
    }

    fn insert(&mut self, record: ChunkRecord, state: State) -> u32 {
        let chunk = Chunk { record, state, pins: 0, parent: None, children: 0, links: Links::default() };
        let id = if let Some(id) = self.unused.pop() {
            self.chunks[id as usize] = chunk;
            id
        } else {
            self.chunks.push(chunk);
            u32::try_from(self.chunks.len() - 1).expect("chunks_max is a u32")
        };
        self.index.insert(record.key, id);
        id
    }

    /// Notes that `id` continues `parent`, unless it is tied already or that would make a ring (whatever a caller
    /// claims): only a chunk that something continues can close one.
    fn tie(&mut self, id: u32, parent: Option<u32>) {
        let Some(parent) = parent else { return };
        let ring = || id == parent || (self.chunk(id).children > 0 && self.ancestors(parent).contains(&id));
        if self.live_parent(id).is_some() || ring() {
            return;
        }
        let generation = self.chunk(parent).record.generation;
        self.chunk_mut(id).parent = Some(Link { id: parent, generation });
        self.chunk_mut(parent).children += 1;
    }

    fn live_parent(&self, id: u32) -> Option<u32> {
        let link = self.chunk(id).parent?;
        let parent = self.chunk(link.id);
        (parent.record.generation == link.generation && parent.links.listed()).then_some(link.id)
    }

    /// `id` and the chunks it continues, first of the prompt first.
    fn ancestors(&self, id: u32) -> Vec<u32> {
        let mut chain: Vec<u32> = std::iter::successors(Some(id), |&id| self.live_parent(id)).collect();
        chain.reverse();
        chain
    }

    /// Marks a chain (first of the prompt first) as used now: its first chunk the most recently, so that among
    /// equally old ones the deepest goes first.
    fn touch_chain(&mut self, chain: &[u32]) {
        for &id in chain.iter().rev() {
            self.recency.remove(&mut self.chunks, id);
            self.recency.push_newest(&mut self.chunks, id);
        }
    }

    /// Evicts the least recently used chunk that may go. Those that may not are passed over to the recent end:
    /// something that was used later hangs on them, or somebody uses them now.
    fn evict(&mut self) -> Option<Entry> {
        for _ in 0..self.len() {
            let id = self.recency.oldest()?;
            let chunk = self.chunk(id);
            if chunk.state == State::Committed && chunk.pins == 0 && chunk.children == 0 {
                self.counts.evicted += 1;
                let removal = self.unlist(id);
                self.forget(id);
                return Some(removal);
            }
            self.touch_chain(&[id]);
        }
        None
    }

    /// Takes a chunk out of the index, so that it is not found any more.
    fn unlist(&mut self, id: u32) -> Entry {
        if let Some(parent) = self.live_parent(id) {
            self.chunk_mut(parent).children -= 1;
        }
        self.chunk_mut(id).parent = None;
        self.recency.remove(&mut self.chunks, id);
        let record = self.chunk(id).record;
        self.index.remove(&record.key);
        Entry::Remove(record.key, record.generation)
    }

    /// Frees what an unlisted chunk holds.
    fn forget(&mut self, id: u32) {
        let extents = self.chunk(id).record.extents;
        self.space.free(&extents);
        self.unused.push(id);
    }

    fn unpin(&mut self, id: u32) {
        let chunk = self.chunk_mut(id);
        chunk.pins -= 1;
        if chunk.pins == 0 && chunk.state == State::Dropped {
            self.forget(id);
        }
    }

    fn chunk(&self, id: u32) -> &Chunk {
        &self.chunks[id as usize]
    }

    fn chunk_mut(&mut self, id: u32) -> &mut Chunk {
        &mut self.chunks[id as usize]
    }
}
