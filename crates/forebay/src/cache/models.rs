//! Models of a whole cache: memory before a remote store, with all threads of both. See [`crate::models`].

#![expect(clippy::missing_panics_doc, reason = "that is how a model fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shuttle::thread;

use super::{Batch, Cache, OnStored};
use crate::catalog::{BLOCK_BYTES, ChunkRecord};
use crate::config::{Config, Value};
use crate::control::LoadPlan;
use crate::control::memory::ONWARD_MAX;
use crate::key::ChunkKey;
use crate::models::remote::{Shown, settings};
use crate::models::{Time, check};
use crate::mover::{Observer, Sink, Source, fill_from};
use crate::outcome::{LoadStatus, Reason, StoreOutcome, StoreStatus, Tier};
use crate::staging::{Backing, Shape};
use crate::sync::{Condvar, Mutex};
use crate::tier::remote::client::Client;
use crate::tier::remote::objects::{Fault, Objects};
use crate::tier::remote::wrappers::fake::Fake;

const CHUNK: usize = BLOCK_BYTES;
const CHUNK_LENGTH: u32 = 4096;

/// A cache with room for so many chunks in memory, before `objects`.
fn open(memory_chunks: usize, objects: Arc<dyn Objects>) -> Arc<Cache> {
    let shape = Shape::within(1 << 40, CHUNK as u64, Backing::of_drives(1)).unwrap();
    let room = usize::try_from(ChunkRecord::room_blocks(CHUNK_LENGTH)).unwrap() * BLOCK_BYTES;
    let bytes = usize::try_from(shape.bytes()).unwrap() + memory_chunks * room;
    let gib = f64::from(u32::try_from(bytes).unwrap()) / f64::from(1 << 30);
    let values = vec![
        ("max_local_cpu_size", Value::from(gib)),
        ("local_cpu", Value::from(true)),
        ("use_only_staging_buffer", Value::from(false)),
        ("remote_url", Value::from("redis://127.0.0.1:1")),
    ];
    let config = Config::from_values(values).unwrap().config;
    let client = Arc::new(Client::over(objects, &settings()).unwrap());
    let cache = Cache::open_over(&config, CHUNK as u64, None, |file| file, Some(client)).unwrap();
    let memory = cache.control.stats().memory.expect("there is one");
    assert_eq!(memory.capacity_bytes, (memory_chunks * room) as u64);
    Arc::new(cache)
}

/// Where all are held up until it is opened.
#[derive(Default)]
struct Gate {
    state: Mutex<AtGate>,
    changed: Condvar,
}

#[derive(Default)]
struct AtGate {
    came: usize,
    is_open: bool,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock();
        state.came += 1;
        self.changed.notify_all();
        while !state.is_open {
            self.changed.wait(&mut state);
        }
    }

    /// Waits until so many have come.
    fn wait_for(&self, many: usize) {
        let mut state = self.state.lock();
        while state.came < many {
            self.changed.wait(&mut state);
        }
    }

    fn open(&self) {
        self.state.lock().is_open = true;
        self.changed.notify_all();
    }
}

/// A store that takes its time with what is put.
fn slow(fake: &Arc<Fake>, gate: &Arc<Gate>) -> Arc<dyn Objects> {
    let gate = Arc::clone(gate);
    let wait = move |_: &str| {
        gate.pass();
        Ok(())
    };
    Arc::new(Shown { fake: Arc::clone(fake), before: Box::new(wait), after: Box::new(|_| ()) })
}

/// Engine memory that takes its time.
struct Hanging(Arc<Gate>);

impl Source for Hanging {
    fn len(&self) -> usize {
        CHUNK
    }

    fn fill(&mut self, _at: usize, to: &mut [u8], seen: Observer<'_>) -> Result<(), String> {
        self.0.pass();
        fill_from(&vec![1; to.len()], to, seen);
        Ok(())
    }
}

fn key(byte: u8) -> ChunkKey {
    ChunkKey::new([byte; 32])
}

/// Which chunks' ends were told, and whether they were true.
#[derive(Default)]
struct Told {
    outcomes: Mutex<Vec<StoreOutcome>>,
    untrue: AtomicUsize,
}

impl Told {
    fn on_complete(self: &Arc<Self>, fake: &Arc<Fake>) -> OnStored {
        let (told, fake) = (Arc::clone(self), Arc::clone(fake));
        // A panic in here would be caught.
        Arc::new(move |outcome| {
            let is_there = |tier| outcome.tiers.iter().any(|end| end.tier == tier && is_on(end.status));
            let name = format!("{}/", outcome.key);
            if is_there(Tier::Remote) && !fake.names().iter().any(|there| there.contains(&name)) {
                told.untrue.fetch_add(1, Ordering::Relaxed);
            }
            told.outcomes.lock().push(outcome.clone());
        })
    }

    /// Each of `chunks` was told so many times, truly.
    fn is_exact(&self, chunks: &[u8], times: usize) {
        let outcomes = self.outcomes.lock();
        for chunk in chunks {
            let count = outcomes.iter().filter(|outcome| outcome.key == key(*chunk)).count();
            assert_eq!(count, times, "chunk {chunk} is told once a call: {outcomes:?}");
        }
        assert_eq!(outcomes.len(), chunks.len() * times);
        assert_eq!(self.untrue.load(Ordering::Relaxed), 0, "what is told is so: {outcomes:?}");
    }
}

fn is_on(status: StoreStatus) -> bool {
    matches!(status, StoreStatus::Stored | StoreStatus::Present)
}

/// Begins to store chunks.
fn begin(cache: &Cache, chunks: &[u8], on_complete: OnStored) -> Arc<Batch<StoreOutcome>> {
    let source = |byte: &u8| (key(*byte), Box::new(vec![*byte; CHUNK]) as Box<dyn Source>);
    cache.store(chunks.iter().map(source).collect(), None, Some(on_complete)).unwrap()
}

/// Stores chunks and waits until all have ended.
fn store(cache: &Cache, chunks: &[u8], on_complete: OnStored) -> Vec<StoreOutcome> {
    begin(cache, chunks, on_complete).wait(None).expect("it has no other end")
}

/// Has a chunk found to be damaged where it is.
fn lose(cache: &Cache, chunk: u8) {
    let Ok(LoadPlan { read, write_back }) = cache.control.plan_load(&[(key(chunk), CHUNK_LENGTH)]).remove(0)
    else {
        return;
    };
    if let Some(write_back) = write_back {
        cache.control.finish_write_back(write_back.ticket, false);
        cache.following.ended(write_back.ticket, false);
    }
    cache.control.finish_load(read.ticket, LoadStatus::Miss, Some(&Reason::NotThere));
}

/// Closes a cache in which nothing is under way, and finds nothing in use.
fn is_at_rest(cache: &Cache) {
    assert!(!cache.control.has_copies(), "nothing is on its way");
    let stats = cache.stats();
    assert_eq!(stats.mover.staging.in_use, 0);
    assert!(stats.mover.loads_under_way.is_empty());
    let memory = stats.control.memory.expect("there is one");
    let remote = stats.control.remote.expect("there is one");
    assert_eq!((memory.outgoing, memory.open_tickets, remote.open_tickets), (0, 0, 0));
    cache.close(Duration::from_secs(1));
}

/// Two threads that store the same two chunks.
fn two_callers(
    cache: &Arc<Cache>,
    told: &Arc<Told>,
    fake: &Arc<Fake>,
) -> [thread::JoinHandle<Vec<StoreOutcome>>; 2] {
    [(); 2].map(|()| {
        let (cache, on_complete) = (Arc::clone(cache), told.on_complete(fake));
        thread::spawn(move || store(&cache, &[1, 2], on_complete))
    })
}

/// Two callers store the same chunks, one of which finds no room in memory: each is told each chunk once, when it has
/// ended on all tiers, and truly.
pub fn cache_tells_two_callers() {
    check(600, Time::Stands, || {
        let fake = Arc::new(Fake::default());
        let (cache, told) = (open(1, fake.clone()), Arc::new(Told::default()));
        let callers = two_callers(&cache, &told, &fake);
        for caller in callers {
            for outcome in caller.join().unwrap() {
                assert!(is_on(outcome.status), "{outcome:?}");
            }
        }
        told.is_exact(&[1, 2], 2);
        is_at_rest(&cache);
    });
}

/// A chunk that is lost from memory while it is copied to the remote store, and stored anew: memory has no room for it, so
/// the second store waits for the copy, and is told. It comes while the copy is with the store, or at any moment.
pub fn cache_tells_who_follows_a_copy() {
    for (fails, at_any_moment) in [(false, false), (false, true), (true, false), (true, true)] {
        check(600, Time::Stands, move || {
            let (fake, gate) = (Arc::new(Fake::default()), Arc::new(Gate::default()));
            let (cache, told) = (open(1, slow(&fake, &gate)), Arc::new(Told::default()));
            if fails {
                fake.fail_always(Some(Fault::Refused("nothing today".into())));
            }
            let first = begin(&cache, &[1], told.on_complete(&fake));
            // The copy is with the store.
            gate.wait_for(1);
            let memory = cache.control.stats().memory.expect("there is one");
            assert_eq!((memory.chunks, memory.outgoing), (1, 1), "out of memory");
            if at_any_moment {
                gate.open();
            }
            lose(&cache, 1);
            let second = begin(&cache, &[1], told.on_complete(&fake));
            gate.open();
            assert!(first.wait(None).is_some() && second.wait(None).is_some());
            told.is_exact(&[1], 2);
            is_at_rest(&cache);
        });
    }
}

/// Chunks that are loaded from the remote store into memory besides, by two callers, while a third one stores them: all
/// end, and the bytes are right.
pub fn cache_loads_while_it_stores() {
    check(600, Time::Stands, || {
        let fake = Arc::new(Fake::default());
        let (cache, told) = (open(2, fake.clone()), Arc::new(Told::default()));
        store(&cache, &[1], told.on_complete(&fake));
        lose(&cache, 1);
        let loading: Vec<_> = (0..2)
            .map(|_| {
                let cache = Arc::clone(&cache);
                thread::spawn(move || {
                    let bytes = Arc::new(parking_lot::Mutex::new(vec![0_u8; CHUNK]));
                    let batch =
                        cache.load(vec![(key(1), Box::new(Arc::clone(&bytes)) as Box<dyn Sink>)], None);
                    let outcome = batch.wait(None).expect("it has no other end").remove(0);
                    assert_eq!(outcome.status, LoadStatus::Loaded, "{outcome:?}");
                    assert!(bytes.lock().iter().all(|byte| *byte == 1), "wrong bytes");
                })
            })
            .collect();
        store(&cache, &[1], told.on_complete(&fake));
        loading.into_iter().for_each(|loading| loading.join().unwrap());
        told.is_exact(&[1], 2);
        is_at_rest(&cache);
    });
}

/// A cache that is closed at any moment, with time for what is under way or without: each chunk is told once.
pub fn cache_closes_at_any_moment() {
    for drain in [Duration::ZERO, Duration::from_secs(1)] {
        check(600, Time::Stands, move || {
            let fake = Arc::new(Fake::default());
            let (cache, told) = (open(1, fake.clone()), Arc::new(Told::default()));
            let callers = two_callers(&cache, &told, &fake);
            cache.close(drain);
            callers.into_iter().for_each(|caller| drop(caller.join().unwrap()));
            told.is_exact(&[1, 2], 2);
            assert_eq!(cache.stats().mover.staging.in_use, 0);
        });
    }
}

/// A cache that is closed without time while as many copies as may be are with the store and others wait in line: each
/// chunk is told once.
pub fn cache_closes_with_copies_in_line() {
    check(600, Time::Stands, || {
        let (fake, gate) = (Arc::new(Fake::default()), Arc::new(Gate::default()));
        let (cache, told) = (open(ONWARD_MAX + 2, slow(&fake, &gate)), Arc::new(Told::default()));
        let chunks: Vec<u8> = (1..).take(ONWARD_MAX + 2).collect();
        let caller = {
            let (cache, on_complete, chunks) = (Arc::clone(&cache), told.on_complete(&fake), chunks.clone());
            thread::spawn(move || store(&cache, &chunks, on_complete))
        };
        gate.wait_for(ONWARD_MAX);
        let opening = thread::spawn(move || gate.open());
        cache.close(Duration::ZERO);
        caller.join().unwrap();
        opening.join().unwrap();
        told.is_exact(&chunks, 1);
        assert_eq!(cache.stats().mover.staging.in_use, 0);
    });
}

/// A cache that is closed while an engine's memory cannot be read: who follows that store is told all the same, and what
/// stands behind it is refused; the store itself is told once the engine lets go.
pub fn cache_closes_though_an_engine_hangs() {
    check(600, Time::Flies, || {
        let (fake, gate) = (Arc::new(Fake::default()), Arc::new(Gate::default()));
        let (cache, told) = (open(1, fake.clone()), Arc::new(Told::default()));
        let hanging: Box<dyn Source> = Box::new(Hanging(Arc::clone(&gate)));
        let hanging = cache.store(vec![(key(1), hanging)], None, Some(told.on_complete(&fake))).unwrap();
        gate.wait_for(1);
        let told_others = Arc::new(Told::default());
        let following = {
            let (cache, on_complete) = (Arc::clone(&cache), told_others.on_complete(&fake));
            thread::spawn(move || store(&cache, &[1, 2], on_complete))
        };
        cache.close(Duration::ZERO);
        following.join().unwrap();
        told_others.is_exact(&[1, 2], 1);
        assert!(!hanging.is_done(), "the engine has it");
        gate.open();
        assert!(hanging.wait(None).is_some());
        told.is_exact(&[1], 1);
    });
}
