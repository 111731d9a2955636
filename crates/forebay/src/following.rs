//! Stores that wait for something that is not their own transfer: another caller's store of the same chunk, or the copy
//! of theirs from disk to the remote store.
//!
//! Promises: who waits is told once, after what it waits for has ended. The order of locks is: these, then the control
//! plane's.

use std::collections::HashMap;

use crate::catalog::Ticket;
use crate::control::ControlPlane;
use crate::key::ChunkKey;
use crate::sync::Mutex;

/// Stores that may wait for one store or copy. More of the same chunk at once are refused.
pub(crate) const FOLLOWERS_MAX: usize = 1024;

type Told = Box<dyn FnOnce(bool) + Send>;

/// Who follows which store.
#[derive(Default)]
pub(crate) struct Following {
    waiting: Mutex<HashMap<Ticket, Vec<Told>>>,
}

impl Following {
    /// Calls `told` with whether the chunk is there, when the store under `ticket` has ended; now, if it has, or if
    /// too many follow it already.
    pub(crate) fn follow(&self, control: &ControlPlane, ticket: Ticket, key: &ChunkKey, told: Told) {
        let mut waiting = self.waiting.lock();
        let crowded = waiting.get(&ticket).is_some_and(|followers| followers.len() >= FOLLOWERS_MAX);
        if control.is_writing(ticket) && !crowded {
            waiting.entry(ticket).or_default().push(told);
        } else {
            drop(waiting);
            told(control.is_on(ticket.tier(), key));
        }
    }

    /// Tells everybody that it will not be: the cache is closed.
    pub(crate) fn give_up(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.into_values().flatten().for_each(|told| told(false));
    }

    /// Tells all who follow `ticket`. To be called after the control plane has taken its outcome.
    pub(crate) fn ended(&self, ticket: Ticket, stored: bool) {
        let followers = self.waiting.lock().remove(&ticket);
        followers.into_iter().flatten().for_each(|told| told(stored));
    }
}
