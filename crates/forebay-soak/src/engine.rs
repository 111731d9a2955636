//! The memory of an engine: a fixed number of blocks, taken by requests and lent to the cache while it moves chunks.
//!
//! Promises: no block is made after the start, so what grows is not this; who has lent a block has it back when the cache
//! has let go of it, and not before. On demand the next uses of lent memory panic, fail or are slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay::mover::{Observer, Sink, Source, drain_to, fill_from};
use forebay::{ChunkKey, PageMemory, Pages, Result};
use parking_lot::Mutex;

use crate::content::{self, LARGE_BYTES, SMALL_BYTES_MAX};

/// How long slow memory takes for each part.
const SLOW: Duration = Duration::from_millis(40);

/// What a panic of engine memory that was asked for is told with.
pub(crate) struct Ordered;

/// How many of the next uses go wrong, and how.
#[derive(Default)]
pub(crate) struct Moods {
    pub(crate) panics: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) slow: AtomicU64,
    /// Those that did.
    pub(crate) done: AtomicU64,
}

impl Moods {
    fn has(&self, left: &AtomicU64) -> bool {
        let one = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if one {
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        one
    }

    fn strike(&self) -> Result<(), String> {
        if self.has(&self.panics) {
            std::panic::panic_any(Ordered);
        }
        if self.has(&self.slow) {
            std::thread::sleep(SLOW);
        }
        if self.has(&self.errors) { Err("engine memory fails, as it was told to".into()) } else { Ok(()) }
    }

    /// Nothing goes wrong any more.
    pub(crate) fn calm(&self) {
        [&self.panics, &self.errors, &self.slow].iter().for_each(|left| left.store(0, Ordering::Relaxed));
    }
}

/// The blocks that nobody has.
pub(crate) struct Pool {
    free: Mutex<Free>,
    counts: (usize, usize),
    pub(crate) moods: Arc<Moods>,
}

struct Free {
    small: Vec<PageMemory>,
    large: Vec<PageMemory>,
}

/// A block that a request has, for this chunk. Empty while it is lent.
pub(crate) struct Block {
    pub(crate) key: ChunkKey,
    cell: Arc<Mutex<Option<PageMemory>>>,
}

impl Pool {
    pub(crate) fn new(small: usize, large: usize) -> Result<Self> {
        let make = |count: usize, bytes: usize| -> Result<Vec<PageMemory>> {
            (0..count)
                .map(|_| {
                    let mut memory = PageMemory::new(bytes)?;
                    // All of it is resident from the start.
                    memory.as_mut_slice().fill(0xEE);
                    Ok(memory)
                })
                .collect()
        };
        let free = Free { small: make(small, SMALL_BYTES_MAX)?, large: make(large, LARGE_BYTES)? };
        Ok(Self { free: Mutex::new(free), counts: (small, large), moods: Arc::default() })
    }

    /// Blocks for all of these chunks, or none.
    pub(crate) fn take(&self, keys: &[ChunkKey]) -> Option<Vec<Block>> {
        let large = keys.iter().filter(|key| content::is_large(key)).count();
        let mut free = self.free.lock();
        if free.large.len() < large || free.small.len() < keys.len() - large {
            return None;
        }
        let take = |key: &ChunkKey| {
            let memory = if content::is_large(key) { free.large.pop() } else { free.small.pop() };
            Block { key: *key, cell: Arc::new(Mutex::new(memory)) }
        };
        Some(keys.iter().map(take).collect())
    }

    /// Takes blocks back; gives the chunks whose blocks somebody still has.
    pub(crate) fn give(&self, blocks: Vec<Block>) -> Vec<ChunkKey> {
        let mut kept = Vec::new();
        let mut free = self.free.lock();
        for block in blocks {
            match block.cell.lock().take() {
                Some(memory) if content::is_large(&block.key) => free.large.push(memory),
                Some(memory) => free.small.push(memory),
                None => kept.push(block.key),
            }
        }
        kept
    }

    /// Whether so many chunks ever have room.
    pub(crate) fn could_take(&self, keys: &[ChunkKey]) -> bool {
        let large = keys.iter().filter(|key| content::is_large(key)).count();
        large <= self.counts.1 / 2 && keys.len() - large <= self.counts.0 / 2
    }

    /// Blocks that are not free.
    pub(crate) fn missing(&self) -> usize {
        let free = self.free.lock();
        self.counts.0 + self.counts.1 - free.small.len() - free.large.len()
    }
}

impl Block {
    /// Computes the chunk in it. `false` if it is lent.
    pub(crate) fn compute(&self) -> bool {
        let mut cell = self.cell.lock();
        let Some(memory) = cell.as_mut() else { return false };
        content::lay(&self.key, &mut memory.as_mut_slice()[..content::length_of(&self.key)]);
        true
    }

    /// Spoils what is in it, so that what a load leaves out is seen.
    pub(crate) fn spoil(&self) {
        if let Some(memory) = self.cell.lock().as_mut() {
            memory.as_mut_slice()[..content::length_of(&self.key)].fill(0xEE);
        }
    }

    /// What is wrong with it as the chunk.
    pub(crate) fn wrong(&self) -> Option<String> {
        let cell = self.cell.lock();
        let Some(memory) = cell.as_ref() else { return Some("its memory is still lent".into()) };
        let len = content::length_of(&self.key);
        content::first_wrong(&self.key, &memory.as_slice()[..len])
            .map(|at| format!("wrong at byte {at} of {len}"))
    }

    /// Lends it. Panics if it is lent already: a fault of this program.
    pub(crate) fn lend(&self, pool: &Pool) -> Lent {
        let memory = self.cell.lock().take();
        assert!(memory.is_some(), "a block is lent once at a time");
        Lent {
            memory,
            len: content::length_of(&self.key),
            in_place: self.key.as_bytes()[18].is_multiple_of(2),
            cell: Arc::clone(&self.cell),
            moods: Arc::clone(&pool.moods),
        }
    }
}

/// A block in the cache's hands; it goes back when this is dropped.
pub(crate) struct Lent {
    memory: Option<PageMemory>,
    len: usize,
    in_place: bool,
    cell: Arc<Mutex<Option<PageMemory>>>,
    moods: Arc<Moods>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.cell.lock() = self.memory.take();
    }
}

const HERE: &str = "lent memory is there until it is dropped";

impl Source for Lent {
    fn len(&self) -> usize {
        self.len
    }

    fn pages(&mut self) -> Option<Pages<'_>> {
        let memory = self.memory.as_mut().filter(|_| self.in_place)?;
        Pages::of(memory, self.len)
    }

    fn fill(&mut self, at: usize, to: &mut [u8], seen: Observer<'_>) -> Result<(), String> {
        self.moods.strike()?;
        let memory = self.memory.as_ref().ok_or(HERE)?;
        fill_from(&memory.as_slice()[at..at + to.len()], to, seen);
        Ok(())
    }
}

impl Sink for Lent {
    fn len(&self) -> usize {
        self.len
    }

    fn drain(&mut self, at: usize, from: &[u8], seen: Observer<'_>) -> Result<(), String> {
        self.moods.strike()?;
        let memory = self.memory.as_mut().ok_or(HERE)?;
        drain_to(from, &mut memory.as_mut_slice()[at..at + from.len()], seen);
        Ok(())
    }
}
