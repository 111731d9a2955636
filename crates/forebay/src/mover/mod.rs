//! The mover does: it carries chunks between engine memory and a tier, through the staging buffer.
//!
//! Promises:
//! * a chunk crosses in parts of a slot each. A part takes its slot just before its bytes move and gives it back right after,
//!   and all of a chunk's slots are free before its end is told. While a slot is waited for, those of the parts before it
//!   are with the I/O engine, which gives them back by itself: so two slots are enough for any number of chunks, of any
//!   size, of any number of callers;
//! * every job is answered exactly once, also when code panics or the mover is closed; a load also when the device
//!   hangs. A write that hangs is answered when the device does: until then its blocks cannot be anybody else's;
//! * a load is answered well only after trailer, binding and payload checksum were right.
//!
//! Assumes that the plans it is given come from the catalog that owns the directory. It knows no policy and keeps
//! nothing: what it has moved it cannot find again.
//!
//! Threads: `forebay-stores` checksums and copies out of engine memory, `forebay-loads` hands reads to the I/O engine, whose
//! threads check and copy into it; `forebay-watch` gives up loads that a device does not answer; `forebay-copies` brings
//! chunks from disk to the remote store, `forebay-carries` from memory to the tier behind, and `forebay-recalls` loads
//! from memory, where there are such.
//!
//! How often the processor passes over a byte: once, piece by piece, for the checksum and the copy together. Since few
//! parts are under way at a time, one that arrives is still in the cache when it is passed over, and one that goes is
//! still there when the drive fetches it. A store from whole pages that the drive can reach ([`Source::pages`]) is not
//! copied; a load always is, since a copy out of the cache costs less than a checksum over what is not in it
//! (`docs/BENCHMARKS.md`).

mod batch;
pub(crate) mod cut;
mod held;
mod job;
mod load;
mod memory;
mod meter;
#[cfg(models)]
pub mod models;
mod pages;
mod stepped;
mod store;
mod stored;
mod stream;
mod watch;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use batch::{Batch, Touch};
use held::Held;
pub use job::{Job, LoadJob, StoreJob, Verdict};
use load::Asked;
pub use memory::{Observer, PIECE_BYTES, Sink, Source, drain_to, fill_from};
pub use meter::{LoadUnderWay, TierTraffic, WayStats};
use meter::{Meter, Way};
pub use pages::{Region, Regions};
use stored::Stored;
use watch::Watch;

use crate::catalog::{BLOCK_BYTES, ChunkRecord, Plan};
use crate::config::{Config, DiskSync, OnBusy};
use crate::crash_points::{Point, pass};
use crate::crew::{Crew, JOIN_PATIENCE};
use crate::error::Result;
use crate::outcome::{Reason, Tier};
use crate::queue::{JobQueue, NotTaken};
use crate::staging::{Class, Lease, Refusal, Staging, Usage};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::now;
use crate::tier::disk::data_files::DataFiles;
use crate::tier::disk::engine::{LateEngine, NOT_ASKED, OpenFiles, Transfer};
use crate::tier::disk::trailer::Corruption;
use crate::tier::memory::{MemoryTier, Place};
use crate::tier::remote::client::Client;
use crate::tier::remote::engine::RemoteEngine;
use crate::tier::remote::names::Names;
use crate::tier::remote::objects::Fault;

/// The longest that closing waits for what is under way.
const DRAIN_MAX: Duration = Duration::from_hours(24);

/// Figures of a mover.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MoverStats {
    /// The staging buffer.
    pub staging: Usage,
    /// What went to and from each tier, in the order of [`Tier::ALL`].
    pub traffic: [TierTraffic; Tier::ALL.len()],
    /// Loads under way, the oldest first; not more than can be shown.
    pub loads_under_way: Vec<LoadUnderWay>,
    /// Payload bytes written to disk and remote store.
    pub written_bytes: u64,
    /// Payload bytes read from there and found right.
    pub read_bytes: u64,
    /// Chunks waiting to be written.
    pub queued_stores: u64,
    /// Chunks waiting to be read.
    pub queued_loads: u64,
    /// Chunks waiting to be copied from one tier to another.
    pub queued_copies: u64,
    /// Chunks turned away because buffer or queue were full.
    pub busy: u64,
    /// Chunks whose bytes were not what was stored.
    pub corrupt: u64,
    /// Transfers that the system refused.
    pub io_errors: u64,
    /// Loads that a device did not answer in time.
    pub timed_out: u64,
    /// Its threads that died of a panic.
    pub dead_threads: Vec<String>,
    /// Whether transfers go past the page cache.
    pub direct_io: bool,
    /// How chunks are moved: `io_uring` or `threads`; `io_uring (dead)` if the ring has failed, and nothing goes to or comes
    /// from the disk until the next start.
    pub io_engine: String,
}

#[derive(Default)]
struct Counters {
    busy: AtomicU64,
    timed_out: AtomicU64,
}

/// See the module's documentation.
pub struct Mover {
    shared: Arc<Shared>,
    pumps: Crew,
    watcher: Crew,
    closed: AtomicBool,
}

struct Shared {
    staging: Arc<Staging>,
    engine: LateEngine,
    stores: JobQueue<StoreJob>,
    loads: JobQueue<LoadJob>,
    /// Stores of chunks that are on another tier.
    copies: JobQueue<StoreJob>,
    /// The same of chunks in memory: what waits for another tier must not hold them up.
    carries: JobQueue<StoreJob>,
    /// Loads from the memory tier.
    recalls: JobQueue<LoadJob>,
    memory: Option<Arc<MemoryTier>>,
    remote: Option<Arc<RemoteEngine>>,
    has_disk: bool,
    watch: Watch<Asked>,
    load_patience: Duration,
    store_patience: Duration,
    sync_each: bool,
    counters: Counters,
    meter: Arc<Meter>,
}

impl Mover {
    /// A mover on the data files of a tier's drives, if there are any, and on a remote store, if there is one, for chunks
    /// of up to `chunk_bytes` payload bytes.
    ///
    /// # Errors
    /// When the configured staging memory is less than two chunks or not to be had, or the files cannot be moved from
    /// and to as the configuration says.
    pub fn start(
        config: &Config,
        chunk_bytes: u64,
        files: DataFiles,
        client: Option<Arc<Client>>,
    ) -> Result<Self> {
        let has_disk = files.iter().next().is_some();
        let mover = Self::start_late(config, chunk_bytes, Box::new(move || Ok(files.clone())), client)?;
        if has_disk {
            mover.shared.engine.get()?;
        }
        Ok(mover)
    }

    /// As [`Self::start`], on data files that are opened with the first transfer.
    ///
    /// # Errors
    /// When the configured staging memory is less than two chunks or not to be had.
    pub fn start_late(
        config: &Config,
        chunk_bytes: u64,
        open: OpenFiles,
        client: Option<Arc<Client>>,
    ) -> Result<Self> {
        let staging = Staging::of(config.staging_shape(chunk_bytes)?)?;
        let engine =
            LateEngine::new(open, Arc::clone(&staging), config.disk_io_engine, config.disk_io_threads);
        let slots = staging.usage().slots;
        let remote = client.map(|client| RemoteEngine::start(client, Names::of(staging.slot_bytes()), slots));
        let shared = Arc::new(Shared {
            staging,
            engine,
            memory: MemoryTier::new(config.memory_tier_bytes(chunk_bytes))?,
            recalls: JobQueue::new(config.max_queued_chunks as usize),
            carries: JobQueue::new(config.max_queued_chunks as usize),
            remote: remote.transpose()?,
            has_disk: !config.local_disk.is_empty(),
            copies: JobQueue::new(config.max_queued_chunks as usize),
            stores: JobQueue::new(match config.on_busy {
                OnBusy::Wait => config.max_queued_chunks as usize,
                // What could be taken up at once.
                OnBusy::Drop => config.max_queued_chunks.min(slots) as usize,
            }),
            loads: JobQueue::new(config.max_queued_chunks as usize),
            watch: Watch::new(config.load_timeout),
            load_patience: config.load_timeout,
            store_patience: config.store_timeout,
            sync_each: config.disk_sync == DiskSync::Always,
            counters: Counters::default(),
            meter: Arc::default(),
        });
        let mover =
            Self { shared, pumps: Crew::default(), watcher: Crew::default(), closed: AtomicBool::new(false) };
        let shared = Arc::clone(&mover.shared);
        mover.pumps.spawn("forebay-stores".into(), move || shared.pump(&shared.stores, Shared::store))?;
        let shared = Arc::clone(&mover.shared);
        // It only asks the drive.
        mover.pumps.spawn_prompt("forebay-loads".into(), move || shared.pump(&shared.loads, Shared::load))?;
        if mover.shared.memory.is_some() {
            let shared = Arc::clone(&mover.shared);
            mover
                .pumps
                .spawn("forebay-recalls".into(), move || shared.pump(&shared.recalls, Shared::recall))?;
            let shared = Arc::clone(&mover.shared);
            mover
                .pumps
                .spawn("forebay-carries".into(), move || shared.pump(&shared.carries, Shared::copy))?;
        }
        if mover.shared.has_copies() {
            let shared = Arc::clone(&mover.shared);
            mover.pumps.spawn("forebay-copies".into(), move || shared.pump(&shared.copies, Shared::copy))?;
        }
        let shared = Arc::clone(&mover.shared);
        mover.watcher.spawn("forebay-watch".into(), move || {
            shared.watch.keep(|asked| shared.give_up(asked));
        })?;
        Ok(mover)
    }

    /// Takes a chunk to be written. Returns at once; the job is answered, here if it cannot be taken.
    pub fn store(&self, job: StoreJob) {
        self.shared.take(&self.shared.stores, job, Way::Store);
    }

    /// Takes a chunk to be read. Returns at once; the job is answered, here if it cannot be taken.
    pub fn load(&self, job: LoadJob) {
        let shared = &self.shared;
        match (job.open.record().tier(), &shared.memory) {
            // Another mover's: here is nobody who would take it up.
            (Tier::Memory, None) => job.metered(&shared.meter, Way::Load).refuse(no_memory_tier()),
            (Tier::Memory, Some(_)) => shared.take(&shared.recalls, job, Way::Load),
            (Tier::Disk | Tier::Remote, _) => shared.take(&shared.loads, job, Way::Load),
        }
    }

    /// Copies a chunk from one tier to another: reads it as `from` says, writes it as `to` says. Returns at once; `answer`
    /// is called once, with both. A chunk on disk that is not what was stored is not copied.
    pub fn copy(&self, from: Plan, to: Plan, answer: impl FnOnce(Plan, Plan, Verdict) + Send + 'static) {
        if from.record.tier() != Tier::Memory && !self.shared.has_copies() {
            // Nobody would take it up.
            answer(from, to, Err(Reason::Engine("no remote_url is set here".into())));
            return;
        }
        match self.shared.source_of(&from.record) {
            Ok(source) => {
                let batch = Batch::<()>::new(1);
                let shared = &self.shared;
                let queue = match from.record.tier() {
                    Tier::Memory => &shared.carries,
                    Tier::Disk | Tier::Remote => &shared.copies,
                };
                let answer = move |to, verdict| answer(from, to, verdict);
                shared.take(queue, Job::new(&batch, to, source, answer), Way::Store);
            }
            Err(reason) => answer(from, to, Err(reason)),
        }
    }

    /// Ends what has not begun of a batch as cancelled, and lets go of its engine memory before this returns, but for
    /// a chunk that is being taken up just now. What has begun ends by itself: a store is done with the engine's
    /// memory when its copy is, a load when the device has answered or `load_timeout_s` is over.
    pub fn cancel<T>(&self, batch: &Batch<T>) {
        batch.cancel();
        let shared = &self.shared;
        shared
            .stores
            .sweep(|job| (job.cancelled)())
            .into_iter()
            .for_each(|job| job.refuse(Reason::Cancelled));
        shared.loads.sweep(|job| (job.cancelled)()).into_iter().for_each(|job| job.refuse(Reason::Cancelled));
        shared
            .recalls
            .sweep(|job| (job.cancelled)())
            .into_iter()
            .for_each(|job| job.refuse(Reason::Cancelled));
        shared.staging.nudge();
    }

    /// Figures.
    pub fn stats(&self) -> MoverStats {
        let shared = &self.shared;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let meter = &shared.meter;
        MoverStats {
            staging: shared.staging.usage(),
            written_bytes: meter.bytes_behind_memory(Way::Store),
            read_bytes: meter.bytes_behind_memory(Way::Load),
            traffic: Tier::ALL.map(|tier| meter.traffic(tier)),
            loads_under_way: meter.loads_under_way(),
            queued_stores: shared.stores.len() as u64,
            queued_loads: (shared.loads.len() + shared.recalls.len()) as u64,
            queued_copies: (shared.copies.len() + shared.carries.len()) as u64,
            busy: read(&shared.counters.busy),
            corrupt: meter.failures(Way::Load, "corrupt"),
            io_errors: meter.failures(Way::Store, "io") + meter.failures(Way::Load, "io"),
            timed_out: read(&shared.counters.timed_out),
            dead_threads: self.dead_threads(),
            direct_io: shared.engine.started().is_some_and(|started| started.files.is_direct()),
            io_engine: shared
                .engine
                .started()
                .map_or("not started", |started| started.engine.name())
                .to_owned(),
        }
    }

    fn dead_threads(&self) -> Vec<String> {
        let engine = self.shared.engine.started().map(|started| started.engine.dead_threads());
        let remote = self.shared.remote.as_ref().map(|remote| remote.dead_threads());
        let own = [self.pumps.dead(), self.watcher.dead()];
        own.into_iter().chain(engine).chain(remote).flatten().collect()
    }

    /// The memory that all parts cross, for an engine whose device wants to know it beforehand.
    pub fn staging_memory(&self) -> (std::ptr::NonNull<u8>, usize) {
        self.shared.staging.range()
    }

    /// Takes no more jobs, works off those it has for at most `drain`, answers the rest, ends its threads.
    pub fn close(&self, drain: Duration) {
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        // A day is as good as for ever, and can be added to the time of day.
        let drain = drain.min(DRAIN_MAX);
        let shared = &self.shared;
        shared.stores.close();
        shared.loads.close();
        shared.copies.close();
        shared.recalls.close();
        shared.carries.close();
        // Pumps end when their queues are empty; past the deadline they find the buffer closed and empty the queues
        // without moving anything.
        shared.staging.close_at(now() + drain);
        self.pumps.join(now() + drain + JOIN_PATIENCE);
        // Behind a pump that hangs in a caller's code there may be jobs left.
        shared.stores.sweep(|_| true).into_iter().for_each(|job| job.refuse(Reason::Closed));
        shared.loads.sweep(|_| true).into_iter().for_each(|job| job.refuse(Reason::Closed));
        shared.copies.sweep(|_| true).into_iter().for_each(|job| job.refuse(Reason::Closed));
        shared.recalls.sweep(|_| true).into_iter().for_each(|job| job.refuse(Reason::Closed));
        shared.carries.sweep(|_| true).into_iter().for_each(|job| job.refuse(Reason::Closed));
        if let Some(remote) = &shared.remote {
            remote.shutdown(now() + JOIN_PATIENCE);
        }
        if let Some(started) = shared.engine.started() {
            started.engine.shutdown(now() + JOIN_PATIENCE);
        }
        shared.watch.close();
        self.watcher.join(now() + JOIN_PATIENCE);
        shared.watch.give_up_all(|asked| asked.refuse(Reason::Closed));
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

fn no_memory_tier() -> Reason {
    Reason::Engine("there is no memory tier here".into())
}

impl Shared {
    fn take<M: ?Sized>(&self, queue: &JobQueue<Job<M>>, job: Job<M>, way: Way) {
        match queue.push(job.metered(&self.meter, way)) {
            Ok(()) => {}
            Err(NotTaken::Full(job)) => {
                self.counters.busy.fetch_add(1, Ordering::Relaxed);
                job.refuse(Reason::Busy);
            }
            Err(NotTaken::Closed(job)) => job.refuse(Reason::Closed),
        }
    }

    /// Serves a queue until it is closed and empty. A panic costs its job only; should the thread die nevertheless, what
    /// waits and what comes is refused.
    fn pump<M: ?Sized>(self: &Arc<Self>, queue: &JobQueue<Job<M>>, serve: fn(&Arc<Self>, Job<M>)) {
        let _serving = Serving(queue);
        while let Some(job) = queue.pop() {
            self.serve(job, serve);
        }
    }

    fn serve<M: ?Sized>(self: &Arc<Self>, job: Job<M>, serve: fn(&Arc<Self>, Job<M>)) {
        if catch_unwind(AssertUnwindSafe(|| serve(self, job))).is_err() {
            tracing::error!("a chunk's transfer panicked; the chunk was given up");
        }
    }

    /// A slot for this job, or the job answered.
    fn slot<M: ?Sized>(&self, job: Job<M>, class: Class, patience: Duration) -> Option<(Job<M>, Lease)> {
        match self.staging.acquire_unless(class, patience, &job.cancelled) {
            Ok(lease) => return Some((job, lease)),
            Err(Refusal::Unwanted) => job.refuse(Reason::Cancelled),
            Err(Refusal::Busy) => {
                self.counters.busy.fetch_add(1, Ordering::Relaxed);
                job.refuse(Reason::Busy);
            }
            Err(Refusal::Closed) => job.refuse(Reason::Closed),
        }
        None
    }

    /// Ends a load that takes too long.
    fn give_up(&self, asked: Asked) {
        self.counters.timed_out.fetch_add(1, Ordering::Relaxed);
        asked.refuse(Reason::TimedOut);
        // A slot for more of it may be waited for.
        self.staging.nudge();
    }

    /// A slot for the next part of a chunk that is under way.
    fn slot_for_more(&self, class: Class, unwanted: &dyn Fn() -> bool) -> Result<Lease, Reason> {
        let patience = match class {
            Class::Load => self.load_patience,
            Class::Store | Class::Copy => self.store_patience,
        };
        self.staging.acquire_unless(class, patience, unwanted).map_err(|refusal| match refusal {
            // Whatever made it unwanted says why.
            Refusal::Unwanted => Reason::Abandoned,
            Refusal::Busy => {
                self.counters.busy.fetch_add(1, Ordering::Relaxed);
                Reason::Busy
            }
            Refusal::Closed => Reason::Closed,
        })
    }

    /// Blocks that a slot holds, a trailer among them.
    fn slot_blocks(&self) -> u64 {
        1 + self.staging.slot_bytes() as u64 / BLOCK_BYTES as u64
    }

    /// Whether there is a thread for chunks that go from disk to a remote store.
    fn has_copies(&self) -> bool {
        self.remote.is_some() && self.has_disk
    }

    /// A chunk of a tier, to be copied to another one.
    fn source_of(&self, record: &ChunkRecord) -> Result<Box<dyn Source>, Reason> {
        if record.tier() == Tier::Memory {
            return Ok(Box::new(Held::new(self.place(record)?)?));
        }
        let started = self.engine.get().map_err(|error| Reason::Engine(error.to_string()))?;
        Ok(Box::new(Stored::new(*record, started.files.clone())?))
    }

    /// Where in the memory tier a chunk lies.
    fn place(&self, record: &ChunkRecord) -> Result<Place, Reason> {
        let memory = self.memory.as_ref();
        memory.ok_or_else(no_memory_tier)?.place(record)
    }

    /// The way to the remote store, if a record is of that.
    fn remote_of(&self, record: &ChunkRecord) -> Result<Option<&Arc<RemoteEngine>>, Reason> {
        match (record.tier(), &self.remote) {
            (Tier::Memory | Tier::Disk, _) => Ok(None),
            (Tier::Remote, Some(remote)) => Ok(Some(remote)),
            (Tier::Remote, None) => Err(Reason::Engine("no remote_url is set here".into())),
        }
    }

    fn submit(&self, transfer: Transfer) {
        match self.engine.get() {
            Ok(started) => started.engine.submit(transfer),
            Err(error) => transfer.refuse(std::io::Error::new(NOT_ASKED, error)),
        }
    }

    /// Makes what was written to a drive survive a power loss, if that is wanted for each chunk.
    fn sync_if_each(&self, record: &ChunkRecord) -> std::io::Result<()> {
        match self.engine.started() {
            Some(started) if self.sync_each && record.tier() == Tier::Disk => {
                started.files.get(record.drive)?.sync()?;
                pass(Point::ChunkSynced);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A thread that serves a queue.
struct Serving<'a, M: ?Sized>(&'a JobQueue<Job<M>>);

impl<M: ?Sized> Drop for Serving<'_, M> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
            self.0.sweep(|_| true).into_iter().for_each(|job| job.refuse(Reason::Abandoned));
        }
    }
}

impl From<&Fault> for Reason {
    fn from(fault: &Fault) -> Self {
        match fault {
            Fault::NotThere => Self::NotThere,
            Fault::OtherLength(_) => Self::Corrupt(Corruption::Truncated),
            Fault::NoRoom => Self::Busy,
            fault => Self::Remote(fault.to_string()),
        }
    }
}

/// Why a transfer failed. That the device was never asked says nothing about the chunk.
fn why(error: &std::io::Error) -> Reason {
    if error.kind() == NOT_ASKED { Reason::Engine(error.to_string()) } else { Reason::Io(error.to_string()) }
}
