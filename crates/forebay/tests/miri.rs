//! What Miri can run of the code that is `unsafe`, or that `unsafe` code relies on: no files, no mappings, little
//! data. `CONTRIBUTING.md` says how; the tests run without Miri too.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use forebay::catalog::{BLOCK_BYTES, CachePolicy, Catalog, Limits, Plan, StoreDecision};
use forebay::mover::{Batch, PIECE_BYTES, Region, Sink, Source, StoreJob};
use forebay::outcome::Reason;
use forebay::staging::{Class, Lease, Refusal, Staging};
use forebay::{ChunkKey, Regions};

const LONG: Duration = Duration::from_mins(1);

#[test]
fn miri_leases_have_memory_of_their_own() {
    let staging = Staging::new(3, 2 * BLOCK_BYTES).unwrap();
    let mut leases: Vec<_> = (0..3).map(|_| staging.acquire(Class::Load, LONG).unwrap()).collect();
    // All slices are alive at once and written in turn: one reaching into another one would be seen.
    let mut slots: Vec<_> = leases.iter_mut().map(Lease::bytes).collect();
    let last = 3 * BLOCK_BYTES - 1;
    for round in 0..3_u8 {
        for (stamp, slot) in (round..).zip(&mut slots) {
            assert_eq!(slot.len(), last + 1, "two blocks of payload, and one");
            (slot[0], slot[last]) = (stamp, stamp);
        }
    }
    for (stamp, slot) in (2..).zip(&slots) {
        assert_eq!((slot[0], slot[last]), (stamp, stamp));
    }
    drop(staging);
    drop(leases);
}

#[test]
fn miri_a_slot_goes_from_thread_to_thread_without_a_race() {
    let staging = Staging::new(2, BLOCK_BYTES).unwrap();
    thread::scope(|scope| {
        for number in 0..4_u8 {
            let staging = &staging;
            let class = if number % 2 == 0 { Class::Load } else { Class::Store };
            scope.spawn(move || {
                for _ in 0..3 {
                    let mut lease = staging.acquire(class, LONG).unwrap();
                    let slot = lease.bytes();
                    (slot[7], slot[BLOCK_BYTES + 7]) = (number, number);
                    thread::yield_now();
                    assert_eq!((slot[7], slot[BLOCK_BYTES + 7]), (number, number));
                }
            });
        }
    });
    assert_eq!(staging.usage().in_use, 0);
}

#[test]
fn miri_a_lease_outlives_the_closing_of_its_buffer() {
    let staging = Staging::new(2, BLOCK_BYTES).unwrap();
    let mut lease = staging.acquire(Class::Store, LONG).unwrap();
    staging.close_at(std::time::Instant::now());
    assert_eq!(staging.acquire(Class::Load, LONG).map(drop), Err(Refusal::Closed));
    drop(staging);
    thread::spawn(move || lease.bytes().fill(3)).join().unwrap();
}

/// Memory cut into regions of these lengths; every other one may be null.
struct Paged {
    pages: Vec<Box<[u8]>>,
    nulls: bool,
}

impl Paged {
    fn new(lengths: &[usize], nulls: bool) -> Self {
        Self { pages: lengths.iter().map(|&len| vec![0; len].into()).collect(), nulls }
    }

    fn regions(&mut self) -> Regions {
        let nulls = self.nulls;
        let regions = self
            .pages
            .iter_mut()
            .enumerate()
            .map(|(at, page)| Region {
                address: if nulls && at % 2 == 1 { std::ptr::null_mut() } else { page.as_mut_ptr() },
                len: page.len(),
            })
            .collect();
        // SAFETY: the pages are alive for as long as the tests use the regions, and nobody else touches them
        // meanwhile.
        unsafe { Regions::new(regions, Arc::new(())) }
    }
}

/// Bytes that differ from their neighbours, and from those one piece away. Made of copies: Miri is slow at loops.
fn pattern(len: usize) -> Vec<u8> {
    let mut bytes = (0..251).collect::<Vec<u8>>().repeat(len / 251 + 1);
    bytes.truncate(len);
    bytes
}

/// Some shorter than a piece, one of exactly a piece, one longer, one empty.
const LENGTHS: [usize; 5] = [5, PIECE_BYTES, 0, PIECE_BYTES + 3, 1];

#[test]
fn miri_scattered_memory_is_gathered_in_order_and_every_byte_is_seen() {
    let mut memory = Paged::new(&LENGTHS, false);
    let len: usize = LENGTHS.iter().sum();
    let bytes = pattern(len);
    let mut rest = &bytes[..];
    for page in &mut memory.pages {
        let (own, next) = rest.split_at(page.len());
        page.copy_from_slice(own);
        rest = next;
    }
    let mut regions = memory.regions();
    assert!(regions.is_whole());
    assert_eq!(Source::len(&regions), len);
    let (mut slot, mut seen) = (vec![0xee; len], Vec::new());
    // In parts whose borders are none of the regions'.
    for (part, to) in slot.chunks_mut(PIECE_BYTES / 3 + 1).enumerate() {
        regions.fill(part * (PIECE_BYTES / 3 + 1), to, &mut |piece| seen.extend_from_slice(piece)).unwrap();
    }
    assert!(slot == bytes && seen == bytes);
}

#[test]
fn miri_a_slot_is_scattered_in_order_and_what_is_null_is_passed_over() {
    for nulls in [false, true] {
        let mut memory = Paged::new(&LENGTHS, nulls);
        let len: usize = LENGTHS.iter().sum();
        let slot = pattern(len);
        let mut seen = Vec::new();
        let mut regions = memory.regions();
        assert_eq!(regions.is_whole(), !nulls);
        assert_eq!(Sink::len(&regions), len);
        for (part, from) in slot.chunks(PIECE_BYTES / 3 + 1).enumerate() {
            let at = part * (PIECE_BYTES / 3 + 1);
            regions.drain(at, from, &mut |piece| seen.extend_from_slice(piece)).unwrap();
        }
        drop(regions);
        assert!(seen == slot, "also the bytes that are passed over take part in the checksum");
        let mut rest = &slot[..];
        for (at, page) in memory.pages.iter().enumerate() {
            let (own, next) = rest.split_at(page.len());
            let passed_over = nulls && at % 2 == 1;
            assert!(if passed_over { **page == *vec![0; page.len()] } else { **page == *own });
            rest = next;
        }
    }
}

#[test]
fn miri_memory_with_a_gap_cannot_be_stored() {
    let mut memory = Paged::new(&LENGTHS, true);
    let mut slot = vec![0xee; LENGTHS.iter().sum()];
    let error = memory.regions().fill(0, &mut slot, &mut |_| panic!("nothing is to be seen")).unwrap_err();
    assert!(error.contains("without memory"), "{error}");
}

#[test]
fn miri_regions_move_to_another_thread_and_keep_their_owner() {
    let owner = Arc::new(vec![7_u8; 64]);
    let address = owner.as_ptr().cast_mut();
    // SAFETY: the owner keeps the memory, and a store only reads it.
    let mut regions =
        unsafe { Regions::new(vec![Region { address, len: 64 }], Arc::<Vec<u8>>::clone(&owner)) };
    let kept = Arc::downgrade(&owner);
    drop(owner);
    thread::spawn(move || {
        let mut slot = [0; 64];
        regions.fill(0, &mut slot, &mut |_| {}).unwrap();
        assert_eq!(slot, [7; 64]);
    })
    .join()
    .unwrap();
    assert!(kept.upgrade().is_none(), "the owner goes with the regions");
}

#[test]
fn miri_regions_through_a_staging_slot_come_out_as_they_went_in() {
    let mut from = Paged::new(&[100, 28], false);
    from.pages[0].copy_from_slice(&pattern(100));
    from.pages[1].copy_from_slice(&[9; 28]);
    let mut to = Paged::new(&[64, 64], false);
    let staging = Staging::new(2, BLOCK_BYTES).unwrap();
    let mut lease = staging.acquire(Class::Store, LONG).unwrap();
    let slot = &mut lease.bytes()[..128];
    from.regions().fill(0, slot, &mut |_| {}).unwrap();
    to.regions().drain(0, slot, &mut |_| {}).unwrap();
    assert!(from.pages.concat() == to.pages.concat());
}

#[test]
fn miri_a_batch_ends_each_chunk_once_and_tells_everybody() {
    let batch = Batch::new(3);
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    batch.on_done(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    thread::scope(|scope| {
        for chunk in 0..3 {
            let batch = &batch;
            scope.spawn(move || batch.end(chunk, chunk * 10));
        }
        assert_eq!(batch.wait(Some(LONG)), Some(vec![0, 10, 20]));
    });
    assert!(batch.is_done());
    let mut polled = batch.poll();
    polled.sort_unstable();
    assert_eq!(polled, [0, 10, 20]);
    assert_eq!(batch.poll(), [0_usize; 0], "an end is polled once");
    assert_eq!(told.load(Ordering::SeqCst), 1);
    let count = Arc::clone(&told);
    batch.on_done(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    assert_eq!(told.load(Ordering::SeqCst), 2, "at once when all is over");
}

#[test]
fn miri_waiting_for_a_batch_takes_no_longer_than_asked() {
    let batch: Arc<Batch<u8>> = Batch::new(1);
    assert_eq!(batch.wait(Some(Duration::ZERO)), None);
    assert_eq!(batch.wait(Some(Duration::from_millis(5))), None);
    assert_eq!(Batch::<u8>::new(0).wait(None), Some(vec![]), "a batch of nothing is over");
    batch.end(0, 1);
    assert_eq!(batch.wait(Some(Duration::MAX)), Some(vec![1]));
}

fn plan() -> Plan {
    let mut catalog =
        Catalog::new(Limits { blocks: 10.into(), chunks_max: 10, tickets_max: 10 }, CachePolicy::Lru, 1);
    match catalog.plan_store(&[(ChunkKey::new([1; 32]), 64)], None, 0, &mut Vec::new()).pop() {
        Some(StoreDecision::Write(plan)) => plan,
        other => panic!("{other:?} where there is room"),
    }
}

#[test]
fn miri_a_job_nobody_carries_out_answers_and_lets_go_of_engine_memory() {
    let batch: Arc<Batch<()>> = Batch::new(1);
    let (tell, told) = mpsc::channel();
    let memory = Arc::new(vec![1_u8; 64]);
    let held = Arc::downgrade(&memory);
    // SAFETY: the owner keeps the memory, and a store only reads it.
    let regions = unsafe {
        let address = memory.as_ptr().cast_mut();
        Regions::new(vec![Region { address, len: 64 }], memory)
    };
    let job = StoreJob::new(&batch, plan(), Box::new(regions), move |plan, verdict| {
        tell.send((plan.record.length, verdict)).unwrap();
    });
    assert!(!batch.is_released());
    assert!(!batch.wait_released(Duration::from_millis(1)));
    batch.cancel();
    assert!(batch.is_cancelled());
    let carrier = thread::spawn(move || drop(job));
    assert!(batch.wait_released(LONG));
    assert_eq!(told.recv(), Ok((64, Err(Reason::Abandoned))));
    carrier.join().unwrap();
    assert!(held.upgrade().is_none());
    assert!(batch.is_released() && told.recv().is_err(), "answered once");
}
