//! The mover does: it carries chunks between engine memory and a tier, through the staging buffer.
//!
//! Promises:
//! * a chunk takes one slot, from just before its bytes move until its transfer is over, and the slot is free
//!   before the chunk's end is told; nothing waits for a slot while it holds one, so two slots are enough for any
//!   number of chunks of any number of callers;
//! * every job is answered exactly once, also when code panics or the mover is closed; a load also when the device
//!   hangs. A write that hangs is answered when the device does: until then its blocks cannot be anybody else's;
//! * a load is answered well only after header, binding and payload checksum were right.
//!
//! Assumes that the plans it is given come from the catalog that owns the directory. It knows no policy and keeps
//! nothing: what it has moved it cannot find again.
//!
//! Threads: `forebay-stores` gathers and checksums, `forebay-loads` hands reads to the I/O engine, whose threads
//! check and scatter; `forebay-watch` gives up loads that a device does not answer.
//!
//! How often the processor passes over a byte: once, for the checksum, where the drive reads and writes engine memory
//! where it lies ([`Source::pages`], [`Sink::pages`]); else it is copied in the same pass, from the cache into which the
//! checksum brought it and past the cache to where it goes.

mod batch;
mod memory;
mod pages;
mod stream;
mod watch;

use std::hash::Hasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use batch::{Batch, Touch};
pub use memory::{Observer, PIECE_BYTES, Sink, Source, drain_to, fill_from};
pub use pages::{Region, Regions};
use watch::Watch;

use crate::catalog::{ChunkRecord, Plan};
use crate::config::{Config, DiskSync};
use crate::crew::{Crew, JOIN_PATIENCE};
use crate::error::Result;
use crate::memory::Pages;
use crate::outcome::Reason;
use crate::queue::{JobQueue, NotTaken};
use crate::staging::{Class, Lease, Refusal, Staging, Usage};
use crate::tier::disk::data_files::DataFiles;
use crate::tier::disk::engine::{ChunkTransfer, Direction, LateEngine, NOT_ASKED, OpenFiles, Payload};
use crate::tier::disk::header::{self, Corruption};

/// The longest that closing waits for what is under way.
const DRAIN_MAX: Duration = Duration::from_hours(24);

/// What became of a plan.
pub type Verdict = Result<(), Reason>;

/// Called once with the plan and what became of it.
type AnswerFn = Box<dyn FnOnce(Plan, Verdict) + Send>;

/// A plan that must be answered; left unanswered (a panic, a lost thread) it answers for itself.
struct Open(Option<(Plan, AnswerFn)>);

impl Open {
    fn record(&self) -> ChunkRecord {
        self.0.as_ref().expect("not answered yet").0.record
    }

    fn answer(mut self, verdict: Verdict) {
        self.give(verdict);
    }

    fn give(&mut self, verdict: Verdict) {
        if let Some((plan, answer)) = self.0.take() {
            answer(plan, verdict);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.give(Err(Reason::Abandoned));
    }
}

/// What a thread of the mover does until it ends.
type Life = fn(&Arc<Shared>);

/// Asked before a job begins.
type CancelledFn = Box<dyn Fn() -> bool + Send>;

/// One chunk to be moved: `M` is the engine memory it comes from or goes to.
pub struct Job<M: ?Sized> {
    cancelled: CancelledFn,
    /// Before `open`, so that it is let go of before the end is told.
    lent: Lent<M>,
    open: Open,
}

/// Engine memory, and the word that it is in use. Dropped in this order: it is let go of before that is told.
struct Lent<M: ?Sized> {
    memory: Box<M>,
    _touch: Box<dyn Send>,
}

/// A chunk to be written.
pub type StoreJob = Job<dyn Source>;
/// A chunk to be read.
pub type LoadJob = Job<dyn Sink>;

impl<M: ?Sized> Job<M> {
    /// A job of `batch`: carry out `plan` on `memory` and call `answer`.
    pub fn new<T: Send + 'static>(
        batch: &Arc<Batch<T>>,
        plan: Plan,
        memory: Box<M>,
        answer: impl FnOnce(Plan, Verdict) + Send + 'static,
    ) -> Self {
        let watched = Arc::clone(batch);
        Self {
            open: Open(Some((plan, Box::new(answer)))),
            cancelled: Box::new(move || watched.is_cancelled()),
            lent: Lent { memory, _touch: Box::new(batch.touch()) },
        }
    }

    /// Answers without moving anything. Engine memory is let go of first.
    fn refuse(self, reason: Reason) {
        let Self { open, lent, .. } = self;
        drop(lent);
        open.answer(Err(reason));
    }
}

/// A load that the device is asked for.
struct Asked {
    /// Engine memory, unless the device itself writes to it: then it is kept until the device is done.
    lent: Option<Lent<dyn Sink>>,
    open: Open,
}

impl Asked {
    fn refuse(self, reason: Reason) {
        let refused = catch_unwind(AssertUnwindSafe(|| {
            drop(self.lent);
            self.open.answer(Err(reason));
        }));
        if refused.is_err() {
            tracing::error!("the end of a load that was given up panicked");
        }
    }
}

/// Engine memory that the device is at: it is kept by the transfer, and taken out at its end.
type Kept<M> = Arc<Mutex<Option<Lent<M>>>>;

/// Figures of a mover.
#[derive(Debug, Clone, Copy)]
pub struct MoverStats {
    /// The staging buffer.
    pub staging: Usage,
    /// Payload bytes written.
    pub written_bytes: u64,
    /// Payload bytes read and found right.
    pub read_bytes: u64,
    /// Chunks waiting to be written.
    pub queued_stores: u64,
    /// Chunks waiting to be read.
    pub queued_loads: u64,
    /// Chunks turned away because buffer or queue were full.
    pub busy: u64,
    /// Chunks whose bytes were not what was stored.
    pub corrupt: u64,
    /// Transfers that the system refused.
    pub io_errors: u64,
    /// Loads that a device did not answer in time.
    pub timed_out: u64,
    /// Whether transfers go past the page cache.
    pub direct_io: bool,
    /// How chunks are moved: `io_uring` or `threads`.
    pub io_engine: &'static str,
}

#[derive(Default)]
struct Counters {
    written_bytes: AtomicU64,
    read_bytes: AtomicU64,
    busy: AtomicU64,
    corrupt: AtomicU64,
    io_errors: AtomicU64,
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
    watch: Watch<Asked>,
    load_patience: Duration,
    store_patience: Duration,
    sync_each: bool,
    counters: Arc<Counters>,
}

impl Mover {
    /// A mover on the data files of a tier's drives, for chunks of up to `chunk_bytes` payload bytes.
    ///
    /// # Errors
    /// When the configured staging memory is less than two chunks or not to be had, or the files cannot be moved from
    /// and to as the configuration says.
    pub fn start(config: &Config, chunk_bytes: u64, files: DataFiles) -> Result<Self> {
        let mover = Self::start_late(config, chunk_bytes, Box::new(move || Ok(files.clone())))?;
        mover.shared.engine.get()?;
        Ok(mover)
    }

    /// As [`Self::start`], on data files that are opened with the first transfer.
    ///
    /// # Errors
    /// When the configured staging memory is less than two chunks or not to be had.
    pub fn start_late(config: &Config, chunk_bytes: u64, open: OpenFiles) -> Result<Self> {
        let slots = config.staging_slots(chunk_bytes)?;
        let staging = Staging::new(slots, usize::try_from(chunk_bytes).unwrap_or(usize::MAX))?;
        let engine =
            LateEngine::new(open, Arc::clone(&staging), config.disk_io_engine, config.disk_io_threads);
        let shared = Arc::new(Shared {
            staging,
            engine,
            stores: JobQueue::new(config.max_queued_chunks as usize),
            loads: JobQueue::new(config.max_queued_chunks as usize),
            watch: Watch::new(config.load_timeout),
            load_patience: config.load_timeout,
            store_patience: config.store_timeout,
            sync_each: config.disk_sync == DiskSync::Always,
            counters: Arc::default(),
        });
        let mover =
            Self { shared, pumps: Crew::default(), watcher: Crew::default(), closed: AtomicBool::new(false) };
        let pumps: [(&str, Life); 2] = [
            ("forebay-stores", |shared| shared.pump(&shared.stores, Shared::store)),
            ("forebay-loads", |shared| shared.pump(&shared.loads, Shared::load)),
        ];
        for (name, life) in pumps {
            let shared = Arc::clone(&mover.shared);
            mover.pumps.spawn(name.into(), move || life(&shared))?;
        }
        let shared = Arc::clone(&mover.shared);
        mover.watcher.spawn("forebay-watch".into(), move || {
            shared.watch.keep(|asked| {
                shared.counters.timed_out.fetch_add(1, Ordering::Relaxed);
                asked.refuse(Reason::TimedOut);
            });
        })?;
        Ok(mover)
    }

    /// Takes a chunk to be written. Returns at once; the job is answered, here if it cannot be taken.
    pub fn store(&self, job: StoreJob) {
        self.shared.take(&self.shared.stores, job);
    }

    /// Takes a chunk to be read. Returns at once; the job is answered, here if it cannot be taken.
    pub fn load(&self, job: LoadJob) {
        self.shared.take(&self.shared.loads, job);
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
        shared.staging.nudge();
    }

    /// Figures.
    pub fn stats(&self) -> MoverStats {
        let shared = &self.shared;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MoverStats {
            staging: shared.staging.usage(),
            written_bytes: read(&shared.counters.written_bytes),
            read_bytes: read(&shared.counters.read_bytes),
            queued_stores: shared.stores.len() as u64,
            queued_loads: shared.loads.len() as u64,
            busy: read(&shared.counters.busy),
            corrupt: read(&shared.counters.corrupt),
            io_errors: read(&shared.counters.io_errors),
            timed_out: read(&shared.counters.timed_out),
            direct_io: shared.engine.started().is_some_and(|started| started.files.is_direct()),
            io_engine: shared.engine.started().map_or("not started", |started| started.engine.name()),
        }
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
        // Pumps end when their queues are empty; past the deadline they find the buffer closed and empty the queues
        // without moving anything.
        shared.staging.close_at(Instant::now() + drain);
        self.pumps.join(Instant::now() + drain + JOIN_PATIENCE);
        // Behind a pump that hangs in a caller's code there may be jobs left.
        shared.stores.sweep(|_| true).into_iter().for_each(|job| job.refuse(Reason::Closed));
        shared.loads.sweep(|_| true).into_iter().for_each(|job| job.refuse(Reason::Closed));
        if let Some(started) = shared.engine.started() {
            started.engine.shutdown(Instant::now() + JOIN_PATIENCE);
        }
        shared.watch.close();
        self.watcher.join(Instant::now() + JOIN_PATIENCE);
        shared.watch.give_up_all(|asked| asked.refuse(Reason::Closed));
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

impl Shared {
    fn take<M: ?Sized>(&self, queue: &JobQueue<Job<M>>, job: Job<M>) {
        match queue.push(job) {
            Ok(()) => {}
            Err(NotTaken::Full(job)) => {
                self.counters.busy.fetch_add(1, Ordering::Relaxed);
                job.refuse(Reason::Busy);
            }
            Err(NotTaken::Closed(job)) => job.refuse(Reason::Closed),
        }
    }

    /// Serves a queue until it is closed and empty. A panic costs its job only.
    fn pump<M: ?Sized>(self: &Arc<Self>, queue: &JobQueue<Job<M>>, serve: fn(&Arc<Self>, Job<M>)) {
        while let Some(job) = queue.pop() {
            if catch_unwind(AssertUnwindSafe(|| serve(self, job))).is_err() {
                tracing::error!("a chunk's transfer panicked; the chunk was given up");
            }
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

    fn store(self: &Arc<Self>, job: StoreJob) {
        let Some((job, lease)) = self.slot(job, Class::Store, self.store_patience) else { return };
        let record = job.open.record();
        let (open, mut lease, mut lent) = in_order_of_ends(job, lease);
        let pages = lent.memory.pages().filter(|pages| pages.len() == record.length as usize);
        // SAFETY: `lent` is kept, and not touched, until the engine is done with it: by the transfer, below.
        let pages = pages.map(|pages| unsafe { pages.detach() });
        let gathered = match &pages {
            Some(pages) => {
                seal(&record, pages.as_slice(), &mut lease);
                Ok(())
            }
            None => gather(&record, &mut *lent.memory, &mut lease),
        };
        let (payload, kept) = if let Some(pages) = pages {
            let (payload, kept) = keep(pages, lent);
            (Some(payload), Some(kept))
        } else {
            // What was copied is not needed any more.
            drop(lent);
            (None, None)
        };
        if let Err(reason) = gathered {
            drop(lease);
            open.answer(Err(reason));
            return;
        }
        let sync = self.sync_each.then(|| Arc::clone(self));
        let counters = Arc::clone(&self.counters);
        let finish = Box::new(move |lease: Lease, outcome: std::io::Result<()>| {
            let (open, lease, lent) = (open, lease, kept.and_then(|kept| kept.lock().take()));
            drop(lent);
            drop(lease);
            let outcome = outcome.and_then(|()| sync.map_or(Ok(()), |shared| shared.sync(record.drive)));
            match &outcome {
                Ok(()) => counters.written_bytes.fetch_add(u64::from(record.length), Ordering::Relaxed),
                Err(_) => counters.io_errors.fetch_add(1, Ordering::Relaxed),
            };
            open.answer(outcome.map_err(|error| why(&error)));
        });
        self.submit(ChunkTransfer { direction: Direction::Write, record, lease, payload, finish });
    }

    fn load(self: &Arc<Self>, job: LoadJob) {
        let Some((job, lease)) = self.slot(job, Class::Load, self.load_patience) else { return };
        let record = job.open.record();
        let (open, lease, mut lent) = in_order_of_ends(job, lease);
        let pages = lent.memory.pages().filter(|pages| pages.len() == record.length as usize);
        // SAFETY: `lent` is kept, and not touched, until the engine is done with it: by the transfer, below.
        let pages = pages.map(|pages| unsafe { pages.detach() });
        let (payload, kept, with_us) = if let Some(pages) = pages {
            let (payload, kept) = keep(pages, lent);
            (Some(payload), Some(kept), None)
        } else {
            (None, None, Some(lent))
        };
        let asked = self.watch.add(Asked { open, lent: with_us });
        let counters = Arc::clone(&self.counters);
        let finish = Box::new(move |lease: Lease, outcome: std::io::Result<()>| {
            let with_device = kept.and_then(|kept| kept.lock().take());
            // Taken out before the engine's memory is touched: from here on nobody gives this load up.
            let Some(Asked { open, lent: with_us }) = asked.lock().take() else { return };
            let (open, mut lease, mut with_us, mut with_device) = (open, lease, with_us, with_device);
            let verdict = match (outcome, &mut with_us, &mut with_device) {
                (Ok(()), Some(lent), _) => scatter(&record, &mut *lent.memory, &mut lease),
                (Ok(()), None, Some(lent)) => check(&record, lent.memory.pages(), &mut lease),
                (Ok(()), None, None) => Err(Reason::Abandoned),
                (Err(error), ..) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    Err(Reason::Corrupt(Corruption::Truncated))
                }
                (Err(error), ..) => Err(why(&error)),
            };
            drop((with_us, with_device));
            drop(lease);
            match &verdict {
                Ok(()) => counters.read_bytes.fetch_add(u64::from(record.length), Ordering::Relaxed),
                Err(Reason::Corrupt(_)) => counters.corrupt.fetch_add(1, Ordering::Relaxed),
                Err(Reason::Io(_)) => counters.io_errors.fetch_add(1, Ordering::Relaxed),
                Err(_) => 0,
            };
            open.answer(verdict);
        });
        self.submit(ChunkTransfer { direction: Direction::Read, record, lease, payload, finish });
    }

    fn submit(&self, transfer: ChunkTransfer) {
        match self.engine.get() {
            Ok(started) => started.engine.submit(transfer),
            Err(error) => transfer.refuse(std::io::Error::new(NOT_ASKED, error)),
        }
    }

    /// Makes what was written to a drive survive a power loss.
    fn sync(&self, drive: u8) -> std::io::Result<()> {
        self.engine.started().map_or(Ok(()), |started| started.files.get(drive)?.sync())
    }
}

/// Has a transfer keep engine memory that the device is to be at.
fn keep<M: ?Sized + 'static>(pages: Pages<'static>, lent: Lent<M>) -> (Payload, Kept<M>)
where
    Box<M>: Send,
{
    let kept: Kept<M> = Arc::new(Mutex::new(Some(lent)));
    (Payload { pages, keep: Arc::clone(&kept) as _ }, kept)
}

/// Why a transfer failed. That the device was never asked says nothing about the chunk.
fn why(error: &std::io::Error) -> Reason {
    if error.kind() == NOT_ASKED { Reason::Engine(error.to_string()) } else { Reason::Io(error.to_string()) }
}

/// A job's parts, the last to go first: bound in this order they are dropped in the other when code panics. Memory is
/// let go of before that is told, and the slot is free before the end is told.
fn in_order_of_ends<M: ?Sized>(job: Job<M>, lease: Lease) -> (Open, Lease, Lent<M>) {
    (job.open, lease, job.lent)
}

/// Writes the header of a chunk whose payload goes from where it lies.
fn seal(record: &ChunkRecord, payload: &[u8], lease: &mut Lease) {
    let (page, _) = lease.parts();
    header::encode(record, payload_sum(record, payload), page);
}

/// Fills a slot from engine memory: payload, zeros up to the block's border, header.
fn gather(record: &ChunkRecord, source: &mut dyn Source, lease: &mut Lease) -> Verdict {
    let (page, payload) = lease.parts();
    let (payload, padding) = divide(record, source.len(), payload)?;
    let mut hasher = header::payload_hasher(record);
    source.fill(payload, &mut |piece| hasher.write(piece)).map_err(Reason::Engine)?;
    padding.fill(0);
    hasher.write(padding);
    header::encode(record, hasher.finish(), page);
    Ok(())
}

/// Checks a slot and empties it into engine memory, in one pass.
fn scatter(record: &ChunkRecord, sink: &mut dyn Sink, lease: &mut Lease) -> Verdict {
    let (page, payload) = lease.parts();
    let (payload, padding) = divide(record, sink.len(), payload)?;
    let sum = header::verify(page, record).map_err(Reason::Corrupt)?;
    let mut hasher = header::payload_hasher(record);
    sink.drain(payload, &mut |piece| hasher.write(piece)).map_err(Reason::Engine)?;
    hasher.write(padding);
    if hasher.finish() == sum { Ok(()) } else { Err(Reason::Corrupt(Corruption::Payload)) }
}

/// Checks a payload that the device wrote where it was wanted.
fn check(record: &ChunkRecord, pages: Option<Pages<'_>>, lease: &mut Lease) -> Verdict {
    let (page, _) = lease.parts();
    let sum = header::verify(page, record).map_err(Reason::Corrupt)?;
    let found = pages.map(|pages| payload_sum(record, pages.as_slice()));
    if found == Some(sum) { Ok(()) } else { Err(Reason::Corrupt(Corruption::Payload)) }
}

/// The checksum of a payload that is whole blocks.
fn payload_sum(record: &ChunkRecord, payload: &[u8]) -> u64 {
    let mut hasher = header::payload_hasher(record);
    hasher.write(payload);
    hasher.finish()
}

/// The parts of a slot that hold a chunk's payload and its padding.
fn divide<'a>(
    record: &ChunkRecord,
    memory_len: usize,
    slot: &'a mut [u8],
) -> Result<(&'a mut [u8], &'a mut [u8]), Reason> {
    let length = record.length as usize;
    if memory_len != length {
        return Err(Reason::Engine(format!("the buffer is {memory_len} bytes, the chunk {length}")));
    }
    match slot.get_mut(..record.padded_bytes()) {
        Some(slot) => Ok(slot.split_at_mut(length)),
        None => Err(Reason::Engine(format!("a chunk of {length} bytes is larger than a staging slot"))),
    }
}
