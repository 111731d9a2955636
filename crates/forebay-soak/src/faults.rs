//! What goes wrong: something each second, chosen by a seed.
//!
//! Promises: what lasts has an end (a server that was halted goes on, one that was killed is started again), and when all
//! is to come to rest nothing is left wrong but the bytes that were damaged.

use std::fmt::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use forebay::catalog::ChunkRecord;

use crate::client::Signals;
use crate::engine::Pool;
use crate::instance::Instance;
use crate::ledger::{Count, Ledger};
use crate::server::Server;

/// Between two faults.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a server lies dead, or is halted, at most.
const DOWN_MS_MAX: u64 = 4000;
/// Chunks or objects that are damaged at a time: most of them are evicted before anybody loads them.
const VICTIMS: usize = 16;

macro_rules! kinds {
    ($($name:ident = $text:literal,)*) => {
        /// What goes wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Kind { $($name,)* }

        const KINDS: &[(Kind, &str)] = &[$((Kind::$name, $text),)*];
    };
}

kinds! {
    Killed = "server killed",
    Halted = "server halted",
    Slow = "server slow",
    Forgets = "server forgets all",
    ObjectDamaged = "object damaged",
    BitFlipped = "bit flipped",
    TrailerLost = "trailer overwritten",
    JournalDamaged = "journal damaged, reopened",
    Reopened = "reopened",
    Panics = "memory panics",
    Fails = "memory fails",
    MemorySlow = "memory slow",
    Cancelled = "all cancelled",
}

/// See the module's documentation.
pub(crate) struct Faults {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) instances: Vec<Arc<Instance>>,
    pub(crate) pools: Vec<Arc<Pool>>,
    pub(crate) signals: Vec<Arc<Signals>>,
    pub(crate) server: Server,
    pub(crate) random: Rng,
    pub(crate) told: Arc<FaultsTold>,
    /// Kinds that have their turn before any has it again, the next one last.
    pub(crate) due: Vec<usize>,
    /// When the server is to be itself again.
    pub(crate) until: Option<Instant>,
}

/// What is known of the faults from outside.
#[derive(Default)]
pub(crate) struct FaultsTold {
    counts: [AtomicU64; KINDS.len()],
    /// Nothing is wrong now.
    pub(crate) is_calm: AtomicBool,
    pub(crate) beat_ms: AtomicU64,
}

impl FaultsTold {
    /// Each kind, and how often it happened.
    pub(crate) fn rows(&self) -> Vec<(&'static str, u64)> {
        KINDS
            .iter()
            .zip(&self.counts)
            .map(|((_, name), count)| (*name, count.load(Ordering::Relaxed)))
            .collect()
    }

    /// How many there were of each kind, in one line.
    pub(crate) fn line(&self) -> String {
        self.rows().iter().fold(String::new(), |mut line, (name, count)| {
            let _ = write!(line, "{}{name} {count}", if line.is_empty() { "" } else { ", " });
            line
        })
    }
}

impl Faults {
    /// Breaks things until all is over.
    pub(crate) fn run(mut self) {
        let mut next = Instant::now() + PAUSE;
        while !self.ledger.is_over() {
            self.told.beat_ms.store(self.ledger.now_ms(), Ordering::Relaxed);
            if self.ledger.is_paused() {
                self.mend();
                self.told.is_calm.store(true, Ordering::SeqCst);
                next = Instant::now() + PAUSE;
            } else if self.until.is_some_and(|until| until <= Instant::now()) {
                self.mend_server();
            } else if next <= Instant::now() {
                self.told.is_calm.store(false, Ordering::SeqCst);
                self.strike();
                next = Instant::now() + PAUSE;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.mend();
    }

    fn mend(&mut self) {
        self.mend_server();
        self.pools.iter().for_each(|pool| pool.moods.calm());
    }

    fn mend_server(&mut self) {
        if self.until.take().is_some() {
            self.server.go_on();
            if self.server.is_dead()
                && let Err(error) = self.server.run()
            {
                self.ledger.fail(error);
            }
        }
    }

    /// One fault: each kind in turn, in another order each time. One that cannot be now (the server is down already) has its
    /// turn later.
    fn strike(&mut self) {
        for _ in 0..KINDS.len() {
            if self.due.is_empty() {
                self.due = (0..KINDS.len()).collect();
                self.random.shuffle(&mut self.due);
            }
            let Some(number) = self.due.pop() else { return };
            if self.does(KINDS[number].0) {
                self.told.counts[number].fetch_add(1, Ordering::Relaxed);
                return;
            }
            self.due.insert(0, number);
        }
    }

    fn does(&mut self, kind: Kind) -> bool {
        let instance = Arc::clone(&self.instances[self.random.usize(..self.instances.len())]);
        let pool = Arc::clone(&self.pools[self.random.usize(..self.pools.len())]);
        let some = self.random.u64(1..24);
        match kind {
            Kind::Killed | Kind::Halted | Kind::Slow | Kind::Forgets | Kind::ObjectDamaged => {
                self.strike_server(kind)
            }
            Kind::BitFlipped => (0..VICTIMS).filter(|_| self.flip_a_bit(&instance).is_some()).count() > 0,
            Kind::TrailerLost => {
                let (random, mut other) = (&mut self.random, Rng::with_seed(some));
                let trailer = |records: &[ChunkRecord]| choose(random, records, true);
                instance.damage(trailer, |there| other.fill(there), 4096).is_some()
            }
            Kind::Reopened => {
                let drain = Duration::from_millis(self.random.u64(..2000));
                instance.reopen(&self.ledger, drain, true, || ());
                true
            }
            Kind::JournalDamaged => {
                let random = &mut self.random;
                let flip = || flip_tail(&instance, random);
                instance.reopen(&self.ledger, Duration::from_millis(100), false, flip);
                true
            }
            Kind::Panics => is_set(&pool.moods.panics, some),
            Kind::Fails => is_set(&pool.moods.errors, some),
            // Slots are held meanwhile, so the staging buffer is full.
            Kind::MemorySlow => is_set(&pool.moods.slow, some),
            Kind::Cancelled => {
                self.signals.iter().for_each(|signals| signals.cancel_all.store(true, Ordering::Relaxed));
                true
            }
        }
    }

    fn flip_a_bit(&mut self, instance: &Instance) -> Option<()> {
        let bit = self.random.u32(..8);
        let random = &mut self.random;
        let byte = |records: &[ChunkRecord]| {
            // What was stored last is asked for most.
            choose(random, &records[records.len() / 4 * 3..], false)
        };
        instance.damage(byte, |there| there[0] ^= 1 << bit, 1)
    }

    fn strike_server(&mut self, kind: Kind) -> bool {
        if self.until.is_some() {
            return false;
        }
        let down = Duration::from_millis(self.random.u64(500..DOWN_MS_MAX));
        match kind {
            Kind::Killed => self.server.kill(),
            Kind::Halted => self.server.halt(),
            // Each command waits a little less than a request may take.
            Kind::Slow => return self.server.say("CLIENT PAUSE 600 ALL").is_some(),
            Kind::Forgets => return self.server.say("FLUSHALL").is_some(),
            _ => return (0..VICTIMS).filter(|_| self.damage_object().is_some()).count() > 0,
        }
        self.until = Some(Instant::now() + down);
        true
    }

    /// Overwrites some bytes of some object.
    fn damage_object(&mut self) -> Option<()> {
        let answer = self.server.say("RANDOMKEY")?;
        // A bulk string: its length on one line, then itself.
        let name = answer.strip_prefix('$')?.split("\r\n").nth(1).filter(|name| !name.is_empty())?;
        let length = self.server.say(&format!("STRLEN {name}"))?;
        let length: usize = length.strip_prefix(':')?.trim().parse().ok().filter(|length| *length > 8)?;
        let at = self.random.usize(..length - 8);
        self.server.say(&format!("SETRANGE {name} {at} damaged!"))?.starts_with(':').then_some(())
    }
}

fn is_set(left: &AtomicU64, uses: u64) -> bool {
    left.store(uses, Ordering::Relaxed);
    true
}

/// A byte of some chunk, or the front of its trailer.
fn choose(random: &mut Rng, records: &[ChunkRecord], is_trailer: bool) -> Option<(ChunkRecord, u64)> {
    let record = *random.choice(records)?;
    // Its blocks in order, some of them behind its trailer.
    let blocks = ChunkRecord::blocks(record.length);
    let wanted = if is_trailer { blocks - 1 } else { random.u64(..blocks) };
    let mut before = 0;
    for extent in record.extents.as_slice() {
        let len = u64::from(extent.blocks);
        if wanted < before + len {
            let start = extent.byte_start() + (wanted - before) * 4096;
            return Some((record, if is_trailer { start } else { start + random.u64(..4096) }));
        }
        before += len;
    }
    None
}

/// Flips a bit near the end of the newest file of the journal, or of the checkpoint.
fn flip_tail(instance: &Instance, random: &mut Rng) {
    let Ok(entries) = std::fs::read_dir(&instance.directory) else { return };
    let mut files: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name == "checkpoint" || name.starts_with("journal.")
        })
        .collect();
    files.sort();
    let Some(path) = random.choice(&files) else { return };
    let Ok(file) = std::fs::OpenOptions::new().read(true).write(true).open(path) else { return };
    let len = file.metadata().map_or(0, |meta| meta.len());
    if len > 0 {
        let at = len - 1 - random.u64(..len.min(512));
        let mut byte = [0];
        let flipped = file.read_exact_at(&mut byte, at).and_then(|()| file.write_all_at(&[byte[0] ^ 16], at));
        drop(flipped);
    }
}

impl Faults {
    /// How many uses of engine memory went wrong, into the ledger.
    pub(crate) fn count_moods(ledger: &Ledger, pools: &[Arc<Pool>]) {
        let done: u64 = pools.iter().map(|pool| pool.moods.done.swap(0, Ordering::Relaxed)).sum();
        ledger.add(Count::MemoryFaults, usize::try_from(done).unwrap_or(usize::MAX));
    }
}
