//! Whose turn it is. These tests look inside, to know that somebody waits before a slot comes free.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, spawn, yield_now};

use super::*;

const LONG: Duration = Duration::from_mins(1);

/// One slot that goes from waiter to waiter; the other one stays with a load.
struct Queue {
    staging: Arc<Staging>,
    turn: Option<Lease>,
    _held: Lease,
    threads: Vec<JoinHandle<()>>,
    tell: Sender<(Class, usize)>,
    told: Receiver<(Class, usize)>,
}

impl Queue {
    /// Nobody waits yet. Two loads have been served in a row.
    fn new() -> Self {
        let staging = Staging::new(2, crate::catalog::BLOCK_BYTES).unwrap();
        let held = staging.acquire(Class::Load, LONG).unwrap();
        let turn = Some(staging.acquire(Class::Load, LONG).unwrap());
        let (tell, told) = channel();
        Self { staging, turn, _held: held, threads: Vec::new(), tell, told }
    }

    /// Adds a waiter, and returns when it waits.
    fn add(&mut self, class: Class) {
        self.add_for(class, LONG);
    }

    fn add_for(&mut self, class: Class, patience: Duration) {
        let number = self.threads.len();
        let (staging, tell) = (Arc::clone(&self.staging), self.tell.clone());
        self.threads.push(spawn(move || {
            let _lease = staging.acquire(class, patience).unwrap();
            tell.send((class, number)).unwrap();
        }));
        while self.waiting() <= number {
            yield_now();
        }
    }

    fn waiting(&self) -> usize {
        let state = self.staging.state.lock();
        [&state.waiting_loads, &state.waiting_stores, &state.waiting_copies]
            .map(|line| line.waiters.len())
            .iter()
            .sum()
    }

    /// Lets the slot go round; gives the order in which the waiters had it.
    fn served(mut self) -> Vec<(Class, usize)> {
        drop(self.turn.take());
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(self.tell);
        let state = self.staging.state.lock();
        assert!(state.waiting_loads.waiters.is_empty() && state.waiting_stores.waiters.is_empty());
        assert_eq!((state.stores_holding, state.copies_holding), (0, 0));
        self.told.iter().collect()
    }
}

#[test]
fn miri_a_load_goes_before_a_store_that_came_first() {
    let mut queue = Queue::new();
    queue.add(Class::Store);
    queue.add(Class::Load);
    assert_eq!(queue.served(), [(Class::Load, 1), (Class::Store, 0)]);
}

#[test]
fn a_waiting_store_has_its_turn_after_so_many_loads_and_no_more() {
    let mut queue = Queue::new();
    (0..3).for_each(|_| queue.add(Class::Store));
    (0..12).for_each(|_| queue.add(Class::Load));
    let order = queue.served();
    let runs: Vec<usize> =
        order.split(|(class, _)| *class == Class::Store).map(<[(Class, usize)]>::len).collect();
    let max = LOADS_IN_A_ROW_MAX as usize;
    assert_eq!(runs, [max, max, max, 12 - 3 * max], "loads served while no store waited do not count");
    for class in [Class::Load, Class::Store] {
        let numbers: Vec<usize> =
            order.iter().filter(|(of, _)| *of == class).map(|(_, number)| *number).collect();
        assert!(numbers.is_sorted(), "first come, first served among equals: {order:?}");
    }
}

#[test]
fn stores_wait_in_line_when_no_load_does() {
    let mut queue = Queue::new();
    (0..4).for_each(|_| queue.add(Class::Store));
    assert_eq!(queue.served(), [0, 1, 2, 3].map(|number| (Class::Store, number)));
}

#[test]
fn a_waiter_that_gave_up_is_not_waited_for() {
    let mut queue = Queue::new();
    let short = Duration::from_millis(20);
    assert_eq!(queue.staging.acquire(Class::Load, short).map(drop), Err(Refusal::Busy));
    assert_eq!(queue.waiting(), 0);
    drop(queue.turn.take());
    queue.turn = Some(queue.staging.acquire(Class::Load, LONG).unwrap());
    queue.add(Class::Load);
    assert_eq!(queue.served(), [(Class::Load, 0)]);
}

#[test]
fn a_waiter_with_patience_left_is_not_sent_away_with_one_that_has_none() {
    let mut queue = Queue::new();
    queue.add(Class::Load);
    let short = Duration::from_millis(20);
    assert_eq!(queue.staging.acquire(Class::Load, short).map(drop), Err(Refusal::Busy));
    assert_eq!(queue.served(), [(Class::Load, 0)]);
}

#[test]
fn a_patience_without_end_is_no_mistake() {
    let mut queue = Queue::new();
    queue.add_for(Class::Load, Duration::MAX);
    assert_eq!(queue.served(), [(Class::Load, 0)]);
}

#[test]
fn miri_who_is_not_wanted_any_more_leaves_the_line_when_nudged_and_nobody_else_does() {
    let mut queue = Queue::new();
    queue.add(Class::Load);
    let wanted = Arc::new(Mutex::new(true));
    let (staging, asked) = (Arc::clone(&queue.staging), Arc::clone(&wanted));
    let waiter =
        spawn(move || staging.acquire_unless(Class::Load, LONG, &|| !*asked.lock()).map(drop).unwrap_err());
    while queue.waiting() < 2 {
        yield_now();
    }
    queue.staging.nudge();
    assert_eq!(queue.waiting(), 2, "a nudge takes nothing from those who still want a slot");
    *wanted.lock() = false;
    queue.staging.nudge();
    assert_eq!(waiter.join().unwrap(), Refusal::Unwanted);
    assert_eq!(queue.waiting(), 1);
    assert_eq!(queue.served(), [(Class::Load, 0)]);
}

#[test]
fn who_is_not_wanted_gets_no_slot_even_if_one_is_free() {
    let mut queue = Queue::new();
    drop(queue.turn.take());
    assert_eq!(queue.staging.acquire_unless(Class::Load, LONG, &|| true).map(drop), Err(Refusal::Unwanted));
    assert_eq!((queue.waiting(), queue.staging.usage().in_use), (0, 1));
}

#[test]
fn miri_neither_class_holds_more_than_its_share_though_slots_are_free() {
    let shape = Shape { slots: 6, slot_bytes: crate::catalog::BLOCK_BYTES, share: 2 };
    let staging = Staging::of(shape).unwrap();
    for class in [Class::Load, Class::Store] {
        let held = [(); 2].map(|()| staging.acquire(class, LONG).unwrap());
        assert_eq!(staging.acquire(class, Duration::from_millis(5)).map(drop), Err(Refusal::Busy));
        let [first, _second] = held;
        drop(first);
        let again = staging.acquire(class, LONG).unwrap();
        assert_eq!(staging.usage().in_use, 2);
        drop(again);
    }
    // The slot that came back last goes out first, so few of them are ever touched.
    let index = |lease: &Lease| lease.index;
    let lease = staging.acquire(Class::Load, LONG).unwrap();
    let used = index(&lease);
    drop(lease);
    assert_eq!(staging.acquire(Class::Store, LONG).as_ref().map(index), Ok(used));
}

#[test]
fn copies_take_turns_with_stores_and_go_behind_loads() {
    let mut queue = Queue::new();
    for class in [Class::Copy, Class::Copy, Class::Store, Class::Store, Class::Load] {
        queue.add(class);
    }
    let order: Vec<_> = queue.served().into_iter().map(|(class, _)| class).collect();
    assert_eq!(order, [Class::Load, Class::Store, Class::Copy, Class::Store, Class::Copy]);
}

#[test]
fn copies_hold_at_most_half_of_what_stores_may_hold_and_at_least_one() {
    for (slots, most) in [(2, 1), (3, 1), (5, 2), (9, 4)] {
        let staging = Staging::new(slots, crate::catalog::BLOCK_BYTES).unwrap();
        let copies: Vec<_> = (0..most).map(|_| staging.acquire(Class::Copy, LONG).unwrap()).collect();
        assert_eq!(staging.acquire(Class::Copy, Duration::ZERO).unwrap_err(), Refusal::Busy);
        // The others are there for stores, but for the last one.
        let stores: Vec<_> =
            (most..slots - 1).map(|_| staging.acquire(Class::Store, LONG).unwrap()).collect();
        assert_eq!(staging.acquire(Class::Store, Duration::ZERO).unwrap_err(), Refusal::Busy);
        let load = staging.acquire(Class::Load, LONG).unwrap();
        drop((copies, stores, load));
        assert_eq!(staging.usage().in_use, 0);
        // Stores that hold all they may leave none to copies.
        let stores: Vec<_> = (1..slots).map(|_| staging.acquire(Class::Store, LONG).unwrap()).collect();
        assert_eq!(staging.acquire(Class::Copy, Duration::ZERO).unwrap_err(), Refusal::Busy);
        drop(stores);
    }
}
