//! The disk tier's part of the control plane: the catalog with its directory and journal.
//!
//! Promises: what it says is stored is in the journal; what it gives to be read stays where it is until the outcome
//! is reported; an outcome is taken once. No call waits for the data files. What has to be in the journal first, and with
//! `disk_sync: always` on the drive, is waited for, for [`RECORD_PATIENCE`] and for that of a call that plans just then; and
//! not at all while the file system of home is known to stand: then stores are refused, and all else goes on.
//!
//! One lock guards catalog and journal together, so that their orders cannot differ. It is held for microseconds, and
//! for as long as it takes to copy the catalog's records when a checkpoint begins. Threads of their own write the
//! journal and checkpoints, without it.

mod capacity;
mod keeper;
pub(super) mod pins;
mod recorder;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use recorder::{Queue, RECORD_PATIENCE, Recorded};

use super::lookup::TierLookup;
use super::plans::TierStore;
use super::stats::{DiskCounters, DiskStats, add};
use crate::catalog::{Catalog, ChunkRecord, LoadDecision, NamespaceId, Plan, StoreDecision, Ticket};
use crate::config::{Config, DirectIo, DiskSync};
use crate::crash_points::{Point, pass};
use crate::crew::{Crew, JOIN_PATIENCE};
use crate::error::Result;
use crate::events::Announcer;
use crate::key::{ChunkKey, Namespace};
use crate::outcome::{LoadStatus, Reason, Tier};
use crate::sync::{Condvar, Mutex, now};
use crate::tier::disk::data_files::DataFiles;
use crate::tier::disk::directory::{Directory, Opened, Settings};
use crate::tier::disk::journal::Journal;
use crate::tier::disk::namespaces::described;
use crate::tier::disk::stock::Stock;

/// See the module's documentation.
pub(super) struct DiskPlane {
    shared: Arc<Shared>,
    keeper: Crew,
    writer: Crew,
}

/// Chunks that are looked at, of all that are there, before somebody else has a turn.
const LOOKED_AT_ONCE: u32 = 1024;

/// Gives milliseconds since 1970.
pub(super) type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

/// What the calls and the keeper share.
pub(super) struct Shared {
    pub(super) directory: Directory,
    disk_sync: DiskSync,
    clock: Clock,
    pub(super) data: DataFiles,
    /// Who makes plans: nobody is to see those that are not made to the end. Locked before the state.
    planner: Mutex<()>,
    pub(super) state: Mutex<State>,
    /// Who makes it larger or smaller. Locked before all others.
    resizer: Mutex<()>,
    /// The keeper's.
    wake: Condvar,
    /// The writer's.
    handed_over: Condvar,
    /// Entries have come back from the file system.
    recorded: Condvar,
    pub(super) counters: DiskCounters,
    pub(super) interrupted: u64,
    pub(super) rebuilt: Option<String>,
    /// The model of each namespace, by what its keys begin with, where that was noted.
    pub(super) models: OnceLock<HashMap<String, String>>,
}

/// How far the end of a control plane has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// No more plans are made.
    Closed,
    /// The directory is not ours any more: nothing may be written to it.
    GivenBack,
}

pub(super) struct State {
    pub(super) catalog: Catalog,
    journal: Journal,
    phase: Phase,
    checkpoint_due: bool,
    /// Journal records that no checkpoint covers.
    journal_records: u64,
    queue: Queue,
    dirty: bool,
    /// The blocks that there are to be for chunks, while that is being changed.
    target_blocks: Option<u64>,
    /// Segments before the one that is written: what they have is to survive a power loss too, when it is next seen to.
    unsynced: Vec<u64>,
}

impl State {
    fn is_closed(&self) -> bool {
        self.phase != Phase::Open
    }

    /// Whether the file system of the journal stands.
    pub(super) fn journal_stands(&self) -> bool {
        self.queue.is_stalled()
    }

    /// Whether so much waits for a checkpoint that no more is planned until there is one.
    pub(super) fn journal_is_behind(&self, directory: &Directory) -> bool {
        let limit = directory.journal_records_max();
        self.journal_records > limit + limit / 2
    }
}

/// Keeps chunks from being evicted.
pub(super) struct Pin {
    ticket: Ticket,
    shared: Arc<Shared>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.shared.state.lock().catalog.release(self.ticket);
    }
}

pub(super) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

impl DiskPlane {
    /// Opens the directories that the configuration names, for chunks of up to `chunk_bytes` payload bytes.
    /// `namespace` is noted in home for people to read.
    ///
    /// # Errors
    /// When the configuration does not fit or the directory cannot be used: see [`Directory::open`].
    pub(super) fn open(
        config: &Config,
        chunk_bytes: u64,
        namespace: Option<&Namespace>,
        announcer: &Announcer,
    ) -> Result<Self> {
        let settings = Settings {
            directories: config.local_disk.clone(),
            capacity_bytes: config.max_local_disk_bytes,
            min_free_bytes: config.disk_min_free_bytes,
            chunk_bytes,
            direct_io: config.disk_direct_io == DirectIo::Auto,
            cache_policy: config.cache_policy,
        };
        let opened = Directory::open(&settings)?;
        if let Some(namespace) = namespace {
            opened.directory.describe(namespace)?;
        }
        let data = DataFiles::open(opened.directory.data_paths(), settings.direct_io)?;
        let plane = Self::stepped(opened, data, config.disk_sync, Box::new(now_ms), announcer);
        let described = described(plane.shared.directory.path()).into_iter();
        let models = described.filter_map(|(id, mut fields)| Some((id, fields.remove("model")?)));
        let _ = plane.shared.models.set(models.collect());
        plane.start(RECORD_PATIENCE)?;
        Ok(plane)
    }

    /// Starts the threads that keep and write the journal, which nobody waits for longer than `patience`.
    ///
    /// # Errors
    /// When there are no more threads to be had.
    pub(super) fn start(&self, patience: Duration) -> Result<()> {
        self.writer.spawn("forebay-journal".into(), self.shared.writer(patience))?;
        let keeper = Arc::clone(&self.shared);
        self.keeper.spawn("forebay-keeper".into(), move || keeper.keep())
    }

    /// On directories that are open, with a clock that gives milliseconds since 1970, and no threads: the keeper's turns
    /// are the caller's to take, and who has something to be recorded writes it.
    pub(super) fn stepped(
        opened: Opened,
        data: DataFiles,
        disk_sync: DiskSync,
        clock: Clock,
        announcer: &Announcer,
    ) -> Self {
        let Opened { directory, stock } = opened;
        let Stock { mut catalog, journal, former, journal_records, interrupted, rebuilt, .. } = stock;
        catalog.announce_by(announcer.clone(), Tier::Disk);
        // Whoever wrote them may have died before it was time.
        let unsynced = if matches!(disk_sync, DiskSync::Interval(_)) { former } else { Vec::new() };
        let state = State {
            catalog,
            journal,
            phase: Phase::Open,
            checkpoint_due: journal_records > directory.journal_records_max(),
            journal_records,
            queue: Queue::default(),
            dirty: false,
            target_blocks: None,
            unsynced,
        };
        let shared = Arc::new(Shared {
            directory,
            disk_sync,
            clock,
            data,
            planner: Mutex::default(),
            state: Mutex::new(state),
            resizer: Mutex::default(),
            wake: Condvar::new(),
            handed_over: Condvar::new(),
            recorded: Condvar::new(),
            counters: DiskCounters::default(),
            interrupted,
            rebuilt,
            models: OnceLock::new(),
        });
        Self { shared, keeper: Crew::default(), writer: Crew::default() }
    }

    /// What the keeper does when a checkpoint is due or it is time to sync. Whether there was anything to do.
    pub(super) fn keep_once(&self) -> bool {
        let errands = self.shared.state.lock().errands(self.shared.disk_sync);
        self.shared.run(&errands);
        errands.are_any()
    }

    /// Its threads that died of a panic.
    pub(super) fn dead_threads(&self) -> Vec<String> {
        [self.keeper.dead(), self.writer.dead()].concat()
    }

    /// Shows the catalog.
    pub(super) fn inspect<T>(&self, look: impl FnOnce(&Catalog) -> T) -> T {
        look(&self.shared.state.lock().catalog)
    }

    /// How much of this prompt is there.
    pub(super) fn lookup(&self, keys: &[ChunkKey]) -> TierLookup<Pin> {
        let mut state = self.shared.state.lock();
        if state.is_closed() {
            return TierLookup::Busy;
        }
        let pin = |ticket| Pin { ticket, shared: Arc::clone(&self.shared) };
        match TierLookup::of(state.catalog.lookup(keys), pin) {
            // It may take for ever.
            TierLookup::Pending if state.journal_stands() => TierLookup::Miss,
            found => found,
        }
    }

    /// Plans the store of consecutive chunks of a prompt (key and payload bytes each); `parent` is the chunk before
    /// the first of them. Every [`TierStore::Write`] must be answered by one [`Self::finish_store`].
    pub(super) fn plan_store(&self, chunks: &[(ChunkKey, u32)], parent: Option<ChunkKey>) -> Vec<TierStore> {
        let refused = |reason: Reason| chunks.iter().map(|_| TierStore::Refused(reason.clone())).collect();
        let Some(_planner) = self.shared.planner.try_lock_for(RECORD_PATIENCE) else {
            return refused(Reason::Busy);
        };
        let mut state = self.shared.state.lock();
        if state.is_closed() {
            return refused(Reason::Closed);
        }
        if state.journal_stands() {
            return refused(Reason::Journal);
        }
        if state.journal_is_behind(&self.shared.directory) {
            // Stores come faster than checkpoints are written, which takes a small cache: let the keeper catch up.
            return refused(Reason::Busy);
        }
        let mut removed = Vec::new();
        let decisions = state.catalog.plan_store(chunks, parent, (self.shared.clock)(), &mut removed);
        // What was evicted must be gone for good before anything is written over it.
        let owes_nothing = removed.is_empty() && !state.queue.has_removals();
        let has_evicted = !removed.is_empty();
        if has_evicted {
            pass(Point::EvictionToBeNoted);
        }
        let recorded = owes_nothing || self.shared.record(&mut state, removed, None) == Recorded::Written;
        if has_evicted {
            pass(Point::EvictionNoted);
        }
        decisions
            .into_iter()
            .map(|decision| match decision {
                StoreDecision::Write(plan) if !recorded => {
                    state.catalog.abort(plan.ticket);
                    TierStore::Refused(Reason::Journal)
                }
                StoreDecision::Full => {
                    add(&self.shared.counters.refused_full, 1);
                    decision.into()
                }
                decision => decision.into(),
            })
            .collect()
    }

    /// Takes a mover's word on a write: with `written` the chunk is committed and found from now on. Gives its record.
    ///
    /// # Errors
    /// Why it is not committed though it was written; [`Reason::Unknown`] when the ticket is not that of an open
    /// write; [`Reason::Busy`] when the file system of home takes its time: then it may be found later.
    pub(super) fn finish_store(&self, ticket: Ticket, written: bool) -> Result<ChunkRecord, Reason> {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        let open = state.catalog.writing(ticket).filter(|_| !state.queue.has_put(ticket));
        let Some(record) = open else { return Err(Reason::Unknown) };
        if !written {
            state.catalog.abort(ticket);
            add(&shared.counters.store_failed, 1);
            // It may have been the last that could come.
            shared.handed_over.notify_one();
            return Ok(record);
        }
        match shared.record(&mut state, Vec::new(), Some((ticket, record))) {
            Recorded::Written => {
                pass(Point::Committed);
                drop(state);
                tracing::trace!(target: crate::CHUNK_TRACES, "it is in the journal, and found from now on");
                Ok(record)
            }
            Recorded::Failed => Err(Reason::Journal),
            Recorded::Late => Err(Reason::Busy),
        }
    }

    /// Whether the write under this ticket is still to be told.
    pub(super) fn is_writing(&self, ticket: Ticket) -> bool {
        let state = self.shared.state.lock();
        state.catalog.writing(ticket).is_some() && !state.queue.has_late_put(ticket)
    }

    /// Whether a chunk is there now. Does not count as use.
    pub(super) fn contains(&self, key: &ChunkKey) -> bool {
        self.shared.state.lock().catalog.contains(key)
    }

    /// Plans a load: each chunk that is there is pinned until its [`Self::finish_load`]. An error is why a chunk is
    /// not to be read: [`Reason::NotThere`] is a miss, [`Reason::Busy`] and [`Reason::Closed`] are not.
    pub(super) fn plan_load(&self, keys: &[ChunkKey]) -> Vec<Result<Plan, Reason>> {
        let mut state = self.shared.state.lock();
        if state.is_closed() {
            return keys.iter().map(|_| Err(Reason::Closed)).collect();
        }
        state
            .catalog
            .plan_load(keys)
            .into_iter()
            .map(|decision| match decision {
                LoadDecision::Read(plan) => Ok(plan),
                LoadDecision::Miss => Err(Reason::NotThere),
                LoadDecision::Busy => Err(Reason::Busy),
            })
            .collect()
    }

    /// Takes a mover's word on a read. A chunk that was not what was stored, or could not be read, is dropped: it
    /// would fail again. `false` when the ticket is not that of an open read.
    pub(super) fn finish_load(&self, ticket: Ticket, status: LoadStatus, reason: Option<&Reason>) -> bool {
        let shared = &self.shared;
        let counter = match (status, reason) {
            (LoadStatus::Miss, _) => &shared.counters.corrupt,
            (LoadStatus::Failed, Some(Reason::Io(_))) => &shared.counters.io_failed,
            (LoadStatus::Loaded | LoadStatus::Failed, _) => {
                return shared.state.lock().catalog.release(ticket);
            }
        };
        let mut state = shared.state.lock();
        let Some(removal) = state.catalog.discard(ticket) else { return false };
        // Else another load has found the same, and it is counted.
        if let Some(removal) = removal {
            add(counter, 1);
            shared.note_removals(&mut state, vec![removal]);
        }
        true
    }

    /// Takes out all chunks, or those of a namespace; says how many. What is being written stays, and so may what is
    /// committed meanwhile.
    pub(super) fn clear(&self, namespace: Option<NamespaceId>) -> u64 {
        let is_meant = |key: &ChunkKey| namespace.is_none_or(|id| key.namespace_id() == id);
        let mut cleared = 0;
        let mut from = Some(0);
        while let Some(place) = from {
            let _planner = self.shared.planner.lock();
            let mut state = self.shared.state.lock();
            if state.is_closed() {
                break;
            }
            let (removals, next) = state.catalog.clear_some(place, LOOKED_AT_ONCE, is_meant);
            cleared += removals.len() as u64;
            if !removals.is_empty() {
                self.shared.note_removals(&mut state, removals);
            }
            from = next;
        }
        cleared
    }

    /// Figures.
    pub(super) fn stats(&self) -> DiskStats {
        DiskStats::of(&self.shared)
    }

    /// The data file of each drive.
    pub(super) fn data_paths(&self) -> &[(u8, PathBuf)] {
        self.shared.directory.data_paths()
    }

    /// Takes no more plans, writes a checkpoint, ends the threads and gives the directories back. Outcomes of open plans
    /// are still taken; while a write is open they stay this one's, until the last who uses it is gone.
    pub(super) fn close(&self) {
        {
            // Who is at a plan has it made to the end.
            let _planner = self.shared.planner.lock();
            let mut state = self.shared.state.lock();
            if state.phase == Phase::Open {
                state.phase = Phase::Closed;
                state.checkpoint_due = true;
            }
        }
        self.shared.wake.notify_all();
        self.shared.handed_over.notify_all();
        // A thread that is still at it writes to the directories: they go with the process then.
        let deadline = now() + JOIN_PATIENCE;
        let mut is_at_rest = self.keeper.join(deadline);
        if self.shared.state.lock().catalog.open_writes() == 0 {
            is_at_rest &= self.writer.join(deadline);
        }
        // Who changes its size ends when it sees that, and may be with the file system until then.
        let resizer = self.shared.resizer.try_lock_for(deadline.saturating_duration_since(now()));
        is_at_rest &= resizer.is_some();
        let mut state = self.shared.state.lock();
        if is_at_rest && state.phase == Phase::Closed && state.catalog.open_writes() == 0 {
            state.phase = Phase::GivenBack;
            self.shared.directory.give_back();
            pass(Point::GivenBack);
        }
    }
}

impl Drop for DiskPlane {
    fn drop(&mut self) {
        self.close();
        self.shared.state.lock().queue.let_go();
        self.shared.handed_over.notify_all();
    }
}
