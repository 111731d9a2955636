//! Records of the journal, trailers of chunks, plans on their way between two processes.

use forebay::catalog::{BLOCK_BYTES, ChunkRecord, Entry, Extent, Extents, PLAN_BYTES, Plan, RECORD_BYTES};
use forebay::key::{ChunkKey, Namespace};
use forebay::tier::disk::trailer::{self, Corruption};

use crate::{fit, seal};

/// Where a trailer has its record (`docs/FORMAT.md`).
const RECORD_AT: usize = 16;

pub(crate) fn record() -> ChunkRecord {
    let extents =
        [Extent { start: 7, blocks: 1 }, Extent { start: 100, blocks: 1 }, Extent { start: 3, blocks: 1 }];
    ChunkRecord {
        key: key(1),
        parent: key(0),
        depth: 1,
        generation: 3 << 40,
        length: 5000,
        stored_at_ms: 1_700_000_000_000,
        drive: 0,
        extents: Extents::from_slice(&extents).expect("three extents"),
    }
}

pub(crate) fn key(number: u32) -> ChunkKey {
    Namespace::of_model("fuzz").chunk_keys(&[number], 1, &[]).expect("a chunk size above zero")[0]
}

/// What every record that is taken for sound holds.
fn check(record: &ChunkRecord) {
    assert!(record.length > 0);
    let blocks = record.extents.blocks();
    assert!((ChunkRecord::blocks(record.length)..=ChunkRecord::room_blocks(record.length)).contains(&blocks));
    for extent in record.extents.as_slice() {
        assert!(extent.blocks > 0 && extent.end() <= 1 << 32, "{extent:?}");
    }
}

pub(crate) fn entry(bytes: &[u8]) {
    let raw: [u8; RECORD_BYTES] = fit(bytes);
    let mut sealed = raw;
    seal(&mut sealed);
    for bytes in [raw, sealed] {
        if let Some(entry) = Entry::decode(&bytes) {
            assert_eq!(Entry::decode(&entry.encode()), Some(entry));
            if let Entry::Put(record) = entry {
                check(&record);
            }
        }
    }
}

pub(crate) fn sound_entries() -> Vec<Vec<u8>> {
    vec![Entry::Put(record()).encode().to_vec(), Entry::Remove(key(2), 9).encode().to_vec()]
}

pub(crate) fn trailer(bytes: &[u8]) {
    let expected = record();
    let mut page: [u8; BLOCK_BYTES] = fit(bytes);
    let proves = trailer::decode(&page).is_some_and(|(found, _)| same(&found, &expected));
    assert_eq!(trailer::verify(&page, &expected).is_ok(), proves);
    // Behind both of its sums.
    seal(&mut page[RECORD_AT..RECORD_AT + RECORD_BYTES]);
    seal(&mut page);
    match (trailer::decode(&page), trailer::verify(&page, &expected)) {
        (None, outcome) => assert_eq!(outcome, Err(Corruption::Trailer)),
        (Some((found, sum)), outcome) => {
            check(&found);
            assert_eq!(outcome.is_ok(), same(&found, &expected), "{outcome:?} of {found:?}");
            assert_eq!(trailer::verify(&page, &found), Ok(sum));
            let mut again = vec![0xEE; BLOCK_BYTES];
            trailer::encode(&found, sum, &mut again);
            assert_eq!(trailer::decode(&again), Some((found, sum)));
        }
    }
}

/// Whether a trailer of `found` proves a chunk of `expected`.
fn same(found: &ChunkRecord, expected: &ChunkRecord) -> bool {
    (found.key, found.generation, found.length, found.drive, found.extents)
        == (expected.key, expected.generation, expected.length, expected.drive, expected.extents)
}

pub(crate) fn sound_trailers() -> Vec<Vec<u8>> {
    let mut page = vec![0; BLOCK_BYTES];
    trailer::encode(&record(), 0x1234_5678_9abc_def0, &mut page);
    vec![page]
}

pub(crate) fn plan(bytes: &[u8]) {
    let mut sealed: [u8; PLAN_BYTES] = fit(bytes);
    seal(&mut sealed[8..8 + RECORD_BYTES]);
    seal(&mut sealed);
    for bytes in [bytes, &sealed] {
        if let Some(plan) = Plan::decode(bytes) {
            check(&plan.record);
            assert_eq!(Plan::decode(&plan.encode()), Some(plan));
        }
    }
}

pub(crate) fn sound_plans() -> Vec<Vec<u8>> {
    // A ticket is the catalog's to make, so the plan is put together from its parts.
    let plan = [&77_u64.to_le_bytes()[..], &Entry::Put(record()).encode(), &[0; 8]].concat();
    let mut plan: [u8; PLAN_BYTES] = fit(&plan);
    seal(&mut plan);
    assert!(Plan::decode(&plan).is_some());
    vec![plan.to_vec()]
}
