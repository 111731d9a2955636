//! The order in which chunks were last used: a doubly linked list through the chunks themselves.
//!
//! Each operation takes constant time for each piece of the list it moves, and no allocation. The list does not own
//! the chunks: its caller removes a chunk before that chunk's place is used again.

use super::table::{NIL, Table};

/// A chunk's neighbours in the list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Links {
    pub(super) older: u32,
    pub(super) newer: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self { older: NIL, newer: NIL }
    }
}

/// Both ends of the list.
#[derive(Debug)]
pub(super) struct Recency {
    oldest: u32,
    newest: u32,
}

impl Default for Recency {
    fn default() -> Self {
        Self { oldest: NIL, newest: NIL }
    }
}

impl Recency {
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NIL).then_some(self.oldest)
    }

    pub(super) fn push_newest(&mut self, table: &mut Table, id: u32) {
        self.join(table, self.newest, id);
        self.join(table, id, NIL);
    }

    pub(super) fn push_oldest(&mut self, table: &mut Table, id: u32) {
        self.join(table, id, self.oldest);
        self.join(table, NIL, id);
    }

    pub(super) fn remove(&mut self, table: &mut Table, id: u32) {
        let Links { older, newer } = table[id].links;
        self.join(table, older, newer);
    }

    /// Makes all of a chain the most recently used, its first chunk the most of them. What of it already lies in the
    /// list as it is to lie there is moved in one piece: the same prompt used again costs as much as a single chunk.
    pub(super) fn renew(&mut self, table: &mut Table, chain: &[u32]) {
        let mut rest = chain;
        while let Some((&oldest, before)) = rest.split_last() {
            let mut newest = oldest;
            rest = before;
            while let Some((&next, before)) = rest.split_last()
                && table[newest].links.newer == next
            {
                newest = next;
                rest = before;
            }
            self.renew_piece(table, oldest, newest);
        }
    }

    /// Passes over the least recently used chunk, which becomes the most recently used.
    pub(super) fn pass_over_oldest(&mut self, table: &mut Table) {
        if self.oldest != NIL {
            self.renew_piece(table, self.oldest, self.oldest);
        }
    }

    pub(super) fn oldest_first<'a>(&self, table: &'a Table) -> impl Iterator<Item = u32> + use<'a> {
        let listed = |id: u32| (id != NIL).then_some(id);
        std::iter::successors(listed(self.oldest), move |&id| listed(table[id].links.newer))
    }

    /// Moves what lies between these two, themselves included, to the recent end.
    fn renew_piece(&mut self, table: &mut Table, oldest: u32, newest: u32) {
        let (older, newer) = (table[oldest].links.older, table[newest].links.newer);
        if newer != NIL {
            self.join(table, older, newer);
            self.join(table, self.newest, oldest);
            self.join(table, newest, NIL);
        }
    }

    /// Makes two chunks neighbours; where one of them is [`NIL`], the other is at an end of the list.
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
