//! Several drives: a chunk lies on one of them, they fill evenly, and whatever is least recently used makes room.

use forebay::ChunkKey;
use forebay::catalog::{
    AddressSpace, Catalog, ChunkRecord, DRIVES_MAX, DriveBlocks, Drives, Extent, Extents, Limits,
    StoreDecision,
};

/// Bytes of the chunks below: two blocks each, header included.
const LENGTH: u32 = 4096;

fn key(number: u8) -> ChunkKey {
    ChunkKey::new([number + 1; 32])
}

fn catalog_of(drives: &[u32]) -> Catalog {
    let blocks = DriveBlocks::from_slice(drives).unwrap();
    Catalog::new(Limits { blocks, chunks_max: 1000, tickets_max: 1000 }, 1)
}

/// Stores a chunk that continues nothing; gives its record and how many were evicted for it.
fn store(catalog: &mut Catalog, number: u8, length: u32) -> (ChunkRecord, usize) {
    let mut removed = Vec::new();
    match catalog.plan_store(&[(key(number), length)], None, 0, &mut removed).remove(0) {
        StoreDecision::Write(plan) => {
            assert!(catalog.commit(plan.ticket));
            (plan.record, removed.len())
        }
        other => panic!("{other:?} where there is room"),
    }
}

#[test]
fn drives_of_one_size_have_their_turns() {
    let mut catalog = catalog_of(&[20, 20, 20]);
    let order: Vec<u8> = (0..9).map(|number| store(&mut catalog, number, LENGTH).0.drive).collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn drives_fill_evenly_whatever_their_sizes() {
    let mut catalog = catalog_of(&[20, 60]);
    for number in 0..20 {
        store(&mut catalog, number, LENGTH);
    }
    let free: Vec<u64> = catalog.space().spaces().iter().map(AddressSpace::free_blocks).collect();
    assert_eq!(free, [10, 30], "half of each");
}

#[test]
fn a_chunk_goes_to_a_drive_that_has_room_though_another_has_a_larger_share() {
    let mut drives = Drives::new(&DriveBlocks::from_slice(&[4, 40]).unwrap());
    assert_eq!(drives.allocate(20).map(|(drive, _)| drive), Some(1));
    assert_eq!(
        drives.allocate(10).map(|(drive, _)| drive),
        Some(1),
        "all of the other one is free, but too small"
    );
    assert_eq!(drives.allocate(11), None, "a chunk is not divided between drives");
    assert_eq!(drives.free_blocks(), 14);
}

#[test]
fn the_least_recently_used_makes_room_on_whatever_drive_it_lies() {
    let mut catalog = catalog_of(&[4, 4]);
    let stored: Vec<u8> = (0..4).map(|number| store(&mut catalog, number, LENGTH).0.drive).collect();
    for (number, drive) in (4..8).zip(stored) {
        let (record, evicted) = store(&mut catalog, number, LENGTH);
        assert_eq!((record.drive, evicted), (drive, 1));
        assert!(!catalog.contains(&key(number - 4)), "the oldest went");
    }
    let (record, evicted) = store(&mut catalog, 8, 3 * LENGTH);
    assert_eq!((record.extents.blocks(), evicted), (4, 3), "until one drive has room");
}

#[test]
fn what_is_larger_than_the_largest_drive_is_refused_and_costs_nobody_his_place() {
    let mut catalog = catalog_of(&[4, 6]);
    store(&mut catalog, 0, LENGTH);
    let mut removed = Vec::new();
    let decisions = catalog.plan_store(&[(key(1), 6 * LENGTH)], None, 0, &mut removed);
    assert_eq!((decisions, removed), (vec![StoreDecision::Full], vec![]));
}

#[test]
fn a_chunk_is_restored_to_its_drive_or_not_at_all() {
    let mut catalog = catalog_of(&[4, 4]);
    let records: Vec<ChunkRecord> = (0..4).map(|number| store(&mut catalog, number, LENGTH).0).collect();
    let mut restored = catalog_of(&[4, 4]);
    assert!(
        records.iter().all(|record| restored.restore(*record)),
        "equal places on two drives are two places"
    );
    assert_eq!(restored.committed().map(|record| record.drive).collect::<Vec<_>>(), [1, 0, 1, 0]);
    assert_eq!(restored.space().free_blocks(), 0);

    let mut restored = catalog_of(&[8]);
    let restored_count = records.iter().filter(|record| restored.restore(**record)).count();
    assert_eq!(restored_count, 2, "a drive that is not there any more has taken its chunks with it");
    assert!(
        !restored
            .space()
            .clone()
            .reserve(7, &Extents::from_slice(&[Extent { start: 6, blocks: 1 }]).unwrap())
    );
}

#[test]
fn there_are_as_many_drives_as_may_be() {
    assert!(DriveBlocks::from_slice(&[1; DRIVES_MAX]).is_some());
    assert_eq!(DriveBlocks::from_slice(&[1; DRIVES_MAX + 1]), None);
    assert_eq!(DriveBlocks::from_slice(&[]), None);
}
