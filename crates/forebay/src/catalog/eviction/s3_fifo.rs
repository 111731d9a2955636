//! S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP 2023).
//!
//! Three queues, first in, first out. A new chunk is in the small one, which has a tenth of the chunks; what leaves
//! it goes, unless it was used more than once since. That goes on to the main queue, where a chunk that was used has a further
//! round for each use, up to three. And of as many as nine tenths of the chunks that went lately a ghost is kept: what
//! is stored again while its ghost is there goes to the main queue at once. So a scan flows through the small queue and
//! leaves the main one alone.
//!
//! A prompt that is found counts as one use of each of its chunks. Chunks that wait are in neither queue, as far as their
//! lengths go, and come back to the one they were in.

use super::Eviction;
use super::ends_first::EndsFirst;
use super::ghost::Ghosts;
use super::queue::Queue;
use super::waiting::Waiting;
use crate::catalog::table::{Mark, Table};

/// Uses that are counted.
const USES_MAX: u8 = 3;
/// Uses that take a chunk from the small queue to the main one.
const USES_FOR_MAIN: u8 = 2;
/// One chunk of so many is in the small queue.
const ONE_IS_SMALL_OF: u64 = 10;

/// A chunk's rank is the number of its uses, and this where it is in the main queue.
const MAIN: u8 = 1 << 7;

/// A queue and its length.
#[derive(Debug, Default)]
struct Counted {
    queue: Queue,
    len: u64,
}

impl Counted {
    fn push_newest(&mut self, table: &mut Table, id: u32) {
        self.queue.push_newest(table, id);
        self.len += 1;
    }

    fn push_oldest(&mut self, table: &mut Table, id: u32) {
        self.queue.push_oldest(table, id);
        self.len += 1;
    }

    fn remove(&mut self, table: &mut Table, id: u32) {
        self.queue.remove(table, id);
        self.len -= 1;
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct S3Fifo {
    small: Counted,
    main: Counted,
    waiting: Waiting,
    /// Chunks in all of these.
    held: u64,
    ghosts: Ghosts,
}

impl S3Fifo {
    pub(super) fn new(chunks_max: u64) -> Self {
        Self {
            small: Counted::default(),
            main: Counted::default(),
            waiting: Waiting::default(),
            held: 0,
            ghosts: Ghosts::new(as_main(chunks_max)),
        }
    }

    fn queue_of(&mut self, rank: u8) -> &mut Counted {
        if rank & MAIN == 0 { &mut self.small } else { &mut self.main }
    }

    fn is_small_due(&self) -> bool {
        self.small.len * ONE_IS_SMALL_OF >= self.small.len + self.main.len
    }
}

/// How many of so many chunks are not in the small queue.
const fn as_main(chunks: u64) -> u64 {
    chunks - chunks / ONE_IS_SMALL_OF
}

impl Eviction for S3Fifo {
    fn add(&mut self, table: &mut Table, id: u32) {
        let is_known = self.ghosts.take(&table[id].key, as_main(self.held));
        let rank = if is_known { MAIN } else { 0 };
        table[id].rank = rank;
        self.queue_of(rank).push_newest(table, id);
        self.held += 1;
    }

    fn restore(&mut self, table: &mut Table, id: u32) {
        table[id].rank = MAIN;
        self.main.push_oldest(table, id);
        self.held += 1;
    }

    fn remove(&mut self, table: &mut Table, id: u32) {
        if table[id].has(Mark::Waits) {
            self.waiting.take(table, id);
        } else {
            let rank = table[id].rank;
            self.queue_of(rank).remove(table, id);
        }
        self.held -= 1;
    }

    fn used(&mut self, table: &mut Table, chain: &[u32]) {
        for &id in chain {
            let rank = &mut table[id].rank;
            if *rank & !MAIN < USES_MAX {
                *rank += 1;
            }
        }
    }

    fn victim(&mut self, table: &mut Table) -> Option<u32> {
        loop {
            let small = self.small.queue.oldest();
            let main = self.main.queue.oldest();
            if let Some(id) = small
                && (main.is_none() || self.is_small_due())
            {
                let chunk = &mut table[id];
                if chunk.rank >= USES_FOR_MAIN {
                    chunk.rank = MAIN;
                    self.small.remove(table, id);
                    self.main.push_newest(table, id);
                } else if chunk.may_go() {
                    self.ghosts.add(&chunk.key);
                    return Some(id);
                } else {
                    self.small.remove(table, id);
                    self.waiting.put(table, id);
                }
            } else {
                let id = main?;
                let chunk = &mut table[id];
                if chunk.rank > MAIN {
                    chunk.rank -= 1;
                    self.main.queue.renew(table, id, id);
                } else if chunk.may_go() {
                    return Some(id);
                } else {
                    self.main.remove(table, id);
                    self.waiting.put(table, id);
                }
            }
        }
    }

    fn set_aside(&mut self, table: &mut Table, id: u32) {
        if !table[id].has(Mark::Waits) {
            let rank = table[id].rank;
            self.queue_of(rank).remove(table, id);
            self.waiting.put(table, id);
        }
    }

    fn come_back(&mut self, table: &mut Table, id: u32) {
        self.waiting.take(table, id);
        let rank = table[id].rank;
        self.queue_of(rank).push_oldest(table, id);
    }

    fn first_to_go<'a>(&'a self, table: &'a Table) -> Box<dyn Iterator<Item = u32> + 'a> {
        let small = |is_for_main: bool| {
            let chosen = move |id: &u32| (table[*id].rank >= USES_FOR_MAIN) == is_for_main;
            self.small.queue.oldest_first(table).filter(chosen)
        };
        let waiting = self.waiting.oldest_first(table);
        let order = waiting.chain(small(false)).chain(self.main.queue.oldest_first(table)).chain(small(true));
        Box::new(EndsFirst::new(table, order))
    }
}
