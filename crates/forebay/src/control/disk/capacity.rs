//! Making the disk tier larger and smaller while it is used.
//!
//! Promises: what is evicted for it is what goes first by the policy, so many chunks at a time, with all other calls between; no
//! chunk that is in use goes. Space is given back to the file system only when the journal has that what was there is gone,
//! and is used again only when the file system has given it. It ends: with success, or at the first thing that keeps it
//! from going on, and then the capacity is what it had come to.

use std::time::Duration;

use super::pins::PINNED_ONE_OF;
use super::recorder::{RECORD_PATIENCE, Recorded};
use super::{DiskPlane, State};
use crate::catalog::{AddressSpace, BLOCK_BYTES, Entry, Extent, Withheld};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{MutexGuard, now};
use crate::tier::disk::resize::Resize;

/// Chunks that are evicted, and blocks that are given or taken, before somebody else has a turn.
const EVICTED_AT_ONCE: usize = 256;
const BLOCKS_AT_ONCE: u32 = 1 << 16;
/// How long the journal is waited for, if it cannot be written, and how often it is tried meanwhile.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(20);
const JOURNAL_PAUSE: Duration = Duration::from_millis(50);

impl DiskPlane {
    /// Gives the tier so many bytes, all files together, as `max_local_disk_size` does at a start, until the next start. Says
    /// how many of them chunks may take then.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] for less than two chunks a drive, or than twice what is pinned; [`ErrorKind::NoSpace`] when
    /// a file system has no room, or what is left is in use; [`ErrorKind::Locked`] while it is at it for somebody else;
    /// the system's. After what is left was in use, and after the system's, the tier is as large as it has come to;
    /// after the others all is as it was.
    pub(in super::super) fn set_capacity(&self, capacity_bytes: u64) -> Result<u64> {
        let Some(_turn) = self.shared.resizer.try_lock_for(Duration::ZERO) else {
            return Err(Error::new(
                ErrorKind::Locked,
                "the capacity of the disk is being changed; try again",
            ));
        };
        let Some(resize) = self.shared.directory.resize() else {
            return Err(Error::new(ErrorKind::Argument, "the capacity of this disk tier is fixed"));
        };
        let targets = resize.blocks_for(capacity_bytes)?;
        let pinned = self.shared.state.lock().catalog.kept().blocks;
        if pinned * PINNED_ONE_OF > targets.iter().map(|(_, blocks)| u64::from(*blocks)).sum::<u64>() {
            let message = format!(
                "{} bytes are pinned, and no more than half of the capacity may be; unpin, or ask for more",
                pinned * BLOCK_BYTES as u64
            );
            return Err(Error::new(ErrorKind::Argument, message));
        }
        let blocks_of = |drive: u8| self.shared.state.lock().catalog.space().blocks_of(drive);
        if targets.iter().any(|&(drive, target)| target > blocks_of(drive)) {
            resize.check_room(&targets)?;
        }
        for &(drive, target) in &targets {
            while target < blocks_of(drive) {
                self.shrink(resize, drive, blocks_of(drive) - target)?;
            }
            while target > blocks_of(drive) {
                self.grow(resize, drive, target - blocks_of(drive))?;
            }
        }
        let now_bytes = self.shared.state.lock().catalog.space().blocks() * BLOCK_BYTES as u64;
        tracing::info!(capacity_bytes, now_bytes, "the capacity of the disk was changed");
        Ok(now_bytes)
    }

    /// Takes up to so many blocks away from a drive.
    fn shrink(&self, resize: &Resize, drive: u8, blocks: u32) -> Result<()> {
        let mut removed = Vec::new();
        let blocks = blocks.min(BLOCKS_AT_ONCE);
        let (withheld, recorded) = {
            // Nobody is to see what is planned while it is not made to the end.
            let _planner = self.shared.planner.lock();
            let mut state = self.open_state()?;
            let unit = resize.unit_blocks();
            let withheld = state.catalog.withhold(drive, blocks, unit, EVICTED_AT_ONCE, &mut removed);
            (withheld, self.note_gone(&mut state, removed))
        };
        if !recorded {
            self.wait_for_journal()?;
        }
        match withheld {
            Withheld::Blocks(extent) => resize.give_back(drive, extent),
            Withheld::NotYet => {}
            Withheld::Never => {
                let now_bytes = self.shared.state.lock().catalog.space().blocks() * BLOCK_BYTES as u64;
                let message = format!(
                    "all chunks that are left are in use, or hang together with those; the capacity is {now_bytes} bytes \
                     now; try again"
                );
                return Err(Error::new(ErrorKind::NoSpace, message));
            }
        }
        Ok(())
    }

    /// Gives up to so many blocks to a drive.
    fn grow(&self, resize: &Resize, drive: u8, blocks: u32) -> Result<()> {
        let most = blocks.min(BLOCKS_AT_ONCE);
        let (withheld, end) = {
            let state = self.open_state()?;
            let space = state.catalog.space().spaces();
            let end = space.get(usize::from(drive)).map_or(0, AddressSpace::blocks);
            (state.catalog.withheld(drive, most), end)
        };
        let extent = withheld.unwrap_or(Extent { start: end, blocks: most.min(u32::MAX - end) });
        if extent.blocks == 0 {
            return Err(Error::new(ErrorKind::Argument, "a data file has 16 TiB at most"));
        }
        resize.take(drive, extent)?;
        let mut state = self.open_state()?;
        if withheld.is_some() {
            state.catalog.give_out(drive, extent);
        } else {
            state.catalog.extend(drive, extent.blocks);
        }
        Ok(())
    }

    /// The state, as long as the directories are its own.
    pub(super) fn open_state(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.shared.state.lock();
        if state.is_closed() {
            return Err(Error::new(ErrorKind::Closed, "the cache is closed"));
        }
        Ok(state)
    }

    /// Has the journal note what went, and all that it is still owed; whether it has.
    fn note_gone(&self, state: &mut MutexGuard<'_, State>, removed: Vec<Entry>) -> bool {
        let owes_nothing = removed.is_empty() && !state.queue.has_removals();
        owes_nothing || self.shared.record(state, removed, None) == Recorded::Written
    }

    /// Waits until the journal owes nothing any more.
    fn wait_for_journal(&self) -> Result<()> {
        let deadline = now() + JOURNAL_PATIENCE;
        loop {
            if let Some(_planner) = self.shared.planner.try_lock_for(RECORD_PATIENCE) {
                let mut state = self.open_state()?;
                if self.note_gone(&mut state, Vec::new()) {
                    return Ok(());
                }
            }
            if now() >= deadline {
                let message =
                    "the journal cannot be written, so no space is given back: see the log for the error";
                return Err(Error::new(ErrorKind::Io, message));
            }
            self.shared.recorded.wait_for(&mut self.open_state()?, JOURNAL_PAUSE);
        }
    }
}
