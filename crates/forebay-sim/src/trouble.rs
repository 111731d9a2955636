//! What goes wrong, and when: drawn anew for each operation, so that a history of which some are left out goes wrong
//! in the same ways at those that are left.

use std::io;
use std::sync::Arc;

use fastrand::Rng;
use parking_lot::Mutex;

/// How often each kind of trouble comes, in a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rates {
    /// An error of a transfer.
    pub(crate) transfer_error: u32,
    /// A transfer that stops short.
    pub(crate) short_transfer: u32,
    /// A write that is reported done and was not, or not all of it.
    pub(crate) lie: u32,
    /// An error of a call for a file of home.
    pub(crate) home_error: u32,
    /// An error of a sync.
    pub(crate) sync_error: u32,
    /// Engine memory that cannot be read or written.
    pub(crate) engine_error: u32,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is done.
    Done,
    /// It fails.
    Fails,
    /// The process dies in it.
    Dies,
}

/// Shared by everything that can go wrong.
#[derive(Debug, Clone)]
pub(crate) struct Trouble(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rng: Rng,
    rates: Rates,
    off: bool,
    /// Calls until the process dies in one.
    dies_in: Option<u32>,
    dead: bool,
    home_failed: u64,
}

impl Trouble {
    /// None yet.
    pub(crate) fn new(rates: Rates) -> Self {
        let state =
            State { rng: Rng::with_seed(0), rates, off: false, dies_in: None, dead: false, home_failed: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    /// An operation begins, with dice of its own.
    pub(crate) fn begin(&self, seed: u64) {
        self.0.lock().rng = Rng::with_seed(seed);
    }

    /// No more of it, or all of it again.
    pub(crate) fn switch(&self, on: bool) {
        self.0.lock().off = !on;
    }

    /// The dice.
    pub(crate) fn roll<T>(&self, roll: impl FnOnce(&mut Rng) -> T) -> T {
        roll(&mut self.0.lock().rng)
    }

    /// Whether something of this rate happens now.
    pub(crate) fn strikes(&self, rate: impl FnOnce(&Rates) -> u32) -> bool {
        let state = &mut *self.0.lock();
        !state.off && state.rng.u32(..1000) < rate(&state.rates)
    }

    /// The process dies in one of the next calls.
    pub(crate) fn die_in(&self, calls: u32) {
        self.0.lock().dies_in = Some(calls);
    }

    /// The process dies now.
    pub(crate) fn kill(&self) {
        self.0.lock().dead = true;
    }

    /// Whether it has.
    pub(crate) fn is_dead(&self) -> bool {
        self.0.lock().dead
    }

    /// It is gone, and another one is to be started.
    pub(crate) fn bury(&self) {
        let mut state = self.0.lock();
        (state.dead, state.dies_in) = (false, None);
    }

    /// Calls for files that failed so far.
    pub(crate) fn home_failed(&self) -> u64 {
        self.0.lock().home_failed
    }

    /// A call of home begins.
    ///
    /// # Errors
    /// When the process is dead already.
    pub(crate) fn call(&self, is_sync: bool) -> io::Result<Fate> {
        let state = &mut *self.0.lock();
        if state.dead {
            return Err(io::Error::other("the process is dead"));
        }
        if let Some(left) = &mut state.dies_in {
            if *left == 0 {
                state.dead = true;
                return Ok(Fate::Dies);
            }
            *left -= 1;
        }
        let rate = if is_sync { state.rates.sync_error } else { state.rates.home_error };
        if !state.off && state.rng.u32(..1000) < rate {
            state.home_failed += 1;
            return Ok(Fate::Fails);
        }
        Ok(Fate::Done)
    }
}

/// What a call that fails says.
pub(crate) fn failure(rng: &mut Rng) -> io::Error {
    let kinds = [io::ErrorKind::Other, io::ErrorKind::StorageFull, io::ErrorKind::PermissionDenied];
    io::Error::new(kinds[rng.usize(..kinds.len())], "injected")
}
