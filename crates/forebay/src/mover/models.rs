//! Models of how chunks end: the watch, the batch and the job. See [`crate::models`].

#![expect(clippy::missing_panics_doc, reason = "that is how a model fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use shuttle::thread;

use super::batch::Batch;
use super::job::{Job, StoreJob};
use super::memory::{Observer, Source};
use super::meter::{Meter, Way};
use super::watch::Watch;
use crate::catalog::{ChunkRecord, Plan, Ticket};
use crate::key::ChunkKey;
use crate::models::{Time, check};
use crate::outcome::{Reason, Tier};
use crate::queue::JobQueue;
use crate::sync::Mutex;

const PATIENCE: Duration = Duration::from_secs(1);

/// Either the answer or the watch has a thing, and one of them does; closing ends the keeper at any moment.
pub fn watch_gives_each_thing_once() {
    check(6_000, Time::Flies, || {
        let watch = Arc::new(Watch::new(PATIENCE));
        let given_up = Arc::new(Mutex::new(Vec::new()));
        let (keeping, giving) = (Arc::clone(&watch), Arc::clone(&given_up));
        let keeper = thread::spawn(move || keeping.keep(|thing: u32| giving.lock().push(thing)));
        let answers: Vec<_> = [0..2, 2..4]
            .map(|things| {
                let watch = Arc::clone(&watch);
                thread::spawn(move || {
                    let watched: Vec<_> = things.map(|thing| watch.add(thing)).collect();
                    watched.iter().filter_map(super::watch::Cell::take).collect::<Vec<u32>>()
                })
            })
            .into();
        let closing = {
            let watch = Arc::clone(&watch);
            thread::spawn(move || watch.close())
        };
        let mut all: Vec<u32> = answers.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        closing.join().unwrap();
        keeper.join().unwrap();
        all.extend(given_up.lock().iter());
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3], "each once");
    });
}

/// What nobody takes for good is given up in the end, by the keeper or by who had it when its time ran out.
pub fn watch_gives_up_what_is_put_back() {
    check(6_000, Time::Flies, || {
        let watch = Arc::new(Watch::new(PATIENCE));
        let given_up = Arc::new(JobQueue::new(8));
        let (keeping, giving) = (Arc::clone(&watch), Arc::clone(&given_up));
        let keeper = thread::spawn(move || keeping.keep(|thing: u32| assert!(giving.push(thing).is_ok())));
        let users = [0_u32, 1].map(|thing| {
            let (watch, given_up) = (Arc::clone(&watch), Arc::clone(&given_up));
            thread::spawn(move || {
                let cell = watch.add(thing);
                for _ in 0..2 {
                    let overdue = cell.take().and_then(|thing| cell.put_back(thing));
                    assert!(overdue.is_none_or(|thing| given_up.push(thing).is_ok()));
                }
                cell
            })
        });
        let mut things = [given_up.pop(), given_up.pop()];
        things.sort_unstable();
        assert_eq!(things, [Some(0), Some(1)], "each once");
        let cells = users.map(|user| user.join().unwrap());
        assert!(cells.iter().all(|cell| cell.take().is_none()));
        watch.close();
        keeper.join().unwrap();
        assert_eq!(given_up.len(), 0, "and no more");
    });
}

/// A batch tells everybody once that all has ended, and wakes whoever waits.
pub fn batch_tells_everybody_once() {
    check(6_000, Time::Stands, || {
        let batch = Batch::<usize>::new(3);
        let told = Arc::new([const { AtomicUsize::new(0) }; 2]);
        let ended = Arc::new(AtomicUsize::new(0));
        let enders: Vec<_> = (0..3)
            .map(|chunk| {
                let (batch, ended) = (Arc::clone(&batch), Arc::clone(&ended));
                let touch = batch.touch();
                thread::spawn(move || {
                    drop(touch);
                    ended.fetch_add(1, Ordering::Relaxed);
                    batch.end(chunk, chunk);
                })
            })
            .collect();
        let askers: Vec<_> = (0..2)
            .map(|asker| {
                let (batch, told, ended) = (Arc::clone(&batch), Arc::clone(&told), Arc::clone(&ended));
                thread::spawn(move || {
                    batch.on_done(move || {
                        assert_eq!(ended.load(Ordering::Relaxed), 3, "not before the last");
                        told[asker].fetch_add(1, Ordering::Relaxed);
                    });
                })
            })
            .collect();
        let releasing = {
            let batch = Arc::clone(&batch);
            thread::spawn(move || batch.wait_released(PATIENCE))
        };
        let polling = {
            let batch = Arc::clone(&batch);
            thread::spawn(move || {
                let mut polled = batch.poll();
                assert_eq!(batch.wait(None).map(|ends| ends.len()), Some(3));
                polled.extend(batch.poll());
                polled.sort_unstable();
                polled
            })
        };
        assert_eq!(batch.wait(None), Some(vec![0, 1, 2]));
        assert!(releasing.join().unwrap(), "time stands, and all let go");
        assert_eq!(polling.join().unwrap(), [0, 1, 2], "each once");
        enders.into_iter().chain(askers).for_each(|thread| thread.join().unwrap());
        assert!(told.iter().all(|told| told.load(Ordering::Relaxed) == 1), "each is told once");
    });
}

/// Engine memory that says when it was let go of.
struct Lent(Arc<AtomicBool>);

impl Drop for Lent {
    fn drop(&mut self) {
        assert!(!self.0.swap(true, Ordering::Relaxed));
    }
}

impl Source for Lent {
    fn len(&self) -> usize {
        1
    }

    fn fill(&mut self, _at: usize, _to: &mut [u8], _seen: Observer<'_>) -> Result<(), String> {
        Ok(())
    }
}

/// Jobs that are served, dropped, and cancelled at the same time: each answers once, and has let go of its memory and is
/// counted before.
pub fn jobs_end_once_while_they_are_cancelled() {
    check(6_000, Time::Stands, || {
        let batch = Batch::<bool>::new(3);
        let queue = Arc::new(JobQueue::<StoreJob>::new(3));
        let wrong = Arc::new(AtomicUsize::new(0));
        let meter = Arc::new(Meter::default());
        for chunk in 0..3 {
            let released = Arc::new(AtomicBool::new(false));
            let plan =
                Plan { ticket: Ticket::of_remote(1), record: ChunkRecord::in_remote(ChunkKey::NONE, 1) };
            let (ends, after, wrong) = (Arc::clone(&batch), Arc::clone(&released), Arc::clone(&wrong));
            let job =
                Job::new(&batch, plan, Box::new(Lent(released)) as Box<dyn Source>, move |_, verdict| {
                    if !after.load(Ordering::Relaxed) {
                        wrong.fetch_add(1, Ordering::Relaxed);
                    }
                    ends.end(chunk, verdict.is_ok());
                });
            assert!(queue.push(job.metered(&meter, Way::Store)).is_ok());
        }
        queue.close();
        let server = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                while let Some(job) = queue.pop() {
                    if (job.cancelled)() {
                        job.refuse(Reason::Cancelled);
                    } else if queue.len() == 0 {
                        // A thread that is lost with what it has.
                        drop(job);
                    } else {
                        let Job { open, lent, .. } = job;
                        drop(lent);
                        open.answer(Ok(()));
                    }
                }
            })
        };
        batch.cancel();
        for job in queue.sweep(|job| (job.cancelled)()) {
            job.refuse(Reason::Cancelled);
        }
        assert!(batch.wait(None).is_some());
        assert!(batch.is_released(), "memory is let go of before the end is told");
        let counted = meter.traffic(Tier::Remote).stores;
        assert_eq!(counted.chunks + counted.failures.values().sum::<u64>(), 3, "{counted:?}");
        assert_eq!(wrong.load(Ordering::Relaxed), 0, "also by the engine's word");
        server.join().unwrap();
    });
}
