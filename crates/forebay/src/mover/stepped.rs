//! A mover without threads: the turns that they would take are its owner's to take. For simulators.
//!
//! Nobody waits for a slot: what finds none at once ends as busy.

use std::sync::Arc;
use std::time::Duration;

use super::meter::Meter;
use super::watch::Watch;
use super::{Counters, Mover, Shared};
use crate::crew::Crew;
use crate::queue::JobQueue;
use crate::staging::Staging;
use crate::sync::atomic::AtomicBool;
use crate::tier::disk::data_files::DataFiles;
use crate::tier::disk::engine::{IoEngine, LateEngine, Started};

/// How long a load may take before it is given up by itself: nothing is.
const PATIENCE_OF_THE_WATCH: Duration = Duration::from_hours(24);

impl Mover {
    /// A mover of chunks between engine memory and these files, by this engine. With `sync_each` a chunk is written when
    /// it would survive a power loss.
    pub fn stepped(
        staging: Arc<Staging>,
        files: DataFiles,
        engine: Box<dyn IoEngine>,
        queued_chunks_max: usize,
        sync_each: bool,
    ) -> Self {
        let shared = Arc::new(Shared {
            engine: LateEngine::of(Started { files, engine }, Arc::clone(&staging)),
            staging,
            stores: JobQueue::new(queued_chunks_max),
            loads: JobQueue::new(queued_chunks_max),
            copies: JobQueue::new(queued_chunks_max),
            carries: JobQueue::new(queued_chunks_max),
            recalls: JobQueue::new(queued_chunks_max),
            memory: None,
            remote: None,
            has_disk: true,
            watch: Watch::new(PATIENCE_OF_THE_WATCH),
            load_patience: Duration::ZERO,
            store_patience: Duration::ZERO,
            sync_each,
            counters: Counters::default(),
            meter: Arc::<Meter>::default(),
        });
        Self { shared, pumps: Crew::default(), watcher: Crew::default(), closed: AtomicBool::new(false) }
    }

    /// Takes up the store that waits for longest; `false` when none does.
    pub fn store_next(&self) -> bool {
        let job = self.shared.stores.try_pop();
        job.map(|job| self.shared.serve(job, Shared::store)).is_some()
    }

    /// Takes up the load that waits for longest; `false` when none does.
    pub fn load_next(&self) -> bool {
        let job = self.shared.loads.try_pop();
        job.map(|job| self.shared.serve(job, Shared::load)).is_some()
    }

    /// Gives up all loads that the device was asked for, as if it had taken too long.
    pub fn give_up_loads(&self) {
        self.shared.watch.give_up_all(|asked| self.shared.give_up(asked));
    }
}
