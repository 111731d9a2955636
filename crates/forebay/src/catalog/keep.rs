//! Keeping chunks from eviction for as long as somebody wants it.
//!
//! Promises: what is kept is not evicted until it is let go of; a chunk is kept together with all that it continues, since
//! that cannot be evicted before it, and all of them count; no more are kept than the caller says. What is dropped or
//! cleared is kept no more. Nothing of it survives a restart.
//!
//! What a kept chunk continues may come to be without being kept: it was let go of alone, or stored afterwards. It cannot
//! be evicted either, and [`Catalog::keep_what_is_continued`] has it count.

use super::Catalog;
use super::table::{Mark, State};
use crate::key::ChunkKey;

/// What is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Chunks.
    pub chunks: u64,
    /// Blocks they take.
    pub blocks: u64,
}

impl Catalog {
    /// Keeps a chunk that is there, and those it continues, as long as all that is kept takes at most `blocks_max` blocks.
    /// Whether it is kept now.
    pub fn keep(&mut self, key: &ChunkKey, blocks_max: u64) -> bool {
        self.find(key).is_some_and(|id| self.keep_id(id, blocks_max))
    }

    /// Lets a chunk be evicted again; whether it was kept. What it continues stays kept.
    pub fn let_go(&mut self, key: &ChunkKey) -> bool {
        self.find(key).is_some_and(|id| self.let_go_of(id))
    }

    /// As [`Self::keep`], of all chunks that `which` says, a few at a time: of the `most` places from `from` on. Gives how
    /// many of them are kept now, how many are not, and the place to go on from.
    pub fn keep_some(
        &mut self,
        from: u32,
        most: u32,
        blocks_max: u64,
        which: impl Fn(&ChunkKey) -> bool,
    ) -> (u64, u64, Option<u32>) {
        let (mut kept, mut left_out) = (0, 0);
        let next = self.each_committed(from, most, which, |catalog, id| {
            if catalog.keep_id(id, blocks_max) {
                kept += 1;
            } else {
                left_out += 1;
            }
        });
        (kept, left_out, next)
    }

    /// As [`Self::let_go`], likewise. Gives how many were let go of, and the place to go on from.
    pub fn let_some_go(
        &mut self,
        from: u32,
        most: u32,
        which: impl Fn(&ChunkKey) -> bool,
    ) -> (u64, Option<u32>) {
        let mut let_go = 0;
        let next =
            self.each_committed(from, most, which, |catalog, id| let_go += u64::from(catalog.let_go_of(id)));
        (let_go, next)
    }

    /// Keeps what kept chunks continue, of the `most` places from `from` on, whatever that takes. Gives the place to go on
    /// from.
    pub fn keep_what_is_continued(&mut self, from: u32, most: u32) -> Option<u32> {
        self.each_committed(
            from,
            most,
            |_| true,
            |catalog, id| {
                let is_there = |&id: &u32| {
                    let chunk = &catalog.table[id];
                    chunk.state == State::Committed && !chunk.has(Mark::IsKept)
                };
                if catalog.table[id].has(Mark::IsKept) {
                    let parents = std::iter::successors(catalog.table.live_parent(id), |&id| {
                        catalog.table.live_parent(id)
                    });
                    let parents: Vec<u32> = parents.take_while(is_there).collect();
                    parents.into_iter().for_each(|id| catalog.mark_kept(id));
                }
            },
        )
    }

    /// Whether a chunk is kept.
    pub fn is_kept(&self, key: &ChunkKey) -> bool {
        self.find(key).is_some_and(|id| self.table[id].has(Mark::IsKept))
    }

    /// What is kept.
    pub fn kept(&self) -> Kept {
        self.kept
    }

    fn keep_id(&mut self, id: u32, blocks_max: u64) -> bool {
        let table = &self.table;
        if table[id].has(Mark::IsKept) {
            return true;
        }
        if self.kept.blocks + table.extents(id).blocks() > blocks_max {
            return false;
        }
        // What a chunk continues that is kept is kept as well, unless it was let go of alone.
        let chain: Vec<u32> = std::iter::successors(Some(id), |&id| table.live_parent(id))
            .take_while(|&id| !table[id].has(Mark::IsKept))
            .collect();
        let blocks: u64 = chain.iter().map(|&id| table.extents(id).blocks()).sum();
        let is_whole = chain.iter().all(|&id| table[id].state == State::Committed);
        if !is_whole || self.kept.blocks + blocks > blocks_max {
            return false;
        }
        chain.into_iter().for_each(|id| self.mark_kept(id));
        true
    }

    fn mark_kept(&mut self, id: u32) {
        self.kept.chunks += 1;
        self.kept.blocks += self.table.extents(id).blocks();
        let chunk = &mut self.table[id];
        chunk.set(Mark::IsKept, true);
        chunk.pins += 1;
        self.order.set_aside(&mut self.table, id);
    }

    fn let_go_of(&mut self, id: u32) -> bool {
        let was_kept = self.table[id].has(Mark::IsKept);
        if was_kept {
            self.keep_no_more(id);
            self.order.let_go(&mut self.table, id);
        }
        was_kept
    }

    /// Forgets that a chunk is kept. It goes no further: who asks for it knows what becomes of the chunk.
    pub(super) fn keep_no_more(&mut self, id: u32) {
        if self.table[id].has(Mark::IsKept) {
            self.kept.chunks -= 1;
            self.kept.blocks -= self.table.extents(id).blocks();
            let chunk = &mut self.table[id];
            chunk.set(Mark::IsKept, false);
            chunk.pins -= 1;
        }
    }
}
