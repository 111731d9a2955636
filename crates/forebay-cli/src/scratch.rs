//! A place of its own for a measurement, inside a directory that the user names.
//!
//! Promises: nothing outside the sub-directory [`NAME`] is touched; it is removed when this is dropped, however the
//! measurement ends; what a run that was killed has left there is removed by the next one. Two runs do not share it:
//! the second is refused. A sub-directory of that name that holds anything else is refused too, and left alone.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay::catalog::{BLOCK_BYTES, CachePolicy, ChunkRecord};
use forebay::staging::{self, Backing};
use forebay::{Cache, Config, Error, ErrorKind, Result, Value};
use rustix::fs::{FlockOperation, flock, statvfs};

use crate::figures::size;

/// The sub-directory.
const NAME: &str = "forebay-scratch";
/// What may be in it.
const CACHE: &str = "cache";
const RAW: &str = "raw";

/// Left free on the file system.
const FLOOR_BYTES: u64 = 256 << 20;

/// What a cache that keeps its chunks in memory is given of the disk, beside room for a few chunks.
pub(crate) const MEMORY_DISK_BYTES: u64 = 16 << 20;

/// How often a capacity is tried that should hold a number of chunks exactly.
const FITS_MAX: u32 = 8;

/// See the module's documentation.
pub(crate) struct Scratch {
    path: PathBuf,
    /// Locked as long as this lives.
    _lock: File,
}

/// A cache to be opened in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Chunks that it holds, exactly.
    pub(crate) chunks: u64,
    /// Bytes of a chunk.
    pub(crate) chunk_bytes: u32,
    /// Bytes of the staging buffer.
    pub(crate) staging_bytes: u64,
    /// Threads for I/O; the cache's own choice where there is none.
    pub(crate) threads: Option<u32>,
    /// What is evicted first.
    pub(crate) policy: CachePolicy,
}

impl Shape {
    /// Bytes that a chunk takes of the disk.
    pub(crate) fn chunk_disk_bytes(&self) -> u64 {
        ChunkRecord::room_blocks(self.chunk_bytes) * BLOCK_BYTES as u64
    }

    /// Bytes that the data file takes.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.chunks.saturating_mul(self.chunk_disk_bytes())
    }
}

impl Scratch {
    /// Takes the place in `directory`, where `needed_bytes` are to be written.
    pub(crate) fn in_directory(directory: &Path, needed_bytes: u64) -> Result<Self> {
        let path = directory.join(NAME);
        let using = |error: io::Error| Error::io(format!("using {}", path.display()), error);
        if !directory.is_dir() {
            let message =
                format!("{} is no directory; name one on the drive to be used", directory.display());
            return Err(Error::new(ErrorKind::Argument, message));
        }
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(using(error)),
            _ => {}
        }
        let lock = File::open(&path).map_err(using)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let message = format!("another measurement runs in {}; wait for its end", path.display());
                return Err(Error::new(ErrorKind::Locked, message));
            }
            Err(error) => return Err(using(error.into())),
        }
        for entry in fs::read_dir(&path).map_err(using)? {
            let name = entry.map_err(using)?.file_name();
            if name != CACHE && name != RAW {
                let message = format!(
                    "{} holds {}, which no measurement made; move it away or name another directory",
                    path.display(),
                    name.display()
                );
                return Err(Error::new(ErrorKind::Argument, message));
            }
        }
        let scratch = Self { path: path.clone(), _lock: lock };
        scratch.clear()?;
        let room = statvfs(directory).map_err(|error| using(error.into()))?;
        let room_bytes = (room.f_bavail * room.f_frsize).saturating_sub(FLOOR_BYTES);
        if needed_bytes > room_bytes {
            let message = format!(
                "{} has {} free ({} of it are left alone), and {} are needed; free space there, name another directory \
                 or measure with less",
                directory.display(),
                size(room.f_bavail * room.f_frsize),
                size(FLOOR_BYTES),
                size(needed_bytes)
            );
            return Err(Error::new(ErrorKind::NoSpace, message));
        }
        Ok(scratch)
    }

    /// Where a file of one's own may be made.
    pub(crate) fn raw(&self) -> PathBuf {
        self.path.join(RAW)
    }

    /// The directory of the cache.
    pub(crate) fn cache(&self) -> PathBuf {
        self.path.join(CACHE)
    }

    /// Opens an empty cache that holds exactly as many chunks as asked for.
    pub(crate) fn open_cache(&self, shape: &Shape) -> Result<Cache> {
        let wanted = shape.disk_bytes();
        let each = shape.chunk_disk_bytes();
        // What journal and checkpoint take of a capacity is the engine's business: ask for some, and see.
        let mut capacity = wanted + wanted / 64 + (1 << 20);
        for _ in 0..FITS_MAX {
            remove(&self.cache())?;
            let cache = Cache::open(&self.config(shape, capacity, 0)?, shape.chunk_bytes.into(), None)?;
            let have = cache.stats().control.disk.capacity_bytes;
            if have / each == shape.chunks {
                return Ok(cache);
            }
            cache.close(Duration::ZERO);
            capacity = (capacity + wanted + each / 2).saturating_sub(have);
        }
        let message = format!("no capacity was found that holds {} chunks exactly", shape.chunks);
        Err(Error::new(ErrorKind::Config, message))
    }

    /// Opens an empty cache that holds as many chunks in memory, and nothing on disk.
    pub(crate) fn open_memory_cache(&self, shape: &Shape) -> Result<Cache> {
        remove(&self.cache())?;
        let memory_bytes =
            shape.chunks.saturating_mul(ChunkRecord::blocks(shape.chunk_bytes) * BLOCK_BYTES as u64);
        // What staging can use is not the tier's, however much of it was asked for.
        let staging = staging::Shape::within(u64::MAX, shape.chunk_bytes.into(), Backing::of_drives(1));
        let staging_bytes = shape.staging_bytes.max(staging.map_or(0, staging::Shape::bytes));
        let shape = &Shape { staging_bytes, ..*shape };
        // There is no memory tier without one behind it.
        let config = self.config(shape, MEMORY_DISK_BYTES + 8 * shape.chunk_disk_bytes(), memory_bytes)?;
        Cache::open(&config, shape.chunk_bytes.into(), None)
    }

    /// Of a cache with so much memory tier, or of one that only stages.
    fn config(&self, shape: &Shape, capacity_bytes: u64, memory_bytes: u64) -> Result<Config> {
        let path = self.cache();
        let path = path.to_str().ok_or_else(|| {
            Error::new(
                ErrorKind::Argument,
                format!("{} is not UTF-8; name another directory", path.display()),
            )
        })?;
        let mut values = vec![
            ("local_disk", Value::from(path)),
            ("max_local_disk_size", gib(capacity_bytes).into()),
            ("disk_min_free_size", Value::from(0)),
            ("max_local_cpu_size", gib(shape.staging_bytes.saturating_add(memory_bytes)).into()),
            ("cache_policy", shape.policy.name().into()),
        ];
        values.extend(if memory_bytes > 0 {
            [("local_cpu", Value::from(true)), ("store_to", "memory".into())]
        } else {
            [("local_cpu", false.into()), ("use_only_staging_buffer", true.into())]
        });
        if let Some(threads) = shape.threads {
            values.extend([("disk_io_engine", "threads".into()), ("disk_io_threads", threads.into())]);
        }
        Ok(Config::from_values(values)?.config)
    }

    fn clear(&self) -> Result<()> {
        remove(&self.cache())?;
        remove(&self.raw())
    }
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = self
            .clear()
            .and_then(|()| fs::remove_dir(&self.path).map_err(|error| Error::io("removing it", error)));
        if let Err(error) = removed {
            tracing::warn!(%error, path = %self.path.display(), "the measurement's files were not removed");
        }
    }
}

/// Bytes as the configuration counts them.
#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^53 bytes")]
pub(crate) fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        chunks: 10,
        chunk_bytes: 100_000,
        staging_bytes: 1 << 20,
        threads: None,
        policy: CachePolicy::Lru,
    };

    #[test]
    fn a_cache_holds_exactly_what_was_asked_for_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        for (chunks, chunk_bytes) in [(2, 100_000), (1000, 4096), (33, 1 << 20)] {
            let scratch = Scratch::in_directory(directory.path(), 0).unwrap();
            let shape = Shape {
                chunks,
                chunk_bytes,
                staging_bytes: 4 << 20,
                threads: Some(2),
                policy: CachePolicy::Lru,
            };
            let cache = scratch.open_cache(&shape).unwrap();
            assert_eq!(cache.stats().control.disk.capacity_bytes / shape.chunk_disk_bytes(), chunks);
            drop(cache);
            fs::write(scratch.raw(), "bytes").unwrap();
            drop(scratch);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_is_not_ours_stays() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join(NAME);
        fs::create_dir_all(place.join(CACHE)).unwrap();
        fs::write(place.join(CACHE).join("data"), "old").unwrap();
        let scratch = Scratch::in_directory(directory.path(), 0).unwrap();
        assert!(!scratch.cache().exists());
        let second = Scratch::in_directory(directory.path(), 0).err().unwrap();
        assert_eq!(second.kind(), ErrorKind::Locked, "{second}");
        drop(scratch);

        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("thesis.txt"), "precious").unwrap();
        let error = Scratch::in_directory(directory.path(), 0).err().unwrap();
        assert!(error.to_string().contains("thesis.txt"), "{error}");
        assert_eq!(fs::read(place.join("thesis.txt")).unwrap(), b"precious");
    }

    #[test]
    fn too_little_space_and_no_directory_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = Scratch::in_directory(directory.path(), 1 << 60).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.to_string().contains("are needed"), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let error = Scratch::in_directory(&directory.path().join("nowhere"), 0).err().unwrap();
        assert!(error.to_string().contains("is no directory"), "{error}");
        assert!(SHAPE.disk_bytes() == 10 * 26 * 4096);
    }
}
