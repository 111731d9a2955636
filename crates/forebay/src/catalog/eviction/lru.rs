//! The least recently used goes first.
//!
//! A prompt that is used is used from end to beginning, whatever the order of its chunks in memory: so its end is the older
//! part, and goes first. A chunk whose turn comes before it may go is passed over to the recent end. One that is to be kept
//! for long waits, and nobody passes over it. When it is let go of it has just been used, or if something hangs on it, it waits on
//! and goes right after that.

use super::Eviction;
use super::ends_first::EndsFirst;
use super::queue::{Queue, in_pieces};
use super::waiting::Waiting;
use crate::catalog::table::{Mark, Table};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Lru {
    queue: Queue,
    waiting: Waiting,
}

impl Eviction for Lru {
    fn add(&mut self, table: &mut Table, id: u32) {
        self.queue.push_newest(table, id);
    }

    fn restore(&mut self, table: &mut Table, id: u32) {
        self.queue.push_oldest(table, id);
    }

    fn remove(&mut self, table: &mut Table, id: u32) {
        if table[id].has(Mark::Waits) {
            self.waiting.take(table, id);
        } else {
            self.queue.remove(table, id);
        }
    }

    fn used(&mut self, table: &mut Table, chain: &[u32]) {
        in_pieces(table, chain, |table, piece| {
            // A piece lies in one queue.
            if !table[piece[0]].has(Mark::Waits) {
                self.queue.renew(table, piece[piece.len() - 1], piece[0]);
                return;
            }
            for &id in piece.iter().rev().filter(|&&id| !table[id].has(Mark::IsKept)).collect::<Vec<_>>() {
                self.waiting.take(table, id);
                self.queue.push_newest(table, id);
            }
        });
    }

    fn continued(&mut self, table: &mut Table, chain: &[u32]) {
        self.used(table, chain);
    }

    fn victim(&mut self, table: &mut Table) -> Option<u32> {
        let first = self.queue.oldest()?;
        let mut id = first;
        while !table[id].may_go() {
            self.queue.renew(table, id, id);
            id = self.queue.oldest()?;
            if id == first {
                return None;
            }
        }
        Some(id)
    }

    fn set_aside(&mut self, table: &mut Table, id: u32) {
        if !table[id].has(Mark::Waits) {
            self.queue.remove(table, id);
            self.waiting.put(table, id);
        }
    }

    fn let_go(&mut self, table: &mut Table, id: u32) {
        if table[id].has(Mark::Waits) && table[id].may_go() {
            self.waiting.take(table, id);
            self.queue.push_newest(table, id);
        }
    }

    fn come_back(&mut self, table: &mut Table, id: u32) {
        self.waiting.take(table, id);
        self.queue.push_oldest(table, id);
    }

    fn first_to_go<'a>(&'a self, table: &'a Table) -> Box<dyn Iterator<Item = u32> + 'a> {
        let order = self.queue.oldest_first(table);
        if self.waiting.is_empty() {
            return Box::new(order);
        }
        Box::new(EndsFirst::new(table, order.chain(self.waiting.oldest_first(table))))
    }
}
