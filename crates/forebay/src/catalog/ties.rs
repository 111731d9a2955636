//! Ties: which chunk continues which.
//!
//! Promises: a chunk is tied to at most one other, and ties form no ring, whatever a caller claims; a chunk counts
//! those that are tied to it for as long as they are there. A tie outlives the chunk it leads to, so that the place of
//! that one stays its own; but only a tie to a chunk that is there counts.

use super::table::{NIL, Table};
use crate::key::ChunkKey;

impl Table {
    /// Notes that `id` continues `parent`, unless it is tied to a chunk that is there or that would make a ring: only
    /// a chunk that something continues can close one.
    pub(super) fn tie(&mut self, id: u32, parent: u32) {
        let ring = || id == parent || (self[id].children > 0 && self.ancestors(parent).contains(&id));
        if self.live_parent(id).is_some() || ring() {
            return;
        }
        let key = self.parent_key(id);
        self.set_parent(id, Some(parent), key);
    }

    /// Ends the tie of a chunk that is there no more to the one it continues.
    pub(super) fn untie(&mut self, id: u32) {
        self.set_parent(id, None, ChunkKey::NONE);
    }

    /// The chunk that this one continues, if it is there.
    pub(super) fn live_parent(&self, id: u32) -> Option<u32> {
        let parent = self[id].parent;
        (parent != NIL && self[parent].is_listed()).then_some(parent)
    }

    /// `id` and the chunks it continues, first of the prompt first.
    pub(super) fn ancestors(&self, id: u32) -> Vec<u32> {
        let mut chain: Vec<u32> = std::iter::successors(Some(id), |&id| self.live_parent(id)).collect();
        chain.reverse();
        chain
    }
}
