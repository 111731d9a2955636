//! The control plane: the catalog with its directory and journal, for as many threads as like.
//!
//! Promises: what it says is stored is in the journal; what it gives to be read stays where it is until the outcome
//! is reported; an outcome is taken once. It never touches a chunk's bytes: a [`crate::mover::Mover`], of this
//! process or another one, does. All calls return without waiting for a device, except that with
//! `disk_sync: always` a commit waits for the journal to be on it.
//!
//! One lock guards catalog and journal together, so that their orders cannot differ. It is held for microseconds:
//! checkpoints are written by a thread of their own, from a copy.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};

use crate::catalog::{
    Catalog, ChunkRecord, Entry, LoadDecision, LookupDecision, Plan, StoreDecision, Ticket,
};
use crate::config::{Config, DirectIo, DiskSync};
use crate::crew::{Crew, JOIN_PATIENCE};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ChunkKey, Namespace};
use crate::outcome::{LoadStatus, Reason};
use crate::tier::disk::block_file::{BlockFile, OsBlockFile};
use crate::tier::disk::directory::{Directory, Opened, Settings, data_path};
use crate::tier::disk::journal::{Journal, write_checkpoint};

/// Between a checkpoint that failed and the next.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(1);

/// See the module's documentation.
pub struct ControlPlane {
    shared: Arc<Shared>,
    keeper: Crew,
}

struct Shared {
    directory: Directory,
    disk_sync: DiskSync,
    data: OsBlockFile,
    state: Mutex<State>,
    wake: Condvar,
    counters: Counters,
    interrupted: u64,
    rebuilt: Option<String>,
}

struct State {
    catalog: Catalog,
    journal: Journal,
    closed: bool,
    checkpoint_due: bool,
    /// Journal records that no checkpoint covers.
    journal_records: u64,
    /// Removals that could not be written yet: they go before whatever is written next.
    unrecorded: Vec<Entry>,
    dirty: bool,
}

#[derive(Default)]
struct Counters {
    lookups: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    pending: AtomicU64,
    busy: AtomicU64,
    hit_chunks: AtomicU64,
    lookup_chunks: AtomicU64,
    stored: AtomicU64,
    store_failed: AtomicU64,
    refused_full: AtomicU64,
    corrupt: AtomicU64,
    io_failed: AtomicU64,
    journal_errors: AtomicU64,
    journal_failing: AtomicBool,
}

/// The answer to a lookup: four things that must not be taken for each other.
#[derive(Debug)]
pub enum Lookup {
    /// The first chunks of the prompt are there.
    Hit(Hit),
    /// Not even the first chunk is.
    Miss,
    /// The first chunk is being stored right now: ask again.
    Pending,
    /// It cannot be told now: too much is under way. Not a miss.
    Busy,
}

impl Lookup {
    /// Length of the contiguous prefix that is there; zero unless this is a hit.
    pub fn chunks(&self) -> usize {
        match self {
            Self::Hit(hit) => hit.chunks(),
            Self::Miss | Self::Pending | Self::Busy => 0,
        }
    }

    /// A stable short name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hit(_) => "hit",
            Self::Miss => "miss",
            Self::Pending => "pending",
            Self::Busy => "busy",
        }
    }
}

/// Chunks that are there and stay there until this is dropped.
pub struct Hit {
    chunks: usize,
    ticket: Ticket,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Hit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hit").field("chunks", &self.chunks).finish_non_exhaustive()
    }
}

impl Hit {
    /// Length of the contiguous prefix.
    pub fn chunks(&self) -> usize {
        self.chunks
    }
}

impl Drop for Hit {
    fn drop(&mut self) {
        self.shared.state.lock().catalog.release(self.ticket);
    }
}

/// A store's chunk, planned.
#[derive(Debug)]
pub enum StorePlan {
    /// To be written, and reported with [`ControlPlane::finish_store`].
    Write(Plan),
    /// There already.
    Present,
    /// Another store of it is under way, under this ticket.
    InFlight(Ticket),
    /// Not to be stored now.
    Refused(Reason),
}

/// Figures of a control plane.
#[derive(Debug, Clone, Default)]
pub struct ControlStats {
    /// Chunks that are there.
    pub chunks: u64,
    /// Bytes of disk they take, headers included.
    pub used_bytes: u64,
    /// Bytes of disk chunks may take.
    pub capacity_bytes: u64,
    /// Lookups, and how they were answered.
    pub lookups: u64,
    /// Lookups that found at least one chunk.
    pub hits: u64,
    /// Lookups that found none.
    pub misses: u64,
    /// Lookups whose first chunk was being stored.
    pub pending: u64,
    /// Lookups and stores that came faster than they could be answered.
    pub busy: u64,
    /// Chunks asked for in lookups.
    pub lookup_chunks: u64,
    /// Chunks found in lookups.
    pub hit_chunks: u64,
    /// Chunks stored.
    pub stored: u64,
    /// Stores that failed.
    pub store_failed: u64,
    /// Stores refused because nothing could be evicted for them.
    pub refused_full: u64,
    /// Chunks evicted.
    pub evictions: u64,
    /// Chunks whose bytes on disk were not what was stored.
    pub corrupt: u64,
    /// Chunks that could not be read.
    pub io_failed: u64,
    /// Times the journal could not be written.
    pub journal_errors: u64,
    /// Whether stores are refused because the journal cannot be written now.
    pub degraded: bool,
    /// Plans and lookups that are open.
    pub open_tickets: u64,
    /// Journal records that death had interrupted, found at the start.
    pub journal_interrupted: u64,
    /// Why the index was rebuilt from the headers at the start, if it was.
    pub rebuilt: Option<String>,
    /// Whether data goes past the page cache.
    pub direct_io: bool,
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl ControlPlane {
    /// Opens the directory that the configuration names, for chunks of up to `chunk_bytes` payload bytes.
    /// `namespace` is noted in the directory for people to read.
    ///
    /// # Errors
    /// When the configuration does not fit or the directory cannot be used: see [`Directory::open`].
    pub fn open(config: &Config, chunk_bytes: u64, namespace: Option<&Namespace>) -> Result<Self> {
        let path = config.local_disk.clone().ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                "local_disk is not set; name the directory that is to hold the cache",
            )
        })?;
        let settings = Settings {
            path,
            capacity_bytes: config.max_local_disk_bytes,
            min_free_bytes: config.disk_min_free_bytes,
            chunk_bytes,
            direct_io: config.disk_direct_io == DirectIo::Auto,
        };
        let Opened { directory, catalog, journal, journal_records, interrupted, rebuilt } =
            Directory::open(&settings)?;
        if let Some(namespace) = namespace {
            directory.describe(namespace)?;
        }
        let data = OsBlockFile::open(&data_path(directory.path()), settings.direct_io)?;
        let state = State {
            catalog,
            journal,
            closed: false,
            checkpoint_due: journal_records > directory.journal_records_max(),
            journal_records,
            unrecorded: Vec::new(),
            dirty: false,
        };
        let shared = Arc::new(Shared {
            directory,
            disk_sync: config.disk_sync,
            data,
            state: Mutex::new(state),
            wake: Condvar::new(),
            counters: Counters::default(),
            interrupted,
            rebuilt,
        });
        let control = Self { shared, keeper: Crew::default() };
        let shared = Arc::clone(&control.shared);
        control.keeper.spawn("forebay-keeper".into(), move || shared.keep())?;
        Ok(control)
    }

    /// How much of this prompt is there. A hit is pinned until it is dropped.
    pub fn lookup(&self, keys: &[ChunkKey]) -> Lookup {
        let decision = {
            let mut state = self.shared.state.lock();
            if state.closed { LookupDecision::Miss } else { state.catalog.lookup(keys) }
        };
        let counters = &self.shared.counters;
        add(&counters.lookups, 1);
        add(&counters.lookup_chunks, keys.len() as u64);
        match decision {
            LookupDecision::Hit { chunks, ticket } => {
                add(&counters.hits, 1);
                add(&counters.hit_chunks, chunks as u64);
                Lookup::Hit(Hit { chunks, ticket, shared: Arc::clone(&self.shared) })
            }
            LookupDecision::Miss => {
                add(&counters.misses, 1);
                Lookup::Miss
            }
            LookupDecision::Pending => {
                add(&counters.pending, 1);
                Lookup::Pending
            }
            LookupDecision::Busy => {
                add(&counters.busy, 1);
                Lookup::Busy
            }
        }
    }

    /// Plans the store of consecutive chunks of a prompt (key and payload bytes each); `parent` is the chunk before
    /// the first of them. Every [`StorePlan::Write`] must be answered by one [`Self::finish_store`].
    pub fn plan_store(&self, chunks: &[(ChunkKey, u32)], parent: Option<ChunkKey>) -> Vec<StorePlan> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return chunks.iter().map(|_| StorePlan::Refused(Reason::Closed)).collect();
        }
        let limit = self.shared.directory.journal_records_max();
        if state.journal_records > limit + limit / 2 {
            // Stores come faster than checkpoints are written, which takes a small cache: let the keeper catch up.
            add(&self.shared.counters.busy, 1);
            return chunks.iter().map(|_| StorePlan::Refused(Reason::Busy)).collect();
        }
        let mut removed = Vec::new();
        let decisions = state.catalog.plan_store(chunks, parent, now_ms(), &mut removed);
        // What was evicted must be gone for good before anything is written over it.
        let owes_nothing = removed.is_empty() && state.unrecorded.is_empty();
        let recorded = owes_nothing || self.shared.append(&mut state, &removed);
        decisions
            .into_iter()
            .map(|decision| match decision {
                StoreDecision::Write(plan) if recorded => StorePlan::Write(plan),
                StoreDecision::Write(plan) => {
                    state.catalog.abort(plan.ticket);
                    StorePlan::Refused(Reason::Journal)
                }
                StoreDecision::Present => StorePlan::Present,
                StoreDecision::InFlight(ticket) => StorePlan::InFlight(ticket),
                StoreDecision::Full => {
                    add(&self.shared.counters.refused_full, 1);
                    StorePlan::Refused(Reason::Full)
                }
            })
            .collect()
    }

    /// Takes a mover's word on a write: with `written` the chunk is committed and found from now on.
    ///
    /// # Errors
    /// Why it is not committed though it was written; [`Reason::Unknown`] when the ticket is not that of an open
    /// write.
    pub fn finish_store(&self, ticket: Ticket, written: bool) -> Result<(), Reason> {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        let Some(record) = state.catalog.writing(ticket) else { return Err(Reason::Unknown) };
        if !written {
            state.catalog.abort(ticket);
            add(&shared.counters.store_failed, 1);
            return Ok(());
        }
        if !shared.append(&mut state, &[Entry::Put(record)]) {
            state.catalog.abort(ticket);
            add(&shared.counters.store_failed, 1);
            return Err(Reason::Journal);
        }
        state.catalog.commit(ticket);
        add(&shared.counters.stored, 1);
        let sync = (shared.disk_sync == DiskSync::Always).then(|| state.journal.sync_handle());
        drop(state);
        if let Some(sync) = sync
            && let Err(error) = sync.and_then(|file| file.sync_data())
        {
            add(&shared.counters.journal_errors, 1);
            return Err(Reason::Io(error.to_string()));
        }
        Ok(())
    }

    /// Whether the write under this ticket is still open.
    pub fn is_writing(&self, ticket: Ticket) -> bool {
        self.shared.state.lock().catalog.writing(ticket).is_some()
    }

    /// Whether a chunk is there now. Does not count as use.
    pub fn contains(&self, key: &ChunkKey) -> bool {
        self.shared.state.lock().catalog.contains(key)
    }

    /// Plans a load: each chunk that is there is pinned until its [`Self::finish_load`]. `None` is a miss.
    pub fn plan_load(&self, keys: &[ChunkKey]) -> Vec<Option<Plan>> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return keys.iter().map(|_| None).collect();
        }
        state
            .catalog
            .plan_load(keys)
            .into_iter()
            .map(|decision| match decision {
                LoadDecision::Read(plan) => Some(plan),
                LoadDecision::Miss => None,
            })
            .collect()
    }

    /// Takes a mover's word on a read. A chunk that was not what was stored, or could not be read, is dropped: it
    /// would fail again. `false` when the ticket is not that of an open read.
    pub fn finish_load(&self, ticket: Ticket, status: LoadStatus, reason: Option<&Reason>) -> bool {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        let drop_it = match (status, reason) {
            (LoadStatus::Miss, _) => {
                add(&shared.counters.corrupt, 1);
                true
            }
            (LoadStatus::Failed, Some(Reason::Io(_))) => {
                add(&shared.counters.io_failed, 1);
                true
            }
            (LoadStatus::Loaded | LoadStatus::Failed, _) => false,
        };
        if !drop_it {
            return state.catalog.release(ticket);
        }
        let before = state.catalog.open_tickets();
        if let Some(removal) = state.catalog.discard(ticket) {
            // If this fails, the chunk will be found again after a restart, and be dropped again.
            shared.append(&mut state, &[removal]);
        }
        state.catalog.open_tickets() < before
    }

    /// Figures.
    pub fn stats(&self) -> ControlStats {
        let shared = &self.shared;
        let state = shared.state.lock();
        let counts = state.catalog.counts();
        let space = state.catalog.space();
        let block = crate::catalog::BLOCK_BYTES as u64;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &shared.counters;
        ControlStats {
            chunks: state.catalog.len() as u64,
            used_bytes: (u64::from(space.blocks()) - space.free_blocks()) * block,
            capacity_bytes: u64::from(space.blocks()) * block,
            lookups: read(&counters.lookups),
            hits: read(&counters.hits),
            misses: read(&counters.misses),
            pending: read(&counters.pending),
            busy: read(&counters.busy),
            lookup_chunks: read(&counters.lookup_chunks),
            hit_chunks: read(&counters.hit_chunks),
            stored: read(&counters.stored),
            store_failed: read(&counters.store_failed),
            refused_full: read(&counters.refused_full),
            evictions: counts.evicted,
            corrupt: read(&counters.corrupt),
            io_failed: read(&counters.io_failed),
            journal_errors: read(&counters.journal_errors),
            degraded: counters.journal_failing.load(Ordering::Relaxed),
            open_tickets: state.catalog.open_tickets() as u64,
            journal_interrupted: shared.interrupted,
            rebuilt: shared.rebuilt.clone(),
            direct_io: shared.data.is_direct(),
        }
    }

    /// The directory's data file.
    pub fn data_path(&self) -> std::path::PathBuf {
        data_path(self.shared.directory.path())
    }

    /// Takes no more plans, writes a checkpoint and ends the thread. Outcomes of open plans are still taken.
    pub fn close(&self) {
        {
            let mut state = self.shared.state.lock();
            state.closed = true;
            state.checkpoint_due = true;
        }
        self.shared.wake.notify_all();
        self.keeper.join(Instant::now() + JOIN_PATIENCE);
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Adds to the journal, or to what it owes; `false` when that failed.
    fn append(&self, state: &mut State, entries: &[Entry]) -> bool {
        let limit = self.directory.journal_records_max();
        let mut owed = std::mem::take(&mut state.unrecorded);
        owed.extend_from_slice(entries);
        let outcome = if state.journal_records + owed.len() as u64 > 2 * limit {
            // The keeper does not keep up, or is dead: the directory must not outgrow its capacity for that.
            Err(io::Error::new(io::ErrorKind::StorageFull, "the journal waits for a checkpoint"))
        } else {
            state.journal.append(&owed)
        };
        match outcome {
            Ok(()) => {
                if self.counters.journal_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the journal can be written again");
                }
                state.dirty = true;
                state.journal_records += owed.len() as u64;
                if state.journal_records > limit && !state.checkpoint_due {
                    state.checkpoint_due = true;
                    self.wake.notify_all();
                }
                true
            }
            Err(error) => {
                // A put that failed is told as failed; a removal has happened, and is owed.
                owed.retain(|entry| matches!(entry, Entry::Remove(..)));
                state.unrecorded = owed;
                add(&self.counters.journal_errors, 1);
                if !self.counters.journal_failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, directory = %self.directory.path().display(),
                        "cannot write the journal: stores are refused until it can be written");
                }
                false
            }
        }
    }

    /// The keeper's life: checkpoints when due, syncs when asked for.
    fn keep(&self) {
        let interval = match self.disk_sync {
            DiskSync::Interval(interval) => Some(interval),
            DiskSync::None | DiskSync::Always => None,
        };
        let mut synced_at = Instant::now();
        loop {
            let (checkpoint, sync, closed) = {
                let mut state = self.state.lock();
                loop {
                    let sync_at = interval.filter(|_| state.dirty).map(|interval| synced_at + interval);
                    if state.checkpoint_due || state.closed || sync_at.is_some_and(|at| at <= Instant::now())
                    {
                        break;
                    }
                    match sync_at.or(interval.map(|interval| Instant::now() + interval)) {
                        Some(at) => {
                            self.wake.wait_until(&mut state, at);
                        }
                        None => self.wake.wait(&mut state),
                    }
                }
                let checkpoint = std::mem::take(&mut state.checkpoint_due);
                let sync = interval.is_some() && std::mem::take(&mut state.dirty);
                (checkpoint, sync.then(|| state.journal.sync_handle()), state.closed)
            };
            if let Some(journal) = sync {
                synced_at = Instant::now();
                self.report(self.data.sync().and_then(|()| journal?.sync_data()).map_err(|error| {
                    Error::io(format!("syncing {}", self.directory.path().display()), error)
                }));
            }
            if checkpoint {
                let outcome = self.checkpoint();
                let failed = outcome.is_err();
                self.report(outcome);
                if failed {
                    self.pause();
                }
            }
            if closed {
                return;
            }
        }
    }

    /// Lets a second pass before a checkpoint that failed is tried again, unless the end comes first.
    fn pause(&self) {
        let until = Instant::now() + CHECKPOINT_PAUSE;
        let mut state = self.state.lock();
        while !state.closed && !self.wake.wait_until(&mut state, until).timed_out() {}
    }

    /// Writes down what is committed now, and lets go of the journal before that. The lock is held for the copy
    /// only.
    fn checkpoint(&self) -> Result<()> {
        let (segment, records, covered) = {
            let mut state = self.state.lock();
            let records: Vec<ChunkRecord> = state.catalog.committed().copied().collect();
            (state.journal.rotate()?, records, state.journal_records)
        };
        write_checkpoint(self.directory.path(), self.directory.epoch(), segment, &records)?;
        self.state.lock().journal_records -= covered;
        Ok(())
    }

    fn report(&self, outcome: Result<()>) {
        if let Err(error) = outcome {
            add(&self.counters.journal_errors, 1);
            tracing::error!(%error, "keeping the journal failed; what was committed is still on disk");
        }
    }
}
