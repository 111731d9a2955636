//! Home's file system stands: what is asked of the cache goes on, and what was on its way is done when it moves again.

#[path = "support/plane.rs"]
mod plane;

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use forebay::config::DiskSync;
use forebay::outcome::Reason;
use forebay::tier::disk::trailer::Corruption;
use forebay::{ControlPlane, LoadStatus, Lookup};
use plane::{Gate, Noting, key, plan};

/// No wait in a test is longer; what takes longer hangs.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long the journal is waited for.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(3);
/// Less than that, and more than anything takes that does not wait for it.
const AT_ONCE: Duration = Duration::from_millis(2500);

/// A process with its threads, and the gate of its home.
fn open(directory: &Path, chunks: u32) -> (ControlPlane, Arc<Gate>) {
    let home = Noting::around(directory, true);
    let control = plane::open_with_room(&home, chunks, 1000, DiskSync::None, || 0);
    control.start(JOURNAL_PATIENCE).unwrap();
    (control, Arc::clone(&home.gate))
}

fn store(control: &ControlPlane, number: u8) -> Result<(), Reason> {
    control.finish_store(plan(control, number)?.ticket, true).map(drop)
}

fn is_there(control: &ControlPlane, number: u8) -> bool {
    matches!(control.lookup(&[key(number)]), Lookup::Hit(_))
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn at_once<T>(what: &str, call: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let value = call();
    let took = begun.elapsed();
    assert!(took < AT_ONCE, "{what} took {took:?}");
    value
}

#[test]
fn guarantee_9_lookups_and_loads_go_on_and_a_commit_waits_for_a_bounded_time() {
    let directory = tempfile::TempDir::new().unwrap();
    let (control, gate) = open(directory.path(), 100);
    store(&control, 1).unwrap();
    let (second, third) = (plan(&control, 2).unwrap().ticket, plan(&control, 3).unwrap().ticket);
    gate.set(true);
    thread::scope(|scope| {
        let late = scope.spawn(|| control.finish_store(second, true));
        gate.wait_for_one(PATIENCE);
        at_once("a lookup", || assert!(is_there(&control, 1) && !is_there(&control, 2)));
        at_once("a load", || {
            let load = control.plan_load(&[(key(1), 1)]).remove(0).unwrap();
            assert!(control.finish_load(load.read.ticket, LoadStatus::Loaded, None));
        });
        assert_eq!(late.join().unwrap(), Err(Reason::Busy));
    });
    // From then on it is known, and nobody waits.
    assert_eq!(at_once("a commit", || control.finish_store(third, true)), Err(Reason::Busy));
    assert_eq!(at_once("a plan", || plan(&control, 4)).err(), Some(Reason::Journal));
    at_once("a lookup of what is late", || assert!(matches!(control.lookup(&[key(2)]), Lookup::Miss)));
    assert!(control.stats().disk.degraded.is_some());
    for ticket in [second, third] {
        assert!(!control.is_writing(ticket), "nobody will be told of it any more");
        assert_eq!(control.finish_store(ticket, true), Err(Reason::Unknown), "it was answered");
        assert_eq!(control.finish_store(ticket, false), Err(Reason::Unknown));
    }
    gate.set(false);
    wait_until("what was late is committed", || is_there(&control, 2) && is_there(&control, 3));
    wait_until("stores go on", || store(&control, 4).is_ok());
    assert!(control.stats().disk.degraded.is_none());
    drop(control);
    let (control, _) = open(directory.path(), 100);
    assert!((1..=4).all(|number| is_there(&control, number)), "it is in the journal");
    assert_eq!(control.stats().disk.open_tickets, 0);
}

#[test]
fn guarantee_9_a_store_that_needs_room_is_refused_and_what_it_evicted_stays_gone() {
    let directory = tempfile::TempDir::new().unwrap();
    let (control, gate) = open(directory.path(), 2);
    store(&control, 1).unwrap();
    store(&control, 2).unwrap();
    gate.set(true);
    assert_eq!(
        plan(&control, 3).err(),
        Some(Reason::Journal),
        "what was evicted for it is not in the journal"
    );
    at_once("a plan", || assert_eq!(plan(&control, 3).err(), Some(Reason::Journal)));
    assert!(!is_there(&control, 1) && is_there(&control, 2));
    gate.set(false);
    wait_until("stores go on", || store(&control, 3).is_ok());
    drop(control);
    let (control, _) = open(directory.path(), 2);
    assert!(!is_there(&control, 1), "it would lie where another one was written");
    assert!(is_there(&control, 2) && is_there(&control, 3));
}

#[test]
fn guarantee_9_what_is_answered_after_the_end_waits_for_a_bounded_time_too() {
    let directory = tempfile::TempDir::new().unwrap();
    let (control, gate) = open(directory.path(), 100);
    store(&control, 1).unwrap();
    let (second, third) = (plan(&control, 2).unwrap().ticket, plan(&control, 3).unwrap().ticket);
    control.close();
    gate.set(true);
    assert_eq!(control.finish_store(second, true), Err(Reason::Busy));
    at_once("a lookup", || assert!(matches!(control.lookup(&[key(1)]), Lookup::Busy)));
    gate.set(false);
    wait_until("the rest is taken", || control.stats().disk.stored == 2);
    control.finish_store(third, false).unwrap();
    drop(control);
    let (control, _) = open(directory.path(), 100);
    assert!(is_there(&control, 1) && is_there(&control, 2) && !is_there(&control, 3));
}

#[test]
fn a_damaged_chunk_is_dropped_without_waiting_and_its_room_is_not_used_before_that_is_noted() {
    let directory = tempfile::TempDir::new().unwrap();
    let (control, gate) = open(directory.path(), 2);
    store(&control, 1).unwrap();
    store(&control, 2).unwrap();
    let load = control.plan_load(&[(key(1), 1)]).remove(0).unwrap();
    gate.set(true);
    let damaged = Reason::Corrupt(Corruption::Payload);
    at_once("a drop", || control.finish_load(load.read.ticket, LoadStatus::Miss, Some(&damaged)));
    gate.wait_for_one(PATIENCE);
    assert_eq!(
        plan(&control, 3).err(),
        Some(Reason::Journal),
        "the journal still has the chunk that was there"
    );
    gate.set(false);
    wait_until("stores go on", || store(&control, 3).is_ok());
    drop(control);
    let (control, _) = open(directory.path(), 2);
    assert!(!is_there(&control, 1) && is_there(&control, 2) && is_there(&control, 3));
}

#[test]
fn guarantee_6_a_checkpoint_does_not_come_between_a_record_and_its_commit() {
    let directory = tempfile::TempDir::new().unwrap();
    let (control, gate) = open(directory.path(), 100);
    store(&control, 1).unwrap();
    let second = plan(&control, 2).unwrap().ticket;
    gate.shut_for_one();
    thread::scope(|scope| {
        let told = scope.spawn(|| control.finish_store(second, true));
        gate.wait_for_one(PATIENCE);
        // Its last checkpoint would have all but the chunk, and void the segment that has it.
        let closed = scope.spawn(|| control.close());
        let begun = Instant::now();
        while !closed.is_finished() && begun.elapsed() < Duration::from_millis(300) {
            thread::sleep(Duration::from_millis(5));
        }
        gate.set(false);
        told.join().unwrap().unwrap();
        closed.join().unwrap();
    });
    drop(control);
    let (control, _) = open(directory.path(), 100);
    assert!(is_there(&control, 1) && is_there(&control, 2));
}

#[test]
fn what_many_threads_hand_over_at_once_is_committed_once_each() {
    const THREADS: u8 = 8;
    const CHUNKS: u8 = 12;
    let directory = tempfile::TempDir::new().unwrap();
    let (control, gate) = open(directory.path(), 1000);
    let plans: Vec<_> = (0..THREADS * CHUNKS).map(|number| plan(&control, number).unwrap().ticket).collect();
    gate.set(true);
    thread::scope(|scope| {
        for own in plans.chunks(CHUNKS.into()) {
            scope.spawn(|| {
                own.iter().for_each(|&ticket| control.finish_store(ticket, true).map(drop).unwrap());
            });
        }
        gate.wait_for_one(PATIENCE);
        gate.set(false);
    });
    let stats = control.stats().disk;
    assert_eq!((stats.stored, stats.chunks, stats.open_tickets), (96, 96, 0));
    drop(control);
    let (control, _) = open(directory.path(), 1000);
    assert!((0..THREADS * CHUNKS).all(|number| is_there(&control, number)));
}
