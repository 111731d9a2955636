//! Copies from one tier to the next, in one process: starts each when its turn comes, and tells who waits for it.
//!
//! Promises: who waits for the copy of a chunk is told once, also when the cache is closed; so many copies are under way
//! as the control plane lets, and each that ends starts the next.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use crate::catalog::Plan;
use crate::control::{ControlPlane, CopyPlan, CopyStep, Onward};
use crate::following::{FOLLOWERS_MAX, Following};
use crate::key::ChunkKey;
use crate::mover::{Mover, Verdict};
use crate::outcome::{Reason, StoreStatus, Tier, TierEnd};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

type Told = Box<dyn FnOnce(TierEnd, Onward) + Send>;

/// See the module's documentation.
pub(crate) struct Copies {
    control: Arc<ControlPlane>,
    /// The mover's threads call this, and must not be who ends them.
    mover: Weak<Mover>,
    /// Stores of the same chunk to the same tier wait for a copy as for another store.
    following: Arc<Following>,
    waiting: Mutex<HashMap<(ChunkKey, Tier), Vec<Told>>>,
    /// Turns that are due: whoever finds none takes them all, so that ends which come at once do not pile up.
    turns: AtomicUsize,
}

impl Copies {
    pub(crate) fn new(
        control: Arc<ControlPlane>,
        mover: &Arc<Mover>,
        following: Arc<Following>,
    ) -> Arc<Self> {
        let (mover, waiting) = (Arc::downgrade(mover), Mutex::default());
        Arc::new(Self { control, mover, following, waiting, turns: AtomicUsize::new(0) })
    }

    /// Calls `told` when the copy of a chunk to a tier, which was queued, has ended.
    pub(crate) fn follow(self: &Arc<Self>, key: ChunkKey, length: u32, to: Tier, told: Told) {
        let mut waiting = self.waiting.lock();
        if self.control.is_being_copied(&key, to) {
            let those = waiting.entry((key, to)).or_default();
            if those.len() >= FOLLOWERS_MAX {
                drop(waiting);
                return told(TierEnd::refused(to, Reason::Busy), Onward::default());
            }
            those.push(told);
            drop(waiting);
            self.go_on();
        } else {
            // It has ended between being queued and now.
            drop(waiting);
            let (end, onward) = if self.control.is_on(to, &key) {
                (TierEnd::of(to, None), self.control.onward_of(to, key, length, None))
            } else if to == Tier::Disk && self.control.is_being_copied(&key, Tier::Remote) {
                (TierEnd::refused(to, Reason::Full), Onward::queued(Tier::Remote))
            } else {
                (TierEnd::of(to, Some(&Reason::Abandoned)), Onward::default())
            };
            told(end, onward);
        }
    }

    /// Starts those whose turn it is.
    fn go_on(self: &Arc<Self>) {
        if self.turns.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let mut turns = 1;
        while turns > 0 {
            self.start();
            turns = self.turns.fetch_sub(turns, Ordering::AcqRel) - turns;
        }
    }

    fn start(self: &Arc<Self>) {
        while let Some(step) = self.control.next_copy() {
            match (step, self.mover.upgrade()) {
                (CopyStep::Copy(CopyPlan { from, to }), Some(mover)) => {
                    let copies = Arc::clone(self);
                    mover.copy(from, to, move |from, to, verdict| {
                        copies.finish(&from, &to, verdict);
                        copies.go_on();
                    });
                }
                (CopyStep::Copy(CopyPlan { from, to }), None) => self.finish(&from, &to, Err(Reason::Closed)),
                (CopyStep::Ended { key, end, onward, ticket }, _) => {
                    self.tell(key, &end, &onward);
                    if let Some(ticket) = ticket {
                        self.following.ended(ticket, false);
                    }
                }
            }
        }
    }

    fn finish(&self, from: &Plan, to: &Plan, verdict: Verdict) {
        if let Some((end, onward)) = self.control.finish_copy(from, to, verdict) {
            self.tell(to.record.key, &end, &onward);
            self.following.ended(to.ticket, end.status == StoreStatus::Stored);
        }
    }

    /// Tells who waits for the copy of a chunk to a tier that has ended so.
    pub(crate) fn tell(&self, key: ChunkKey, end: &TierEnd, onward: &Onward) {
        let told = self.waiting.lock().remove(&(key, end.tier));
        told.into_iter().flatten().for_each(|told| told(end.clone(), onward.clone()));
    }

    /// Tells everybody who still waits that it will not be.
    pub(crate) fn give_up(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for ((_, tier), told) in waiting {
            let end = TierEnd::refused(tier, Reason::Closed);
            told.into_iter().for_each(|told| told(end.clone(), Onward::default()));
        }
    }
}
