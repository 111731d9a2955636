//! A queue of chunks: a doubly linked list through the chunks themselves.
//!
//! Each operation takes constant time for each piece of the queue it moves, and no allocation. A chunk is in one queue
//! at a time, and whoever takes it out says of which.

use crate::catalog::table::{NIL, Table};

/// A chunk's neighbours in its queue.
#[derive(Debug, Clone, Copy)]
pub(in crate::catalog) struct Links {
    pub(in crate::catalog) older: u32,
    pub(in crate::catalog) newer: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self { older: NIL, newer: NIL }
    }
}

/// Both ends of a queue.
#[derive(Debug)]
pub(super) struct Queue {
    oldest: u32,
    newest: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self { oldest: NIL, newest: NIL }
    }
}

impl Queue {
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NIL).then_some(self.oldest)
    }

    pub(super) fn push_newest(&mut self, table: &mut Table, id: u32) {
        self.append(table, id, id);
    }

    pub(super) fn push_oldest(&mut self, table: &mut Table, id: u32) {
        self.join(table, id, self.oldest);
        self.join(table, NIL, id);
    }

    pub(super) fn remove(&mut self, table: &mut Table, id: u32) {
        self.cut(table, id, id);
    }

    /// Takes out what lies between these two, themselves included. It stays in one piece.
    pub(super) fn cut(&mut self, table: &mut Table, oldest: u32, newest: u32) {
        let (older, newer) = (table[oldest].links.older, table[newest].links.newer);
        self.join(table, older, newer);
    }

    /// Puts a piece at the newest end.
    pub(super) fn append(&mut self, table: &mut Table, oldest: u32, newest: u32) {
        self.join(table, self.newest, oldest);
        self.join(table, newest, NIL);
    }

    /// Moves a piece of this queue to its newest end.
    pub(super) fn renew(&mut self, table: &mut Table, oldest: u32, newest: u32) {
        if table[newest].links.newer != NIL {
            self.cut(table, oldest, newest);
            self.append(table, oldest, newest);
        }
    }

    pub(super) fn oldest_first<'a>(&self, table: &'a Table) -> impl Iterator<Item = u32> + use<'a> {
        let listed = |id: u32| (id != NIL).then_some(id);
        std::iter::successors(listed(self.oldest), move |&id| listed(table[id].links.newer))
    }

    /// Makes two chunks neighbours; where one of them is [`NIL`], the other is at an end of the queue.
    fn join(&mut self, table: &mut Table, older: u32, newer: u32) {
        match older {
            NIL => self.oldest = newer,
            id => table[id].links.newer = newer,
        }
        match newer {
            NIL => self.newest = older,
            id => table[id].links.older = older,
        }
    }
}

/// Cuts a chain in pieces that lie in one queue as they are to lie there, its end as the oldest, and gives each to
/// `move_piece`, the one of the end first. The same prompt used again is one piece, and costs as much as a single
/// chunk.
#[inline]
pub(super) fn in_pieces(table: &mut Table, chain: &[u32], mut move_piece: impl FnMut(&mut Table, &[u32])) {
    let mut rest = chain;
    while let Some((&oldest, mut before)) = rest.split_last() {
        let mut newest = oldest;
        while let Some((&next, others)) = before.split_last()
            && table[newest].links.newer == next
        {
            newest = next;
            before = others;
        }
        move_piece(table, &rest[before.len()..]);
        rest = before;
    }
}
