//! How a capacity is divided, and how the data file's space is taken from the file system before it is used.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::directory::{Settings, data_path};
use crate::catalog::{BLOCK_BYTES, ChunkRecord, RECORD_BYTES};
use crate::error::{Error, ErrorKind, Result};

/// How a capacity is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Division {
    /// Blocks of the data file.
    pub(super) blocks: u32,
    /// Chunks the catalog may hold.
    pub(super) chunks_max: u32,
    /// Journal records without a checkpoint after which one is due; twice as many fit.
    pub(super) journal_records_max: u64,
}

impl Division {
    pub(super) fn of(settings: &Settings) -> Result<Self> {
        let chunk_bytes = u32::try_from(settings.chunk_bytes).map_err(|_| {
            Error::new(ErrorKind::Argument, format!("chunk_bytes {} is 4 GiB or more", settings.chunk_bytes))
        })?;
        let chunk_blocks = ChunkRecord::blocks(chunk_bytes);
        Self::divide(settings.capacity_bytes, chunk_blocks).ok_or_else(|| {
            let mut least = 2 * chunk_blocks * BLOCK_BYTES as u64;
            while Self::divide(least, chunk_blocks).is_none() {
                least += least / 16;
            }
            Error::new(
                ErrorKind::Config,
                format!(
                    "max_local_disk_size is {} bytes, too small for two chunks of {chunk_bytes} bytes and their \
                     journal; make it at least {:.6} GiB",
                    settings.capacity_bytes,
                    gib_up(least)
                ),
            )
        })
    }

    /// Journal and checkpoint get what they need for `chunks_max` chunks: the checkpoint, its successor while that
    /// is written, and two generations of journal, of 128 bytes a record. Chunks get the rest. `None` when that is
    /// less than two of them.
    fn divide(capacity_bytes: u64, chunk_blocks: u64) -> Option<Self> {
        let chunk_disk_bytes = chunk_blocks * BLOCK_BYTES as u64;
        // Twice as many as fit if all were the largest: smaller ones may share the directory.
        let chunks_max = (2 * (capacity_bytes / chunk_disk_bytes) + 1024).min(u64::from(u32::MAX / 2));
        let overhead_bytes = 4 * (chunks_max + 1) * RECORD_BYTES as u64 + 16 * BLOCK_BYTES as u64;
        let blocks = capacity_bytes.checked_sub(overhead_bytes)? / BLOCK_BYTES as u64;
        (blocks >= 2 * chunk_blocks).then(|| Self {
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            chunks_max: u32::try_from(chunks_max).unwrap_or(u32::MAX / 2),
            journal_records_max: chunks_max,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn gib_up(bytes: u64) -> f64 {
    (bytes as f64 / f64::from(1 << 30) * 1e6).ceil() / 1e6
}

/// Makes the data file as long as it may be, and its space its own.
pub(super) fn reserve_space(settings: &Settings, division: Division) -> Result<Division> {
    let path = data_path(&settings.path);
    let doing = || format!("reserving space for {}", path.display());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| Error::io(doing(), error))?;
    let metadata = file.metadata().map_err(|error| Error::io(doing(), error))?;
    let stat = statvfs(&settings.path).map_err(|error| Error::io(doing(), error))?;
    let held_bytes = metadata.blocks() * 512;
    let wanted_bytes = u64::from(division.blocks) * BLOCK_BYTES as u64;
    let overhead_bytes = settings.capacity_bytes - wanted_bytes;
    let room_bytes =
        (stat.f_bavail * stat.f_frsize + held_bytes).saturating_sub(settings.min_free_bytes + overhead_bytes);
    let mut division = division;
    if wanted_bytes > room_bytes {
        let chunk_blocks = ChunkRecord::blocks(u32::try_from(settings.chunk_bytes).unwrap_or(u32::MAX));
        let blocks = room_bytes / BLOCK_BYTES as u64;
        if blocks < 2 * chunk_blocks {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "the file system of {} has no room for two chunks above the floor of {} bytes \
                     (disk_min_free_size); free space there or lower the floor",
                    settings.path.display(),
                    settings.min_free_bytes
                ),
            ));
        }
        tracing::warn!(
            wanted_bytes,
            given_bytes = blocks * BLOCK_BYTES as u64,
            "max_local_disk_size is more than the file system has above disk_min_free_size; using what there is"
        );
        division.blocks = u32::try_from(blocks).unwrap_or(division.blocks);
    }
    let bytes = u64::from(division.blocks) * BLOCK_BYTES as u64;
    if metadata.len() > bytes {
        file.set_len(bytes).map_err(|error| Error::io(doing(), error))?;
    }
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP) => {
            tracing::info!("this file system cannot preallocate; a full disk will show as failed stores");
            file.set_len(bytes).map_err(|error| Error::io(doing(), error))?;
        }
        Err(error) => return Err(Error::io(doing(), error)),
    }
    Ok(division)
}
