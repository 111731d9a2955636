//! A trace on a real directory, through the façade: what a request finds is loaded and compared with what was stored,
//! the rest is stored.

use std::path::Path;
use std::time::Instant;

use forebay::{Cache, ChunkKey, Error, ErrorKind, Lookup, Result};

use super::{Replayed, Step};
use crate::scratch::{Scratch, Shape};
use crate::stream::{Look, Moved, Stream};

/// A cache in a place of its own. Dropped in this order: the place after the cache in it.
pub(super) struct Real {
    stream: Stream,
    cache: Cache,
    _scratch: Scratch,
}

impl Real {
    pub(super) fn in_directory(directory: &Path, shape: &Shape) -> Result<Self> {
        let scratch = Scratch::in_directory(directory, shape.disk_bytes())?;
        let cache = scratch.open_cache(shape)?;
        let slots = cache.stats().mover.staging.slots as usize;
        let stream = Stream::new(slots, shape.chunk_bytes as usize, false)?;
        Ok(Self { stream, cache, _scratch: scratch })
    }
}

impl Replayed for Real {
    fn request(&mut self, keys: &[ChunkKey], _: u64) -> Result<Step> {
        let evicted_before = self.cache.stats().control.disk.evictions;
        let begin = Instant::now();
        let answer = self.cache.lookup(keys);
        let lookup = begin.elapsed();
        let hit = answer.chunks();
        if matches!(answer, Lookup::Pending | Lookup::Busy) {
            let message = format!("a lookup was answered `{}` though nothing was under way", answer.name());
            return Err(Error::new(ErrorKind::Closed, message));
        }
        let mut loaded = Moved::default();
        // As many at a time as there are buffers: then the comparison of every byte is outside of what is timed.
        for part in keys[..hit].chunks(self.stream.window()) {
            loaded.add(self.stream.load(&self.cache, part, Look::Whole, |_| Ok(()))?);
        }
        drop(answer);
        let rest = &keys[hit..];
        let before = |number: usize| (hit + number).checked_sub(1).map(|before| keys[before]);
        let stored = self.stream.store(&self.cache, rest, &before, |_| Ok(()))?;
        let evicted = self.cache.stats().control.disk.evictions - evicted_before;
        Ok(Step { hit, lookup, loaded, stored, evicted })
    }
}
