//! Stores that follow another store: two callers store the same chunk at once, one of them writes it.
//!
//! Promises: who follows is told once, after the store it follows has ended. The order of locks is: this one, then
//! the control plane's.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::catalog::Ticket;
use crate::control::ControlPlane;
use crate::key::ChunkKey;

type Told = Box<dyn FnOnce(bool) + Send>;

/// Who follows which store.
#[derive(Default)]
pub(crate) struct Following {
    waiting: Mutex<HashMap<Ticket, Vec<Told>>>,
}

impl Following {
    /// Calls `told` with whether the chunk is there, when the store under `ticket` has ended; now, if it has.
    pub(crate) fn follow(&self, control: &ControlPlane, ticket: Ticket, key: &ChunkKey, told: Told) {
        let mut waiting = self.waiting.lock();
        if control.is_writing(ticket) {
            waiting.entry(ticket).or_default().push(told);
        } else {
            drop(waiting);
            told(control.contains(key));
        }
    }

    /// Tells all who follow `ticket`. To be called after the control plane has taken its outcome.
    pub(crate) fn ended(&self, ticket: Ticket, stored: bool) {
        let followers = self.waiting.lock().remove(&ticket);
        followers.into_iter().flatten().for_each(|told| told(stored));
    }
}
