//! The façade: control plane and mover in one process.
//!
//! Promises, beyond those of the two: `on_complete` is called exactly once a chunk, when it has ended on every tier
//! it was meant for, and the batch is done after its last chunk's call; a panic in it is caught and logged. In
//! staging-only mode nothing but the disk ever answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::Plan;
use crate::config::{Config, DirectIo};
use crate::control::{ControlPlane, ControlStats, Lookup, StorePlan};
use crate::error::{Error, ErrorKind, Result};
use crate::following::Following;
use crate::key::{ChunkKey, Namespace};
use crate::mover::{Batch, Job, Mover, MoverStats, Sink, Source, Verdict};
use crate::outcome::{LoadOutcome, LoadStatus, Reason, StoreOutcome, StoreStatus, Tier};
use crate::tier::disk::block_file::BlockFile;
use crate::tier::disk::data_files::DataFiles;

/// Called with the end of each chunk of a store.
pub type OnStored = Arc<dyn Fn(&StoreOutcome) + Send + Sync>;
/// Called with the end of each chunk of a load.
pub type OnLoaded = Arc<dyn Fn(&LoadOutcome) + Send + Sync>;

/// A KV cache on local disk. See the crate's documentation.
pub struct Cache {
    control: Arc<ControlPlane>,
    mover: Mover,
    following: Arc<Following>,
    chunk_bytes: u64,
}

/// Figures of a cache.
#[derive(Debug, Clone)]
pub struct CacheStats {
    /// What was decided.
    pub control: ControlStats,
    /// What was done.
    pub mover: MoverStats,
}

impl Cache {
    /// Opens the cache that `config` describes, for chunks of up to `chunk_bytes` payload bytes. `namespace` is
    /// noted in the directory for people to read.
    ///
    /// # Errors
    /// When the configuration does not fit, memory is not to be had, or the directory cannot be used.
    pub fn open(config: &Config, chunk_bytes: u64, namespace: Option<&Namespace>) -> Result<Self> {
        Self::open_with(config, chunk_bytes, namespace, |file| file)
    }

    /// As [`Self::open`], with `wrap` around each data file, in the order of their drives: the place for faults, delays and
    /// limits in tests.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        config: &Config,
        chunk_bytes: u64,
        namespace: Option<&Namespace>,
        wrap: impl FnMut(Arc<dyn BlockFile>) -> Arc<dyn BlockFile>,
    ) -> Result<Self> {
        // What is wrong with the configuration is said before anything is touched.
        config.staging_shape(chunk_bytes)?;
        let control = Arc::new(ControlPlane::open(config, chunk_bytes, namespace)?);
        let files = DataFiles::open(control.data_paths(), config.disk_direct_io == DirectIo::Auto)?;
        let mover = Mover::start(config, chunk_bytes, files.wrapped(wrap))?;
        Ok(Self { control, mover, following: Arc::default(), chunk_bytes })
    }

    /// How much of this prompt is there. A hit is pinned until it is dropped.
    pub fn lookup(&self, keys: &[ChunkKey]) -> Lookup {
        self.control.lookup(keys)
    }

    /// Stores consecutive chunks of a prompt; `parent` is the chunk before the first of them. Returns at once.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`], and nothing is stored, when a chunk is empty or larger than `chunk_bytes`.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the callback is handed over: each chunk keeps a share of it"
    )]
    pub fn store(
        &self,
        chunks: Vec<(ChunkKey, Box<dyn Source>)>,
        parent: Option<ChunkKey>,
        on_complete: Option<OnStored>,
    ) -> Result<Arc<Batch<StoreOutcome>>> {
        let mut lengths = Vec::with_capacity(chunks.len());
        for (key, source) in &chunks {
            lengths.push((*key, self.chunk_length(source.len())?));
        }
        let batch = Batch::new(chunks.len());
        let plans = self.control.plan_store(&lengths, parent);
        for (index, ((key, source), plan)) in chunks.into_iter().zip(plans).enumerate() {
            let end = {
                let batch = Arc::clone(&batch);
                let on_complete = on_complete.clone();
                move |status, reason| {
                    let outcome = StoreOutcome { key, status, reason, tiers: vec![(Tier::Disk, status)] };
                    tell(on_complete.as_deref(), &outcome);
                    batch.end(index, outcome);
                }
            };
            match plan {
                StorePlan::Write(plan) => {
                    let control = Arc::clone(&self.control);
                    let following = Arc::clone(&self.following);
                    let answer = move |plan: Plan, verdict: Verdict| {
                        let committed = control.finish_store(plan.ticket, verdict.is_ok());
                        let verdict = verdict.and(committed);
                        let stored = verdict.is_ok();
                        match verdict {
                            Ok(()) => end(StoreStatus::Stored, None),
                            Err(reason @ (Reason::Busy | Reason::Closed)) => {
                                end(StoreStatus::Refused, Some(reason));
                            }
                            Err(reason) => end(StoreStatus::Failed, Some(reason)),
                        }
                        following.ended(plan.ticket, stored);
                    };
                    self.mover.store(Job::new(&batch, plan, source, answer));
                }
                StorePlan::Present => end(StoreStatus::Present, None),
                StorePlan::InFlight(ticket) => {
                    let told = move |stored| {
                        if stored {
                            end(StoreStatus::Present, None);
                        } else {
                            end(StoreStatus::Refused, Some(Reason::InFlight));
                        }
                    };
                    self.following.follow(&self.control, ticket, &key, Box::new(told));
                }
                StorePlan::Refused(reason) => end(StoreStatus::Refused, Some(reason)),
            }
        }
        Ok(batch)
    }

    /// Loads chunks into engine memory. Returns at once. What a chunk that is not
    /// [`Loaded`](LoadStatus::Loaded) has left in its memory is not to be used.
    #[expect(clippy::needless_pass_by_value, reason = "as in `store`")]
    pub fn load(
        &self,
        chunks: Vec<(ChunkKey, Box<dyn Sink>)>,
        on_complete: Option<OnLoaded>,
    ) -> Arc<Batch<LoadOutcome>> {
        let keys: Vec<ChunkKey> = chunks.iter().map(|(key, _)| *key).collect();
        let batch = Batch::new(chunks.len());
        for (index, ((key, sink), plan)) in chunks.into_iter().zip(self.control.plan_load(&keys)).enumerate()
        {
            let end = {
                let batch = Arc::clone(&batch);
                let on_complete = on_complete.clone();
                move |status, reason, tier| {
                    let outcome = LoadOutcome { key, status, reason, tier };
                    tell(on_complete.as_deref(), &outcome);
                    batch.end(index, outcome);
                }
            };
            let plan = match plan {
                Ok(plan) => plan,
                Err(Reason::NotThere) => {
                    end(LoadStatus::Miss, Some(Reason::NotThere), None);
                    continue;
                }
                Err(reason) => {
                    end(LoadStatus::Failed, Some(reason), None);
                    continue;
                }
            };
            let control = Arc::clone(&self.control);
            let answer = move |plan: Plan, verdict: Verdict| {
                let (status, reason) = load_status(verdict);
                control.finish_load(plan.ticket, status, reason.as_ref());
                end(status, reason, Some(Tier::Disk));
            };
            self.mover.load(Job::new(&batch, plan, sink, answer));
        }
        batch
    }

    /// Ends what has not begun of a batch as cancelled; what has begun goes on to its end.
    pub fn cancel<T>(&self, batch: &Batch<T>) {
        self.mover.cancel(batch);
    }

    /// Figures.
    pub fn stats(&self) -> CacheStats {
        CacheStats { control: self.control.stats(), mover: self.mover.stats() }
    }

    /// Takes no more work, finishes what it has for at most `drain`, ends the rest, writes a checkpoint.
    pub fn close(&self, drain: Duration) {
        self.mover.close(drain);
        self.following.give_up();
        self.control.close();
    }

    fn chunk_length(&self, bytes: usize) -> Result<u32> {
        match u32::try_from(bytes) {
            Ok(length) if length > 0 && u64::from(length) <= self.chunk_bytes => Ok(length),
            Ok(0) => Err(Error::new(ErrorKind::Argument, "a chunk to be stored is empty")),
            _ => Err(Error::new(
                ErrorKind::Argument,
                format!("a chunk of {bytes} bytes is larger than chunk_bytes, {}", self.chunk_bytes),
            )),
        }
    }
}

/// How a load that ended with `verdict` ended.
pub fn load_status(verdict: Verdict) -> (LoadStatus, Option<Reason>) {
    match verdict {
        Ok(()) => (LoadStatus::Loaded, None),
        Err(reason @ Reason::Corrupt(_)) => (LoadStatus::Miss, Some(reason)),
        Err(reason) => (LoadStatus::Failed, Some(reason)),
    }
}

/// Calls a callback that may panic.
fn tell<T>(on_complete: Option<&(dyn Fn(&T) + Send + Sync)>, outcome: &T) {
    if let Some(on_complete) = on_complete
        && catch_unwind(AssertUnwindSafe(|| on_complete(outcome))).is_err()
    {
        tracing::error!("an on_complete callback panicked; the chunk's outcome stands");
    }
}
