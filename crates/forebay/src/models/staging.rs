//! Who may have which slot, and that nobody waits for ever.

#![expect(clippy::missing_panics_doc, reason = "that is how a model fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use shuttle::thread;

use super::{Time, check};
use crate::catalog::BLOCK_BYTES;
use crate::staging::{Class, Lease, Refusal, Shape, Staging};
use crate::sync::{self, now};

/// A wait without an end of its own.
const EVER: Duration = Duration::MAX;
const PATIENCE: Duration = Duration::from_secs(1);
const CROWD: [Class; 6] = [Class::Load, Class::Store, Class::Copy, Class::Load, Class::Store, Class::Copy];

/// A buffer, and who is in it by the word of those who have leases.
struct Watched {
    staging: Arc<Staging>,
    shape: Shape,
    users: Vec<AtomicBool>,
    holding: [AtomicU32; 3],
}

impl Watched {
    fn of(slots: u32, at_once: u32) -> Arc<Self> {
        let shape = Shape { slots, slot_bytes: BLOCK_BYTES, share: at_once };
        Arc::new(Self {
            staging: Staging::of(shape).unwrap(),
            shape,
            users: (0..slots).map(|_| AtomicBool::new(false)).collect(),
            holding: [const { AtomicU32::new(0) }; 3],
        })
    }

    /// Uses a slot for a while in which anything may happen.
    fn use_up(&self, class: Class, mut lease: Lease) {
        let stride = self.staging.range().1 / self.shape.slots as usize;
        let at = lease.bytes().as_ptr() as usize - self.staging.range().0.as_ptr() as usize;
        let user = &self.users[at / stride];
        assert!(!user.swap(true, Ordering::Relaxed), "a slot has one user");
        self.holding[class as usize].fetch_add(1, Ordering::Relaxed);
        let [loads, stores, copies] = [0, 1, 2].map(|class| self.holding[class].load(Ordering::Relaxed));
        let writes_max = self.shape.share.min(self.shape.slots - 1);
        assert!(loads <= self.shape.share, "{loads} loads hold slots");
        assert!(stores + copies <= writes_max, "{stores} stores and {copies} copies hold slots");
        assert!(copies <= (writes_max / 2).max(1), "{copies} copies hold slots");
        thread::yield_now();
        self.holding[class as usize].fetch_sub(1, Ordering::Relaxed);
        user.store(false, Ordering::Relaxed);
        // Noted before: who gets the slot next may be there before this returns.
        drop(lease);
    }

    /// All is back, and everybody can have a slot.
    fn is_at_rest(&self) {
        assert_eq!(self.staging.usage().in_use, 0, "every slot came back");
        for class in [Class::Load, Class::Store, Class::Copy] {
            assert!(self.staging.acquire(class, EVER).is_ok(), "the line of {class:?} is clear");
        }
    }
}

/// A crowd of loads, stores and copies is served through few slots, without anybody's time running out.
pub fn staging_serves_a_crowd() {
    for (slots, share) in [(2, 2), (3, 3), (3, 1), (4, 2)] {
        check(2_000, Time::Stands, move || {
            let watched = Watched::of(slots, share);
            let threads: Vec<_> = CROWD
                .map(|class| {
                    let watched = Arc::clone(&watched);
                    thread::spawn(move || {
                        for _ in 0..2 {
                            let lease = watched.staging.acquire(class, EVER).expect("nothing is closed");
                            watched.use_up(class, lease);
                        }
                    })
                })
                .into();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            watched.is_at_rest();
        });
    }
}

/// Slots that come free together are given out together: each of those who wait keeps its slot until all have one.
pub fn staging_gives_out_every_slot_that_is_free() {
    check(4_000, Time::Stands, || {
        let watched = Watched::of(2, 2);
        let held = [(); 2].map(|()| watched.staging.acquire(Class::Load, EVER).unwrap());
        let served = Arc::new((sync::Mutex::new(0), sync::Condvar::new()));
        let threads: Vec<_> = [(); 2]
            .map(|()| {
                let (watched, served) = (Arc::clone(&watched), Arc::clone(&served));
                thread::spawn(move || {
                    let lease = watched.staging.acquire(Class::Load, EVER).expect("nothing is closed");
                    let (count, changed) = &*served;
                    let mut count = count.lock();
                    *count += 1;
                    changed.notify_all();
                    while *count < 2 {
                        changed.wait(&mut count);
                    }
                    drop(count);
                    watched.use_up(Class::Load, lease);
                })
            })
            .into();
        drop(held);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        watched.is_at_rest();
    });
}

/// Who gives up leaves nothing behind in the line, whenever that is.
pub fn staging_lets_go_of_who_gives_up() {
    check(6_000, Time::Flies, || {
        let watched = Watched::of(2, 2);
        let threads: Vec<_> = CROWD
            .map(|class| {
                let watched = Arc::clone(&watched);
                thread::spawn(move || match watched.staging.acquire(class, PATIENCE) {
                    Ok(lease) => watched.use_up(class, lease),
                    Err(refusal) => assert_eq!(refusal, Refusal::Busy),
                })
            })
            .into();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        watched.is_at_rest();
    });
}

/// Closing ends all waits, though no slot comes free, and whoever comes later is refused; a lease stays its user's.
pub fn staging_closes_with_a_crowd_in_line() {
    check(4_000, Time::Stands, || {
        let watched = Watched::of(2, 2);
        let mut held = [(); 2].map(|()| watched.staging.acquire(Class::Load, EVER).unwrap());
        let threads: Vec<_> = CROWD
            .map(|class| {
                let staging = Arc::clone(&watched.staging);
                thread::spawn(move || staging.acquire(class, EVER).err())
            })
            .into();
        watched.staging.close_at(now());
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Some(Refusal::Closed));
        }
        held[0].bytes()[0] = 1;
        drop(held);
        assert_eq!(watched.staging.usage().in_use, 0);
    });
}

/// Who is not wanted any more is told so by a nudge, though no slot comes free; whoever else waits goes on waiting.
pub fn staging_nudges_who_is_not_wanted() {
    check(4_000, Time::Stands, || {
        let watched = Watched::of(2, 2);
        let held = [(); 2].map(|()| watched.staging.acquire(Class::Load, EVER).unwrap());
        let unwanted = Arc::new(sync::atomic::AtomicBool::new(false));
        let (staging, asked) = (Arc::clone(&watched.staging), Arc::clone(&unwanted));
        let leaving = thread::spawn(move || {
            let asked = || asked.load(sync::atomic::Ordering::Acquire);
            staging.acquire_unless(Class::Load, EVER, &asked).err()
        });
        let others: Vec<_> = [Class::Load, Class::Store]
            .map(|class| {
                let watched = Arc::clone(&watched);
                thread::spawn(move || {
                    let lease = watched.staging.acquire(class, EVER).expect("wanted all the time");
                    watched.use_up(class, lease);
                })
            })
            .into();
        unwanted.store(true, sync::atomic::Ordering::Release);
        watched.staging.nudge();
        assert_eq!(leaving.join().unwrap(), Some(Refusal::Unwanted));
        drop(held);
        others.into_iter().for_each(|thread| thread.join().unwrap());
        watched.is_at_rest();
    });
}
