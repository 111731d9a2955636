//! Recording: how the catalog's entries get into the journal.
//!
//! Promises: entries are written in the order in which they were handed over. A put is committed, or aborted, by whoever has
//! written it, before the lock is free again: a checkpoint has both, its chunk and its entry, or neither. A removal that
//! could not be written is owed: it goes before whatever is written next. Nobody waits for longer than they were told to
//! for a file system that stands, and once somebody has, nobody does any more until it has moved.
//!
//! A thread of its own writes, without the lock, what was handed over since it last began. A plane without that thread (a
//! simulator's) has whoever hands over write, under the lock. The thread ends when the plane is closed and nothing can
//! come any more.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::super::stats::add;
use super::{Phase, Shared, State};
use crate::catalog::{ChunkRecord, Entry, Ticket};
use crate::config::DiskSync;
use crate::crash_points::turn;
use crate::sync::{MutexGuard, now};
use crate::tier::disk::journal::Append;

/// The longest that entries are waited for. A system that keeps them in memory for a while takes microseconds, one that
/// syncs much besides a good part of a second.
pub(super) const RECORD_PATIENCE: Duration = Duration::from_secs(2);

/// What became of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
    /// They are in the journal. A put is committed.
    Written,
    /// They are not. Removals are owed, a put is aborted.
    Failed,
    /// They will be, or not: the file system takes its time. A put is committed then, or aborted.
    Late,
}

/// Whether entries were written, once that is known.
type End = Arc<OnceLock<bool>>;

/// Entries of one call.
struct Batch {
    removals: Vec<Entry>,
    put: Option<(Ticket, ChunkRecord)>,
    end: End,
}

impl Batch {
    fn len(&self) -> u64 {
        self.removals.len() as u64 + u64::from(self.put.is_some())
    }
}

/// Entries that are being written.
struct Writing {
    owed: Vec<Entry>,
    batches: Vec<Batch>,
    /// How many.
    len: u64,
    append: io::Result<Append>,
    sync: bool,
}

/// What is on its way to the journal.
pub(super) struct Queue {
    patience: Duration,
    /// Removals that could not be written.
    owed: Vec<Entry>,
    waiting: Vec<Batch>,
    /// The puts that are on their way, and whether their callers were told that they are late.
    puts: HashMap<Ticket, bool>,
    /// Removals with the file system.
    removals_under_way: usize,
    /// Entries are with the file system, and the lock may be free meanwhile.
    is_writing: bool,
    /// Nothing more is to be begun: the keeper wants a moment in which nothing is being written.
    is_held: bool,
    /// Somebody has waited in vain since entries last came back from the file system.
    is_stalled: bool,
    writer: Thread,
}

/// The thread that writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thread {
    /// There is none: who hands over writes.
    None,
    Working,
    /// Nobody hands over any more: it ends when nothing is left.
    Ending,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            patience: RECORD_PATIENCE,
            owed: Vec::new(),
            waiting: Vec::new(),
            puts: HashMap::new(),
            removals_under_way: 0,
            is_writing: false,
            is_held: false,
            is_stalled: false,
            writer: Thread::None,
        }
    }
}

impl Queue {
    /// Whether something was evicted or dropped that the journal does not know yet.
    pub(super) fn has_removals(&self) -> bool {
        self.removals_under_way > 0
            || !self.owed.is_empty()
            || self.waiting.iter().any(|batch| !batch.removals.is_empty())
    }

    /// Nobody hands over any more: who writes may end.
    pub(super) fn let_go(&mut self) {
        if self.writer == Thread::Working {
            self.writer = Thread::Ending;
        }
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

impl State {
    /// Whether there is nothing to be written, and will not be.
    fn has_recorded_all(&self) -> bool {
        let is_last = self.queue.writer == Thread::Ending || self.catalog.open_writes() == 0;
        self.is_closed() && is_last && self.queue.waiting.is_empty()
    }
}

/// Says when it is dropped that there is no writer any more.
struct Writer(Arc<Shared>);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.state.lock().queue.writer = Thread::None;
        self.0.recorded.notify_all();
    }
}

impl Shared {
    /// Hands removals over, after all that was before, and waits for nothing.
    pub(super) fn note_removals(&self, state: &mut State, removals: Vec<Entry>) {
        self.hand_over(state, removals, None);
        if state.queue.writer == Thread::None && state.phase == Phase::Open {
            self.write(state);
        }
    }

    /// Hands entries over, after all that was before, and waits for them.
    pub(super) fn record(
        &self,
        state: &mut MutexGuard<'_, State>,
        removals: Vec<Entry>,
        put: Option<(Ticket, ChunkRecord)>,
    ) -> Recorded {
        let end = self.hand_over(state, removals, put);
        let deadline = now() + state.queue.patience;
        while end.get().is_none() {
            if state.queue.writer == Thread::None {
                self.write(state);
            } else if state.queue.is_stalled {
                break;
            } else if self.recorded.wait_until(state, deadline).timed_out() && end.get().is_none() {
                state.queue.is_stalled = true;
                self.recorded.notify_all();
                tracing::error!(directory = %self.directory.path().display(), patience = ?state.queue.patience,
                    "the journal was waited for in vain: stores to disk are refused until it is written");
            }
        }
        match end.get() {
            Some(true) => Recorded::Written,
            Some(false) => Recorded::Failed,
            None => {
                if let Some(is_late) = put.and_then(|(ticket, _)| state.queue.puts.get_mut(&ticket)) {
                    *is_late = true;
                }
                Recorded::Late
            }
        }
    }

    fn hand_over(&self, state: &mut State, removals: Vec<Entry>, put: Option<(Ticket, ChunkRecord)>) -> End {
        let end = End::default();
        state.queue.puts.extend(put.map(|(ticket, _)| (ticket, false)));
        state.queue.waiting.push(Batch { removals, put, end: Arc::clone(&end) });
        self.handed_over.notify_one();
        end
    }

    /// A writer's life, to be lived by a thread: writes what is handed over, until nothing can come any more. What is handed
    /// over from now on waits for it, for so long at most. Nothing to be lived if there is a writer.
    pub(super) fn writer(self: &Arc<Self>, patience: Duration) -> impl FnOnce() + Send + use<> {
        let mut state = self.state.lock();
        let is_first = std::mem::replace(&mut state.queue.writer, Thread::Working) == Thread::None;
        state.queue.patience = patience;
        let writer = is_first.then(|| Writer(Arc::clone(self)));
        move || {
            if let Some(writer) = &writer {
                writer.0.keep_recording();
            }
        }
    }

    fn keep_recording(&self) {
        let mut state = self.state.lock();
        while !state.has_recorded_all() {
            if state.queue.is_held || state.queue.waiting.is_empty() {
                self.handed_over.wait(&mut state);
                continue;
            }
            turn();
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

    /// Takes what waits, as much as the journal has room for: more than one call's only then.
    fn begin(&self, state: &mut State) -> Writing {
        let room = (2 * self.directory.journal_records_max()).saturating_sub(state.journal_records);
        let queue = &mut state.queue;
        queue.is_writing = true;
        let owed = std::mem::take(&mut queue.owed);
        let mut len = owed.len() as u64;
        let mut taken = 0;
        for batch in &queue.waiting {
            if taken > 0 && len + batch.len() > room {
                break;
            }
            len += batch.len();
            taken += 1;
        }
        let batches: Vec<Batch> = queue.waiting.drain(..taken).collect();
        let mut entries = owed.clone();
        for batch in &batches {
            entries.extend_from_slice(&batch.removals);
            queue.removals_under_way += batch.removals.len();
            entries.extend(batch.put.map(|(_, record)| Entry::Put(record)));
        }
        queue.removals_under_way += owed.len();
        let append = if state.phase == Phase::GivenBack {
            Err(io::Error::other("the directory was given back"))
        } else if len > room {
            // The keeper does not keep up: the directory must not outgrow its capacity for that.
            state.checkpoint_due = true;
            self.wake.notify_all();
            Err(io::Error::new(io::ErrorKind::StorageFull, "the journal waits for a checkpoint"))
        } else {
            Ok(state.journal.to_append(&entries))
        };
        let sync = self.disk_sync == DiskSync::Always && batches.iter().any(|batch| batch.put.is_some());
        Writing { owed, batches, len, append, sync }
    }

    fn end(&self, state: &mut State, writing: Writing, outcome: io::Result<()>) {
        let Writing { owed, batches, len, append, .. } = writing;
        let outcome = append.and_then(|append| {
            state.journal.appended(&append, outcome.is_ok());
            outcome
        });
        let is_written = outcome.is_ok();
        match outcome {
            Ok(()) => self.has_recorded(state, len),
            Err(error) => {
                // A removal has happened, whatever the journal says.
                state.queue.owed = owed;
                self.has_not_recorded(state, &error);
            }
        }
        for Batch { removals, put, end } in batches {
            if !is_written {
                state.queue.owed.extend(removals);
            }
            if let Some((ticket, _)) = put {
                state.queue.puts.remove(&ticket);
                if is_written {
                    state.catalog.commit(ticket);
                    add(&self.counters.stored, 1);
                } else {
                    state.catalog.abort(ticket);
                    add(&self.counters.store_failed, 1);
                }
            }
            let _ = end.set(is_written);
        }
        state.queue.removals_under_way = 0;
        state.queue.is_writing = false;
        state.queue.is_stalled = false;
        self.recorded.notify_all();
    }

    fn has_recorded(&self, state: &mut State, len: u64) {
        if self.counters.journal_failing.swap(false, Ordering::Relaxed) {
            tracing::info!("the journal can be written again");
        }
        state.dirty = true;
        state.journal_records += len;
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
        catch_unwind(AssertUnwindSafe(|| append.write(self.sync)))
            .unwrap_or_else(|_| Err(io::Error::other("writing the journal panicked")))
    }
}
