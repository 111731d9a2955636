//! What must be true: a list of chunks, each with who uses it and what was said to continue it, as plain as can be.
//!
//! The model does not know how the catalog picks what it evicts, only what must never be picked; nor what the journal
//! has, only what must be there after a death. Chunks are known by their generations, which are never used twice.

use std::collections::{BTreeMap, BTreeSet};

use forebay::ChunkKey;
use forebay::catalog::{BLOCK_BYTES, Catalog, ChunkRecord, Ticket};

use crate::setup::Setup;

/// What a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Its blocks are being written.
    Writing,
    /// It is found.
    Committed,
    /// It is not found any more, but still read.
    Dropped,
}

/// What the model knows of a chunk.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Chunk {
    /// As it was planned.
    pub(crate) record: ChunkRecord,
    /// What it is.
    pub(crate) state: State,
    /// Plans and hits that use it.
    pub(crate) users: u32,
    /// Those that were said to continue it.
    pub(crate) continued_by: BTreeSet<u64>,
    /// It was reported stored: a death must not cost it.
    pub(crate) told: bool,
    /// A loss of power must not cost it either.
    pub(crate) durable: bool,
    /// What is on disk may not be what was stored, by no fault of the cache.
    pub(crate) doubtful: bool,
    /// A write of it was answered with an error: it must not be reported stored.
    pub(crate) failed: bool,
}

/// Under what something is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Open {
    /// A chunk is written.
    Write(u64),
    /// A chunk is read.
    Read(u64),
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// Chunks that are there, or take up space.
    pub(crate) chunks: BTreeMap<u64, Chunk>,
    /// Tickets that are open, but for those of hits.
    pub(crate) open: BTreeMap<Ticket, Open>,
    /// Tickets that were answered.
    pub(crate) closed: Vec<Ticket>,
    /// Hits that are held: the chunks of each.
    pub(crate) hits: Vec<Vec<u64>>,
    /// Every record that was ever planned.
    pub(crate) ever: BTreeMap<u64, ChunkRecord>,
}

impl Model {
    /// The chunk that is there, or being written, under a key.
    pub(crate) fn live(&self, key: &ChunkKey) -> Option<u64> {
        let is_live = |chunk: &Chunk| chunk.record.key == *key && chunk.state != State::Dropped;
        self.chunks.iter().find(|(_, chunk)| is_live(chunk)).map(|(&generation, _)| generation)
    }

    /// The chunk that is found under a key.
    pub(crate) fn committed(&self, key: &ChunkKey) -> Option<u64> {
        self.live(key).filter(|generation| self.chunks[generation].state == State::Committed)
    }

    /// A chunk that is known to be there.
    pub(crate) fn chunk(&mut self, generation: u64) -> &mut Chunk {
        self.chunks.get_mut(&generation).expect("a chunk in use is there")
    }

    /// A plan was made.
    pub(crate) fn opened(&mut self, ticket: Ticket, open: Open) {
        assert!(!self.closed.contains(&ticket), "a ticket is used twice");
        assert!(self.open.insert(ticket, open).is_none(), "a ticket is used twice");
    }

    /// A plan was answered.
    pub(crate) fn close(&mut self, ticket: Ticket) -> Open {
        if self.closed.len() > 50 {
            self.closed.remove(0);
        }
        self.closed.push(ticket);
        self.open.remove(&ticket).expect("it was open")
    }

    /// Takes in a chunk that is to be written.
    pub(crate) fn written(&mut self, record: ChunkRecord) {
        assert!(self.live(&record.key).is_none(), "what is there is written again");
        let newest = self.ever.keys().next_back().copied();
        assert!(newest.is_none_or(|newest| record.generation > newest), "a generation is used again");
        self.ever.insert(record.generation, record);
        self.insert(record, State::Writing);
    }

    fn insert(&mut self, record: ChunkRecord, state: State) {
        let chunk = Chunk {
            record,
            state,
            users: 0,
            continued_by: BTreeSet::new(),
            told: false,
            durable: false,
            doubtful: false,
            failed: false,
        };
        self.chunks.insert(record.generation, chunk);
    }

    /// Notes that one chunk was said to continue another.
    pub(crate) fn tied(&mut self, parent: u64, child: u64) {
        if parent != child && self.chunks.contains_key(&child) {
            let parent = self.chunks.get_mut(&parent);
            parent.expect("evicted by the call that stores what continues it").continued_by.insert(child);
        }
    }

    /// Somebody uses a chunk no more.
    pub(crate) fn stop_using(&mut self, generation: u64) {
        let chunk = self.chunk(generation);
        chunk.users -= 1;
        if chunk.users == 0 && chunk.state == State::Dropped {
            self.remove(generation);
        }
    }

    /// A chunk is there no more.
    pub(crate) fn remove(&mut self, generation: u64) {
        self.chunks.remove(&generation).expect("it was there");
        self.chunks.values_mut().for_each(|chunk| {
            chunk.continued_by.remove(&generation);
        });
    }

    /// A chunk is not found any more; those who use it still do.
    pub(crate) fn drop_chunk(&mut self, generation: u64) {
        let chunk = self.chunk(generation);
        if chunk.state == State::Committed {
            chunk.state = State::Dropped;
        }
    }

    /// These were evicted by a call: none of them was in use, and nothing that is left continues them.
    pub(crate) fn evict(&mut self, gone: &BTreeSet<u64>) {
        for generation in gone {
            let chunk = &self.chunks[generation];
            assert_eq!(chunk.state, State::Committed, "what is being written was evicted: {chunk:?}");
            assert_eq!(chunk.users, 0, "what is in use was evicted: {chunk:?}");
            let hangs = chunk.continued_by.iter().find(|child| {
                !gone.contains(child)
                    && self.chunks.get(child).is_some_and(|child| child.state != State::Dropped)
            });
            assert!(hangs.is_none(), "evicted before a chunk that continues it: {chunk:?}");
        }
        gone.iter().for_each(|&generation| self.remove(generation));
    }

    /// The chunk that has a block of a drive, or had it last.
    pub(crate) fn at(&self, drive: u8, block: u64) -> Option<u64> {
        let has = |record: &ChunkRecord| {
            record.drive == drive
                && record.extents.as_slice().iter().any(|at| (u64::from(at.start)..at.end()).contains(&block))
        };
        self.chunks.iter().find(|(_, chunk)| has(&chunk.record)).map(|(&generation, _)| generation)
    }

    /// Compares with the catalog.
    pub(crate) fn check(&self, catalog: &Catalog, setup: &Setup) {
        assert_eq!(catalog.open_tickets(), self.open.len() + self.hits.len(), "open tickets");
        let writes = self.open.values().filter(|open| matches!(open, Open::Write(_))).count();
        assert_eq!(catalog.open_writes(), writes, "open writes");
        let mut taken: Vec<Vec<bool>> =
            setup.drives.iter().map(|&blocks| vec![false; blocks as usize]).collect();
        let mut used = 0;
        for chunk in self.chunks.values() {
            let drive = &mut taken[usize::from(chunk.record.drive)];
            for extent in chunk.record.extents.as_slice() {
                let blocks = extent.start as usize..extent.start as usize + extent.blocks as usize;
                for is_taken in &mut drive[blocks] {
                    assert!(!std::mem::replace(is_taken, true), "a block is two chunks': {chunk:?}");
                    used += 1;
                }
            }
        }
        assert_eq!(setup.blocks() - catalog.space().free_blocks(), used, "blocks that are not free");
        let mut live = 0;
        for chunk in self.chunks.values() {
            live += usize::from(chunk.state != State::Dropped);
            let found = catalog.contains(&chunk.record.key);
            assert!(found || chunk.state != State::Committed, "it is gone: {chunk:?}");
        }
        assert_eq!(catalog.len(), live, "chunks");
        assert!(live <= setup.chunks_max as usize, "more chunks than may be");
    }

    /// What the catalog says is committed and the model does not, or the other way round.
    pub(crate) fn gone(&self, catalog: &Catalog) -> BTreeSet<u64> {
        let there: BTreeSet<u64> = catalog.committed().map(|record| record.generation).collect();
        let committed = self.chunks.iter().filter(|(_, chunk)| chunk.state == State::Committed);
        committed
            .map(|(&generation, _)| generation)
            .filter(|generation| !there.contains(generation))
            .collect()
    }

    /// A new process begins with these chunks; what was known of them is known still. `whole` says whether what was
    /// written is on the drives as before.
    pub(crate) fn restart(&mut self, recovered: &[ChunkRecord], whole: bool) {
        let before = std::mem::take(&mut self.chunks);
        self.closed.extend(std::mem::take(&mut self.open).into_keys());
        self.hits.clear();
        for record in recovered {
            self.insert(*record, State::Committed);
            let chunk = self.chunk(record.generation);
            let old = before.get(&record.generation).filter(|old| old.state == State::Committed);
            if let Some(old) = old {
                (chunk.told, chunk.durable) = (old.told, old.durable);
            }
            chunk.doubtful = old.is_none_or(|old| old.doubtful || !(whole || old.durable));
        }
        let by_key: BTreeMap<[u8; 32], u64> =
            recovered.iter().map(|record| (*record.key.as_bytes(), record.generation)).collect();
        for record in recovered {
            if let Some(&parent) = by_key.get(record.parent.as_bytes()) {
                self.tied(parent, record.generation);
            }
        }
    }

    /// Blocks of a file are bytes of it.
    pub(crate) fn block_of(offset: u64) -> u64 {
        offset / BLOCK_BYTES as u64
    }
}
