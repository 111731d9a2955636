//! The table of chunks: what the catalog knows of each, in 88 bytes.
//!
//! A chunk has an id, its place in the table. What every walk along a prompt reads and writes of it is one cache line
//! ([`Chunk`]); the rest ([`Rest`]) lies elsewhere. What few chunks have lies in maps beside them: a parent's key
//! where there is no parent to take it from, extents where there is more than one. A chunk's record is put together
//! from these when it is asked for, and is the one that was taken in.
//!
//! Promises: an id is not used again while anything refers to it, be it a pin or a chunk that continues it; the place
//! that was given back last is the first to be used again, so that prompts stay in one piece in memory too.

use std::collections::HashMap;

use super::eviction::Links;
use super::extent::{Extent, Extents};
use super::record::ChunkRecord;
use super::segments::Segments;
use crate::key::ChunkKey;

/// No chunk.
pub(super) const NIL: u32 = u32::MAX;

/// How far a chunk has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// No chunk has this place.
    Unused,
    /// In the index, but not to be found yet.
    Writing,
    Committed,
    /// No longer found; its blocks are freed when the last reader is done.
    Dropped,
    /// Nothing is left but its key, for the chunks that continue it.
    Gone,
}

/// What is true of few chunks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mark {
    /// Its parent's key is not that of the chunk it is tied to: it stands in a map.
    ParentIsNamed = 1,
    /// It has more extents than one: they stand in a map.
    IsScattered = 2,
    /// Its turn to be evicted has come, and it may not go yet.
    Waits = 4,
    /// Somebody wants it kept: that is one of its pins.
    IsKept = 8,
}

/// What is needed of a chunk to find it, to use it and to keep it: one cache line.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Chunk {
    pub(super) key: ChunkKey,
    pub(super) generation: u64,
    /// Its neighbours in the order of eviction; in a place that is unused the next such.
    pub(super) links: Links,
    /// The chunk it is tied to, there or gone; [`NIL`] without one.
    pub(super) parent: u32,
    /// Chunks that are tied to this one.
    pub(super) children: u32,
    pub(super) pins: u32,
    pub(super) state: State,
    marks: u8,
    /// What its eviction policy knows of it.
    pub(super) rank: u8,
    pub(super) drive: u8,
}

const _: () = assert!(size_of::<Chunk>() == 64 && size_of::<Rest>() == 24);

impl Chunk {
    /// Whether it is in the index and in the order of eviction.
    pub(super) fn is_listed(&self) -> bool {
        matches!(self.state, State::Writing | State::Committed)
    }

    /// Whether it may be evicted: nothing hangs on it and nobody uses it.
    pub(super) fn may_go(&self) -> bool {
        self.state == State::Committed && self.pins == 0 && self.children == 0
    }

    pub(super) fn has(&self, mark: Mark) -> bool {
        self.marks & mark as u8 != 0
    }

    pub(super) fn set(&mut self, mark: Mark, is: bool) {
        self.marks = if is { self.marks | mark as u8 } else { self.marks & !(mark as u8) };
    }
}

/// The rest of a record.
#[derive(Debug, Clone, Copy)]
struct Rest {
    stored_at_ms: u64,
    extent: Extent,
    length: u32,
    depth: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Table {
    chunks: Segments<Chunk>,
    rests: Segments<Rest>,
    /// Keys of parents, for chunks whose parent is not in the table.
    named_parents: HashMap<u32, ChunkKey>,
    /// Extents of chunks with more than one.
    scattered: HashMap<u32, Extents>,
    unused: u32,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            chunks: Segments::default(),
            rests: Segments::default(),
            named_parents: HashMap::new(),
            scattered: HashMap::new(),
            unused: NIL,
        }
    }

    /// The chunk of this id, if it is this one's key that is looked for and it is there or being written.
    pub(super) fn is_listed_as(&self, id: u32, key: &ChunkKey) -> bool {
        self.chunks.get(id).is_some_and(|chunk| chunk.key == *key && chunk.is_listed())
    }

    /// Takes a chunk in, tied to `parent`.
    pub(super) fn insert(&mut self, record: &ChunkRecord, state: State, parent: Option<u32>) -> u32 {
        let extents = record.extents.as_slice();
        let chunk = Chunk {
            key: record.key,
            generation: record.generation,
            links: Links::default(),
            parent: NIL,
            children: 0,
            pins: 0,
            state,
            marks: 0,
            rank: 0,
            drive: record.drive,
        };
        let rest = Rest {
            stored_at_ms: record.stored_at_ms,
            extent: extents.first().copied().unwrap_or_default(),
            length: record.length,
            depth: record.depth,
        };
        let id = if self.unused == NIL {
            let id = u32::try_from(self.chunks.len()).ok().filter(|&id| id != NIL);
            self.chunks.push(chunk);
            self.rests.push(rest);
            id.expect("places are numbered in 32 bits")
        } else {
            let id = self.unused;
            self.unused = self[id].links.newer;
            self[id] = chunk;
            self.rests[id] = rest;
            id
        };
        if extents.len() > 1 {
            self[id].set(Mark::IsScattered, true);
            self.scattered.insert(id, record.extents);
        }
        self.set_parent(id, parent, record.parent);
        id
    }

    /// Forgets a chunk that is no longer listed and whose blocks are free; what continues it goes on knowing its
    /// key.
    pub(super) fn forget(&mut self, id: u32) {
        if self[id].has(Mark::IsScattered) {
            self[id].set(Mark::IsScattered, false);
            self.scattered.remove(&id);
        }
        self[id].state = State::Gone;
        self.give_back_if_alone(id);
    }

    /// What was taken in as this chunk.
    pub(super) fn record(&self, id: u32) -> ChunkRecord {
        let Rest { stored_at_ms, length, depth, .. } = self.rests[id];
        let Chunk { key, generation, drive, .. } = self[id];
        let (parent, extents) = (self.parent_key(id), self.extents(id));
        ChunkRecord { key, parent, depth, generation, length, stored_at_ms, drive, extents }
    }

    pub(super) fn length(&self, id: u32) -> u32 {
        self.rests[id].length
    }

    pub(super) fn extents(&self, id: u32) -> Extents {
        if self[id].has(Mark::IsScattered) {
            self.scattered[&id]
        } else {
            Extents::from_slice(&[self.rests[id].extent]).expect("a chunk may have one extent")
        }
    }

    pub(super) fn depth(&self, id: u32) -> u32 {
        self.rests[id].depth
    }

    /// Key of the chunk before this one, by its record.
    pub(super) fn parent_key(&self, id: u32) -> ChunkKey {
        let chunk = &self[id];
        if chunk.has(Mark::ParentIsNamed) {
            self.named_parents[&id]
        } else if chunk.parent == NIL {
            ChunkKey::NONE
        } else {
            self[chunk.parent].key
        }
    }

    /// Chunks whose parent's key is known, but that are tied to no chunk of that key.
    pub(super) fn with_named_parent(&self) -> Vec<u32> {
        self.named_parents.keys().copied().collect()
    }

    /// Places there are, used or not.
    pub(super) fn places(&self) -> u32 {
        u32::try_from(self.chunks.len()).unwrap_or(NIL)
    }

    /// Of each place how many chunks are tied to the chunk there.
    pub(super) fn children(&self) -> impl Iterator<Item = u32> {
        self.chunks.iter().map(|chunk| chunk.children)
    }

    /// Lets go of memory that was needed for a while.
    pub(super) fn shrink(&mut self) {
        self.named_parents.shrink_to_fit();
    }

    /// Ties a chunk to another one, or to none, in place of the one it was tied to. Its record goes on to say that
    /// its parent is `key`.
    pub(super) fn set_parent(&mut self, id: u32, parent: Option<u32>, key: ChunkKey) {
        let before = std::mem::replace(&mut self[id].parent, parent.unwrap_or(NIL));
        let implied = parent.map_or(ChunkKey::NONE, |parent| {
            self[parent].children += 1;
            self[parent].key
        });
        let is_named = implied != key;
        let was_named = self[id].has(Mark::ParentIsNamed);
        self[id].set(Mark::ParentIsNamed, is_named);
        if is_named {
            self.named_parents.insert(id, key);
        } else if was_named {
            self.named_parents.remove(&id);
        }
        if before != NIL {
            self[before].children -= 1;
            self.give_back_if_alone(before);
        }
    }

    fn give_back_if_alone(&mut self, id: u32) {
        let unused = self.unused;
        let chunk = &mut self[id];
        if chunk.state == State::Gone && chunk.children == 0 {
            chunk.state = State::Unused;
            chunk.links.newer = unused;
            self.unused = id;
        }
    }
}

impl std::ops::Index<u32> for Table {
    type Output = Chunk;

    fn index(&self, id: u32) -> &Chunk {
        &self.chunks[id]
    }
}

impl std::ops::IndexMut<u32> for Table {
    fn index_mut(&mut self, id: u32) -> &mut Chunk {
        &mut self.chunks[id]
    }
}
