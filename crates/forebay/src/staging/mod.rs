//! The staging buffer: bounded memory that chunks cross between the engine and a tier, in parts of a slot each.
//!
//! Promises:
//! * a slot has one user at a time, and comes back when its [`Lease`] is dropped, whatever happens;
//! * loads go before stores, but after [`LOADS_IN_A_ROW_MAX`] loads a waiting store has its turn; stores never hold
//!   the last slot, so that a load always finds one that no store is using;
//! * copies from tier to tier count as stores, take turns with them, and hold at most half of what stores may hold:
//!   a tier that is slow keeps no slot from the stores to a faster one;
//! * neither loads nor stores hold more than their share, and the slot that came back last goes out first: so what chunks cross stays
//!   small enough for the processor's cache;
//! * every wait ends: with a slot, with [`Refusal::Busy`] when no slot came free for as long as the caller allows,
//!   or with [`Refusal::Closed`];
//! * nothing can be looked up in it.
//!
//! Assumes that nobody waits for a slot while holding one. The mover keeps to that: a slot that is waited for is for the
//! next part of a chunk, and those before it are with the I/O engine, which gives them back by itself.

mod arena;
mod shape;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::catalog::BLOCK_BYTES;
use crate::error::Result;
use crate::sync::{Condvar, Mutex, now};
use arena::Arena;
pub use shape::{Backing, Shape};

/// How many loads may be served in a row while a store waits. Loads are what a user waits for; four to one keeps a
/// store's wait below a handful of transfers.
pub const LOADS_IN_A_ROW_MAX: u32 = 4;

/// What a slot is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Tier to engine.
    Load,
    /// Engine to tier.
    Store,
    /// Tier to a further tier, which may be slow.
    Copy,
}

/// Why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// All slots are in use and none came free in time.
    Busy,
    /// The buffer is being shut down.
    Closed,
    /// The caller does not want it any more.
    Unwanted,
}

/// The staging buffer.
#[derive(Debug)]
pub struct Staging {
    arena: Arena,
    huge_bytes: usize,
    /// Slots that loads may hold at once, and stores.
    share: u32,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: Vec<u32>,
    waiting_loads: Line,
    waiting_stores: Line,
    waiting_copies: Line,
    next_waiter: u64,
    loads_holding: u32,
    stores_holding: u32,
    copies_holding: u32,
    loads_in_a_row: u32,
    /// A copy waited when a store had its turn.
    copy_is_due: bool,
    in_use_max: u32,
    /// From then on nobody gets a slot.
    closes_at: Option<Instant>,
}

/// Who waits, in order of arrival.
#[derive(Debug)]
struct Line {
    waiters: VecDeque<u64>,
    /// When a slot last came free that this line may have.
    last_release: Instant,
    /// A wait ran out and no such slot has come free since: who arrives does not wait.
    stalled: bool,
}

impl Line {
    fn new() -> Self {
        Self { waiters: VecDeque::new(), last_release: now(), stalled: false }
    }

    fn released(&mut self) {
        self.last_release = now();
        self.stalled = false;
    }
}

/// Slots in use, for people and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Slots there are.
    pub slots: u32,
    /// Payload bytes a slot holds.
    pub slot_bytes: usize,
    /// Slots in use now.
    pub in_use: u32,
    /// The most that were ever in use at once.
    pub in_use_max: u32,
    /// Bytes of the buffer that lie on huge pages.
    pub huge_bytes: usize,
}

impl State {
    /// Whose turn it is, if anybody's.
    fn turn(&self, slots: u32, share: u32) -> Option<Class> {
        let load = !self.waiting_loads.waiters.is_empty() && self.may_have(Class::Load, slots, share);
        let store = !self.waiting_stores.waiters.is_empty() && self.may_have(Class::Store, slots, share);
        let copy = !self.waiting_copies.waiters.is_empty() && self.may_have(Class::Copy, slots, share);
        let write = match (store, copy) {
            (true, true) if self.copy_is_due => Some(Class::Copy),
            (true, _) => Some(Class::Store),
            (false, true) => Some(Class::Copy),
            (false, false) => None,
        };
        match (load, write) {
            _ if self.free.is_empty() => None,
            (true, Some(write)) if self.loads_in_a_row >= LOADS_IN_A_ROW_MAX => Some(write),
            (true, _) => Some(Class::Load),
            (false, write) => write,
        }
    }

    /// Whether this class may have one slot more, if one is free.
    fn may_have(&self, class: Class, slots: u32, share: u32) -> bool {
        let writes_max = share.min(slots - 1);
        let writes = self.stores_holding + self.copies_holding;
        match class {
            Class::Load => self.loads_holding < share,
            Class::Store => writes < writes_max,
            Class::Copy => writes < writes_max && self.copies_holding < (writes_max / 2).max(1),
        }
    }

    fn holding(&mut self, class: Class) -> &mut u32 {
        match class {
            Class::Load => &mut self.loads_holding,
            Class::Store => &mut self.stores_holding,
            Class::Copy => &mut self.copies_holding,
        }
    }

    fn line(&mut self, class: Class) -> &mut Line {
        match class {
            Class::Load => &mut self.waiting_loads,
            Class::Store => &mut self.waiting_stores,
            Class::Copy => &mut self.waiting_copies,
        }
    }
}

impl Staging {
    /// A buffer of `slots` slots (at least two) of `slot_bytes` payload bytes, rounded up to 4 KiB, with no share for
    /// either class.
    ///
    /// # Errors
    /// When the memory is not to be had.
    ///
    /// # Panics
    /// With less than two slots or no bytes in them: whoever reads the configuration sees to that.
    pub fn new(slots: u32, slot_bytes: usize) -> Result<Arc<Self>> {
        Self::of(Shape { slots, slot_bytes, share: slots })
    }

    /// A buffer of this shape.
    ///
    /// # Errors
    /// When the memory is not to be had.
    ///
    /// # Panics
    /// As [`Self::new`], and with a share of no slot.
    pub fn of(Shape { slots, slot_bytes, share }: Shape) -> Result<Arc<Self>> {
        assert!(slots >= 2 && share >= 1, "a staging buffer has at least two slots");
        let arena = Arena::new(slots, slot_bytes.next_multiple_of(BLOCK_BYTES))?;
        let huge_bytes = arena.huge_bytes();
        Ok(Arc::new(Self {
            arena,
            huge_bytes,
            share,
            state: Mutex::new(State {
                free: (0..slots).rev().collect(),
                waiting_loads: Line::new(),
                waiting_stores: Line::new(),
                waiting_copies: Line::new(),
                next_waiter: 0,
                loads_holding: 0,
                stores_holding: 0,
                copies_holding: 0,
                loads_in_a_row: 0,
                copy_is_due: false,
                in_use_max: 0,
                closes_at: None,
            }),
            changed: Condvar::new(),
        }))
    }

    /// Waits for a slot. Gives up when no slot has come free for `patience`; a caller that arrives after that is
    /// refused at once, until one does.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn acquire(self: &Arc<Self>, class: Class, patience: Duration) -> Result<Lease, Refusal> {
        self.acquire_unless(class, patience, &|| false)
    }

    /// As [`Self::acquire`], and gives up when `unwanted` says so; it is asked again after each [`Self::nudge`].
    ///
    /// # Errors
    /// The [`Refusal`].
    ///
    /// # Panics
    /// Never: a slot is taken only in turn, and it is nobody's turn without one.
    pub fn acquire_unless(
        self: &Arc<Self>,
        class: Class,
        patience: Duration,
        unwanted: &dyn Fn() -> bool,
    ) -> Result<Lease, Refusal> {
        let mut state = self.state.lock();
        let arrived = now();
        let me = state.next_waiter;
        state.next_waiter += 1;
        // Who was there before the line stalled waits out its own patience.
        let mut stalled = state.line(class).stalled;
        state.line(class).waiters.push_back(me);
        let outcome = loop {
            if state.closes_at.is_some_and(|at| at <= now()) {
                break Err(Refusal::Closed);
            }
            if unwanted() {
                break Err(Refusal::Unwanted);
            }
            let turn = state.turn(self.arena.slots(), self.share);
            if turn == Some(class) && state.line(class).waiters.front() == Some(&me) {
                break Ok(());
            }
            stalled &= state.line(class).stalled;
            let deadline = arrived.max(state.line(class).last_release).checked_add(patience);
            if stalled || deadline.is_some_and(|at| at <= now()) {
                state.line(class).stalled = true;
                break Err(Refusal::Busy);
            }
            match deadline.into_iter().chain(state.closes_at).min() {
                Some(at) => {
                    self.changed.wait_until(&mut state, at);
                }
                None => self.changed.wait(&mut state),
            }
        };
        state.line(class).waiters.retain(|&waiter| waiter != me);
        let lease = outcome.map(|()| {
            let index = state.free.pop().expect("it was our turn, so a slot is free");
            let nobody_writes =
                state.waiting_stores.waiters.is_empty() && state.waiting_copies.waiters.is_empty();
            match class {
                Class::Load if nobody_writes => state.loads_in_a_row = 0,
                Class::Load => state.loads_in_a_row += 1,
                Class::Store | Class::Copy => {
                    state.loads_in_a_row = 0;
                    state.copy_is_due = class == Class::Store && !state.waiting_copies.waiters.is_empty();
                }
            }
            *state.holding(class) += 1;
            let in_use = self.arena.slots() - u32::try_from(state.free.len()).unwrap_or(0);
            state.in_use_max = state.in_use_max.max(in_use);
            Lease { staging: Arc::clone(self), index, class }
        });
        // Whoever is next may be able to go now.
        self.changed.notify_all();
        lease
    }

    /// Ends all waits at `at`, and refuses everybody from then on; leases in use stay valid until they are dropped.
    pub fn close_at(&self, at: Instant) {
        self.state.lock().closes_at = Some(at);
        self.changed.notify_all();
    }

    /// Has everybody who waits ask again whether they want to.
    pub fn nudge(&self) {
        // Under the lock, so that nobody is between asking and waiting.
        let _state = self.state.lock();
        self.changed.notify_all();
    }

    /// The address and length of the memory that all slots lie in, for a kernel that wants to know it beforehand.
    pub fn range(&self) -> (std::ptr::NonNull<u8>, usize) {
        self.arena.range()
    }

    /// Payload bytes that a slot holds.
    pub fn slot_bytes(&self) -> usize {
        self.arena.payload_bytes()
    }

    /// Slots in use.
    pub fn usage(&self) -> Usage {
        let state = self.state.lock();
        let slots = self.arena.slots();
        Usage {
            slots,
            slot_bytes: self.arena.payload_bytes(),
            in_use: slots - u32::try_from(state.free.len()).unwrap_or(0),
            in_use_max: state.in_use_max,
            huge_bytes: self.huge_bytes,
        }
    }
}

/// Exclusive use of one slot; dropping it gives the slot back.
#[derive(Debug)]
pub struct Lease {
    staging: Arc<Staging>,
    index: u32,
    class: Class,
}

impl Lease {
    /// The slot: a payload area and the page of a trailer behind it. What it holds from before is anybody's: fill before
    /// use.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the index was taken from the free list when this lease was made and goes back when it is
        // dropped, so no other lease has it; `&mut self` makes this the only slice of this lease.
        unsafe { self.staging.arena.slot(self.index) }
    }
}

impl Lease {
    /// What is in the slot.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: as above; `&self` keeps out whoever would write.
        unsafe { self.staging.arena.slot(self.index) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.staging.state.lock();
        state.free.push(self.index);
        *state.holding(self.class) -= 1;
        for class in [Class::Load, Class::Store, Class::Copy] {
            if state.may_have(class, self.staging.arena.slots(), self.staging.share) {
                state.line(class).released();
            }
        }
        drop(state);
        self.staging.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
