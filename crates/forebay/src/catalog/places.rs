//! Going through all chunks a few places at a time, with whatever else is asked in between.
//!
//! Promises: a chunk that is there all the while is come to once, whatever comes and goes meanwhile; the order is that of
//! places in memory, and says nothing.

use super::table::State;
use super::{Catalog, Entry};
use crate::events::{Cause, Change};
use crate::key::ChunkKey;

impl Catalog {
    /// Takes out committed chunks that `which` says, a few at a time: of the `most` places from `from` on. They are found no
    /// more, and those that are pinned keep their blocks until they are let go of. Gives the removals to record, and the
    /// place to go on from.
    pub fn clear_some(
        &mut self,
        from: u32,
        most: u32,
        which: impl Fn(&ChunkKey) -> bool,
    ) -> (Vec<Entry>, Option<u32>) {
        let mut removals = Vec::new();
        let next = self.each_committed(from, most, which, |catalog, id| {
            catalog.counts.cleared += 1;
            catalog.announce(id, Change::Removed(Cause::Cleared));
            catalog.table[id].state = State::Dropped;
            removals.push(catalog.unlist(id));
            if catalog.table[id].pins == 0 {
                catalog.forget(id);
            }
        });
        (removals, next)
    }

    /// Calls `act` with the committed chunks that `which` says, of the `most` places from `from` on. Gives the place to go on
    /// from.
    pub(super) fn each_committed(
        &mut self,
        from: u32,
        most: u32,
        which: impl Fn(&ChunkKey) -> bool,
        mut act: impl FnMut(&mut Self, u32),
    ) -> Option<u32> {
        let end = self.table.places();
        let next = from.saturating_add(most).min(end);
        for id in from..next {
            if self.table[id].state == State::Committed && which(&self.table[id].key) {
                act(self, id);
            }
        }
        (next < end).then_some(next)
    }
}
