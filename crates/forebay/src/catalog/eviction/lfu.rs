//! The least frequently used goes first, and old fame fades.
//!
//! A chunk's fame is a number from 0 to [`FAME_MAX`]: one when it is stored, one more for each use, one less each time as
//! many chunks were evicted as are held. There is a queue for each, in which the least recently used is the oldest. Ageing by
//! what was evicted is that of LFU with dynamic ageing (Arlitt, Cherkasova, Dilley, Friedrich, Jin: Evaluating content
//! management techniques for web proxy caches, 1999); the steps are fixed here, so that a cache full of famous chunks does not
//! lose them all to a scan.
//!
//! Whoever uses a prompt uses its front, so no chunk is used more often than those before it: the least famous of a
//! prompt is its end.
//!
//! Queues are numbered around in a ring, and fame is counted from the one that is lowest now. So all fame fades in
//! one step, which moves what little is left in the lowest queue: all that was there when the step before was made is
//! gone or more famous since, but for what has come back from waiting.

use super::Eviction;
use super::ends_first::EndsFirst;
use super::queue::{Queue, in_pieces};
use super::waiting::Waiting;
use crate::catalog::table::{Mark, Table};

/// The most that is counted.
const FAME_MAX: u8 = LEVELS - 1;
const LEVELS: u8 = 16;

/// See the module's documentation. A chunk's rank is the number of its queue in the ring.
#[derive(Debug, Default)]
pub(super) struct Lfu {
    ring: [Queue; LEVELS as usize],
    /// The rank of chunks without fame.
    lowest: u8,
    /// Chunks without fame whose turn has come.
    waiting: Waiting,
    /// Chunks in all of these.
    held: u64,
    /// Since fame has faded last.
    evicted: u64,
}

impl Lfu {
    const fn rank(&self, fame: u8) -> u8 {
        (self.lowest + fame) % LEVELS
    }

    const fn fame(&self, rank: u8) -> u8 {
        (LEVELS + rank - self.lowest) % LEVELS
    }

    fn queue(&self, fame: u8) -> &Queue {
        &self.ring[usize::from(self.rank(fame))]
    }

    /// The chunk without which there would be none that is less famous or less recently used.
    fn least(&self) -> Option<u32> {
        (0..LEVELS).find_map(|fame| self.queue(fame).oldest())
    }

    fn fade(&mut self, table: &mut Table) {
        let (before, after) = (self.rank(0), self.rank(1));
        let left: Vec<u32> = self.queue(0).oldest_first(table).collect();
        for id in left.into_iter().rev() {
            self.ring[usize::from(before)].remove(table, id);
            self.ring[usize::from(after)].push_oldest(table, id);
            table[id].rank = after;
        }
        self.lowest = after;
        self.evicted = 0;
    }
}

impl Eviction for Lfu {
    fn add(&mut self, table: &mut Table, id: u32) {
        let rank = self.rank(1);
        table[id].rank = rank;
        self.ring[usize::from(rank)].push_newest(table, id);
        self.held += 1;
    }

    fn restore(&mut self, table: &mut Table, id: u32) {
        let rank = self.rank(1);
        table[id].rank = rank;
        self.ring[usize::from(rank)].push_oldest(table, id);
        self.held += 1;
    }

    fn remove(&mut self, table: &mut Table, id: u32) {
        if table[id].has(Mark::Waits) {
            self.waiting.take(table, id);
        } else {
            let rank = table[id].rank;
            self.ring[usize::from(rank)].remove(table, id);
        }
        self.held -= 1;
    }

    fn used(&mut self, table: &mut Table, chain: &[u32]) {
        in_pieces(table, chain, |table, piece| {
            let (oldest, newest) = (piece[piece.len() - 1], piece[0]);
            let fame = if table[oldest].has(Mark::Waits) {
                self.waiting.cut(table, oldest, newest);
                0
            } else {
                let rank = table[oldest].rank;
                self.ring[usize::from(rank)].cut(table, oldest, newest);
                self.fame(rank)
            };
            let rank = self.rank(FAME_MAX.min(fame + 1));
            self.ring[usize::from(rank)].append(table, oldest, newest);
            for &id in piece {
                table[id].rank = rank;
                table[id].set(Mark::Waits, false);
            }
        });
    }

    fn victim(&mut self, table: &mut Table) -> Option<u32> {
        if self.evicted >= self.held {
            self.fade(table);
        }
        loop {
            let id = self.least()?;
            if table[id].may_go() {
                self.evicted += 1;
                return Some(id);
            }
            let rank = table[id].rank;
            self.ring[usize::from(rank)].remove(table, id);
            self.waiting.put(table, id);
        }
    }

    fn set_aside(&mut self, table: &mut Table, id: u32) {
        if !table[id].has(Mark::Waits) {
            let rank = table[id].rank;
            self.ring[usize::from(rank)].remove(table, id);
            self.waiting.put(table, id);
        }
    }

    fn come_back(&mut self, table: &mut Table, id: u32) {
        self.waiting.take(table, id);
        let rank = self.rank(0);
        table[id].rank = rank;
        self.ring[usize::from(rank)].push_oldest(table, id);
    }

    fn first_to_go<'a>(&'a self, table: &'a Table) -> Box<dyn Iterator<Item = u32> + 'a> {
        let ring = (0..LEVELS).flat_map(|fame| self.queue(fame).oldest_first(table));
        Box::new(EndsFirst::new(table, self.waiting.oldest_first(table).chain(ring)))
    }
}
