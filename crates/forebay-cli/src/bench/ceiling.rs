//! The ceiling: what a plain program gets from the drive with the same chunks, and nothing else to do.
//!
//! Direct transfers of whole chunks by `io_uring`, from buffers on huge pages that are registered where the memlock
//! limit allows, on a file whose blocks were all written before, at the depth that was the fastest of those tried.
//! Where rings are forbidden, threads with `pread` and `pwrite` do it. No checksum, no copy, no index. There are as many
//! buffers as the cache's chunks have, used in turn: chunks come from memory and go to memory, and a loop over a few
//! buffers that never leave the processor's cache would measure something else.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use forebay::{Error, PageMemory, Result};
use rustix::fs::{FallocateFlags, OFlags, fallocate};

use super::kernel::{DEPTH_MAX, Ring};
use super::rig::{Direction, Pass};
use crate::content;
use crate::process::cpu;
use crate::quantiles::percentile;

/// Depths that are tried, as far as the bytes under way stay below the bound.
const DEPTHS: [usize; 5] = [2, 4, 8, 16, DEPTH_MAX];
const UNDER_WAY_BYTES_MAX: usize = 64 << 20;

/// Each depth is tried so many times, by turns and on so many bytes at most: the drive's speed changes by the second.
const TRIALS: usize = 6;
const TRIAL_BYTES: u64 = 256 << 20;

/// How the transfers are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Ring { registered: bool },
    Threads,
}

impl Engine {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ring { registered: true } => "io_uring, registered buffers",
            Self::Ring { registered: false } => "io_uring",
            Self::Threads => "threads, because io_uring is not allowed here",
        }
    }
}

/// A file of so many chunks.
pub(super) struct Ceiling {
    path: PathBuf,
    chunks: u64,
    chunk_bytes: usize,
    buffers: usize,
    pub(super) direct: bool,
    pub(super) engine: Engine,
    pub(super) read_depth: usize,
    pub(super) write_depth: usize,
}

impl Ceiling {
    /// Makes the file, writes all of it, and finds the best depths with so many buffers.
    pub(super) fn prepare(
        path: PathBuf,
        chunks: u64,
        chunk_bytes: usize,
        buffers: usize,
        told: &mut dyn FnMut(),
    ) -> Result<Self> {
        let making = |error| Error::io(format!("preparing {}", path.display()), error);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(making)?;
        let bytes = chunks * chunk_bytes as u64;
        match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(bytes).map_err(making)?,
            allocated => allocated.map_err(|error| making(error.into()))?,
        }
        let (file, direct) = open(&path).map_err(making)?;
        drop(file);
        let mut ceiling = Self {
            path,
            chunks,
            chunk_bytes,
            buffers,
            direct,
            engine: Engine::Threads,
            read_depth: 1,
            write_depth: 1,
        };
        let depths: Vec<usize> = DEPTHS
            .into_iter()
            .filter(|depth| *depth == DEPTHS[0] || depth * chunk_bytes <= UNDER_WAY_BYTES_MAX)
            .filter(|depth| *depth <= buffers)
            .collect();
        let deepest = depths.last().copied().unwrap_or(1);
        let mut movers = ceiling.movers()?;
        ceiling.engine = movers.engine();
        ceiling.pass(&mut movers, Direction::Write, chunks, deepest, told)?;
        let trial = chunks.min(TRIAL_BYTES.div_ceil(chunk_bytes as u64));
        for direction in [Direction::Write, Direction::Read] {
            let mut times = vec![Vec::with_capacity(TRIALS); depths.len()];
            for turn in 0..TRIALS {
                // Up and down: a drive's bursts favour who comes first.
                for step in 0..depths.len() {
                    let number = if turn % 2 == 0 { step } else { depths.len() - 1 - step };
                    let pass = ceiling.pass(&mut movers, direction, trial, depths[number], &mut || {})?;
                    times[number].push(pass.time);
                }
            }
            let medians = times.iter_mut().map(|times| percentile(times, 50));
            let best = medians.zip(&depths).min().map_or(depths[0], |(_, depth)| *depth);
            match direction {
                Direction::Read => ceiling.read_depth = best,
                Direction::Write => ceiling.write_depth = best,
            }
        }
        Ok(ceiling)
    }

    /// Moves all chunks once. Buffers are made before it is timed, and given back after.
    pub(super) fn measure(&self, direction: Direction, told: &mut dyn FnMut()) -> Result<Pass> {
        let depth = match direction {
            Direction::Read => self.read_depth,
            Direction::Write => self.write_depth,
        };
        self.pass(&mut self.movers()?, direction, self.chunks, depth, told)
    }

    fn movers(&self) -> Result<Movers> {
        let opened =
            || open(&self.path).map_err(|error| Error::io(format!("opening {}", self.path.display()), error));
        let (file, _) = opened()?;
        let ring = Ring::new(file, buffers(self.buffers, self.chunk_bytes)?, self.chunk_bytes);
        ring.map_or_else(
            |_| Ok(Movers::Threads(opened()?.0, buffers(self.buffers, self.chunk_bytes)?)),
            |ring| Ok(Movers::Ring(Box::new(ring))),
        )
    }

    fn pass(
        &self,
        movers: &mut Movers,
        direction: Direction,
        chunks: u64,
        depth: usize,
        told: &mut dyn FnMut(),
    ) -> Result<Pass> {
        let (begin, cpu_begin) = (Instant::now(), cpu());
        let moved = match movers {
            Movers::Ring(ring) => ring.transfer(direction, chunks, self.chunk_bytes, depth, told),
            Movers::Threads(file, memory) => {
                transfer(file, memory, direction, chunks, self.chunk_bytes, depth)
            }
        };
        let pass = Pass { time: begin.elapsed(), cpu: cpu().saturating_sub(cpu_begin) };
        moved.map_err(|error| Error::io(format!("moving chunks of {}", self.path.display()), error))?;
        Ok(pass)
    }
}

enum Movers {
    Ring(Box<Ring>),
    Threads(File, PageMemory),
}

impl Movers {
    fn engine(&self) -> Engine {
        match self {
            Self::Ring(ring) => Engine::Ring { registered: ring.is_registered() },
            Self::Threads(..) => Engine::Threads,
        }
    }
}

/// One memory for all buffers: then small ones lie on huge pages too.
fn buffers(count: usize, chunk_bytes: usize) -> Result<PageMemory> {
    let mut memory = PageMemory::new(count * chunk_bytes)?;
    memory.chunks_mut(chunk_bytes).for_each(content::lay);
    Ok(memory)
}

/// The file, past the page cache where the file system allows it, and whether it does.
fn open(path: &Path) -> io::Result<(File, bool)> {
    let options = |flags: OFlags| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags.bits().cast_signed());
        options
    };
    match options(OFlags::DIRECT).open(path) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            options(OFlags::empty()).open(path).map(|file| (file, false))
        }
        Err(error) => Err(error),
    }
}

/// The same with threads, each of which has its share of the buffers.
fn transfer(
    file: &File,
    memory: &mut [u8],
    direction: Direction,
    count: u64,
    chunk_bytes: usize,
    threads: usize,
) -> io::Result<()> {
    let share = (memory.len() / chunk_bytes).div_ceil(threads) * chunk_bytes;
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = memory
            .chunks_mut(share)
            .map(|buffers| {
                let next = &next;
                scope.spawn(move || {
                    for turn in 0.. {
                        let buffer = turn % (buffers.len() / chunk_bytes) * chunk_bytes;
                        let buffer = &mut buffers[buffer..buffer + chunk_bytes];
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return Ok(());
                        }
                        let offset = number * chunk_bytes as u64;
                        match direction {
                            Direction::Read => file.read_exact_at(buffer, offset)?,
                            Direction::Write => file.write_all_at(buffer, offset)?,
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_whole_file_is_written_and_a_depth_that_was_tried_is_chosen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("raw");
        let mut told = 0;
        let ceiling = Ceiling::prepare(path.clone(), 6, 64 << 10, 4, &mut || told += 1).unwrap();
        let mut right = vec![0; 64 << 10];
        content::lay(&mut right);
        let written = std::fs::read(&path).unwrap();
        assert_eq!(written.len(), 6 * right.len());
        assert!(written.chunks(right.len()).all(|chunk| chunk == right));
        assert!(DEPTHS.contains(&ceiling.read_depth) && DEPTHS.contains(&ceiling.write_depth));
        for direction in [Direction::Write, Direction::Read] {
            assert!(ceiling.measure(direction, &mut || told += 1).unwrap().time > Duration::ZERO);
        }
        assert!(ceiling.engine == Engine::Threads || told == 18, "{told}");
    }

    #[test]
    fn threads_move_every_chunk_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("raw");
        std::fs::write(&path, "").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut memory = buffers(5, 8192).unwrap();
        transfer(&file, &mut memory, Direction::Write, 10, 8192, 3).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 81_920);
        transfer(&file, &mut memory, Direction::Read, 10, 8192, 3).unwrap();
        let error = transfer(&file, &mut memory, Direction::Read, 11, 8192, 3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
