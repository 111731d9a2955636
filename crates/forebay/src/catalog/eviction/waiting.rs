//! Chunks whose turn has come before they may go: something hangs on them or somebody uses them.
//!
//! They stand in a queue of their own, so that nobody looks at them until something changes. Promises that a chunk that
//! is put in says so of itself ([`Mark::Waits`]) until it is taken out.

use super::queue::Queue;
use crate::catalog::table::{Mark, Table};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Waiting(Queue);

impl Waiting {
    /// Puts in a chunk that was taken out of its queue.
    pub(super) fn put(&mut self, table: &mut Table, id: u32) {
        self.0.push_newest(table, id);
        table[id].set(Mark::Waits, true);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.oldest().is_none()
    }

    /// Takes out a piece.
    pub(super) fn cut(&mut self, table: &mut Table, oldest: u32, newest: u32) {
        self.0.cut(table, oldest, newest);
    }

    /// Takes out a chunk.
    pub(super) fn take(&mut self, table: &mut Table, id: u32) {
        self.0.remove(table, id);
        table[id].set(Mark::Waits, false);
    }

    pub(super) fn oldest_first<'a>(&self, table: &'a Table) -> impl Iterator<Item = u32> + use<'a> {
        self.0.oldest_first(table)
    }
}
