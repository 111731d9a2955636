//! Keeping the journal: the thread that writes checkpoints and syncs.

use std::sync::Arc;
use std::time::Duration;

use super::super::stats::add;
use super::{Shared, State};
use crate::catalog::ChunkRecord;
use crate::config::DiskSync;
use crate::crash_points::{Point, pass, turn};
use crate::error::{Error, Result};
use crate::sync::now;
use crate::tier::disk::home::HomeFile;
use crate::tier::disk::journal::{SEGMENT_RECORDS, sync_segment, write_checkpoint};

/// Between a checkpoint that failed and the next.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(1);

/// What is to be done for the journal, apart from appending to it.
pub(super) struct Errands {
    checkpoint: bool,
    /// What is to survive a power loss, and the data with it.
    sync: Option<Segments>,
}

struct Segments {
    former: Vec<u64>,
    current: Arc<dyn HomeFile>,
}

impl Errands {
    pub(super) fn are_any(&self) -> bool {
        self.checkpoint || self.sync.is_some()
    }
}

impl State {
    /// What is due, which from now on is the caller's to do.
    pub(super) fn errands(&mut self, disk_sync: DiskSync) -> Errands {
        let checkpoint = std::mem::take(&mut self.checkpoint_due);
        let sync = matches!(disk_sync, DiskSync::Interval(_)) && std::mem::take(&mut self.dirty);
        let sync = sync.then(|| Segments {
            former: std::mem::take(&mut self.unsynced),
            current: self.journal.sync_handle(),
        });
        Errands { checkpoint, sync }
    }
}

impl Shared {
    /// The keeper's life: checkpoints when due, syncs when asked for.
    pub(super) fn keep(&self) {
        let interval = match self.disk_sync {
            DiskSync::Interval(interval) => Some(interval),
            DiskSync::None | DiskSync::Always => None,
        };
        let mut synced_at = now();
        loop {
            let (errands, closed) = {
                let mut state = self.state.lock();
                loop {
                    let sync_at = interval.filter(|_| state.dirty).map(|interval| synced_at + interval);
                    if state.checkpoint_due || state.is_closed() || sync_at.is_some_and(|at| at <= now()) {
                        break;
                    }
                    match sync_at.or(interval.map(|interval| now() + interval)) {
                        Some(at) => {
                            self.wake.wait_until(&mut state, at);
                        }
                        None => self.wake.wait(&mut state),
                    }
                }
                (state.errands(self.disk_sync), state.is_closed())
            };
            if errands.sync.is_some() {
                synced_at = now();
            }
            turn();
            if !self.run(&errands) {
                self.pause();
            }
            if closed {
                return;
            }
        }
    }

    /// Runs the keeper's errands; `false` when the checkpoint is to be tried again later.
    pub(super) fn run(&self, errands: &Errands) -> bool {
        if let Some(Segments { former, current }) = &errands.sync {
            self.sync(former, current);
        }
        let outcome = if errands.checkpoint { self.checkpoint() } else { Ok(()) };
        let done = outcome.is_ok();
        if !done {
            self.state.lock().checkpoint_due = true;
        }
        self.report(outcome);
        done
    }

    /// Syncs the data files, then these segments: what the journal names is there before it is named. Each whatever the
    /// others gave, since one drive that fails is to cost its own chunks only; what failed is tried again the next time.
    fn sync(&self, former: &[u64], current: &Arc<dyn HomeFile>) {
        let of_journal =
            |error| Error::io(format!("syncing the journal in {}", self.directory.path().display()), error);
        let data = self.data.sync().map_err(|error| Error::io("syncing the data files", error));
        pass(Point::DataSyncedInTime);
        let mut failed = data.is_err();
        self.report(data);
        for &segment in former {
            let synced = sync_segment(self.directory.home(), segment);
            if synced.is_err() {
                failed = true;
                self.state.lock().unsynced.push(segment);
            }
            self.report(synced.map_err(of_journal));
        }
        pass(Point::FormerSegmentsSyncedInTime);
        let current = current.sync().map_err(of_journal);
        pass(Point::JournalSyncedInTime);
        failed |= current.is_err();
        self.report(current);
        if failed {
            self.state.lock().dirty = true;
        }
    }

    /// Lets a second pass before a checkpoint that failed is tried again, unless the end comes first.
    fn pause(&self) {
        let until = now() + CHECKPOINT_PAUSE;
        let mut state = self.state.lock();
        while !state.is_closed() && !self.wake.wait_until(&mut state, until).timed_out() {}
    }

    /// Writes down what is committed now, and goes on in a segment without records from that moment. The lock is held for
    /// the copy only: a new segment is begun before (empty beside one that still grows, it does no harm). One that has
    /// none yet, since the checkpoint it was begun for failed, is gone on with: else each try would leave one behind.
    fn checkpoint(&self) -> Result<()> {
        let (segment, records, covered) = loop {
            let begin = {
                let state = self.state.lock();
                (!state.journal.is_empty()).then(|| state.journal.next_segment())
            };
            let fresh = begin.map(|begin| begin()).transpose()?;
            let mut state = self.state.lock();
            self.hold(&mut state);
            let records: Vec<ChunkRecord> = state.catalog.committed().collect();
            if let Some(fresh) = fresh {
                let former = std::mem::replace(&mut state.journal, fresh);
                if matches!(self.disk_sync, DiskSync::Interval(_)) {
                    // It is needed until the checkpoint is written, which may fail.
                    state.unsynced.push(former.segment());
                }
                state.journal_records += SEGMENT_RECORDS;
            } else if !state.journal.is_empty() {
                self.let_on(&mut state);
                continue;
            }
            self.let_on(&mut state);
            break (state.journal.segment(), records, state.journal_records - SEGMENT_RECORDS);
        };
        pass(Point::SegmentChanged);
        write_checkpoint(self.directory.home(), self.directory.epoch(), segment, &records)?;
        let mut state = self.state.lock();
        state.journal_records -= covered;
        state.unsynced.retain(|&former| former >= segment);
        Ok(())
    }

    fn report(&self, outcome: Result<()>) {
        if let Err(error) = outcome {
            add(&self.counters.journal_errors, 1);
            tracing::error!(%error, "keeping the journal failed; what was committed is still on disk");
        }
    }
}
