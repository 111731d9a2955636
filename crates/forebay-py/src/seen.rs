//! What is seen over HTTP of a control plane and its movers, which may be in other processes.
//!
//! Promises: a mover in this process is asked itself, of one in another is shown what it said last; no counter runs
//! backwards when a mover is closed. No lock is held while a mover is asked, or let go of.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use forebay::catalog::NamespaceId;
use forebay::control::{ControlPlane, Pinned, Pinning};
use forebay::mover::{Mover, MoverStats};
use forebay_watch::{Figures, Watched, Worker};
use parking_lot::Mutex;

/// The movers of this process, by what they say that they are.
static MOVERS: Mutex<BTreeMap<u64, Weak<Mover>>> = Mutex::new(BTreeMap::new());

/// Makes a mover of this process known to it; gives the name by which, that no other mover has.
pub(crate) fn register(mover: &Arc<Mover>) -> u64 {
    let id = RandomState::new().hash_one(std::process::id());
    let mut movers = MOVERS.lock();
    movers.retain(|_, mover| mover.strong_count() > 0);
    movers.insert(id, Arc::downgrade(mover));
    id
}

/// What a mover of this name says of itself, for [`Workers::note`].
pub(crate) fn told(id: u64, stats: &MoverStats) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&(id, stats))
}

/// What is known of movers, by their number.
#[derive(Default)]
pub(crate) struct Workers(Mutex<BTreeMap<u32, Noted>>);

/// What a mover said of itself last, and when.
struct Noted {
    at: Instant,
    stats: MoverStats,
    /// The mover, if it is in this process and open.
    here: Weak<Mover>,
}

impl Workers {
    /// Notes what the mover of this number has [`told`].
    pub(crate) fn note(&self, number: u32, told: &[u8]) -> serde_json::Result<()> {
        let (id, stats): (u64, MoverStats) = serde_json::from_slice(told)?;
        let here = MOVERS.lock().get(&id).cloned().unwrap_or_default();
        self.0.lock().insert(number, Noted { at: Instant::now(), stats, here });
        Ok(())
    }

    fn now(&self) -> Vec<Worker> {
        let here: Vec<(u32, Arc<Mover>)> = {
            let known = self.0.lock();
            known.iter().filter_map(|(number, noted)| Some((*number, noted.here.upgrade()?))).collect()
        };
        // Who lets go of a mover last closes it, which may wait for somebody who wants the lock.
        let asked: Vec<(u32, MoverStats)> =
            here.into_iter().map(|(number, mover)| (number, mover.stats())).collect();
        let mut known = self.0.lock();
        for (number, stats) in asked {
            if let Some(noted) = known.get_mut(&number) {
                (noted.at, noted.stats) = (Instant::now(), stats);
            }
        }
        let worker = |(&number, noted): (&u32, &Noted)| {
            let is_here = noted.here.strong_count() > 0;
            let age = if is_here { Duration::ZERO } else { noted.at.elapsed() };
            Worker { number, age, stats: noted.stats.clone() }
        };
        known.iter().map(worker).collect()
    }
}

/// What is seen of the two halves. Keeps neither.
pub(crate) struct Seen {
    pub(crate) control: Weak<ControlPlane>,
    pub(crate) workers: Arc<Workers>,
}

impl Watched for Seen {
    fn figures(&self) -> Option<Figures> {
        let control = self.control.upgrade()?.stats();
        Some(Figures { control, workers: self.workers.now() })
    }

    fn clear(&self, namespace: Option<NamespaceId>) -> Option<u64> {
        Some(self.control.upgrade()?.clear(namespace))
    }

    fn pin(&self, namespace: NamespaceId) -> Option<forebay::Result<Pinned>> {
        Some(self.control.upgrade()?.pin(Pinning::Namespace(namespace)))
    }

    fn unpin(&self, namespace: Option<NamespaceId>) -> Option<forebay::Result<u64>> {
        Some(self.control.upgrade()?.unpin(namespace.map_or(Pinning::All, Pinning::Namespace)))
    }

    fn set_disk_capacity(&self, capacity_bytes: u64) -> Option<forebay::Result<u64>> {
        Some(self.control.upgrade()?.set_disk_capacity(capacity_bytes))
    }
}
