//! Making the disk tier larger and smaller while it is used.
//!
//! Promises: what is evicted for it is what goes first by the policy, and no more than must, so many chunks at a time, with
//! all other calls between; no chunk that is in use goes, and no more is pinned meanwhile than half of what will be. Space
//! is given back to the file system only when the journal has that what was there is gone, and is used again only when the
//! file system has given it. It ends: with success, or at the first thing that keeps it from going on, and then the
//! capacity is what it had come to.

use std::time::Duration;

use super::pins::PINNED_ONE_OF;
use super::recorder::{RECORD_PATIENCE, Recorded};
use super::{DiskPlane, State};
use crate::catalog::{AddressSpace, BLOCK_BYTES, Entry, Extent};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{MutexGuard, now};
use crate::tier::disk::resize::Resize;

/// Chunks that are evicted, and blocks that are given or taken, before somebody else has a turn.
const EVICTED_AT_ONCE: usize = 256;
const BLOCKS_AT_ONCE: u32 = 1 << 16;
/// How long the journal is waited for, if it cannot be written, and how often it is tried meanwhile.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(20);
const JOURNAL_PAUSE: Duration = Duration::from_millis(50);

/// A capacity that is being changed, and that pins must have room in.
struct Changing<'a> {
    plane: &'a DiskPlane,
    target_blocks: u64,
}

impl<'a> Changing<'a> {
    fn begin(plane: &'a DiskPlane, target_blocks: u64) -> Result<Self> {
        let mut state = plane.open_state()?;
        let pinned_blocks = state.catalog.kept().blocks;
        if pinned_blocks > target_blocks / PINNED_ONE_OF {
            let message = format!(
                "{} bytes are pinned, and no more than half of the capacity may be; unpin, or ask for more",
                pinned_blocks * BLOCK_BYTES as u64
            );
            return Err(Error::new(ErrorKind::Argument, message));
        }
        state.target_blocks = Some(target_blocks);
        Ok(Self { plane, target_blocks })
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.plane.shared.state.lock().target_blocks = None;
    }
}

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
        let shares = resize.blocks_for(capacity_bytes)?;
        let changing = Changing::begin(self, shares.iter().map(|(_, blocks)| u64::from(*blocks)).sum())?;
        let changed = self.change_to(changing.target_blocks, resize, &shares);
        let now_bytes = self.blocks() * BLOCK_BYTES as u64;
        match &changed {
            Ok(()) => tracing::info!(capacity_bytes, now_bytes, "the capacity of the disk was changed"),
            Err(error) => {
                tracing::warn!(%error, capacity_bytes, now_bytes, "the capacity of the disk was not changed, or not all the way");
            }
        }
        changed.map(|()| now_bytes)
    }

    fn change_to(&self, target_blocks: u64, resize: &Resize, shares: &[(u8, u32)]) -> Result<()> {
        let at_once = |blocks: u64| u32::try_from(blocks).unwrap_or(u32::MAX).min(BLOCKS_AT_ONCE);
        if self.blocks() < target_blocks {
            resize.check_room(shares)?;
        }
        while let Some(blocks @ 1..) = self.blocks().checked_sub(target_blocks) {
            self.shrink(resize, at_once(blocks))?;
        }
        for &(drive, share) in shares {
            // One that lost less than its part before may have more than its share, and the others less.
            while let Some(blocks @ 1..) = share.checked_sub(self.blocks_of(drive))
                && let Some(left @ 1..) = target_blocks.checked_sub(self.blocks())
            {
                self.grow(resize, drive, at_once(left).min(blocks))?;
            }
        }
        Ok(())
    }

    fn blocks(&self) -> u64 {
        self.shared.state.lock().catalog.space().blocks()
    }

    fn blocks_of(&self, drive: u8) -> u32 {
        self.shared.state.lock().catalog.space().blocks_of(drive)
    }

    /// Takes up to so many blocks away, from wherever they come free.
    fn shrink(&self, resize: &Resize, blocks: u32) -> Result<()> {
        let mut removed = Vec::new();
        let (withheld, recorded) = {
            // Nobody is to see what is planned while it is not made to the end.
            let _planner = self.shared.planner.lock();
            let mut state = self.open_state()?;
            let withheld =
                state.catalog.withhold(blocks, resize.unit_blocks(), EVICTED_AT_ONCE, &mut removed);
            (withheld, self.note_gone(&mut state, removed))
        };
        let mut done = 0;
        let mut give_back = || -> Result<()> {
            if !recorded {
                self.wait_for_journal()?;
            }
            for (drive, extent) in &withheld.extents {
                resize.give_back(*drive, *extent)?;
                done += 1;
            }
            Ok(())
        };
        if let Err(error) = give_back() {
            // What still has its space is not to be forgotten: it is the tier's again.
            let mut state = self.shared.state.lock();
            for (drive, extent) in withheld.extents[done..].iter().rev() {
                state.catalog.give_out(*drive, *extent);
            }
            return Err(error);
        }
        if withheld.is_stuck && withheld.extents.is_empty() {
            let now_bytes = self.blocks() * BLOCK_BYTES as u64;
            let message = format!(
                "all chunks that are left are in use, or hang together with those; the capacity is {now_bytes} bytes \
                 now; try again"
            );
            return Err(Error::new(ErrorKind::NoSpace, message));
        }
        Ok(())
    }

    /// Gives up to so many blocks to a drive.
    fn grow(&self, resize: &Resize, drive: u8, most: u32) -> Result<()> {
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
