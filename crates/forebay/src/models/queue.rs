//! The queue between callers and the threads that serve it.

#![expect(clippy::missing_panics_doc, reason = "that is how a model fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::thread;

use super::{Time, check};
use crate::queue::{JobQueue, NotTaken};

const LIMIT: usize = 2;

/// What is pushed is popped once, or given back, whoever serves and helps; closing ends both.
pub fn queue_loses_nothing() {
    for time in [Time::Stands, Time::Flies] {
        check(6_000, time, || {
            let queue = Arc::new(JobQueue::<u32>::new(LIMIT));
            let server = {
                let queue = Arc::clone(&queue);
                thread::spawn(move || std::iter::from_fn(|| queue.pop()).collect::<Vec<u32>>())
            };
            let helpers = [(); 2].map(|()| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || std::iter::from_fn(|| queue.pop_behind()).collect::<Vec<u32>>())
            });
            let pushers: Vec<_> = [0..3_u32, 3..6]
                .map(|jobs| {
                    let queue = Arc::clone(&queue);
                    thread::spawn(move || {
                        let mut refused = Vec::new();
                        for job in jobs {
                            assert!(queue.len() <= LIMIT, "no more than so many");
                            match queue.push(job) {
                                Ok(()) => {}
                                Err(NotTaken::Full(job)) => refused.push(job),
                                Err(NotTaken::Closed(_)) => panic!("nobody has closed it"),
                            }
                        }
                        refused
                    })
                })
                .into();
            let mut all: Vec<u32> = pushers.into_iter().flat_map(|pusher| pusher.join().unwrap()).collect();
            queue.close();
            all.extend(server.join().unwrap());
            all.extend(helpers.into_iter().flat_map(|helper| helper.join().unwrap()));
            all.sort_unstable();
            assert_eq!(all, (0..6).collect::<Vec<u32>>(), "each once");
            assert!(matches!(queue.push(9), Err(NotTaken::Closed(9))));
        });
    }
}

/// One who pushes and closes at any moment: what was taken is popped.
pub fn queue_closes_at_any_moment() {
    check(6_000, Time::Stands, || {
        let queue = Arc::new(JobQueue::<u32>::new(LIMIT));
        let popped = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = [false, true]
            .map(|helps| {
                let (queue, popped) = (Arc::clone(&queue), Arc::clone(&popped));
                thread::spawn(move || {
                    while let Some(_job) = if helps { queue.pop_behind() } else { queue.pop() } {
                        popped.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .into();
        let pusher = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || (0..3).filter(|job| queue.push(*job).is_ok()).count())
        };
        queue.close();
        let taken = pusher.join().unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(popped.load(Ordering::Relaxed), taken);
    });
}

/// While who serves is held up in one job, a helper takes all others, the last one too, though nothing more comes. Which
/// of the two takes how many is open: a helper may find all of them before the other one has begun.
pub fn queue_is_helped_out() {
    const JOBS: usize = 3;
    check(6_000, Time::Flies, || {
        let queue = Arc::new(JobQueue::<usize>::new(JOBS));
        let done = Arc::new(JobQueue::<usize>::new(JOBS));
        let over = Arc::new(JobQueue::<()>::new(1));
        let (serving, telling, held) = (Arc::clone(&queue), Arc::clone(&done), Arc::clone(&over));
        let server = thread::spawn(move || {
            while let Some(job) = serving.pop() {
                assert!(telling.push(job).is_ok());
                // Held up until all are done.
                held.pop();
            }
        });
        let (helping, telling) = (Arc::clone(&queue), Arc::clone(&done));
        let helper = thread::spawn(move || {
            while let Some(job) = helping.pop_behind() {
                assert!(telling.push(job).is_ok());
            }
        });
        (0..JOBS).for_each(|job| assert!(queue.push(job).is_ok()));
        let mut all = [(); JOBS].map(|()| done.pop());
        all.sort_unstable();
        assert_eq!(all, std::array::from_fn(Some), "each once");
        over.close();
        queue.close();
        server.join().unwrap();
        helper.join().unwrap();
    });
}
