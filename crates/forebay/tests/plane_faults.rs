//! What the disk's part of the control plane does when its journal cannot be written or synced, and when the clock jumps.

#[path = "support/plane.rs"]
mod plane;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay::catalog::{ChunkRecord, RECORD_BYTES};
use forebay::config::DiskSync;
use forebay::control::StorePlan;
use forebay::tier::disk::trailer::Corruption;
use forebay::{ControlPlane, LoadStatus, Lookup, Reason};
use plane::{Noting, key, open};
use tempfile::TempDir;

/// Chunks of one byte there is room for: each takes two blocks.
const CHUNKS: u8 = 50;
const MANY_RECORDS: u64 = 100_000;

fn plan(control: &ControlPlane, number: u8) -> StorePlan {
    control.plan_store(&[(key(number), 1)], None).remove(0)
}

fn store(control: &ControlPlane, number: u8) -> Result<ChunkRecord, Reason> {
    match plan(control, number) {
        StorePlan::Write { plan, .. } => control.finish_store(plan.ticket, true).map(|_| plan.record),
        other => panic!("{other:?}"),
    }
}

/// The keys' numbers of what is there, the first to go first.
fn order(control: &ControlPlane) -> Vec<u8> {
    control.inspect(|catalog| catalog.committed().map(|record| record.key.as_bytes()[0]).collect()).unwrap()
}

#[test]
fn guarantee_6_a_store_whose_evictions_cannot_be_noted_is_taken_back() {
    let directory = TempDir::new().unwrap();
    let home = Noting::around(directory.path(), true);
    let control = open(&home, MANY_RECORDS, DiskSync::None, || 0);
    for number in 1..=CHUNKS {
        store(&control, number).unwrap();
    }
    home.writes.store(false, Ordering::Relaxed);
    for number in 100..110 {
        let refused = plan(&control, number);
        assert!(matches!(refused, StorePlan::Refused(Reason::Journal)), "{refused:?}");
    }
    let open_now = control.inspect(|catalog| (catalog.open_writes(), catalog.open_tickets()));
    assert_eq!(open_now, Some((0, 0)), "a plan that nobody has");
    assert!(control.stats().disk.degraded.is_some());
    // What was evicted is gone for good with the next record, and its blocks are free.
    home.writes.store(true, Ordering::Relaxed);
    for number in 100..100 + CHUNKS {
        store(&control, number).unwrap();
    }
    let all: Vec<u8> = (100..100 + CHUNKS).collect();
    assert_eq!(order(&control), all);
    assert_eq!(order(&open(&home, MANY_RECORDS, DiskSync::None, || 0)), all);
}

#[test]
fn guarantee_6_with_always_a_journal_that_cannot_be_synced_is_told_and_counted() {
    let directory = TempDir::new().unwrap();
    let home = Noting::around(directory.path(), true);
    let control = open(&home, MANY_RECORDS, DiskSync::Always, || 0);
    home.syncs.store(false, Ordering::Relaxed);
    assert_eq!(store(&control, 1).err(), Some(Reason::Journal));
    assert_eq!(control.stats().disk.journal_errors, 1);
    // Its record is cut off again.
    assert!(matches!(control.lookup(&[key(1)]), Lookup::Miss));
    home.syncs.store(true, Ordering::Relaxed);
    store(&control, 2).unwrap();
    assert_eq!(order(&open(&home, MANY_RECORDS, DiskSync::None, || 0)), [2]);
}

#[test]
fn guarantee_6_what_was_written_over_does_not_come_back_in_the_place_of_what_continues_it() {
    let directory = TempDir::new().unwrap();
    let home = Noting::around(directory.path(), true);
    let control = open(&home, MANY_RECORDS, DiskSync::None, || 0);
    let first = store(&control, 1).unwrap();
    let load = control.plan_load(&[(key(1), 1)]).remove(0).unwrap();
    control.finish_load(load.read.ticket, LoadStatus::Miss, Some(&Reason::Corrupt(Corruption::Payload)));
    drop(control);
    let control = open(&home, MANY_RECORDS, DiskSync::None, || 0);
    match control.plan_store(&[(key(2), 1)], Some(key(1))).remove(0) {
        StorePlan::Write { plan, .. } => {
            assert_eq!(plan.record.extents, first.extents);
            control.finish_store(plan.ticket, true).unwrap();
        }
        other => panic!("{other:?}"),
    }
    drop(control);
    // With the power goes that the first one was dropped: the last record of its segment.
    let segment = File::options().write(true).open(directory.path().join("journal.1")).unwrap();
    segment.set_len(segment.metadata().unwrap().len() - RECORD_BYTES as u64).unwrap();
    assert_eq!(order(&open(&home, MANY_RECORDS, DiskSync::None, || 0)), [2]);
}

#[test]
fn a_damaged_chunk_that_two_loads_have_found_is_dropped_and_counted_once() {
    let directory = TempDir::new().unwrap();
    let control = open(&Noting::around(directory.path(), true), MANY_RECORDS, DiskSync::None, || 0);
    store(&control, 1).unwrap();
    store(&control, 2).unwrap();
    let loads: Vec<_> = (0..2).map(|_| control.plan_load(&[(key(1), 1)]).remove(0).unwrap()).collect();
    let damaged = Reason::Corrupt(Corruption::Payload);
    for load in loads {
        assert!(control.finish_load(load.read.ticket, LoadStatus::Miss, Some(&damaged)));
    }
    let stats = control.stats().disk;
    assert_eq!((stats.stored, stats.corrupt, stats.chunks), (2, 1, 1));
}

#[test]
fn guarantee_9_a_clock_that_jumps_loses_nothing_and_changes_no_order() {
    const NOW: u64 = 1_750_000_000_000;
    const JUMPS: [u64; 5] = [NOW, 0, u64::MAX, NOW + 1, 1];
    let directory = TempDir::new().unwrap();
    let home = Noting::around(directory.path(), true);
    let time = Arc::new(AtomicU64::new(0));
    let start = || {
        let time = Arc::clone(&time);
        // With checkpoints: they write the times down once more.
        open(&home, 60, DiskSync::None, move || time.load(Ordering::Relaxed))
    };
    let mut control = start();
    for number in 1..=3 * CHUNKS {
        time.store(JUMPS[usize::from(number) % JUMPS.len()], Ordering::Relaxed);
        let record = store(&control, number).unwrap();
        assert_eq!(record.stored_at_ms, time.load(Ordering::Relaxed), "the clock is asked");
        control.keep_once();
        let first = (number + 1).saturating_sub(CHUNKS).max(1);
        assert_eq!(order(&control), (first..=number).collect::<Vec<_>>(), "what was stored first goes first");
        if number % 40 == 39 {
            drop(control);
            control = start();
            assert_eq!(order(&control), (first..=number).collect::<Vec<_>>(), "after a restart too");
        }
    }
    assert_eq!(control.stats().disk.journal_errors, 0);
}
