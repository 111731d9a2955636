//! The order in which chunks were last used: a doubly linked list through the chunks themselves.
//!
//! Each operation takes constant time and no allocation. The list does not own the chunks: its caller removes a
//! chunk before that chunk's place is used again.

use super::Chunk;

const NIL: u32 = u32::MAX;

/// A chunk's neighbours in the list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Links {
    older: u32,
    newer: u32,
    listed: bool,
}

impl Default for Links {
    fn default() -> Self {
        Self { older: NIL, newer: NIL, listed: false }
    }
}

impl Links {
    pub(super) fn listed(self) -> bool {
        self.listed
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

    pub(super) fn push_newest(&mut self, chunks: &mut [Chunk], id: u32) {
        let older = self.newest;
        chunks[id as usize].links = Links { older, newer: NIL, listed: true };
        if older == NIL {
            self.oldest = id;
        } else {
            chunks[older as usize].links.newer = id;
        }
        self.newest = id;
    }

    pub(super) fn push_oldest(&mut self, chunks: &mut [Chunk], id: u32) {
        let newer = self.oldest;
        chunks[id as usize].links = Links { older: NIL, newer, listed: true };
        if newer == NIL {
            self.newest = id;
        } else {
            chunks[newer as usize].links.older = id;
        }
        self.oldest = id;
    }

    pub(super) fn remove(&mut self, chunks: &mut [Chunk], id: u32) {
        let Links { older, newer, listed } = chunks[id as usize].links;
        if !listed {
            return;
        }
        if older == NIL {
            self.oldest = newer;
        } else {
            chunks[older as usize].links.newer = newer;
        }
        if newer == NIL {
            self.newest = older;
        } else {
            chunks[newer as usize].links.older = older;
        }
        chunks[id as usize].links = Links::default();
    }

    pub(super) fn oldest_first<'a>(&self, chunks: &'a [Chunk]) -> impl Iterator<Item = u32> + use<'a> {
        let listed = |id: u32| (id != NIL).then_some(id);
        std::iter::successors(listed(self.oldest), move |&id| listed(chunks[id as usize].links.newer))
    }
}
