//! A list that grows by pieces of fixed size: growing copies nothing but the beginning of a small list, and never
//! takes twice the memory.

/// Items in a piece.
const PIECE: usize = 1 << PIECE_SHIFT;
const PIECE_SHIFT: u32 = 15;

/// See the module's documentation. Numbered with `u32`.
#[derive(Debug)]
pub(super) struct Segments<T>(Vec<Vec<T>>);

impl<T> Default for Segments<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Segments<T> {
    pub(super) fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * PIECE + last.len())
    }

    pub(super) fn push(&mut self, item: T) {
        if self.0.last().is_none_or(|last| last.len() == PIECE) {
            // The first piece grows as it is needed: a small catalog shall be small.
            let room = if self.0.is_empty() { 0 } else { PIECE };
            self.0.push(Vec::with_capacity(room));
        }
        self.0.last_mut().expect("there is one with room").push(item);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }

    /// The item of this number, which need not be there.
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.0.get((number >> PIECE_SHIFT) as usize)?.get(number as usize % PIECE)
    }
}

impl<T> std::ops::Index<u32> for Segments<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.0[(number >> PIECE_SHIFT) as usize][number as usize % PIECE]
    }
}

impl<T> std::ops::IndexMut<u32> for Segments<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.0[(number >> PIECE_SHIFT) as usize][number as usize % PIECE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: u32 = (1 << PIECE_SHIFT) - 1;

    #[test]
    fn an_item_stays_under_its_number() {
        let mut list = Segments::default();
        assert_eq!((list.len(), list.get(0)), (0, None));
        let count = 3 * u32::try_from(PIECE).unwrap() + 1;
        for number in 0..count {
            list.push(number);
        }
        list[LAST + 1] += 1;
        assert_eq!(list.len(), count as usize);
        assert_eq!((list[0], list[LAST], list[count - 1]), (0, LAST, count - 1));
        assert_eq!((list[LAST + 1], list.get(count)), (LAST + 2, None));
    }
}
