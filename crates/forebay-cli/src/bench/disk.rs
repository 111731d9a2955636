//! The drive: a cache in a directory of its own, beside direct transfers of a file.

use std::fs::File;

use forebay::tier::disk::directory::data_path;
use forebay::{Cache, Error, Result};

use super::ceiling::Ceiling;
use super::kernel::cached_bytes;
use super::rig::{Direction, Own, Pass, Rig};
use crate::figures::{mib, size};
use crate::scratch::{Scratch, Shape};

/// Loads of one pass of the mixed part.
const MIXED_LOADS: usize = 200;

/// See the module's documentation.
pub(super) struct DiskRig {
    cache: Cache,
    ceiling: Ceiling,
    chunks: u64,
    chunk_bytes: u64,
    data: File,
    cached_before: u64,
    /// Removed when everything in it is closed.
    _scratch: Scratch,
}

impl DiskRig {
    /// Makes both: a cache of this shape, and a file of so many chunks that is moved from and to so many buffers.
    pub(super) fn prepare(
        scratch: Scratch,
        shape: &Shape,
        chunks: u64,
        buffers: usize,
        told: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        // The cache first: what is wrong with the sizes is said before gigabytes are written.
        let cache = scratch.open_cache(shape)?;
        let chunk_bytes = u64::from(shape.chunk_bytes);
        let each = shape.chunk_bytes as usize;
        let ceiling = Ceiling::prepare(scratch.raw(), chunks, each, buffers, &mut || told(chunk_bytes))?;
        let data = File::open(data_path(&scratch.cache()));
        let data = data.map_err(|error| Error::io("opening the data file", error))?;
        let cached_before = cached(&data)?;
        Ok(Self { cache, ceiling, chunks: shape.chunks, chunk_bytes, data, cached_before, _scratch: scratch })
    }
}

fn cached(data: &File) -> Result<u64> {
    cached_bytes(data).map_err(|error| Error::io("asking for the data file's pages", error))
}

impl Rig for DiskRig {
    fn cache(&self, _: Direction) -> &Cache {
        &self.cache
    }

    fn pass(&self, _: usize, direction: Direction, told: &mut dyn FnMut(u64)) -> Result<Pass> {
        self.ceiling.measure(direction, &mut || told(self.chunk_bytes))
    }

    /// Touches every block of the data file, so that no round pays for the first write to it.
    fn warm_up_chunks(&self) -> u64 {
        self.chunks
    }

    fn mixed_loads(&self) -> usize {
        MIXED_LOADS
    }

    fn own(&self, _: [usize; 2]) -> Result<Own> {
        let mover = self.cache.stats().mover;
        let is_direct = mover.direct_io && self.ceiling.direct;
        let growth = cached(&self.data)?.saturating_sub(self.cached_before);
        let no_direct = "This file system has no direct I/O: the page cache was measured, not the drive.";
        Ok(Own {
            io_engine: mover.io_engine,
            ceiling_engine: self.ceiling.engine.name().to_owned(),
            ceiling_depth: [self.ceiling.write_depth, self.ceiling.read_depth],
            plain_names: Vec::new(),
            json: vec![("direct_io", is_direct.into()), ("page_cache_growth_mib", mib(growth).into())],
            memory: format!(", page cache +{}", size(growth)),
            notes: if is_direct { Vec::new() } else { vec![no_direct.to_owned()] },
        })
    }
}
