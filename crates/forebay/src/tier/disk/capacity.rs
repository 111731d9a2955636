//! How a capacity is divided, and how the data files' space is taken from their file systems before it is used.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::directory::{Settings, data_path};
use super::members::Member;
use crate::catalog::{BLOCK_BYTES, ChunkRecord, DRIVES_MAX, DriveBlocks, RECORD_BYTES};
use crate::crash_points::{Point, pass};
use crate::error::{Error, ErrorKind, Result};

/// Blocks that are set aside for the small files of home, of each other directory, and in home for each other directory
/// that it names.
const HOME_FILES_BLOCKS: u64 = 16;
const OTHER_FILES_BLOCKS: u64 = 8;
const OTHER_NAME_BLOCKS: u64 = 4;

/// A journal may grow to one record for so many bytes of capacity, where that is more than there may be chunks: each
/// checkpoint has the drive write out all that it holds back, which a drive may take a second for.
const BYTES_FOR_ONE_RECORD: u64 = 128 << 10;
/// But to no more, since a start reads them all.
const RECORDS_ENOUGH: u64 = 64 << 10;

/// How a capacity is divided: every directory has an even share, home's holds the journal too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Division {
    /// Bytes of each directory, all its files together.
    pub(super) share_bytes: u64,
    /// Blocks of the data file at home.
    home_blocks: u32,
    /// Blocks of each other data file.
    other_blocks: u32,
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
        let chunk_blocks = ChunkRecord::room_blocks(chunk_bytes);
        let drives = settings.directories.len().max(1) as u64;
        Self::divide(settings.capacity_bytes, drives, chunk_blocks).ok_or_else(|| {
            let mut least = 2 * drives * chunk_blocks * BLOCK_BYTES as u64;
            while Self::divide(least, drives, chunk_blocks).is_none() {
                least += least / 16;
            }
            Error::new(
                ErrorKind::Config,
                format!(
                    "max_local_disk_size is {} bytes, too small for two chunks of {chunk_bytes} bytes{} and their \
                     journal; make it at least {:.6} GiB",
                    settings.capacity_bytes,
                    if drives > 1 { format!(" in each of {drives} directories") } else { String::new() },
                    gib_up(least)
                ),
            )
        })
    }

    /// The checkpoint gets what it needs for `chunks_max` chunks, its successor the same while that is written, and two
    /// generations of journal what they need for theirs, of 128 bytes a record. Chunks get the rest. `None` when that is
    /// less than two of them on a drive.
    fn divide(capacity_bytes: u64, drives: u64, chunk_blocks: u64) -> Option<Self> {
        let block_bytes = BLOCK_BYTES as u64;
        let chunk_disk_bytes = chunk_blocks * block_bytes;
        let share_bytes = capacity_bytes / drives;
        // Twice as many as fit if all were the largest: smaller ones may share the directory.
        let chunks_max = (2 * (capacity_bytes / chunk_disk_bytes) + 1024).min(u64::from(u32::MAX / 2));
        let home_files_blocks = HOME_FILES_BLOCKS + OTHER_NAME_BLOCKS * (drives - 1);
        let journal_records_max = chunks_max.max((capacity_bytes / BYTES_FOR_ONE_RECORD).min(RECORDS_ENOUGH));
        let records = 2 * (chunks_max + 1) + 2 * (journal_records_max + 1);
        let overhead_bytes = records * RECORD_BYTES as u64 + home_files_blocks * block_bytes;
        let home_blocks = share_bytes.checked_sub(overhead_bytes)? / block_bytes;
        let other_blocks = share_bytes.checked_sub(OTHER_FILES_BLOCKS * block_bytes)? / block_bytes;
        (home_blocks.min(other_blocks) >= 2 * chunk_blocks).then(|| Self {
            share_bytes,
            home_blocks: u32::try_from(home_blocks).unwrap_or(u32::MAX),
            other_blocks: u32::try_from(other_blocks).unwrap_or(u32::MAX),
            chunks_max: u32::try_from(chunks_max).unwrap_or(u32::MAX / 2),
            journal_records_max,
        })
    }

    /// Blocks of a drive's data file.
    pub(super) fn blocks(&self, drive: u8) -> u32 {
        if drive == 0 { self.home_blocks } else { self.other_blocks }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(super) fn gib_up(bytes: u64) -> f64 {
    (bytes as f64 / f64::from(1 << 30) * 1e6).ceil() / 1e6
}

/// Makes the data files as long as they may be, and their space their own; gives the blocks of each drive.
pub(super) fn reserve_space(
    settings: &Settings,
    division: Division,
    members: &[Member],
) -> Result<DriveBlocks> {
    let mut blocks = [0; DRIVES_MAX];
    // What directories on the same file system need besides their data files.
    let mut set_aside_bytes: HashMap<u64, u64> = HashMap::new();
    for member in members {
        let path = &member.path;
        let metadata = fs::metadata(path)
            .map_err(|error| Error::io(format!("reserving space in {}", path.display()), error))?;
        let set_aside_bytes = set_aside_bytes.entry(metadata.dev()).or_default();
        let wanted = division.blocks(member.drive);
        *set_aside_bytes += division.share_bytes - u64::from(wanted) * BLOCK_BYTES as u64;
        let least_bytes = settings.min_free_bytes.saturating_add(*set_aside_bytes);
        blocks[usize::from(member.drive)] = reserve_on_drive(settings, path, wanted, least_bytes)?;
    }
    let count = members.iter().map(|member| usize::from(member.drive) + 1).max().unwrap_or(1);
    Ok(DriveBlocks::from_slice(&blocks[..count]).unwrap_or_else(|| blocks[0].into()))
}

/// Makes a data file of `wanted` blocks, or of as many as leave `least_bytes` free on the file system.
fn reserve_on_drive(settings: &Settings, directory: &Path, wanted: u32, least_bytes: u64) -> Result<u32> {
    let path = data_path(directory);
    let doing = || format!("reserving space for {}", path.display());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| Error::io(doing(), error))?;
    pass(Point::DataOpened);
    let metadata = file.metadata().map_err(|error| Error::io(doing(), error))?;
    let stat = statvfs(directory).map_err(|error| Error::io(doing(), error))?;
    let held_bytes = metadata.blocks() * 512;
    let wanted_bytes = u64::from(wanted) * BLOCK_BYTES as u64;
    let room_bytes = (stat.f_bavail * stat.f_frsize + held_bytes).saturating_sub(least_bytes);
    let mut blocks = wanted;
    if wanted_bytes > room_bytes {
        let chunk_blocks = ChunkRecord::room_blocks(u32::try_from(settings.chunk_bytes).unwrap_or(u32::MAX));
        let room_blocks = room_bytes / BLOCK_BYTES as u64;
        if room_blocks < 2 * chunk_blocks {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "the file system of {} has no room for two chunks above the floor of {} bytes \
                     (disk_min_free_size); free space there or lower the floor",
                    directory.display(),
                    settings.min_free_bytes
                ),
            ));
        }
        tracing::warn!(
            directory = %directory.display(),
            wanted_bytes,
            given_bytes = room_blocks * BLOCK_BYTES as u64,
            "max_local_disk_size is more than the file system has above disk_min_free_size; using what there is"
        );
        blocks = u32::try_from(room_blocks).unwrap_or(wanted);
    }
    let bytes = u64::from(blocks) * BLOCK_BYTES as u64;
    if metadata.len() > bytes {
        file.set_len(bytes).map_err(|error| Error::io(doing(), error))?;
        pass(Point::DataCut);
    }
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP) => {
            tracing::info!("this file system cannot preallocate; a full disk will show as failed stores");
            file.set_len(bytes).map_err(|error| Error::io(doing(), error))?;
        }
        Err(error) => return Err(Error::io(doing(), error)),
    }
    pass(Point::DataPreallocated);
    // The file's name is to survive a loss of power as what is written to it does.
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| Error::io(doing(), error))?;
    Ok(blocks)
}
