//! How data files are made larger and smaller while a cache uses them.
//!
//! Promises: a capacity means what it means at a start: all files of all directories together, of which the journal keeps
//! what it was given then, and no directory is made larger than its even share. What a drive is to have is refused, with
//! what to do, where its file system has no room for it above the floor, or where it is less than two chunks. Nothing here
//! changes what lies in blocks that were not named; nor a file but those that were locked at the start, whatever is in
//! their places by now.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::{Errno, retry_on_intr};

use super::capacity::{Division, gib_up};
use super::directory::{Settings, data_path};
use super::members::Member;
use crate::catalog::{BLOCK_BYTES, ChunkRecord, Extent};
use crate::crash_points::{Point, pass};
use crate::error::{Error, ErrorKind, Result};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Resize {
    settings: Settings,
    division: Division,
    drives: Vec<Drive>,
}

#[derive(Debug)]
struct Drive {
    number: u8,
    directory: PathBuf,
    data: File,
}

impl Resize {
    /// # Errors
    /// When a data file cannot be opened.
    pub(super) fn of(settings: Settings, division: Division, members: &[Member]) -> Result<Self> {
        let drive = |member: &Member| {
            let path = data_path(&member.path);
            let opened = OpenOptions::new().read(true).write(true).open(&path);
            let data = opened.map_err(|error| Error::io(format!("opening {}", path.display()), error))?;
            Ok(Drive { number: member.drive, directory: member.path.clone(), data })
        };
        let drives = members.iter().map(drive).collect::<Result<_>>()?;
        Ok(Self { settings, division, drives })
    }

    /// Blocks that the largest chunk takes.
    pub(crate) fn unit_blocks(&self) -> u32 {
        let chunk_bytes = u32::try_from(self.settings.chunk_bytes).unwrap_or(u32::MAX);
        u32::try_from(ChunkRecord::room_blocks(chunk_bytes)).unwrap_or(u32::MAX)
    }

    /// What of a drive's share is not for its data file.
    fn besides_bytes(&self, drive: u8) -> u64 {
        self.division.share_bytes - u64::from(self.division.blocks(drive)) * BLOCK_BYTES as u64
    }

    /// The blocks that each drive has when all files together may take so many bytes: no more than a start with that
    /// capacity would give it, since it would lose what lies past them.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] when that is too little or too much.
    pub(crate) fn blocks_for(&self, capacity_bytes: u64) -> Result<Vec<(u8, u32)>> {
        let count = self.drives.len() as u64;
        let least_blocks = 2 * u64::from(self.unit_blocks());
        let at_a_start = Division::of(&Settings { capacity_bytes, ..self.settings.clone() }).ok();
        let of_drive = |&Drive { number: drive, .. }: &Drive| {
            let bytes = (capacity_bytes / count).checked_sub(self.besides_bytes(drive))?;
            let blocks = u32::try_from(bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
            let blocks = at_a_start.map_or(blocks, |division| division.blocks(drive).min(blocks));
            (u64::from(blocks) >= least_blocks).then_some((drive, blocks))
        };
        self.drives.iter().map(of_drive).collect::<Option<Vec<_>>>().ok_or_else(|| {
            let besides = self.drives.iter().map(|drive| self.besides_bytes(drive.number)).max().unwrap_or(0);
            let least_bytes = count * (besides + least_blocks * BLOCK_BYTES as u64);
            let message = format!(
                "{capacity_bytes} bytes have no room for two chunks of {} bytes on each drive beside the journal that \
                 this cache was opened with; make it at least {:.6} GiB",
                self.settings.chunk_bytes,
                gib_up(least_bytes)
            );
            Error::new(ErrorKind::Argument, message)
        })
    }

    /// Looks whether the file systems have room for so many blocks of each drive.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] when one of them has not, above what is to stay free on it.
    pub(crate) fn check_room(&self, targets: &[(u8, u32)]) -> Result<()> {
        /// Of a file system.
        struct Needed<'a> {
            directory: &'a Path,
            file: &'a File,
            more_bytes: u64,
            besides_bytes: u64,
        }
        let mut all: HashMap<u64, Needed<'_>> = HashMap::new();
        for (Drive { number, directory, data: file }, (_, blocks)) in self.drives.iter().zip(targets) {
            let looking = |error: io::Error| {
                Error::io(format!("looking at the data file of {}", directory.display()), error)
            };
            let data = file.metadata().map_err(looking)?;
            let wanted_bytes = u64::from(*blocks) * BLOCK_BYTES as u64;
            let needed = Needed { directory, file, more_bytes: 0, besides_bytes: 0 };
            let needed = all.entry(data.dev()).or_insert(needed);
            needed.more_bytes += wanted_bytes.saturating_sub(data.blocks() * 512);
            needed.besides_bytes += self.besides_bytes(*number);
        }
        for Needed { directory, file, more_bytes, besides_bytes } in all.into_values() {
            let stat = fstatvfs(file).map_err(|error| {
                Error::io(format!("looking at the file system of {}", directory.display()), error)
            })?;
            let least_bytes = self.settings.min_free_bytes.saturating_add(besides_bytes);
            let room_bytes = (stat.f_bavail * stat.f_frsize).saturating_sub(least_bytes);
            if more_bytes > room_bytes {
                let message = format!(
                    "the file system of {} has room for {room_bytes} bytes more above the floor of {} bytes \
                     (disk_min_free_size), and {more_bytes} are wanted; free space there, or ask for less",
                    directory.display(),
                    self.settings.min_free_bytes
                );
                return Err(Error::new(ErrorKind::NoSpace, message));
            }
        }
        Ok(())
    }

    /// The data file of a drive, as long as it has a name.
    fn data(&self, number: u8) -> io::Result<&File> {
        let drive = self.drives.iter().find(|drive| drive.number == number);
        let data = &drive.ok_or_else(|| io::Error::other("there is no such drive"))?.data;
        if data.metadata()?.nlink() == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its directory was removed"));
        }
        Ok(data)
    }

    /// Takes the space of blocks of a data file, which is made longer for those past its end. On an error they have none,
    /// as far as the file system lets it be taken back.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn take(&self, drive: u8, extent: Extent) -> Result<()> {
        let take = || -> io::Result<()> {
            let file = self.data(drive)?;
            let end = extent.byte_start() + extent.byte_len() as u64;
            let end_before = file.metadata()?.len();
            let is_longer = end > end_before;
            match retry_on_intr(|| allocate(file, extent, FallocateFlags::empty())) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP) => {
                    if is_longer {
                        file.set_len(end)?;
                    }
                }
                Err(error) => {
                    // A part of it may have been taken.
                    let undone = if is_longer { file.set_len(end_before) } else { punch(file, extent) };
                    if let Err(error) = undone {
                        tracing::warn!(%error, drive, "space that was taken in vain is not given back");
                    }
                    return Err(error.into());
                }
            }
            pass(Point::SpaceTaken);
            // What the journal will name is not to be past its end after a power loss.
            if is_longer { file.sync_all() } else { Ok(()) }
        };
        take().map_err(|error| Error::io(format!("taking space for the data file of drive {drive}"), error))
    }

    /// Gives the space of blocks that are nobody's back to the file system. Where that takes none back from within a file,
    /// the file goes on having it.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn give_back(&self, drive: u8, extent: Extent) -> Result<()> {
        pass(Point::SpaceToBeGivenBack);
        let punched = self.data(drive).and_then(|file| punch(file, extent));
        punched.map_err(|error| {
            Error::io(format!("giving space of the data file of drive {drive} back"), error)
        })?;
        pass(Point::SpaceGivenBack);
        Ok(())
    }
}

fn allocate(file: &File, extent: Extent, flags: FallocateFlags) -> rustix::io::Result<()> {
    fallocate(file, flags, extent.byte_start(), extent.byte_len() as u64)
}

fn punch(file: &File, extent: Extent) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match retry_on_intr(|| allocate(file, extent, flags)) {
        Err(Errno::OPNOTSUPP) => {
            tracing::info!("the file system does not take space back from within a file");
            Ok(())
        }
        punched => Ok(punched?),
    }
}
