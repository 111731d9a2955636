//! `disk_sync` in seconds: what a power loss may cost is what was stored since the last time, whichever segment has it.

#[path = "support/plane.rs"]
mod plane;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay::ControlPlane;
use forebay::config::DiskSync;
use plane::Noting;

/// A process with a checkpoint after so many records.
fn open(home: &Arc<Noting>, journal_records_max: u64) -> ControlPlane {
    plane::open(home, journal_records_max, DiskSync::Interval(Duration::from_secs(1)), || 0)
}

fn store(control: &ControlPlane, number: u8) {
    control.finish_store(plane::plan(control, number).unwrap().ticket, true).unwrap();
}

fn noting(directory: &Path, renames: bool) -> Arc<Noting> {
    Noting::around(directory, renames)
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
