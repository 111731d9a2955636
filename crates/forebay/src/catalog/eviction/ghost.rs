//! Ghosts: which keys were lately there, in memory that does not grow.
//!
//! A table of fixed size. Each place has 32 bits of a key and the number of the eviction that left it, counted in 32 bits; where
//! a key belongs follows from 32 other bits. A ghost is taken for one as long as few enough came after it, so none is ever
//! removed for its age: its place is given to another when one is needed. Where more belong in a line than have places, the
//! oldest goes before its time.
//!
//! Promises nothing that anybody's bytes depend on: what is wrongly taken for a ghost, once in some hundred million times, or
//! forgotten early, costs a chunk its place in an order.

use crate::catalog::record::u32_at;
use crate::key::ChunkKey;

/// Places in a line.
const LINE: usize = 8;
/// A small table has room for all keys that come together by chance.
const LINES_MIN: usize = 64;

/// One cache line of the table.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Line {
    /// Of each place the part of the key.
    parts: [u32; LINE],
    /// Of each place which ghost it was.
    numbers: [u32; LINE],
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Ghosts {
    lines: Vec<Line>,
    /// The number of the last ghost. The first has a number that is larger than any age, so places that are empty
    /// hold nothing.
    last: u32,
    count_max: u32,
}

impl Ghosts {
    /// A table for as many ghosts. It takes 11 bytes for each of them, at once.
    pub(super) fn new(count_max: u64) -> Self {
        let count_max = u32::try_from(count_max).unwrap_or(u32::MAX / 2).min(u32::MAX / 2);
        let places = count_max as usize + count_max as usize / 3;
        let lines = vec![Line::default(); places.div_ceil(LINE).max(LINES_MIN)];
        Self { lines, last: count_max + 1, count_max }
    }

    /// A chunk of this key went.
    pub(super) fn add(&mut self, key: &ChunkKey) {
        self.last = self.last.wrapping_add(1);
        let last = self.last;
        let (part, line) = self.line(key);
        let again = line.parts.iter().position(|&other| other == part);
        let place = again.unwrap_or_else(|| {
            (0..LINE).max_by_key(|&place| last.wrapping_sub(line.numbers[place])).expect("a line has places")
        });
        (line.parts[place], line.numbers[place]) = (part, last);
    }

    /// Whether a chunk of this key is among the `among` that went last. If so, its ghost is gone from now on.
    pub(super) fn take(&mut self, key: &ChunkKey, among: u64) -> bool {
        let among = u32::try_from(among).unwrap_or(u32::MAX).min(self.count_max);
        let gone = self.last.wrapping_sub(self.count_max).wrapping_sub(1);
        let last = self.last;
        let (part, line) = self.line(key);
        let is_it =
            |place: &usize| line.parts[*place] == part && last.wrapping_sub(line.numbers[*place]) < among;
        let Some(place) = (0..LINE).find(is_it) else { return false };
        line.numbers[place] = gone;
        true
    }

    /// The part of a key that is kept, and the line it belongs in: the one that is as far into the table as another part
    /// is into all such parts. There are fewer lines than 2^32, so the product has room.
    fn line(&mut self, key: &ChunkKey) -> (u32, &mut Line) {
        let (part, place) = (u32_at(key.as_bytes(), 12), u32_at(key.as_bytes(), 16));
        let line = (u64::from(place) * self.lines.len() as u64) >> u32::BITS;
        (part, &mut self.lines[usize::try_from(line).unwrap_or(0)])
    }
}
