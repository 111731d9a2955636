//! A control plane of the disk tier whose keeper's turns are the test's, over a home that notes and fails.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay::catalog::{CachePolicy, ChunkRecord, Limits};
use forebay::config::DiskSync;
use forebay::tier::disk::data_files::DataFiles;
use forebay::tier::disk::directory::{Directory, Opened};
use forebay::tier::disk::home::{Home, HomeFile, OsHome};
use forebay::tier::disk::recovery::Found;
use forebay::tier::disk::stock::{Ground, take_stock};
use forebay::{ControlPlane, Result};
use parking_lot::Mutex;

/// Blocks there are: for fifty chunks of one byte.
const BLOCKS: u32 = 100;

/// A directory that notes which files are synced by their names, and may refuse syncs, writes and renames.
#[derive(Debug)]
pub struct Noting {
    inner: OsHome,
    pub synced: Mutex<Vec<String>>,
    pub syncs: Arc<AtomicBool>,
    pub writes: Arc<AtomicBool>,
    renames: bool,
}

impl Noting {
    pub fn around(directory: &Path, renames: bool) -> Arc<Self> {
        let on = || Arc::new(AtomicBool::new(true));
        let inner = OsHome::new(directory);
        Arc::new(Self { inner, synced: Mutex::default(), syncs: on(), writes: on(), renames })
    }
}

#[derive(Debug)]
struct NotingFile {
    inner: Arc<dyn HomeFile>,
    syncs: Arc<AtomicBool>,
    writes: Arc<AtomicBool>,
}

fn unless_off(switch: &AtomicBool) -> io::Result<()> {
    if switch.load(Ordering::Relaxed) { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
}

impl HomeFile for NotingFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
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
        let (inner, syncs, writes) =
            (self.inner.create(name)?, Arc::clone(&self.syncs), Arc::clone(&self.writes));
        Ok(Arc::new(NotingFile { inner, syncs, writes }))
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

struct Plot(Arc<dyn Home>);

impl Ground for Plot {
    fn home(&self) -> &Arc<dyn Home> {
        &self.0
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
        Ok(Limits { blocks: BLOCKS.into(), chunks_max: BLOCKS, tickets_max: 100 })
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
    let mut plot = Plot(Arc::clone(home) as _);
    let stock = take_stock(&mut plot, CachePolicy::Lru).unwrap();
    let directory = Directory::of_one_owner(Arc::clone(home) as _, stock.epoch, journal_records_max);
    ControlPlane::stepped(Opened { directory, stock }, DataFiles::default(), sync, clock)
}
