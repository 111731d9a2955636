//! The staging buffer: a slot has one user and comes back, every wait ends, and memory is bounded.
//!
//! Who of several waiters gets the next slot is tested next to the code, where the waiters can be seen.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use forebay::catalog::BLOCK_BYTES;
use forebay::staging::{Class, Lease, Refusal, Staging};
use proptest::collection::vec;
use proptest::prelude::*;

const SHORT: Duration = Duration::from_millis(30);
/// Longer than any test may take: whoever waits for that long has been forgotten.
const LONG: Duration = Duration::from_secs(20);

fn buffer(slots: u32) -> Arc<Staging> {
    Staging::new(slots, BLOCK_BYTES).unwrap()
}

fn lease(staging: &Arc<Staging>, class: Class) -> Lease {
    staging.acquire(class, LONG).unwrap()
}

fn refusal(staging: &Arc<Staging>, class: Class, patience: Duration) -> Refusal {
    staging.acquire(class, patience).map(drop).unwrap_err()
}

#[test]
fn a_slot_comes_back_when_its_lease_is_dropped() {
    let staging = buffer(2);
    for _ in 0..5 {
        let (one, two) = (lease(&staging, Class::Load), lease(&staging, Class::Store));
        assert_eq!(staging.usage().in_use, 2);
        drop(one);
        assert_eq!(staging.usage().in_use, 1);
        drop(two);
        assert_eq!(staging.usage().in_use, 0);
    }
    assert_eq!(staging.usage().in_use_max, 2);
}

#[test]
fn a_slot_comes_back_when_its_user_panics() {
    let staging = buffer(2);
    for class in [Class::Load, Class::Store] {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _lease = lease(&staging, class);
            resume_unwind(Box::new("a user that panics"));
        }));
        assert!(panicked.is_err());
        assert_eq!(staging.usage().in_use, 0);
        let held = lease(&staging, class);
        let died = thread::spawn(move || {
            let _held = held;
            resume_unwind(Box::new("a thread that dies"));
        });
        assert!(died.join().is_err());
        assert_eq!(staging.usage().in_use, 0);
    }
    let _both = (lease(&staging, Class::Store), lease(&staging, Class::Load));
}

#[test]
fn a_slot_may_be_given_back_by_another_thread_and_outlive_every_other_handle() {
    let staging = buffer(2);
    let mut held = lease(&staging, Class::Load);
    drop(staging);
    thread::spawn(move || held.bytes().fill(7)).join().unwrap();
}

#[test]
fn stores_never_hold_the_last_slot() {
    for slots in 2..5 {
        let staging = buffer(slots);
        let stores: Vec<Lease> = (1..slots).map(|_| lease(&staging, Class::Store)).collect();
        assert_eq!(refusal(&staging, Class::Store, SHORT), Refusal::Busy);
        let load = staging.acquire(Class::Load, Duration::ZERO).expect("a load finds a slot at once");
        assert_eq!(staging.usage().in_use, slots);
        drop((stores, load));
        assert_eq!(staging.usage().in_use, 0);
    }
}

#[test]
fn loads_may_hold_every_slot() {
    let staging = buffer(3);
    let _all: Vec<Lease> =
        (0..3).map(|_| staging.acquire(Class::Load, Duration::ZERO).expect("there is a free slot")).collect();
    assert_eq!(staging.usage().in_use, 3);
}

#[test]
fn a_wait_ends_with_busy_when_no_slot_comes_free() {
    for class in [Class::Load, Class::Store] {
        let staging = buffer(2);
        let _all = (lease(&staging, Class::Load), lease(&staging, Class::Load));
        let began = Instant::now();
        assert_eq!(refusal(&staging, class, SHORT), Refusal::Busy);
        assert!(began.elapsed() >= SHORT, "it was waited for");
    }
}

#[test]
fn who_comes_to_a_stalled_buffer_is_refused_at_once_until_a_slot_comes_free() {
    for class in [Class::Load, Class::Store] {
        let staging = buffer(2);
        let (one, two) = (lease(&staging, Class::Load), lease(&staging, Class::Load));
        assert_eq!(refusal(&staging, class, SHORT), Refusal::Busy);
        let began = Instant::now();
        for _ in 0..100 {
            assert_eq!(refusal(&staging, class, LONG), Refusal::Busy);
        }
        assert!(began.elapsed() < LONG, "nobody waits behind a buffer that has stalled");

        drop(one);
        let again = staging.acquire(class, Duration::ZERO).expect("a slot came free");
        let began = Instant::now();
        assert_eq!(refusal(&staging, class, SHORT), Refusal::Busy);
        assert!(began.elapsed() >= SHORT, "and waiting makes sense again");
        drop((again, two));
    }
}

#[test]
fn a_stalled_store_line_does_not_turn_loads_away() {
    let staging = buffer(2);
    let store = lease(&staging, Class::Store);
    assert_eq!(refusal(&staging, Class::Store, SHORT), Refusal::Busy);
    let load = lease(&staging, Class::Load);
    let (tell, told) = mpsc::channel();
    let waiter = {
        let staging = Arc::clone(&staging);
        thread::spawn(move || {
            tell.send(()).unwrap();
            staging.acquire(Class::Load, LONG).map(drop)
        })
    };
    told.recv().unwrap();
    drop(load);
    assert_eq!(waiter.join().unwrap(), Ok(()));
    drop(store);
}

/// A device that hangs keeps its stores' slots. Loads go on through the others, and their coming and going must not
/// keep the next store waiting for ever.
#[test]
fn a_stores_wait_ends_while_loads_come_and_go() {
    for slots in [2, 4] {
        let staging = buffer(slots);
        let hung: Vec<Lease> = (1..slots).map(|_| lease(&staging, Class::Store)).collect();
        let (tell, told) = mpsc::channel();
        let waiting = Arc::clone(&staging);
        thread::spawn(move || {
            let outcome = waiting.acquire(Class::Store, SHORT).map(drop);
            let _ = tell.send(outcome);
        });
        let deadline = Instant::now() + 40 * SHORT;
        let outcome = loop {
            drop(lease(&staging, Class::Load));
            match told.try_recv() {
                Ok(outcome) => break Some(outcome),
                Err(_) if Instant::now() < deadline => {}
                Err(_) => break None,
            }
        };
        assert_eq!(outcome, Some(Err(Refusal::Busy)), "no slot a store may have came free for {SHORT:?}");
        drop(hung);
    }
}

#[test]
fn closing_ends_all_waits_and_refuses_everybody_after() {
    let staging = buffer(2);
    let mut all = [lease(&staging, Class::Load), lease(&staging, Class::Load)];
    let waiters: Vec<_> = [Class::Load, Class::Store, Class::Load, Class::Store]
        .map(|class| {
            let staging = Arc::clone(&staging);
            thread::spawn(move || refusal(&staging, class, LONG))
        })
        .into();
    staging.close_at(Instant::now());
    waiters.into_iter().for_each(|waiter| assert_eq!(waiter.join().unwrap(), Refusal::Closed));
    for lease in &mut all {
        lease.bytes().fill(1);
    }
    drop(all);
    assert_eq!(staging.usage().in_use, 0, "leases in use stay valid and come back");
    assert_eq!(refusal(&staging, Class::Load, LONG), Refusal::Closed);
    assert_eq!(refusal(&staging, Class::Store, LONG), Refusal::Closed);
}

#[test]
fn until_the_announced_close_the_buffer_serves_and_then_waits_end() {
    let staging = buffer(2);
    let closes_at = Instant::now() + SHORT;
    staging.close_at(closes_at);
    let held: Vec<Lease> =
        std::iter::from_fn(|| staging.acquire(Class::Load, Duration::ZERO).ok()).take(2).collect();
    assert!(Instant::now() >= closes_at || held.len() == 2, "an open buffer with free slots serves");
    assert_eq!(refusal(&staging, Class::Load, LONG), Refusal::Closed);
    assert!(Instant::now() >= closes_at);
}

#[test]
fn the_memory_of_leases_is_aligned_apart_and_as_much_as_was_asked_for() {
    for slot_bytes in [1, BLOCK_BYTES, BLOCK_BYTES + 1, (1 << 20) + 5] {
        let slots = 5_u32;
        let staging = Staging::new(slots, slot_bytes).unwrap();
        let rounded = slot_bytes.next_multiple_of(BLOCK_BYTES);
        assert_eq!(staging.usage().slot_bytes, rounded);
        let mut leases: Vec<Lease> = (0..slots).map(|_| lease(&staging, Class::Load)).collect();
        let mut pages = BTreeSet::new();
        for (stamp, lease) in (1_u8..).zip(&mut leases) {
            let (payload, trailer) = lease.bytes().split_at_mut(rounded);
            assert_eq!(trailer.len(), BLOCK_BYTES);
            for part in [payload, trailer] {
                assert!(part.as_ptr().addr().is_multiple_of(BLOCK_BYTES), "on a page's border");
                for page in part.chunks(BLOCK_BYTES) {
                    assert!(pages.insert(page.as_ptr().addr()), "a page belongs to one lease");
                }
                part.fill(stamp);
            }
        }
        for (stamp, lease) in (1_u8..).zip(&mut leases) {
            assert!(lease.bytes().iter().all(|&byte| byte == stamp));
        }
        drop(leases);

        // However often slots are taken, they are the same ones.
        for _ in 0..20 {
            let mut leases: Vec<Lease> = (0..slots).map(|_| lease(&staging, Class::Load)).collect();
            for lease in &mut leases {
                for page in lease.bytes().chunks(BLOCK_BYTES) {
                    assert!(pages.contains(&page.as_ptr().addr()), "memory that was not there at the start");
                }
            }
        }
        assert_eq!(staging.usage().in_use_max, slots);
    }
}

/// Counts who is inside, and the most that ever were.
#[derive(Default)]
struct Inside(AtomicU32, AtomicU32);

impl Inside {
    fn enter(&self) {
        self.1.fetch_max(self.0.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> u32 {
        self.1.load(Ordering::SeqCst)
    }
}

/// Threads take slots for loads and stores, fill and check them, and sometimes panic.
fn crowd(slots: u32, plans: Vec<Vec<(Class, bool)>>) {
    let staging = buffer(slots);
    let (all, stores) = (Inside::default(), Inside::default());
    let (served, broken) = (AtomicU64::new(0), AtomicBool::new(false));
    let expected = plans.iter().map(Vec::len).sum::<usize>() as u64;
    thread::scope(|scope| {
        for (thread, plan) in (1_u8..).zip(plans) {
            let (staging, all, stores, served, broken) = (&staging, &all, &stores, &served, &broken);
            scope.spawn(move || {
                for (turn, (class, panics)) in (0_u8..=255).cycle().zip(plan) {
                    let _ = catch_unwind(AssertUnwindSafe(|| {
                        let mut lease = lease(staging, class);
                        all.enter();
                        if class == Class::Store {
                            stores.enter();
                        }
                        let stamp = thread.wrapping_mul(37).wrapping_add(turn);
                        let (front, rest) = lease.bytes().split_at_mut(BLOCK_BYTES);
                        front.fill(stamp);
                        rest.fill(!stamp);
                        thread::yield_now();
                        let own = front.iter().all(|&byte| byte == stamp)
                            && rest.iter().all(|&byte| byte == !stamp);
                        broken.fetch_or(!own, Ordering::SeqCst);
                        served.fetch_add(1, Ordering::SeqCst);
                        if class == Class::Store {
                            stores.leave();
                        }
                        all.leave();
                        if panics {
                            resume_unwind(Box::new("a user that panics"));
                        }
                    }));
                }
            });
        }
    });
    assert!(!broken.into_inner(), "two leases shared memory");
    assert_eq!(served.into_inner(), expected, "everybody was served");
    assert!(all.most() <= slots && stores.most() < slots);
    let usage = staging.usage();
    assert_eq!(usage.in_use, 0, "all slots came back");
    assert!(usage.in_use_max <= slots);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_crowd_of_loads_and_stores_is_served_through_any_number_of_slots(
        slots in 2_u32..6,
        plans in vec(
            vec((prop_oneof![Just(Class::Load), Just(Class::Store)], prop::bool::weighted(0.05)), 1..150),
            1..12,
        ),
    ) {
        crowd(slots, plans);
    }
}

#[test]
fn two_slots_serve_sixteen_loading_and_sixteen_storing_threads() {
    let plans = (0..32).map(|thread| {
        let class = if thread % 2 == 0 { Class::Load } else { Class::Store };
        vec![(class, false); 100]
    });
    crowd(2, plans.collect());
}
