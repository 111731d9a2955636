//! Recording: how the catalog's entries get into the journal.
//!
//! Promises: entries are written in the order in which they were handed over. A put is committed, or aborted, by whoever has
//! written it, before the lock is free again: a checkpoint has both, its chunk and its entry, or neither. A removal that
//! could not be written is owed: it goes before whatever is written next. Nobody waits for longer than
//! [`RECORD_PATIENCE`] for a file system that stands, and once somebody has, nobody waits any more until it has moved.
//!
//! A thread of its own writes, without the lock. Before that thread runs and after it has ended, whoever hands over writes.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::super::stats::add;
use super::{Phase, Shared, State};
use crate::catalog::{ChunkRecord, Entry, Ticket};
use crate::tier::disk::home::HomeFile;
use crate::tier::disk::journal::Append;

/// The longest that entries are waited for. A system that keeps them in memory for a while takes microseconds, one that
/// syncs much besides can take a good part of a second.
pub(super) const RECORD_PATIENCE: Duration = Duration::from_secs(1);

/// What became of entries.
pub(super) enum Recorded {
    /// They are in the journal: in this segment.
    Written(Arc<dyn HomeFile>),
    /// They are not. Removals are owed, a put is aborted.
    Failed,
    /// They will be, or not: the file system takes its time. A put is then committed late, or aborted.
    Late,
}

/// The segment in which entries were written, if they were.
type End = Arc<OnceLock<Option<Arc<dyn HomeFile>>>>;

/// Entries of one call.
struct Batch {
    removals: Vec<Entry>,
    put: Option<(Ticket, ChunkRecord)>,
    end: End,
}

/// Entries that are being written.
struct Writing {
    owed: Vec<Entry>,
    batches: Vec<Batch>,
    entries: u64,
    append: io::Result<Append>,
}

/// What is on its way to the journal.
#[derive(Default)]
pub(super) struct Queue {
    /// Removals that could not be written.
    owed: Vec<Entry>,
    waiting: Vec<Batch>,
    /// The puts that are on their way, and whether their callers were told that they are late.
    puts: HashMap<Ticket, bool>,
    /// Removals that are not written: owed, waiting, or being written.
    removals: usize,
    /// Entries are with the file system, and the lock may be free meanwhile.
    is_writing: bool,
    /// Nothing more is to be begun: the keeper wants a moment in which nothing is being written.
    is_held: bool,
    /// Somebody has waited in vain since entries last came back from the file system.
    is_stalled: bool,
    has_writer: bool,
}

impl Queue {
    /// Whether something was evicted or dropped that the journal does not know yet.
    pub(super) fn has_removals(&self) -> bool {
        self.removals > 0
    }

    /// Whether the file system of home stands.
    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled
    }

    /// Whether the put of this ticket is on its way.
    pub(super) fn has_put(&self, ticket: Ticket) -> bool {
        self.puts.contains_key(&ticket)
    }

    /// Whether the put of this ticket is on its way and nobody waits for it any more.
    pub(super) fn has_late_put(&self, ticket: Ticket) -> bool {
        self.puts.get(&ticket) == Some(&true)
    }
}

/// Says when it is dropped that there is no writer any more: who waits writes then.
pub(super) struct Writer<'a>(&'a Shared);

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.0.state.lock().queue.has_writer = false;
        self.0.recorded.notify_all();
    }
}

impl Shared {
    /// Hands entries over, after all that were before, and waits for them.
    pub(super) fn record(
        &self,
        state: &mut MutexGuard<'_, State>,
        removals: Vec<Entry>,
        put: Option<(Ticket, ChunkRecord)>,
    ) -> Recorded {
        let end = End::default();
        let queue = &mut state.queue;
        queue.removals += removals.len();
        queue.puts.extend(put.map(|(ticket, _)| (ticket, false)));
        queue.waiting.push(Batch { removals, put, end: Arc::clone(&end) });
        self.handed_over.notify_one();
        let deadline = Instant::now() + RECORD_PATIENCE;
        while end.get().is_none() {
            if !state.queue.has_writer && !state.queue.is_writing {
                self.write(state);
            } else if state.queue.is_stalled {
                break;
            } else if self.recorded.wait_until(state, deadline).timed_out() && end.get().is_none() {
                state.queue.is_stalled = true;
                tracing::error!(directory = %self.directory.path().display(),
                    "the journal takes longer than {RECORD_PATIENCE:?} to write: stores are refused until it moves");
            }
        }
        match end.get() {
            Some(Some(file)) => Recorded::Written(Arc::clone(file)),
            Some(None) => Recorded::Failed,
            None => {
                if let Some(is_late) = put.and_then(|(ticket, _)| state.queue.puts.get_mut(&ticket)) {
                    *is_late = true;
                }
                Recorded::Late
            }
        }
    }

    /// From now on what is handed over is left to the writer, who is about to begin.
    pub(super) fn announce_writer(&self) -> Writer<'_> {
        self.state.lock().queue.has_writer = true;
        Writer(self)
    }

    /// The writer's life, since it was announced: writes what is handed over, until the end has come and nothing is left.
    pub(super) fn keep_recording(&self) {
        let _writer = Writer(self);
        let mut state = self.state.lock();
        loop {
            if state.queue.is_held || state.queue.waiting.is_empty() {
                if state.is_closed() && state.queue.waiting.is_empty() {
                    return;
                }
                self.handed_over.wait(&mut state);
                continue;
            }
            let writing = self.begin(&mut state);
            let outcome = MutexGuard::unlocked(&mut state, || writing.write());
            self.end(&mut state, writing, outcome);
        }
    }

    /// Writes what waits, without letting go of the lock.
    fn write(&self, state: &mut State) {
        let writing = self.begin(state);
        let outcome = writing.write();
        self.end(state, writing, outcome);
    }

    /// Waits until nothing is being written, and lets nothing more be begun until [`Self::let_on`].
    pub(super) fn hold(&self, state: &mut MutexGuard<'_, State>) {
        state.queue.is_held = true;
        while state.queue.is_writing {
            self.recorded.wait(state);
        }
    }

    /// Ends [`Self::hold`].
    pub(super) fn let_on(&self, state: &mut State) {
        state.queue.is_held = false;
        self.handed_over.notify_one();
    }

    fn begin(&self, state: &mut State) -> Writing {
        let queue = &mut state.queue;
        queue.is_writing = true;
        let (owed, batches) = (std::mem::take(&mut queue.owed), std::mem::take(&mut queue.waiting));
        let mut entries = owed.clone();
        for batch in &batches {
            entries.extend_from_slice(&batch.removals);
            entries.extend(batch.put.map(|(_, record)| Entry::Put(record)));
        }
        let count = entries.len() as u64;
        let append = if state.phase == Phase::GivenBack {
            Err(io::Error::other("the directory was given back"))
        } else if state.journal_records + count > 2 * self.directory.journal_records_max() {
            // The keeper does not keep up: the directory must not outgrow its capacity for that.
            state.checkpoint_due = true;
            self.wake.notify_all();
            Err(io::Error::new(io::ErrorKind::StorageFull, "the journal waits for a checkpoint"))
        } else {
            Ok(state.journal.to_append(&entries))
        };
        Writing { owed, batches, entries: count, append }
    }

    fn end(&self, state: &mut State, writing: Writing, outcome: io::Result<()>) {
        let Writing { owed, batches, entries, append } = writing;
        let outcome = append.and_then(|append| outcome.map(|()| append));
        let file = match &outcome {
            Ok(append) => {
                state.journal.appended(append);
                self.has_recorded(state, entries);
                Some(append.file())
            }
            Err(error) => {
                // A removal has happened, whatever the journal says.
                state.queue.owed = owed;
                self.has_not_recorded(state, error);
                None
            }
        };
        for Batch { removals, put, end } in batches {
            if file.is_none() {
                state.queue.owed.extend(removals);
            }
            if let Some((ticket, _)) = put {
                state.queue.puts.remove(&ticket);
                if file.is_some() {
                    state.catalog.commit(ticket);
                    add(&self.counters.stored, 1);
                } else {
                    state.catalog.abort(ticket);
                    add(&self.counters.store_failed, 1);
                }
            }
            let _ = end.set(file.cloned());
        }
        let queue = &mut state.queue;
        queue.is_writing = false;
        queue.is_stalled = false;
        queue.removals =
            queue.owed.len() + queue.waiting.iter().map(|batch| batch.removals.len()).sum::<usize>();
        self.recorded.notify_all();
    }

    fn has_recorded(&self, state: &mut State, entries: u64) {
        if self.counters.journal_failing.swap(false, Ordering::Relaxed) {
            tracing::info!("the journal can be written again");
        }
        state.dirty = true;
        state.journal_records += entries;
        if state.journal_records > self.directory.journal_records_max() && !state.checkpoint_due {
            state.checkpoint_due = true;
            self.wake.notify_all();
        }
    }

    fn has_not_recorded(&self, state: &State, error: &io::Error) {
        if state.phase == Phase::GivenBack {
            return;
        }
        add(&self.counters.journal_errors, 1);
        if !self.counters.journal_failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, directory = %self.directory.path().display(),
                "cannot write the journal: stores are refused until it can be written");
        }
    }
}

impl Writing {
    fn write(&self) -> io::Result<()> {
        let Ok(append) = &self.append else { return Ok(()) };
        // Whoever waits is told, come what may.
        catch_unwind(AssertUnwindSafe(|| append.write()))
            .unwrap_or_else(|_| Err(io::Error::other("writing the journal panicked")))
    }
}
