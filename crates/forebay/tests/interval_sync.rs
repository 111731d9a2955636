//! `disk_sync` in seconds: what a power loss may cost is what was stored since the last time, whichever segment has it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay::catalog::{CachePolicy, ChunkRecord, Limits};
use forebay::config::DiskSync;
use forebay::control::StorePlan;
use forebay::tier::disk::data_files::DataFiles;
use forebay::tier::disk::directory::{Directory, Opened};
use forebay::tier::disk::home::{Home, HomeFile, OsHome};
use forebay::tier::disk::recovery::Found;
use forebay::tier::disk::stock::{Ground, take_stock};
use forebay::{ChunkKey, ControlPlane, Result};
use parking_lot::Mutex;

/// A directory that notes which files are synced by their names, and may refuse syncs and renames.
#[derive(Debug)]
struct Noting {
    inner: OsHome,
    synced: Mutex<Vec<String>>,
    syncs: AtomicBool,
    renames: bool,
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
        self.inner.create(name)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        if !self.syncs.load(Ordering::Relaxed) {
            return Err(io::Error::other("a sync that fails"));
        }
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
        Ok(Limits { blocks: 100.into(), chunks_max: 100, tickets_max: 100 })
    }

    fn holds(&self, _record: &ChunkRecord) -> bool {
        true
    }
}

/// A process with a checkpoint after so many records.
fn open(home: &Arc<Noting>, journal_records_max: u64) -> ControlPlane {
    let mut plot = Plot(Arc::clone(home) as _);
    let stock = take_stock(&mut plot, CachePolicy::Lru).unwrap();
    let directory = Directory::of_one_owner(Arc::clone(home) as _, stock.epoch, journal_records_max);
    let sync = DiskSync::Interval(Duration::from_secs(1));
    ControlPlane::stepped(Opened { directory, stock }, DataFiles::default(), sync, || 0)
}

fn store(control: &ControlPlane, number: u8) {
    match control.plan_store(&[(ChunkKey::new([number; 32]), 1)], None).remove(0) {
        StorePlan::Write { plan, .. } => control.finish_store(plan.ticket, true).unwrap(),
        other => panic!("{other:?}"),
    };
}

fn noting(directory: &Path, renames: bool) -> Arc<Noting> {
    Arc::new(Noting { inner: OsHome::new(directory), synced: Mutex::default(), syncs: true.into(), renames })
}

#[test]
fn what_a_process_left_unsynced_is_synced_by_the_next() {
    let directory = tempfile::TempDir::new().unwrap();
    let home = noting(directory.path(), true);
    // The first start finds no journal, reads the trailers and begins anew.
    store(&open(&home, 1000), 1);
    let control = open(&home, 1000);
    assert!(home.synced.lock().is_empty());
    store(&control, 2);
    assert!(control.keep_once());
    assert_eq!(*home.synced.lock(), ["journal.1"]);
    store(&control, 3);
    assert!(control.keep_once());
    assert_eq!(home.synced.lock().len(), 1, "once is enough");
}

#[test]
fn a_sync_that_failed_is_tried_again_though_nothing_is_stored() {
    let directory = tempfile::TempDir::new().unwrap();
    let home = noting(directory.path(), true);
    store(&open(&home, 1000), 1);
    let control = open(&home, 1000);
    store(&control, 2);
    home.syncs.store(false, Ordering::Relaxed);
    assert!(control.keep_once());
    assert!(home.synced.lock().is_empty());
    home.syncs.store(true, Ordering::Relaxed);
    assert!(control.keep_once(), "it is still to be done");
    assert_eq!(*home.synced.lock(), ["journal.1"]);
    assert!(!control.keep_once(), "nothing is left to be done");
}

#[test]
fn a_segment_behind_a_checkpoint_that_failed_is_synced_too() {
    let directory = tempfile::TempDir::new().unwrap();
    drop(open(&noting(directory.path(), true), 1000));
    let home = noting(directory.path(), false);
    // Two segments count as 64 records: the twentieth store makes a checkpoint due.
    let control = open(&home, 80);
    for number in 0..20 {
        store(&control, number);
    }
    assert!(control.keep_once(), "a checkpoint that fails");
    home.synced.lock().clear();
    store(&control, 99);
    assert!(control.keep_once());
    assert_eq!(*home.synced.lock(), ["journal.2"], "what the checkpoint did not cover");
}
