//! The memory tier: a cache that keeps all chunks in CPU memory, beside a plain copy of the same bytes by one thread.
//!
//! The plain program has as much memory as the cache: buffers for the chunks that are under way, used in turn, and room
//! for all chunks of a round. All of it lies on huge pages and was touched before it is timed.

use std::sync::OnceLock;
use std::time::Instant;

use forebay::{Cache, Error, ErrorKind, PageMemory, Result};
use parking_lot::Mutex;

use super::rig::{Direction, Own, Pass, Rig};
use crate::content;
use crate::process::cpu;
use crate::scratch::{Scratch, Shape};

/// Loads of one pass of the mixed part.
const MIXED_LOADS: usize = 200;

/// See the module's documentation.
pub(super) struct MemoryRig {
    cache: Cache,
    plain: OnceLock<Mutex<Plain>>,
    /// Chunks of a round, and buffers.
    counts: [usize; 2],
    chunk_bytes: usize,
    warm_up_chunks: u64,
    /// Removed when everything in it is closed.
    _scratch: Scratch,
}

struct Plain {
    buffers: PageMemory,
    chunks: PageMemory,
}

impl MemoryRig {
    /// A cache of this shape, and memory for so many chunks a round that are copied from and to so many buffers.
    pub(super) fn prepare(scratch: Scratch, shape: &Shape, chunks: u64, buffers: usize) -> Result<Self> {
        Ok(Self {
            cache: scratch.open_memory_cache(shape)?,
            plain: OnceLock::new(),
            counts: [usize::try_from(chunks).unwrap_or(usize::MAX), buffers],
            chunk_bytes: shape.chunk_bytes as usize,
            warm_up_chunks: shape.chunks,
            _scratch: scratch,
        })
    }
}

impl Rig for MemoryRig {
    fn cache(&self, _: Direction) -> &Cache {
        &self.cache
    }

    fn make_plain(&self) -> Result<bool> {
        let memory = |count: usize| {
            let mut memory = PageMemory::new(count.saturating_mul(self.chunk_bytes))?;
            content::lay(&mut memory);
            Ok::<_, Error>(memory)
        };
        let [chunks, buffers] = self.counts;
        let plain = Plain { chunks: memory(chunks)?, buffers: memory(buffers)? };
        self.plain.get_or_init(|| Mutex::new(plain));
        Ok(true)
    }

    fn pass(&self, _: usize, direction: Direction, told: &mut dyn FnMut(u64)) -> Result<Pass> {
        let unready = || Error::new(ErrorKind::Closed, "the plain program is not ready");
        let mut plain = self.plain.get().ok_or_else(unready)?.lock();
        let Plain { buffers, chunks } = &mut *plain;
        let (begin, cpu_begin) = (Instant::now(), cpu());
        let mut in_turn = 0;
        for chunk in chunks.chunks_exact_mut(self.chunk_bytes) {
            let buffer = &mut buffers[in_turn..in_turn + self.chunk_bytes];
            match direction {
                Direction::Write => chunk.copy_from_slice(buffer),
                Direction::Read => buffer.copy_from_slice(chunk),
            }
            in_turn += self.chunk_bytes;
            if in_turn == buffers.len() {
                in_turn = 0;
            }
            told(self.chunk_bytes as u64);
        }
        Ok(Pass { time: begin.elapsed(), cpu: cpu().saturating_sub(cpu_begin) })
    }

    /// Touches all of the tier, so that no round pays for the first write to it.
    fn warm_up_chunks(&self) -> u64 {
        self.warm_up_chunks
    }

    fn mixed_loads(&self) -> usize {
        MIXED_LOADS
    }

    fn own(&self, _: [usize; 2]) -> Result<Own> {
        Ok(Own {
            io_engine: "copies".to_owned(),
            ceiling_engine: "a plain copy".to_owned(),
            ceiling_depth: [1, 1],
            plain_names: Vec::new(),
            json: vec![("tier", "memory".into())],
            memory: String::new(),
            notes: Vec::new(),
        })
    }
}
