//! An order of chunks, changed as little as it must be so that each comes after all that hang on it: as they can go.
//!
//! In that order a checkpoint writes them. If not all of them have room again after a restart, those missing are ends of
//! prompts; and taken in the other way round, each finds the chunk it continues.

use crate::catalog::table::Table;

/// See the module's documentation. Assumes that the order has all chunks that are listed, each once.
pub(super) struct EndsFirst<'a, I> {
    table: &'a Table,
    order: I,
    /// Of each chunk how many that hang on it are still to come, and whether its own turn has come.
    left: Vec<(u32, bool)>,
    /// What comes next, before the order goes on.
    next: Option<u32>,
}

impl<'a, I: Iterator<Item = u32>> EndsFirst<'a, I> {
    pub(super) fn new(table: &'a Table, order: I) -> Self {
        let left = table.children().map(|children| (children, false)).collect();
        Self { table, order, left, next: None }
    }

    /// Its turn has come: whether it comes now.
    fn comes_now(&mut self, id: u32) -> bool {
        let (left, turn) = &mut self.left[id as usize];
        *turn = true;
        *left == 0
    }

    /// The chunk that this one has kept, and no other any more, if its turn has come.
    fn kept_by(&mut self, id: u32) -> Option<u32> {
        let parent = self.table.live_parent(id)?;
        let (left, turn) = &mut self.left[parent as usize];
        *left -= 1;
        (*left == 0 && *turn).then_some(parent)
    }
}

impl<I: Iterator<Item = u32>> Iterator for EndsFirst<'_, I> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let id = match self.next.take() {
            Some(id) => id,
            None => loop {
                let id = self.order.next()?;
                if self.comes_now(id) {
                    break id;
                }
            },
        };
        self.next = self.kept_by(id);
        Some(id)
    }
}
