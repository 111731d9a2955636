//! A store in a shared directory that has it trimmed, and the thread that does.
//!
//! Promises: what it has written since the last trimming began to list the directory is bounded; what comes too fast waits
//! for the next one, and is turned away when that takes too long: outside all other layers, so that no request is under
//! way meanwhile. So one or two who write to a directory never pass its capacity by more than an object each, however
//! slow the listing is.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Trimmed, trim};
use crate::crash_points::turn;
use crate::crew::Crew;
use crate::error::Result;
use crate::sync::{Condvar, Mutex, MutexGuard, now};
use crate::tier::remote::objects::{Answer, Fault, Objects};

/// A directory that nobody here writes to is trimmed so often.
const PERIOD: Duration = Duration::from_mins(1);
/// It is trimmed again after one part in so many of its capacity was written here, by [`Kept`].
const TRIMMED_AFTER: u64 = 32;
/// And to so many such parts below its capacity: for what is written meanwhile, here and elsewhere.
const LEFT_EMPTY: u64 = 4;
/// Of which each who writes may have so many written that no trimming has seen: two have them all.
const UNSEEN_MOST: u64 = LEFT_EMPTY / 2;

/// A thread that trims a directory every so often.
pub struct Trimmer {
    crew: Crew,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Told after each trimming, after each write, and at the end.
    trimmed: Notify,
}

#[derive(Default)]
struct State {
    closed: bool,
    is_due: bool,
    rounds: u64,
    last: Option<Trimmed>,
    written: WrittenBytes,
}

/// Bytes that one [`Kept`] writes, as far as no trimming has counted them.
#[derive(Default)]
struct WrittenBytes {
    under_way: u64,
    /// Written, and not there yet when the last trimming that has ended began.
    unseen: u64,
    /// Since the last trimming was asked for.
    since_asked: u64,
}

impl WrittenBytes {
    fn not_counted(&self) -> u64 {
        self.under_way + self.unseen
    }
}

impl Trimmer {
    /// Trims `root` to `capacity_bytes` now and after each `period`, on a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(root: PathBuf, capacity_bytes: u64, period: Duration) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let crew = Crew::default();
        let keeping = Arc::clone(&shared);
        crew.spawn("forebay-trim".to_owned(), move || keep(&keeping, &root, capacity_bytes, period))?;
        Ok(Self { crew, shared })
    }

    /// Its thread, if that died of a panic.
    pub fn dead_threads(&self) -> Vec<String> {
        self.crew.dead()
    }

    /// Trims now, or again if it is at it.
    pub fn trim_soon(&self) {
        self.shared.state.lock().is_due = true;
        self.shared.changed.notify_all();
    }

    /// How often it has trimmed, and what it found last, if that succeeded.
    pub fn last(&self) -> (u64, Option<Trimmed>) {
        let state = self.shared.state.lock();
        (state.rounds, state.last)
    }

    /// Waits until it has trimmed `rounds` times, at most until `deadline`; says whether it has.
    pub fn wait(&self, rounds: u64, deadline: Instant) -> bool {
        let mut state = self.shared.state.lock();
        while state.rounds < rounds {
            if self.shared.changed.wait_until(&mut state, deadline).timed_out() {
                return state.rounds >= rounds;
            }
        }
        true
    }

    /// Ends the thread, and waits for that at most until `deadline`.
    pub fn shutdown(&self, deadline: Instant) {
        self.shared.close();
        self.crew.join(deadline);
    }
}

impl Shared {
    /// A trimming has ended, at whose beginning so much was there unseen.
    fn saw(&self, state: &mut State, there_bytes: u64) {
        state.written.unseen -= there_bytes;
        self.trimmed.notify_waiters();
    }

    fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
        self.trimmed.notify_waiters();
    }
}

impl Drop for Trimmer {
    /// Ends the thread and does not wait for that: it may be in the kernel, on a mount that is gone.
    fn drop(&mut self) {
        self.shared.close();
    }
}

fn keep(shared: &Shared, root: &Path, capacity_bytes: u64, period: Duration) {
    let mut state = shared.state.lock();
    while !state.closed {
        turn();
        state.is_due = false;
        let there_bytes = state.written.unseen;
        let trimmed = MutexGuard::unlocked(&mut state, || trim(root, capacity_bytes));
        if let Err(error) = &trimmed {
            tracing::warn!(%error, "trimming the shared directory");
        }
        state.rounds += 1;
        state.last = trimmed.ok();
        shared.changed.notify_all();
        // Also of one that failed: there is no more to be had by waiting for the next.
        shared.saw(&mut state, there_bytes);
        let next = now() + period;
        while !state.closed && !state.is_due && !shared.changed.wait_until(&mut state, next).timed_out() {}
    }
}

/// A store in a directory, which is trimmed as it grows.
pub(in super::super) struct Kept {
    inner: Arc<dyn Objects>,
    trimmer: Trimmer,
    /// After how many bytes it is trimmed again.
    step_bytes: u64,
    /// For how long what is written waits for a trimming.
    patience: Duration,
}

impl Kept {
    /// Its thread, if that died of a panic.
    pub(in super::super) fn dead_threads(&self) -> Vec<String> {
        self.trimmer.dead_threads()
    }

    /// Keeps `root`, where `inner` puts its objects, below `capacity_bytes`. What is put waits `patience` for the room that
    /// a trimming makes.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(in super::super) fn below(
        capacity_bytes: u64,
        root: PathBuf,
        inner: Arc<dyn Objects>,
        patience: Duration,
    ) -> Result<Self> {
        let step_bytes = capacity_bytes / TRIMMED_AFTER;
        let trimmer = Trimmer::start(root, capacity_bytes - LEFT_EMPTY * step_bytes, PERIOD)?;
        Ok(Self { inner, trimmer, step_bytes, patience })
    }

    /// Trims no more; waits for the end of that at most until `deadline`.
    pub(in super::super) fn shutdown(&self, deadline: Instant) {
        self.trimmer.shutdown(deadline);
    }

    /// Room for an object of so many bytes; one that is greater than all the room has it alone.
    async fn room(&self, bytes: u64) -> Room<'_> {
        let shared = &*self.trimmer.shared;
        loop {
            let mut trimmed = pin!(shared.trimmed.notified());
            // From here on nothing is missed.
            trimmed.as_mut().enable();
            {
                let mut state = shared.state.lock();
                let not_counted = state.written.not_counted();
                if state.closed || not_counted == 0 || not_counted + bytes <= UNSEEN_MOST * self.step_bytes {
                    state.written.under_way += bytes;
                    return Room { kept: self, bytes };
                }
                // What is unseen is seen by the next one, and what is under way is unseen when it ends.
                if state.written.unseen > 0 {
                    state.is_due = true;
                    shared.changed.notify_all();
                }
            }
            trimmed.await;
        }
    }
}

/// Of an object that is being written; dropped, it may be there.
struct Room<'a> {
    kept: &'a Kept,
    bytes: u64,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let shared = &*self.kept.trimmer.shared;
        let mut state = shared.state.lock();
        let written = &mut state.written;
        written.under_way -= self.bytes;
        written.unseen += self.bytes;
        written.since_asked += self.bytes;
        if written.since_asked >= self.kept.step_bytes {
            written.since_asked = 0;
            state.is_due = true;
            shared.changed.notify_all();
        }
        drop(state);
        // Who waits asks for a trimming now that there is something for it to see.
        shared.trimmed.notify_waiters();
    }
}

impl Objects for Kept {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            let room = self.room(bytes.len() as u64);
            let _room = timeout(self.patience, room).await.map_err(|_| Fault::NoRoom)?;
            self.inner.put(name, bytes).await
        })
    }

    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()> {
        self.inner.get(name, into)
    }

    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool> {
        self.inner.has(name)
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.inner.remove(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::remote::shared_directory::tests::{directory, left};
    use crate::tier::remote::wrappers::fake::Fake;

    /// A store of a capacity of 320 bytes, whose trimmer has no thread: [`a_trimming`] is one.
    fn kept(inner: &Arc<Fake>) -> Kept {
        let trimmer = Trimmer { crew: Crew::default(), shared: Arc::default() };
        Kept { inner: inner.clone(), trimmer, step_bytes: 10, patience: Duration::from_millis(20) }
    }

    /// What a trimming that begins now and ends later is told of what was written.
    fn a_trimming(kept: &Kept) -> impl FnOnce() {
        let there_bytes = kept.trimmer.shared.state.lock().written.unseen;
        move || kept.trimmer.shared.saw(&mut kept.trimmer.shared.state.lock(), there_bytes)
    }

    #[tokio::test]
    async fn what_is_written_faster_than_it_is_trimmed_waits_and_is_turned_away() {
        let inner = Arc::new(Fake::default());
        let kept = kept(&inner);
        let put = |name, len| kept.put(name, Bytes::from(vec![0; len]));
        put("a", 12).await.unwrap();
        assert!(kept.trimmer.shared.state.lock().is_due, "a step was written");
        // It begins to list after a was written, and before b was.
        let ends = a_trimming(&kept);
        put("b", 8).await.unwrap();
        assert_eq!(put("c", 1).await, Err(Fault::NoRoom));
        assert_eq!(inner.names().len(), 2);
        ends();
        // Of the 20 bytes that may be there unseen b has 8.
        put("c", 12).await.unwrap();
        assert_eq!(put("d", 1).await, Err(Fault::NoRoom));
        // What is greater than all the room has it alone.
        a_trimming(&kept)();
        put("e", 100).await.unwrap();
        assert_eq!(put("f", 1).await, Err(Fault::NoRoom));
        a_trimming(&kept)();
        // A trimming that began before an object was there has not seen it, though it ends afterwards.
        let (under_way, ends) = (kept.room(15).await, a_trimming(&kept));
        assert_eq!(put("f", 6).await, Err(Fault::NoRoom));
        drop(under_way);
        ends();
        assert_eq!(put("f", 6).await, Err(Fault::NoRoom));
        a_trimming(&kept)();
        put("f", 6).await.unwrap();
        // Who waited for what was under way has a trimming asked for when that ends, though it was no step.
        a_trimming(&kept)();
        let under_way = kept.room(1).await;
        let mut waiting = pin!(kept.room(20));
        assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        kept.trimmer.shared.state.lock().is_due = false;
        drop(under_way);
        assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        assert!(kept.trimmer.shared.state.lock().is_due);
    }

    #[tokio::test]
    async fn who_waits_for_a_trimming_goes_on_when_it_ends_or_there_will_be_none() {
        let inner = Arc::new(Fake::default());
        let kept = Kept { patience: Duration::from_mins(1), ..kept(&inner) };
        let full = || async { drop(kept.room(20).await) };
        full().await;
        let mut waiting = pin!(kept.room(20));
        assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        a_trimming(&kept)();
        drop(timeout(Duration::from_secs(10), waiting).await.expect("it was told"));
        let mut waiting = pin!(kept.room(20));
        assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        kept.shutdown(Instant::now());
        drop(timeout(Duration::from_secs(10), waiting).await.expect("it was told"));
    }

    #[test]
    fn the_trimmer_trims_every_so_often_and_ends_when_told() {
        let patience = Duration::from_mins(1);
        let root = directory(10);
        let trimmer = Trimmer::start(root.path().to_owned(), 500, Duration::from_millis(1)).unwrap();
        assert!(trimmer.wait(3, Instant::now() + patience));
        assert_eq!(left(&root).len(), 5);
        trimmer.shutdown(Instant::now() + patience);
        let (rounds, last) = trimmer.last();
        assert_eq!(last.map(|done| done.bytes_after), Some(500));
        assert_eq!(trimmer.last().0, rounds);

        let trimmer = Trimmer::start(root.path().to_owned(), 500, Duration::from_hours(1)).unwrap();
        assert!(trimmer.wait(1, Instant::now() + patience));
        let began = Instant::now();
        drop(trimmer);
        assert!(began.elapsed() < Duration::from_mins(1), "it does not wait for its period to end");
    }
}
