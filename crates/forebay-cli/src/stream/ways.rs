//! The two ways of a chunk: how it is made ready, handed to the cache, and looked at.
//!
//! Promises: a buffer comes back when the cache lets go of it, and how its chunk ended is told once, in either order.

use std::sync::Arc;
use std::time::Instant;

use forebay::mover::{Observer, Sink, Source, drain_to, fill_from};
use forebay::outcome::Reason;
use forebay::{Cache, ChunkKey, LoadStatus, PageMemory, Pages, Result, StoreStatus};

use super::Look;
use super::mailbox::Mailbox;
use crate::content;

/// A buffer on its way through the engine. It comes back when the engine lets go of it.
pub(super) struct Lent {
    pub(super) attempt: usize,
    pub(super) memory: Option<PageMemory>,
    pub(super) len: usize,
    /// Not to be reached by the drive.
    pub(super) copied: bool,
    pub(super) back: Arc<Mailbox<Event>>,
}

pub(super) enum Event {
    Back(usize, PageMemory),
    Ended(usize, End, Instant),
}

pub(super) enum End {
    Moved,
    Present,
    Refused,
    Busy,
    Failed(String),
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.back.put(Event::Back(self.attempt, memory), false);
        }
    }
}

impl Source for Lent {
    fn len(&self) -> usize {
        self.len
    }

    fn pages(&mut self) -> Option<Pages<'_>> {
        if self.copied {
            return None;
        }
        self.memory.as_mut().and_then(|memory| Pages::of(memory, self.len))
    }

    fn fill(&mut self, at: usize, to: &mut [u8], seen: Observer<'_>) -> Result<(), String> {
        let own = self.memory.as_ref().ok_or("the buffer is gone")?;
        fill_from(&own[at..at + to.len()], to, seen);
        Ok(())
    }
}

impl Sink for Lent {
    fn len(&self) -> usize {
        self.len
    }

    fn drain(&mut self, at: usize, from: &[u8], seen: Observer<'_>) -> Result<(), String> {
        let own = self.memory.as_mut().ok_or("the buffer is gone")?;
        drain_to(from, &mut own[at..at + from.len()], seen);
        Ok(())
    }
}

/// One direction: how a chunk is made ready, handed to the engine, and looked at.
pub(super) trait Way {
    fn prepare(&self, number: usize, memory: &mut PageMemory);
    /// Whether a chunk may go in one call with the one before it.
    fn goes_on(&self, number: usize) -> bool;
    /// Hands over chunks that go on from the one with this number.
    fn submit(&self, first: usize, chunks: Vec<Lent>, events: &Arc<Mailbox<Event>>) -> Result<()>;
    fn is_right(&self, number: usize, memory: &PageMemory) -> bool;
    fn chunk_bytes(&self) -> usize;
}

pub(super) struct Storing<'a> {
    pub(super) cache: &'a Cache,
    pub(super) keys: &'a [ChunkKey],
    pub(super) parents: &'a dyn Fn(usize) -> Option<ChunkKey>,
    pub(super) chunk_bytes: usize,
}

pub(super) struct Loading<'a> {
    pub(super) cache: &'a Cache,
    pub(super) keys: &'a [ChunkKey],
    pub(super) look: Look,
    pub(super) chunk_bytes: usize,
}

impl Way for Storing<'_> {
    fn prepare(&self, number: usize, memory: &mut PageMemory) {
        content::stamp(&self.keys[number], &mut memory[..self.chunk_bytes]);
    }

    fn goes_on(&self, number: usize) -> bool {
        number > 0 && (self.parents)(number) == Some(self.keys[number - 1])
    }

    fn submit(&self, first: usize, chunks: Vec<Lent>, events: &Arc<Mailbox<Event>>) -> Result<()> {
        let (ended, keys) = (Ended::of(&chunks, &self.keys[first..], events), &self.keys[first..]);
        let told = Arc::new(move |outcome: &forebay::StoreOutcome| {
            let end = match (outcome.status, &outcome.reason) {
                (StoreStatus::Stored, _) => End::Moved,
                (StoreStatus::Present, _) => End::Present,
                (StoreStatus::Refused, Some(Reason::Busy)) => End::Busy,
                (StoreStatus::Refused, Some(Reason::Full)) => End::Refused,
                (status, reason) => End::Failed(why("storing", status.name(), reason.as_ref())),
            };
            ended.tell(&outcome.key, end);
        });
        let chunks = keys.iter().zip(chunks).map(|(key, lent)| (*key, Box::new(lent) as _)).collect();
        self.cache.store(chunks, (self.parents)(first), Some(told)).map(drop)
    }

    fn is_right(&self, _: usize, _: &PageMemory) -> bool {
        true
    }

    fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }
}

impl Way for Loading<'_> {
    fn prepare(&self, _: usize, _: &mut PageMemory) {}

    fn goes_on(&self, number: usize) -> bool {
        number > 0
    }

    fn submit(&self, first: usize, chunks: Vec<Lent>, events: &Arc<Mailbox<Event>>) -> Result<()> {
        let (ended, keys) = (Ended::of(&chunks, &self.keys[first..], events), &self.keys[first..]);
        let told = Arc::new(move |outcome: &forebay::LoadOutcome| {
            let end = match (outcome.status, &outcome.reason) {
                (LoadStatus::Loaded, _) => End::Moved,
                (LoadStatus::Failed, Some(Reason::Busy)) => End::Busy,
                (status, reason) => End::Failed(why("loading", status.name(), reason.as_ref())),
            };
            ended.tell(&outcome.key, end);
        });
        let chunks = keys.iter().zip(chunks).map(|(key, lent)| (*key, Box::new(lent) as _)).collect();
        self.cache.load(chunks, Some(told));
        Ok(())
    }

    fn is_right(&self, number: usize, memory: &PageMemory) -> bool {
        let (key, memory) = (&self.keys[number], &memory[..self.chunk_bytes]);
        match self.look {
            Look::Stamps => content::is_stamped(key, memory),
            Look::Whole => content::first_wrong(key, memory).is_none(),
        }
    }

    fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }
}

/// Tells the ends of the chunks of one call.
struct Ended {
    attempts: Vec<(ChunkKey, usize)>,
    events: Arc<Mailbox<Event>>,
}

impl Ended {
    fn of(chunks: &[Lent], keys: &[ChunkKey], events: &Arc<Mailbox<Event>>) -> Self {
        let attempts = keys.iter().zip(chunks).map(|(key, lent)| (*key, lent.attempt)).collect();
        Self { attempts, events: Arc::clone(events) }
    }

    fn tell(&self, key: &ChunkKey, end: End) {
        let now = Instant::now();
        // A call's chunks have different keys.
        if let Some((_, attempt)) = self.attempts.iter().find(|(of, _)| of == key) {
            self.events.put(Event::Ended(*attempt, end, now), true);
        }
    }
}

fn why(doing: &str, status: &str, reason: Option<&Reason>) -> String {
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    format!("{doing} a chunk ended as {status}{reason}")
}
