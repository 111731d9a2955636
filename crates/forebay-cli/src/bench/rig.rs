//! What is measured: a tier behind a cache, and the plain program that it is measured beside.

use std::time::Duration;

use forebay::{Cache, ChunkKey, Result};
use serde_json::Value;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

/// What one pass took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    pub(super) time: Duration,
    pub(super) cpu: Duration,
}

/// See the module's documentation.
pub(super) trait Rig: Sync {
    /// The cache that chunks are stored, or loaded, through.
    fn cache(&self, direction: Direction) -> &Cache;

    /// Makes the plain programs ready, once the cache has moved its first chunks. Memory that they hold, or leave behind,
    /// is not the cache's: what that has is looked at before, if this gives `true`, and else at the end.
    fn make_plain(&self) -> Result<bool> {
        Ok(false)
    }

    /// How many plain programs there are; the fastest is the ceiling.
    fn ceilings(&self) -> usize {
        1
    }

    /// Moves as many bytes as a round has by one of them; `told` is told how many were moved.
    fn pass(&self, ceiling: usize, direction: Direction, told: &mut dyn FnMut(u64)) -> Result<Pass>;

    /// Chunks that are stored before anything is measured.
    fn warm_up_chunks(&self) -> u64;

    /// Loads of one pass of the mixed part.
    fn mixed_loads(&self) -> usize;

    /// Chunks that will be stored.
    fn makes(&self, _keys: &[ChunkKey]) {}

    /// They are not needed any more.
    fn done_with(&self, _keys: &[ChunkKey]) -> Result<()> {
        Ok(())
    }

    /// An error if the user wants it to end.
    fn may_go_on(&self) -> Result<()> {
        Ok(())
    }

    /// What is to be said of this tier alone, given which of the plain programs was the ceiling of writing and reading.
    fn own(&self, best: [usize; 2]) -> Result<Own>;
}

/// What is said of one tier alone.
pub(super) struct Own {
    /// How the cache moves bytes, and how the ceiling does.
    pub(super) io_engine: String,
    pub(super) ceiling_engine: String,
    /// Transfers that it had under way, writing and reading.
    pub(super) ceiling_depth: [usize; 2],
    /// The plain programs, if there are several.
    pub(super) plain_names: Vec<String>,
    /// Further members of the JSON object.
    pub(super) json: Vec<(&'static str, Value)>,
    /// The end of the line that says what memory was used.
    pub(super) memory: String,
    /// Lines behind that.
    pub(super) notes: Vec<String>,
}
