//! What comes onto a tier and what leaves it, for who keeps a list of their own: a router that sends a prompt to the
//! instance that has it.
//!
//! Promises: who has subscribed is told of every chunk that lookups find from then on, and of every one that they find no
//! more, in the order in which that happened on its tier. Telling never waits for a reader: who leaves
//! [`WAITING_MAX`] events unread loses all that wait, and is told how many. With no subscriber it costs one load.
//!
//! Of a remote store, which is not ours alone, it tells what this instance put there and what it found gone. What was there
//! when one subscribed is not told; and a process that dies tells nobody of what dies with it (its memory tier).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::key::ChunkKey;
use crate::outcome::Tier;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, thread};

/// Events that wait for a reader, at most; few enough in a model that some are lost.
pub const WAITING_MAX: usize = if cfg!(models) { 2 } else { 1 << 16 };

/// The longest wait of a reader, who asks again.
const WAIT_MAX: Duration = Duration::from_hours(24);

/// One chunk has come onto a tier, or has left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Which tier.
    pub tier: Tier,
    /// Which chunk.
    pub key: ChunkKey,
    /// Which of the two.
    pub change: Change,
}

/// What has happened to a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// Lookups find it from now on.
    Stored,
    /// They find it no more.
    Removed(Cause),
}

/// Why a chunk has left a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// To make room.
    Capacity,
    /// It was not what was stored, or could not be read.
    Unsound,
    /// Somebody asked for that.
    Cleared,
    /// The remote store has it no more.
    Gone,
}

impl Cause {
    /// A stable short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::Unsound => "unsound",
            Self::Cleared => "cleared",
            Self::Gone => "gone",
        }
    }
}

/// What a subscriber has not read yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// In order.
    pub events: Vec<Event>,
    /// How many before them were lost, since they were not read in time. What one has listed may be wrong then.
    pub lost: u64,
    /// The cache is closed. No more is waited for; a store that was under way may still be told to who asks again.
    pub is_last: bool,
}

/// Tells all subscribers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Announcer(Arc<Subscribers>);

#[derive(Debug, Default)]
struct Subscribers {
    are_any: AtomicBool,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    closed: bool,
    queues: Vec<Arc<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    news: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    lost: u64,
    closed: bool,
}

impl Announcer {
    pub(crate) fn tell(&self, tier: Tier, key: ChunkKey, change: Change) {
        if !self.0.are_any.load(Ordering::Relaxed) {
            return;
        }
        for queue in &self.0.list.lock().queues {
            let mut waiting = queue.news.lock();
            if waiting.events.len() >= WAITING_MAX {
                waiting.lost += waiting.events.len() as u64;
                waiting.events.clear();
            }
            waiting.events.push_back(Event { tier, key, change });
            queue.changed.notify_one();
        }
    }

    pub(crate) fn subscribe(&self) -> Events {
        let queue = Arc::<Queue>::default();
        let mut list = self.0.list.lock();
        queue.news.lock().closed = list.closed;
        list.queues.push(Arc::clone(&queue));
        self.0.are_any.store(true, Ordering::Relaxed);
        Events { queue, subscribers: Arc::clone(&self.0) }
    }

    /// Nothing will be told any more.
    pub(crate) fn close(&self) {
        let mut list = self.0.list.lock();
        list.closed = true;
        list.queues.iter().for_each(|queue| queue.close());
    }
}

impl Queue {
    fn close(&self) {
        self.news.lock().closed = true;
        self.changed.notify_all();
    }
}

/// A subscription; it ends when this is dropped.
#[derive(Debug)]
pub struct Events {
    queue: Arc<Queue>,
    subscribers: Arc<Subscribers>,
}

impl Events {
    /// What has happened since the last call. Does not wait.
    pub fn take(&self) -> News {
        self.wait(Duration::ZERO)
    }

    /// What has happened since the last call; waits for something to happen, or for the end, at most so long
    /// and never longer than a day.
    pub fn wait(&self, at_most: Duration) -> News {
        let mut waiting = self.queue.news.lock();
        let is_quiet = |waiting: &mut Waiting| waiting.events.is_empty() && !waiting.closed;
        let at_most = at_most.min(WAIT_MAX);
        self.queue.changed.wait_while_for(&mut waiting, is_quiet, at_most);
        News {
            events: std::mem::take(&mut waiting.events).into(),
            lost: std::mem::take(&mut waiting.lost),
            is_last: waiting.closed,
        }
    }

    /// Has `hear` called with what happens, as it happens, on a thread of its own, until the cache is closed or the
    /// [`Listener`] is dropped. It may take its time, and call the cache. That it panicked is said in the log, and it
    /// is called again with what comes next.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when there are no more threads to be had.
    pub fn listen(self, hear: impl FnMut(News) + Send + 'static) -> Result<Listener> {
        let queue = Arc::clone(&self.queue);
        let has_ended = Arc::new((Mutex::new(false), Condvar::new()));
        let ended = Ended(Arc::clone(&has_ended));
        let body = move || {
            // The last of these goes first: once its end is told, nothing of it is there any more.
            let _ended = ended;
            let mut hear = hear;
            let events = self;
            loop {
                let news = events.wait(Duration::from_hours(1));
                let is_last = news.is_last;
                if (is_last || !news.events.is_empty())
                    && catch_unwind(AssertUnwindSafe(|| hear(news))).is_err()
                {
                    tracing::error!(
                        "who listens to events panicked; it is called again with what comes next"
                    );
                }
                if is_last {
                    return;
                }
            }
        };
        thread::Builder::new().name("forebay-events".into()).spawn(body).map_err(|error| {
            Error::new(ErrorKind::Io, format!("cannot start a thread for events: {error}"))
        })?;
        Ok(Listener { queue, has_ended })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut list = self.subscribers.list.lock();
        list.queues.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
        self.subscribers.are_any.store(!list.queues.is_empty(), Ordering::Relaxed);
    }
}

/// Who hears events; hears no more of them, but for those that wait, once this is dropped.
#[derive(Debug)]
pub struct Listener {
    queue: Arc<Queue>,
    has_ended: Arc<(Mutex<bool>, Condvar)>,
}

impl Listener {
    /// Ends it, and waits for its last call at most so long. Whether that is over.
    pub fn end(self, patience: Duration) -> bool {
        self.queue.close();
        let (has_ended, changed) = &*self.has_ended;
        let mut has_ended = has_ended.lock();
        changed.wait_while_for(&mut has_ended, |has_ended| !*has_ended, patience);
        *has_ended
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Says so when it is dropped, however its thread ended.
struct Ended(Arc<(Mutex<bool>, Condvar)>);

impl Drop for Ended {
    fn drop(&mut self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }
}

#[cfg(models)]
pub mod models;

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(number: u16) -> Event {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_le_bytes());
        Event { tier: Tier::Disk, key: ChunkKey::new(bytes), change: Change::Stored }
    }

    fn tell(announcer: &Announcer, event: Event) {
        announcer.tell(event.tier, event.key, event.change);
    }

    #[test]
    fn each_subscriber_hears_what_comes_after_it_subscribed() {
        let announcer = Announcer::default();
        tell(&announcer, stored(0));
        let first = announcer.subscribe();
        tell(&announcer, stored(1));
        let second = announcer.subscribe();
        tell(&announcer, stored(2));
        assert_eq!(first.take().events, [stored(1), stored(2)]);
        assert_eq!(second.take().events, [stored(2)]);
        drop(first);
        tell(&announcer, stored(3));
        assert_eq!(second.take(), News { events: vec![stored(3)], lost: 0, is_last: false });
        drop(second);
        assert!(!announcer.0.are_any.load(Ordering::Relaxed), "nobody is told any more");
    }

    #[test]
    fn who_does_not_read_loses_all_that_waited_and_is_told_how_much() {
        let announcer = Announcer::default();
        let events = announcer.subscribe();
        let told = WAITING_MAX + 3;
        (0..told).for_each(|number| tell(&announcer, stored(u16::try_from(number % 1000).unwrap())));
        let news = events.take();
        assert_eq!(news.lost, WAITING_MAX as u64);
        assert_eq!(news.events.len(), 3);
        assert_eq!(events.take(), News::default());
    }

    #[test]
    fn the_end_is_told_to_who_waits_and_to_who_comes_later() {
        let announcer = Announcer::default();
        let events = announcer.subscribe();
        let closer = {
            let announcer = announcer.clone();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                announcer.close();
            })
        };
        assert!(events.wait(Duration::MAX).is_last);
        assert!(announcer.subscribe().take().is_last);
        closer.join().unwrap();
    }

    #[test]
    fn a_listener_hears_all_and_ends_when_it_is_told_to() {
        let announcer = Announcer::default();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&heard);
        let listener = announcer.subscribe().listen(move |news| list.lock().extend(news.events)).unwrap();
        (0..100).for_each(|number| tell(&announcer, stored(number)));
        assert!(listener.end(Duration::from_mins(1)));
        assert_eq!(*heard.lock(), (0..100).map(stored).collect::<Vec<_>>());
        assert!(!announcer.0.are_any.load(Ordering::Relaxed));
    }

    #[test]
    fn a_listener_that_hangs_holds_up_nobody() {
        let announcer = Announcer::default();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let hangs = announcer.subscribe().listen(move |_| assert!(held.recv().is_err())).unwrap();
        tell(&announcer, stored(1));
        assert!(!hangs.end(Duration::from_millis(50)), "it hangs");
        tell(&announcer, stored(2));
        drop(release);
    }

    #[test]
    fn a_listener_that_panics_is_called_again() {
        let announcer = Announcer::default();
        let (tell_test, told) = std::sync::mpsc::channel();
        let listener = announcer.subscribe().listen(move |news| {
            let is_first = news.events.contains(&stored(1));
            tell_test.send(news.events).unwrap();
            assert!(!is_first, "as it should");
        });
        tell(&announcer, stored(1));
        assert_eq!(told.recv().unwrap(), [stored(1)]);
        tell(&announcer, stored(2));
        assert_eq!(told.recv().unwrap(), [stored(2)]);
        assert!(listener.unwrap().end(Duration::from_mins(1)));
    }
}
