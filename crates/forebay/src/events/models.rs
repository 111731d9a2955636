//! Models of what is told of comings and goings. See [`crate::models`].

#![expect(clippy::missing_panics_doc, reason = "that is how a model fails")]

use std::sync::Arc;
use std::time::Duration;

use shuttle::thread;

use super::{Announcer, Change};
use crate::key::ChunkKey;
use crate::models::{Time, check};
use crate::outcome::Tier;
use crate::queue::JobQueue;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

fn tell(announcer: &Announcer, number: u8) {
    announcer.tell(Tier::Disk, ChunkKey::new([number; 32]), Change::Stored);
}

fn numbers(events: &[super::Event]) -> impl Iterator<Item = u8> {
    events.iter().map(|event| event.key.as_bytes()[0])
}

/// Whoever has subscribed is told of each event, in the order of who tells, or of how many it was not told.
pub fn events_are_told_or_counted() {
    check(6_000, Time::Stands, || {
        let announcer = Announcer::default();
        let events = announcer.subscribe();
        let reader = thread::spawn(move || {
            let (mut heard, mut lost) = (Vec::new(), 0);
            loop {
                let news = events.wait(Duration::MAX);
                heard.extend(numbers(&news.events));
                lost += news.lost;
                if news.is_last {
                    return (heard, lost);
                }
            }
        });
        let tellers = [0..3_u8, 3..6].map(|those| {
            let announcer = announcer.clone();
            thread::spawn(move || those.for_each(|number| tell(&announcer, number)))
        });
        tellers.into_iter().for_each(|teller| teller.join().unwrap());
        announcer.close();
        let (heard, lost) = reader.join().unwrap();
        assert_eq!(heard.len() as u64 + lost, 6, "{heard:?}");
        for those in [0..3, 3..6] {
            let of_one: Vec<u8> = heard.iter().copied().filter(|number| those.contains(number)).collect();
            assert!(of_one.is_sorted_by(|one, next| one < next), "{heard:?}");
        }
    });
}

/// Who waits is woken by each event, though no other follows it.
pub fn events_wake_who_waits() {
    check(4_000, Time::Stands, || {
        let announcer = Announcer::default();
        let heard = Arc::new(JobQueue::<u8>::new(1));
        let (events, hearing) = (announcer.subscribe(), Arc::clone(&heard));
        let reader = thread::spawn(move || {
            loop {
                let news = events.wait(Duration::MAX);
                numbers(&news.events).for_each(|number| assert!(hearing.push(number).is_ok()));
                if news.is_last {
                    return;
                }
            }
        });
        for number in 0..3 {
            tell(&announcer, number);
            assert_eq!(heard.pop(), Some(number));
        }
        announcer.close();
        reader.join().unwrap();
    });
}

/// A listener that is ended at any moment, while the cache is closed or not, hears nothing more, and nothing of it is there
/// any more.
pub fn events_end_with_their_listener() {
    check(6_000, Time::Stands, || {
        let announcer = Announcer::default();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let has_ended = Arc::new(AtomicBool::new(false));
        let (hearing, ended) = (Arc::clone(&heard), Arc::clone(&has_ended));
        let hear = move |news: super::News| {
            assert!(!ended.load(Ordering::Relaxed), "it has ended");
            hearing.lock().extend(numbers(&news.events));
        };
        let listener = announcer.subscribe().listen(hear).unwrap();
        let others = [true, false].map(|tells| {
            let announcer = announcer.clone();
            thread::spawn(move || {
                if tells {
                    (0..2).for_each(|number| tell(&announcer, number));
                } else {
                    announcer.close();
                }
            })
        });
        assert!(listener.end(Duration::MAX));
        has_ended.store(true, Ordering::Relaxed);
        assert!(!announcer.0.are_any.load(Ordering::Relaxed), "nobody is told any more");
        assert_eq!(Arc::strong_count(&heard), 1, "what hears is gone");
        others.into_iter().for_each(|thread| thread.join().unwrap());
        assert!([0_u8, 1].starts_with(&heard.lock()[..]), "in order, from the first");
    });
}
