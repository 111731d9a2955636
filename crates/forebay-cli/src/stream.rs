//! Chunks driven through a cache, a bounded number of them at a time: what `replay` and `bench` time.
//!
//! Chunks that follow each other are submitted in one call, as an engine hands over a prompt, as soon as the window has
//! room for them: a sixth of it at once, [`CALL_CHUNKS_MAX`] at most. Each takes one of the buffers, which lie on huge
//! pages and go round. Its time runs from there to its completion callback, so with a window larger than one it holds
//! the wait for those before it.
//!
//! Promises: what the measurement does for itself (making a chunk, checking one that came) is not in the processor
//! time it reports, nor, as long as there are no more chunks than buffers, in the time. Every chunk that is reported
//! loaded was looked at. When it returns, nothing is under way.

mod mailbox;
mod ways;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::{Cache, ChunkKey, Error, ErrorKind, PageMemory, Result};

use crate::content;
use crate::process::{cpu, thread_cpu};
use mailbox::Mailbox;
use ways::{End, Event, Lent, Loading, Storing, Way};

/// Before a chunk that was refused as busy is tried again.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// What the system's huge pages hold.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Most chunks that are under way at once, however many slots there are.
const WINDOW_MAX: usize = 256;

/// Most chunks of one call.
const CALL_CHUNKS_MAX: usize = 16;

/// Buffers, and how many chunks may be under way.
pub(crate) struct Stream {
    idle: Vec<PageMemory>,
    window: usize,
    chunk_bytes: usize,
    copied: bool,
}

/// What came of some chunks.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// Chunks stored or loaded, and their bytes.
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    /// Chunks that were there already.
    pub(crate) present: u64,
    /// Chunks there was no room for.
    pub(crate) refused: u64,
    /// Times a chunk was refused as busy and tried again.
    pub(crate) retries: u64,
    /// Chunks that were reported loaded and did not hold what was stored.
    pub(crate) wrong: u64,
    /// From the first submission to the last callback, and of each chunk.
    pub(crate) time: Duration,
    pub(crate) latencies: Vec<Duration>,
    /// Processor time of the process.
    pub(crate) cpu: Duration,
}

impl Moved {
    /// Adds what came of more chunks, moved after these.
    pub(crate) fn add(&mut self, more: Self) {
        self.chunks += more.chunks;
        self.bytes += more.bytes;
        self.present += more.present;
        self.refused += more.refused;
        self.retries += more.retries;
        self.wrong += more.wrong;
        self.time += more.time;
        self.latencies.extend(more.latencies);
        self.cpu += more.cpu;
    }
}

/// How closely a loaded chunk is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// One word at each 64 KiB.
    Stamps,
    /// Every byte.
    Whole,
}

impl Stream {
    /// Buffers for `window` chunks of `chunk_bytes` bytes, or for the most there may be. The drive reaches them where
    /// they lie, or they are `copied` from and to staging slots.
    pub(crate) fn new(window: usize, chunk_bytes: usize, copied: bool) -> Result<Self> {
        let window = window.clamp(1, WINDOW_MAX);
        // Whole huge pages, unless that would take much more than was asked for.
        let whole = chunk_bytes.next_multiple_of(HUGE_PAGE_BYTES);
        let bytes = if 2 * chunk_bytes >= whole { whole } else { chunk_bytes };
        let idle = (0..window)
            .map(|_| {
                let mut memory = PageMemory::new(bytes)?;
                content::lay(&mut memory);
                Ok(memory)
            })
            .collect::<Result<_>>()?;
        Ok(Self { idle, window, chunk_bytes, copied })
    }

    /// Chunks that may be under way at once, which is as many buffers as there are.
    pub(crate) fn window(&self) -> usize {
        self.window
    }

    /// Whether chunks are copied from and to staging slots.
    pub(crate) fn copied(&self) -> bool {
        self.copied
    }

    /// Bytes of all buffers.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.idle.iter().map(PageMemory::len).sum()
    }

    /// Stores chunks; `parents` gives the chunk before each. An error of `progress` ends it.
    pub(crate) fn store(
        &mut self,
        cache: &Cache,
        keys: &[ChunkKey],
        parents: &dyn Fn(usize) -> Option<ChunkKey>,
        mut progress: impl FnMut(u64) -> Result<()>,
    ) -> Result<Moved> {
        let chunk_bytes = self.chunk_bytes;
        self.run(keys.len(), &Storing { cache, keys, parents, chunk_bytes }, &mut progress)
    }

    /// Loads chunks and looks at them. An error of `progress` ends it.
    pub(crate) fn load(
        &mut self,
        cache: &Cache,
        keys: &[ChunkKey],
        look: Look,
        mut progress: impl FnMut(u64) -> Result<()>,
    ) -> Result<Moved> {
        let chunk_bytes = self.chunk_bytes;
        self.run(keys.len(), &Loading { cache, keys, look, chunk_bytes }, &mut progress)
    }

    fn run(
        &mut self,
        count: usize,
        way: &impl Way,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Moved> {
        let events = Arc::new(Mailbox::default());
        let mut run = Run {
            way,
            copied: self.copied,
            idle: &mut self.idle,
            landed: VecDeque::new(),
            attempts: Vec::with_capacity(count),
            under_way: 0,
            lent: 0,
            again: VecDeque::new(),
            next: 0,
            count,
            moved: Moved { latencies: Vec::with_capacity(count), ..Moved::default() },
            own_cpu: Duration::ZERO,
            failed: None,
        };
        let call_chunks = (self.window / 6).clamp(1, CALL_CHUNKS_MAX);
        let (begin, cpu_begin) = (Instant::now(), cpu());
        let mut end = begin;
        loop {
            while run.failed.is_none()
                && run.left() > 0
                && run.under_way + call_chunks.min(run.left()) <= self.window
                && let Some(memory) = run.buffer()
            {
                run.call(memory, call_chunks, &events);
            }
            if run.under_way == 0 && run.lent == 0 {
                break;
            }
            // With nothing under way it is buffers that are waited for.
            for event in events.take(call_chunks.min(run.under_way)) {
                if let Some(ended_at) = run.hear(event) {
                    end = end.max(ended_at);
                    if let Err(error) = progress(way.chunk_bytes() as u64) {
                        run.failed.get_or_insert(error);
                    }
                }
            }
        }
        run.moved.time = end - begin;
        run.moved.cpu = cpu().saturating_sub(cpu_begin).saturating_sub(run.own_cpu);
        // Outside of what was timed.
        while let Some((attempt, mut memory)) = run.landed.pop_front() {
            run.look(attempt, &mut memory);
            run.idle.push(memory);
        }
        match run.failed {
            Some(error) => Err(error),
            None => Ok(run.moved),
        }
    }
}

/// One submission of a chunk.
struct Attempt {
    number: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    UnderWay(Instant),
    Moved,
    Over,
}

/// What is under way.
struct Run<'a, W> {
    copied: bool,
    way: &'a W,
    idle: &'a mut Vec<PageMemory>,
    /// Came back from an attempt, and not looked at yet.
    landed: VecDeque<(usize, PageMemory)>,
    attempts: Vec<Attempt>,
    /// Attempts whose end was not told.
    under_way: usize,
    /// Buffers that the engine has.
    lent: usize,
    again: VecDeque<usize>,
    /// The first chunk that was not submitted yet, and the one behind the last.
    next: usize,
    count: usize,
    moved: Moved,
    /// Processor time that was spent on making and checking chunks.
    own_cpu: Duration,
    failed: Option<Error>,
}

impl<W: Way> Run<'_, W> {
    /// A buffer that is free, or becomes so by looking at what landed in it.
    fn buffer(&mut self) -> Option<PageMemory> {
        self.idle.pop().or_else(|| {
            // One that has come back may be of a chunk whose end is not told yet: then it cannot be looked at.
            let ended = |(attempt, _): &(usize, PageMemory)| {
                !matches!(self.attempts[*attempt].state, State::UnderWay(_))
            };
            let (attempt, mut memory) = self.landed.remove(self.landed.iter().position(ended)?)?;
            let before = thread_cpu();
            self.look(attempt, &mut memory);
            self.own_cpu += thread_cpu().saturating_sub(before);
            Some(memory)
        })
    }

    fn look(&mut self, attempt: usize, memory: &mut PageMemory) {
        let Attempt { number, state } = self.attempts[attempt];
        if state == State::Moved && !self.way.is_right(number, memory) {
            self.moved.wrong += 1;
            content::lay(memory);
        }
    }

    /// Chunks that are to be submitted.
    fn left(&self) -> usize {
        self.again.len() + self.count - self.next
    }

    /// Submits what is to be tried again, or the next chunks that follow each other, at most so many: the first of them
    /// from this memory. There is one left.
    fn call(&mut self, mut memory: PageMemory, most: usize, events: &Arc<Mailbox<Event>>) {
        let again = self.again.pop_front();
        let first = again.unwrap_or(self.next);
        let most = if again.is_some() { 1 } else { most.min(self.count - self.next) };
        let mut chunks = Vec::with_capacity(most);
        loop {
            chunks.push(self.lend(first + chunks.len(), memory, events));
            if chunks.len() == most || !self.way.goes_on(first + chunks.len()) {
                break;
            }
            let Some(free) = self.buffer() else { break };
            memory = free;
        }
        if again.is_none() {
            self.next += chunks.len();
        }
        let attempts = self.attempts.len() - chunks.len()..self.attempts.len();
        self.under_way += chunks.len();
        let now = Instant::now();
        self.attempts[attempts.clone()].iter_mut().for_each(|attempt| attempt.state = State::UnderWay(now));
        if let Err(error) = self.way.submit(first, chunks, events) {
            self.under_way -= attempts.len();
            self.attempts[attempts].iter_mut().for_each(|attempt| attempt.state = State::Over);
            self.failed.get_or_insert(error);
        }
    }

    /// A chunk in a buffer, as an attempt of its own.
    fn lend(&mut self, number: usize, mut memory: PageMemory, events: &Arc<Mailbox<Event>>) -> Lent {
        let before = thread_cpu();
        self.way.prepare(number, &mut memory);
        self.own_cpu += thread_cpu().saturating_sub(before);
        let attempt = self.attempts.len();
        let len = self.way.chunk_bytes();
        self.lent += 1;
        self.attempts.push(Attempt { number, state: State::Over });
        Lent { attempt, memory: Some(memory), len, copied: self.copied, back: Arc::clone(events) }
    }

    /// Takes note of an event; gives when a chunk was moved, if it is that.
    fn hear(&mut self, event: Event) -> Option<Instant> {
        match event {
            Event::Back(attempt, memory) => {
                self.lent -= 1;
                self.landed.push_back((attempt, memory));
                None
            }
            Event::Ended(attempt, end, at) => {
                self.under_way -= 1;
                let Attempt { number, state } = &mut self.attempts[attempt];
                let begun = std::mem::replace(state, State::Over);
                match end {
                    End::Moved => {
                        *state = State::Moved;
                        if let State::UnderWay(begun) = begun {
                            self.moved.latencies.push(at - begun);
                        }
                        self.moved.chunks += 1;
                        self.moved.bytes += self.way.chunk_bytes() as u64;
                        return Some(at);
                    }
                    End::Present => self.moved.present += 1,
                    End::Refused => self.moved.refused += 1,
                    End::Busy => {
                        self.moved.retries += 1;
                        self.again.push_back(*number);
                        std::thread::sleep(BUSY_PAUSE);
                    }
                    End::Failed(what) => {
                        self.failed.get_or_insert(Error::new(ErrorKind::Io, what));
                    }
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay::catalog::CachePolicy;

    use super::*;
    use crate::scratch::{Scratch, Shape};

    const CHUNK_BYTES: u32 = 50_000;

    fn keys(first: u8, count: u8) -> Vec<ChunkKey> {
        (first..first + count).map(|number| ChunkKey::new([number; 32])).collect()
    }

    /// Makes chunks for other keys than those they are stored under.
    struct Misnamed<'a>(Storing<'a>, Vec<ChunkKey>);

    impl Way for Misnamed<'_> {
        fn prepare(&self, number: usize, memory: &mut PageMemory) {
            content::stamp(&self.1[number], &mut memory[..self.0.chunk_bytes]);
        }

        fn goes_on(&self, number: usize) -> bool {
            self.0.goes_on(number)
        }

        fn submit(&self, first: usize, chunks: Vec<Lent>, events: &Arc<Mailbox<Event>>) -> Result<()> {
            self.0.submit(first, chunks, events)
        }

        fn is_right(&self, _: usize, _: &PageMemory) -> bool {
            true
        }

        fn chunk_bytes(&self) -> usize {
            self.0.chunk_bytes
        }
    }

    #[test]
    fn every_chunk_ends_once_and_every_loaded_one_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::in_directory(directory.path(), 0).unwrap();
        let staging_bytes = 3 * u64::from(CHUNK_BYTES.next_multiple_of(4096));
        let shape = Shape {
            chunks: 40,
            chunk_bytes: CHUNK_BYTES,
            staging_bytes,
            threads: None,
            policy: CachePolicy::Lru,
        };
        let cache = scratch.open_cache(&shape).unwrap();
        let mut stream = Stream::new(3, CHUNK_BYTES as usize, true).unwrap();

        let stored = keys(1, 40);
        let mut seen = 0;
        let moved = stream
            .store(&cache, &stored, &|_| None, |bytes| {
                seen += bytes;
                Ok(())
            })
            .unwrap();
        assert_eq!((moved.chunks, moved.bytes, seen), (40, 2_000_000, 2_000_000));
        assert_eq!((moved.present, moved.refused, moved.wrong), (0, 0, 0));
        assert_eq!(moved.latencies.len(), 40);
        assert!(moved.latencies.iter().all(|time| *time <= moved.time));
        assert_eq!(stream.store(&cache, &stored[..7], &|_| None, |_| Ok(())).unwrap().present, 7);
        for look in [Look::Stamps, Look::Whole] {
            let moved = stream.load(&cache, &stored, look, |_| Ok(())).unwrap();
            assert_eq!((moved.chunks, moved.wrong, moved.retries), (40, 0, 0));
        }
        assert_eq!(stream.idle.len(), 3, "all buffers are back");

        // Chunks under other keys than their bytes were made from: the cache is right, and the look must tell.
        let (others, mut wrong) = (keys(101, 9), keys(101, 9));
        wrong.reverse();
        let swapped =
            Storing { cache: &cache, keys: &wrong, parents: &|_| None, chunk_bytes: CHUNK_BYTES as usize };
        stream.run(9, &Misnamed(swapped, others), &mut |_| Ok(())).unwrap();
        for look in [Look::Stamps, Look::Whole] {
            let moved = stream.load(&cache, &wrong, look, |_| Ok(())).unwrap();
            assert_eq!((moved.chunks, moved.wrong), (9, 8), "all but the one in the middle");
        }
    }

    #[test]
    fn what_fails_ends_the_run_with_everything_back() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::in_directory(directory.path(), 0).unwrap();
        let shape = Shape {
            chunks: 4,
            chunk_bytes: CHUNK_BYTES,
            staging_bytes: 1 << 20,
            threads: None,
            policy: CachePolicy::Lru,
        };
        let cache = scratch.open_cache(&shape).unwrap();
        let mut stream = Stream::new(3, CHUNK_BYTES as usize, false).unwrap();
        let error = stream.load(&cache, &keys(1, 9), Look::Whole, |_| Ok(())).unwrap_err();
        assert!(error.to_string().starts_with("loading a chunk ended as miss"), "{error}");
        assert_eq!(stream.idle.len(), 3);
        let stop = |_| Err(Error::new(ErrorKind::Closed, "enough"));
        let error = stream.store(&cache, &keys(1, 4), &|_| None, stop).unwrap_err();
        assert_eq!((error.to_string().as_str(), stream.idle.len()), ("enough", 3));
    }
}
