//! What a plain program gets from a remote store: the same library, and nothing around it.
//!
//! PUT and GET of whole objects, so many requests at a time as were the best of those tried, from and into buffers that
//! were made before. No limits in time, no second tries, no checksum, no names to be found. There is as much memory as the
//! cache's chunks have, used in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay::tier::remote::client::Client;
use forebay::tier::remote::objects::{Fault, Objects};
use forebay::{Error, ErrorKind, PageMemory, Result};

use super::rig::{Direction, Pass};
use crate::content;
use crate::process::cpu;
use crate::quantiles::percentile;

/// Requests at a time that are tried.
const DEPTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Each is tried so many times, by turns and on so many bytes at most, or a quarter of a round's.
const TRIALS: usize = 3;
const TRIAL_BYTES: u64 = 128 << 20;

/// A store that says nothing for so long is given up.
const PATIENCE: Duration = Duration::from_mins(1);

/// Objects that are removed at a time.
const REMOVED_AT_A_TIME: usize = 16;

/// What is moved.
#[derive(Debug, Clone)]
pub(super) struct Load {
    /// Before the objects' numbers.
    pub(super) prefix: String,
    pub(super) object_bytes: usize,
    pub(super) bytes: u64,
    pub(super) memory_bytes: usize,
}

/// See the module's documentation.
pub(super) struct Bare {
    client: Arc<Client>,
    load: Load,
    stop: Arc<AtomicBool>,
    depths: [AtomicUsize; 2],
    /// Objects that may be in the store.
    put: AtomicU64,
}

/// Memory whose bytes are sent.
struct Sent(PageMemory);

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// What one that asks has to work with.
struct Asker {
    objects: Arc<dyn Objects>,
    prefix: String,
    next: Arc<AtomicU64>,
    count: u64,
    stop: Arc<AtomicBool>,
    told: Sender<Result<(), Fault>>,
}

impl Asker {
    /// The next object to be moved.
    fn turn(&self) -> Option<(u64, String)> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.count).then(|| (number, name(&self.prefix, number)))
    }

    async fn put(self, memory: Bytes, object_bytes: usize) {
        let buffers = (memory.len() / object_bytes) as u64;
        while let Some((number, name)) = self.turn() {
            let at = usize::try_from(number % buffers).unwrap_or(0) * object_bytes;
            let outcome = self.objects.put(&name, memory.slice(at..at + object_bytes)).await;
            if self.told.send(outcome).is_err() {
                return;
            }
        }
    }

    async fn get(self, mut memory: PageMemory, object_bytes: usize) {
        let mut at = 0;
        while let Some((_, name)) = self.turn() {
            let outcome = self.objects.get(&name, &mut memory[at..at + object_bytes]).await;
            at += object_bytes;
            if at + object_bytes > memory.len() {
                at = 0;
            }
            if self.told.send(outcome).is_err() {
                return;
            }
        }
    }
}

fn name(prefix: &str, number: u64) -> String {
    format!("{prefix}-{number}")
}

fn failed(doing: &str, fault: &Fault) -> Error {
    Error::new(ErrorKind::Io, format!("{doing}: {fault}"))
}

impl Bare {
    pub(super) fn new(client: &Arc<Client>, load: Load, stop: &Arc<AtomicBool>) -> Self {
        Self {
            client: Arc::clone(client),
            load,
            stop: Arc::clone(stop),
            depths: [AtomicUsize::new(1), AtomicUsize::new(1)],
            put: AtomicU64::new(0),
        }
    }

    pub(super) fn object_bytes(&self) -> usize {
        self.load.object_bytes
    }

    /// Requests at a time.
    pub(super) fn depth(&self, direction: Direction) -> usize {
        self.depths[direction as usize].load(Ordering::Relaxed)
    }

    /// Finds the best number of requests at a time.
    pub(super) fn try_depths(&self) -> Result<()> {
        let buffers = self.load.memory_bytes / self.load.object_bytes;
        let depths: Vec<usize> = DEPTHS.into_iter().filter(|depth| *depth <= buffers).collect();
        let bytes = TRIAL_BYTES.min(self.load.bytes / 4);
        let count = bytes.div_ceil(self.load.object_bytes as u64);
        for direction in [Direction::Write, Direction::Read] {
            let mut times = vec![Vec::with_capacity(TRIALS); depths.len()];
            for turn in 0..TRIALS {
                for step in 0..depths.len() {
                    let number = if turn % 2 == 0 { step } else { depths.len() - 1 - step };
                    times[number].push(self.pass(direction, count, depths[number], &mut |_| {})?.time);
                }
            }
            let medians = times.iter_mut().map(|times| percentile(times, 50));
            let best = medians.zip(&depths).min().map_or(1, |(_, depth)| *depth);
            self.depths[direction as usize].store(best, Ordering::Relaxed);
        }
        self.remove()
    }

    /// Moves all objects once.
    pub(super) fn measure(&self, direction: Direction, told: &mut dyn FnMut(u64)) -> Result<Pass> {
        self.pass(direction, self.objects(), self.depth(direction), told)
    }

    /// Removes what was put.
    pub(super) fn remove(&self) -> Result<()> {
        let names = (0..self.put.load(Ordering::Relaxed)).map(|number| name(&self.load.prefix, number));
        remove(&self.client, &names.collect::<Vec<_>>())?;
        self.put.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn objects(&self) -> u64 {
        self.load.bytes / self.load.object_bytes as u64
    }

    fn pass(
        &self,
        direction: Direction,
        count: u64,
        depth: usize,
        told: &mut dyn FnMut(u64),
    ) -> Result<Pass> {
        let object_bytes = self.load.object_bytes;
        let (tell, ends) = channel();
        let next = Arc::new(AtomicU64::new(0));
        let asker = || Asker {
            objects: Arc::clone(self.client.bare()),
            prefix: self.load.prefix.clone(),
            next: Arc::clone(&next),
            count,
            stop: Arc::clone(&self.stop),
            told: tell.clone(),
        };
        let askers: Vec<Asker> = (0..depth).map(|_| asker()).collect();
        drop(tell);
        // Made before it is timed.
        let memory = |bytes: usize| {
            let mut memory = PageMemory::new(bytes)?;
            content::lay(&mut memory);
            Ok(memory)
        };
        let all = self.load.memory_bytes / object_bytes * object_bytes;
        let (begin, cpu_begin);
        match direction {
            Direction::Write => {
                let sent = Bytes::from_owner(Sent(memory(all)?));
                self.put.fetch_max(count, Ordering::Relaxed);
                (begin, cpu_begin) = (Instant::now(), cpu());
                for asker in askers {
                    self.client.spawn(asker.put(sent.clone(), object_bytes));
                }
            }
            Direction::Read => {
                let share = (all / object_bytes / depth).max(1) * object_bytes;
                let memories: Vec<_> = askers.iter().map(|_| memory(share)).collect::<Result<_>>()?;
                (begin, cpu_begin) = (Instant::now(), cpu());
                for (asker, memory) in askers.into_iter().zip(memories) {
                    self.client.spawn(asker.get(memory, object_bytes));
                }
            }
        }
        let doing = if direction == Direction::Write { "a plain PUT" } else { "a plain GET" };
        let (mut moved, mut failure) = (0, None);
        loop {
            match ends.recv_timeout(PATIENCE) {
                Ok(Ok(())) => {
                    moved += 1;
                    told(object_bytes as u64);
                }
                Ok(Err(fault)) => {
                    // No more of them is begun.
                    next.store(count, Ordering::Relaxed);
                    failure.get_or_insert(failed(doing, &fault));
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err(failed(doing, &Fault::TimedOut)),
            }
        }
        let pass = Pass { time: begin.elapsed(), cpu: cpu().saturating_sub(cpu_begin) };
        match failure {
            Some(error) => Err(error),
            None if moved == count => Ok(pass),
            None => Err(Error::new(ErrorKind::Closed, "interrupted; nothing was measured")),
        }
    }
}

/// Removes objects.
pub(super) fn remove(client: &Arc<Client>, names: &[String]) -> Result<()> {
    let objects = Arc::clone(client.objects());
    let each = names.len().div_ceil(REMOVED_AT_A_TIME).max(1);
    let removing: Vec<_> = names
        .chunks(each)
        .map(|names| {
            let (objects, names) = (Arc::clone(&objects), names.to_vec());
            client.spawn(async move {
                for name in names {
                    objects.remove(&name).await?;
                }
                Ok::<(), Fault>(())
            })
        })
        .collect();
    for removing in removing {
        let removed = client.wait_for(async move { removing.await.unwrap_or(Err(Fault::TimedOut)) });
        removed.map_err(|fault| failed("removing what was put", &fault))?;
    }
    Ok(())
}
