//! Gives up what takes too long: a device that never answers must not hang whoever waits for it.
//!
//! What is watched lies in a cell; whoever empties the cell first owns it. So the answer of the device and the end
//! of patience cannot both act. All watches have the same patience, so the oldest always ends first.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// What is watched, until somebody takes it.
pub(super) type Cell<T> = Arc<Mutex<Option<T>>>;

/// Watches over things of type `T`.
pub(super) struct Watch<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    patience: Duration,
}

struct State<T> {
    watched: VecDeque<(Instant, Weak<Mutex<Option<T>>>)>,
    closed: bool,
}

impl<T> Watch<T> {
    pub(super) fn new(patience: Duration) -> Self {
        let state = State { watched: VecDeque::new(), closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), patience }
    }

    /// Watches over `thing` from now on. At most as many as there are slots are watched at once, plus those that
    /// have ended and were not swept yet.
    pub(super) fn add(&self, thing: T) -> Cell<T> {
        let cell = Arc::new(Mutex::new(Some(thing)));
        let mut state = self.state.lock();
        while state.watched.front().is_some_and(|(_, cell)| cell.strong_count() == 0) {
            state.watched.pop_front();
        }
        let idle = state.watched.is_empty();
        state.watched.push_back((Instant::now() + self.patience, Arc::downgrade(&cell)));
        drop(state);
        if idle {
            self.changed.notify_all();
        }
        cell
    }

    /// The watching thread's life: calls `give_up` for everything nobody took in time. Ends after [`Self::close`].
    pub(super) fn keep(&self, give_up: impl Fn(T)) {
        let mut state = self.state.lock();
        while !state.closed {
            match state.watched.front().map(|(deadline, _)| *deadline) {
                None => self.changed.wait(&mut state),
                Some(deadline) if Instant::now() < deadline => {
                    self.changed.wait_until(&mut state, deadline);
                }
                Some(_) => {
                    let overdue = state.watched.pop_front().and_then(|(_, cell)| cell.upgrade());
                    parking_lot::MutexGuard::unlocked(&mut state, || {
                        let thing = overdue.and_then(|cell| cell.lock().take());
                        thing.into_iter().for_each(&give_up);
                    });
                }
            }
        }
    }

    /// Ends [`Self::keep`].
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// Takes everything nobody has taken.
    pub(super) fn give_up_all(&self, give_up: impl Fn(T)) {
        let watched = std::mem::take(&mut self.state.lock().watched);
        for cell in watched.into_iter().filter_map(|(_, cell)| cell.upgrade()) {
            let thing = cell.lock().take();
            thing.into_iter().for_each(&give_up);
        }
    }
}
