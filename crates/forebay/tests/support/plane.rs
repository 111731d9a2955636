//! A control plane of the disk tier whose keeper's turns are the test's, over a home that notes, fails and stands.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay::catalog::{CachePolicy, ChunkRecord, Limits, Plan};
use forebay::config::DiskSync;
use forebay::control::StorePlan;
use forebay::outcome::Reason;
use forebay::tier::disk::data_files::DataFiles;
use forebay::tier::disk::directory::{Directory, Opened};
use forebay::tier::disk::home::{Home, HomeFile, OsHome};
use forebay::tier::disk::recovery::Found;
use forebay::tier::disk::stock::{Ground, take_stock};
use forebay::{ChunkKey, ControlPlane, Result};
use parking_lot::{Condvar, Mutex};

/// Chunks of one byte there is room for, unless a test says.
const CHUNKS: u32 = 50;

/// Where writes stop while it is shut.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    is_shut: bool,
    /// Who comes while one stands before it goes on.
    for_one: bool,
    /// How many stand before it.
    standing: usize,
}

impl Gate {
    pub fn set(&self, shut: bool) {
        let mut state = self.state.lock();
        (state.is_shut, state.for_one) = (shut, false);
        drop(state);
        self.changed.notify_all();
    }

    /// Shuts it for the next who comes, and nobody else.
    pub fn shut_for_one(&self) {
        let mut state = self.state.lock();
        (state.is_shut, state.for_one) = (true, true);
    }

    fn pass(&self) {
        let mut state = self.state.lock();
        if state.for_one && state.standing > 0 {
            return;
        }
        state.standing += 1;
        self.changed.notify_all();
        self.changed.wait_while(&mut state, |state| state.is_shut);
        state.standing -= 1;
    }

    /// Waits until somebody stands before it.
    pub fn wait_for_one(&self, patience: Duration) {
        let mut state = self.state.lock();
        let ended = self.changed.wait_while_for(&mut state, |state| state.standing == 0, patience);
        assert!(!ended.timed_out(), "nobody writes");
    }
}

/// A directory that notes which files are synced by their names, and may refuse syncs, writes and renames, or let writes
/// stand.
#[derive(Debug)]
pub struct Noting {
    inner: OsHome,
    pub synced: Mutex<Vec<String>>,
    pub syncs: Arc<AtomicBool>,
    pub writes: Arc<AtomicBool>,
    pub gate: Arc<Gate>,
    renames: bool,
}

impl Noting {
    pub fn around(directory: &Path, renames: bool) -> Arc<Self> {
        let on = || Arc::new(AtomicBool::new(true));
        let inner = OsHome::new(directory);
        let gate = Arc::default();
        Arc::new(Self { inner, synced: Mutex::default(), syncs: on(), writes: on(), gate, renames })
    }
}

#[derive(Debug)]
struct NotingFile {
    inner: Arc<dyn HomeFile>,
    syncs: Arc<AtomicBool>,
    writes: Arc<AtomicBool>,
    gate: Arc<Gate>,
}

fn unless_off(switch: &AtomicBool) -> io::Result<()> {
    if switch.load(Ordering::Relaxed) { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
}

impl HomeFile for NotingFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.gate.pass();
        unless_off(&self.writes)?;
        self.inner.write_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        unless_off(&self.syncs)?;
        self.inner.sync()
    }
}

impl Home for Noting {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.inner.read(name)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn HomeFile>> {
        let (syncs, writes, gate) =
            (Arc::clone(&self.syncs), Arc::clone(&self.writes), Arc::clone(&self.gate));
        Ok(Arc::new(NotingFile { inner: self.inner.create(name)?, syncs, writes, gate }))
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        unless_off(&self.syncs)?;
        self.synced.lock().push(name.to_owned());
        self.inner.sync(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if self.renames { self.inner.rename(from, to) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.inner.sync_names()
    }
}

struct Plot {
    home: Arc<dyn Home>,
    chunks: u32,
}

impl Ground for Plot {
    fn home(&self) -> &Arc<dyn Home> {
        &self.home
    }

    fn have_data(&self) -> bool {
        true
    }

    fn noted_epoch(&self) -> u32 {
        0
    }

    fn by_trailers(&self) -> Result<Found> {
        Ok(Found { next_segment: 1, ..Found::default() })
    }

    fn settle(&mut self, _epoch: u32) -> Result<Limits> {
        // A chunk of one byte takes a block, and another one its trailer.
        Ok(Limits { blocks: (2 * self.chunks).into(), chunks_max: 2 * self.chunks, tickets_max: 100 })
    }

    fn holds(&self, _record: &ChunkRecord) -> bool {
        true
    }
}

/// A process with a checkpoint after so many records.
pub fn open(
    home: &Arc<Noting>,
    journal_records_max: u64,
    sync: DiskSync,
    clock: impl Fn() -> u64 + Send + Sync + 'static,
) -> ControlPlane {
    open_with_room(home, CHUNKS, journal_records_max, sync, clock)
}

/// As [`open`], with room for so many chunks of one byte.
pub fn open_with_room(
    home: &Arc<Noting>,
    chunks: u32,
    journal_records_max: u64,
    sync: DiskSync,
    clock: impl Fn() -> u64 + Send + Sync + 'static,
) -> ControlPlane {
    let mut plot = Plot { home: Arc::clone(home) as _, chunks };
    let stock = take_stock(&mut plot, CachePolicy::Lru).unwrap();
    let directory = Directory::of_one_owner(Arc::clone(home) as _, stock.epoch, journal_records_max);
    ControlPlane::stepped(Opened { directory, stock }, DataFiles::default(), sync, clock)
}

/// The key of a chunk of this number.
pub fn key(number: u8) -> ChunkKey {
    ChunkKey::new([number; 32])
}

/// The plan to store a chunk of this number, of one byte, which continues none.
pub fn plan(control: &ControlPlane, number: u8) -> Result<Plan, Reason> {
    match control.plan_store(&[(key(number), 1)], None).remove(0) {
        StorePlan::Write { plan, .. } => Ok(plan),
        StorePlan::Refused(reason) => Err(reason),
        other => panic!("{other:?}"),
    }
}
