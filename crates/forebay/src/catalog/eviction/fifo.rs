//! First in, first out: the chunk stored first goes first, however often it was used.

use super::Eviction;
use super::ends_first::EndsFirst;
use super::queue::Queue;
use super::waiting::Waiting;
use crate::catalog::table::{Mark, Table};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Fifo {
    queue: Queue,
    waiting: Waiting,
}

impl Eviction for Fifo {
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

    fn used(&mut self, _table: &mut Table, _chain: &[u32]) {}

    fn victim(&mut self, table: &mut Table) -> Option<u32> {
        loop {
            let id = self.queue.oldest()?;
            if table[id].may_go() {
                return Some(id);
            }
            self.queue.remove(table, id);
            self.waiting.put(table, id);
        }
    }

    fn set_aside(&mut self, table: &mut Table, id: u32) {
        if !table[id].has(Mark::Waits) {
            self.queue.remove(table, id);
            self.waiting.put(table, id);
        }
    }

    fn come_back(&mut self, table: &mut Table, id: u32) {
        self.waiting.take(table, id);
        self.queue.push_oldest(table, id);
    }

    fn first_to_go<'a>(&'a self, table: &'a Table) -> Box<dyn Iterator<Item = u32> + 'a> {
        let order = self.waiting.oldest_first(table).chain(self.queue.oldest_first(table));
        Box::new(EndsFirst::new(table, order))
    }
}
