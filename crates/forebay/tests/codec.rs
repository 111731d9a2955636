//! What is written to disk or sent to another process comes back as it was, or not at all.

use std::hash::Hasher;

use forebay::ChunkKey;
use forebay::catalog::{
    BLOCK_BYTES, CachePolicy, Catalog, ChunkRecord, Entry, Extent, Extents, Limits, PLAN_BYTES, Plan,
    RECORD_BYTES, StoreDecision, Ticket,
};
use forebay::tier::disk::journal::{FileHeader, FileKind};
use forebay::tier::disk::trailer::{self, Corruption};
use proptest::collection::vec;
use proptest::prelude::*;
use twox_hash::XxHash3_64;

fn any_key() -> impl Strategy<Value = ChunkKey> {
    any::<[u8; 32]>().prop_map(ChunkKey::new)
}

/// Up to three extents of `blocks` blocks in all, each of which ends within the address space of 2^32 blocks.
fn extents_of(blocks: u64) -> impl Strategy<Value = Extents> {
    let blocks = u32::try_from(blocks).unwrap();
    (0..blocks, 0..blocks, any::<[u32; 3]>()).prop_map(move |(one, other, starts)| {
        let mut cuts = [0, one, other, blocks];
        cuts.sort_unstable();
        let pieces = cuts.windows(2).zip(starts);
        let list: Vec<Extent> = pieces
            .map(|(cut, start)| (cut[1] - cut[0], start))
            .filter(|(blocks, _)| *blocks > 0)
            .map(|(blocks, start)| Extent { start: start.min(u32::MAX - (blocks - 1)), blocks })
            .collect();
        Extents::from_slice(&list).unwrap()
    })
}

fn any_record() -> impl Strategy<Value = ChunkRecord> {
    let length = prop_oneof![Just(1), Just(u32::MAX), 1..100_000_u32, 1..=u32::MAX];
    let blocks = |length| ChunkRecord::blocks(length)..=ChunkRecord::room_blocks(length);
    let place = length
        .prop_flat_map(move |length| (Just(length), blocks(length)))
        .prop_flat_map(|(length, blocks)| (Just(length), extents_of(blocks)));
    (place, any_key(), any_key(), any::<u32>(), any::<u64>(), any::<u64>(), 0..16_u8).prop_map(
        |((length, extents), key, parent, depth, generation, stored_at_ms, drive)| ChunkRecord {
            key,
            parent,
            depth,
            generation,
            length,
            stored_at_ms,
            drive,
            extents,
        },
    )
}

fn any_entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        any_record().prop_map(Entry::Put),
        (any_key(), any::<u64>()).prop_map(|(key, generation)| Entry::Remove(key, generation)),
    ]
}

/// Every way to flip one bit of these bytes.
fn flipped(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..bytes.len() * 8).map(|bit| {
        let mut other = bytes.to_vec();
        other[bit / 8] ^= 1 << (bit % 8);
        (bit, other)
    })
}

/// A ticket of a real catalog, the `nth` that it gives.
fn ticket(nth: usize) -> Ticket {
    let mut catalog = Catalog::new(
        Limits { blocks: 1000.into(), chunks_max: 1000, tickets_max: 1000 },
        CachePolicy::Lru,
        3,
    );
    let chunks: Vec<(ChunkKey, u32)> =
        (0..=nth).map(|number| (ChunkKey::new([u8::try_from(number).unwrap() + 1; 32]), 1)).collect();
    match catalog.plan_store(&chunks, None, 0, &mut Vec::new()).pop() {
        Some(StoreDecision::Write(plan)) => plan.ticket,
        other => panic!("{other:?} where there is room"),
    }
}

/// These bytes with the checksum at their end made right.
fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let at = bytes.len() - 8;
    let sum = XxHash3_64::oneshot(&bytes[..at]);
    bytes[at..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn record_bytes(bytes: &[u8]) -> &[u8; RECORD_BYTES] {
    bytes.try_into().unwrap()
}

fn page_of(record: &ChunkRecord, sum: u64) -> Vec<u8> {
    // What lay in the page before must not matter.
    let mut page = vec![0xee; BLOCK_BYTES];
    trailer::encode(record, sum, &mut page);
    page
}

fn example() -> ChunkRecord {
    let list = [Extent { start: 0x0102_0304, blocks: 2 }, Extent { start: 9, blocks: 1 }];
    ChunkRecord {
        key: ChunkKey::new([0xaa; 32]),
        parent: ChunkKey::new([0xbb; 32]),
        depth: 0x1112_1314,
        generation: 0x2122_2324_2526_2728,
        length: 5000,
        stored_at_ms: 0x3132_3334_3536_3738,
        drive: 0,
        extents: Extents::from_slice(&list).unwrap(),
    }
}

/// The bytes of [`example`], field by field: disks that were written before must stay readable.
fn example_bytes() -> Vec<u8> {
    let mut bytes = vec![1, 2, 0, 0];
    bytes.extend(0x1112_1314_u32.to_le_bytes());
    bytes.extend(0x2122_2324_2526_2728_u64.to_le_bytes());
    bytes.extend([0xaa; 32]);
    bytes.extend([0xbb; 32]);
    bytes.extend(5000_u32.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(0x3132_3334_3536_3738_u64.to_le_bytes());
    for word in [0x0102_0304_u32, 2, 9, 1, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend([0; 8]);
    summed(bytes)
}

#[test]
fn an_entry_has_the_recorded_layout() {
    assert_eq!(Entry::Put(example()).encode().to_vec(), example_bytes());
    let mut removal = vec![0; RECORD_BYTES];
    removal[0] = 2;
    removal[8..16].copy_from_slice(&77_u64.to_le_bytes());
    removal[16..48].fill(0xaa);
    assert_eq!(Entry::Remove(ChunkKey::new([0xaa; 32]), 77).encode().to_vec(), summed(removal));
}

#[test]
fn a_trailer_page_has_the_recorded_layout() {
    let mut page = b"FOREBAY\x03".to_vec();
    page.extend(3_u32.to_le_bytes());
    page.extend([0; 4]);
    page.extend(example_bytes());
    page.extend(0x4142_4344_4546_4748_u64.to_le_bytes());
    page.resize(BLOCK_BYTES, 0);
    assert_eq!(page_of(&example(), 0x4142_4344_4546_4748), summed(page));
}

#[test]
fn a_file_header_has_the_recorded_layout() {
    for (kind, magic) in [(FileKind::Segment, *b"FBAYJRNL"), (FileKind::Checkpoint, *b"FBAYCKPT")] {
        let mut bytes = magic.to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(7_u32.to_le_bytes());
        bytes.extend(8_u64.to_le_bytes());
        bytes.extend(9_u64.to_le_bytes());
        bytes.resize(RECORD_BYTES, 0);
        let file = FileHeader { epoch: 7, segment: 8, records: 9 };
        assert_eq!(file.encode(kind).to_vec(), summed(bytes));
    }
}

#[test]
fn any_flipped_bit_of_a_trailer_page_is_refused() {
    let record = example();
    let mut page = page_of(&record, 42);
    assert_eq!(trailer::verify(&page, &record), Ok(42));
    for bit in 0..BLOCK_BYTES * 8 {
        page[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(trailer::verify(&page, &record), Err(Corruption::Trailer), "bit {bit}");
        page[bit / 8] ^= 1 << (bit % 8);
    }
    assert_eq!(trailer::verify(&page, &record), Ok(42));
}

#[test]
fn any_flipped_bit_of_a_plan_is_refused() {
    // One in the ticket, too: with it the answer would be taken for that of another chunk.
    let plan = Plan { ticket: ticket(5), record: example() };
    let accepted: Vec<usize> = flipped(&plan.encode())
        .filter(|(_, bytes)| Plan::decode(bytes).is_some())
        .map(|(bit, _)| bit)
        .collect();
    assert_eq!(accepted, [0_usize; 0], "bits that may be flipped unnoticed");
}

#[test]
fn a_trailer_page_of_another_length_is_refused() {
    let page = page_of(&example(), 42);
    for length in [0, 7, 8, 12, 152, BLOCK_BYTES - 1] {
        assert_eq!(trailer::decode(&page[..length]), None);
    }
    let mut longer = page;
    longer.push(0);
    assert_eq!(trailer::decode(&longer), None);
}

#[test]
fn an_entry_with_no_extents_too_many_or_an_empty_one_is_refused() {
    let refused = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = example_bytes();
        change(&mut bytes);
        Entry::decode(record_bytes(&summed(bytes))).is_none()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|bytes| bytes[0] = 3), "neither put nor removal");
    assert!(refused(&|bytes| bytes[1] = 0), "no extents");
    assert!(refused(&|bytes| bytes[1] = 1), "fewer blocks than the chunk takes");
    assert!(refused(&|bytes| bytes[1] = 3), "three extents, the last of them empty");
    assert!(refused(&|bytes| bytes[1] = 4), "more extents than a chunk may span");
    assert!(refused(&|bytes| bytes[81] ^= 0xff), "a length that takes other blocks");
}

#[test]
fn a_removal_is_neither_a_plan_nor_a_trailer() {
    let removal = Entry::Remove(ChunkKey::new([1; 32]), 5).encode();
    let mut page = page_of(&example(), 42);
    page[16..16 + RECORD_BYTES].copy_from_slice(&removal);
    assert_eq!(trailer::decode(&summed(page)), None);
    let mut plan = Plan { ticket: ticket(0), record: example() }.encode().to_vec();
    let at = plan.windows(RECORD_BYTES).position(|window| window == example_bytes()).unwrap();
    plan[at..at + RECORD_BYTES].copy_from_slice(&removal);
    assert_eq!(Plan::decode(&plan), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_entry_comes_back_as_it_was(entry in any_entry()) {
        prop_assert_eq!(Entry::decode(&entry.encode()), Some(entry));
    }

    #[test]
    fn any_flipped_bit_of_an_entry_is_refused(entry in any_entry()) {
        for (bit, bytes) in flipped(&entry.encode()) {
            prop_assert_eq!(Entry::decode(record_bytes(&bytes)), None, "bit {}", bit);
        }
    }

    #[test]
    fn a_plan_comes_back_as_it_was(record in any_record(), nth in 0_usize..200) {
        let plan = Plan { ticket: ticket(nth), record };
        let bytes = plan.encode();
        prop_assert_eq!(Plan::decode(&bytes), Some(plan));
        prop_assert_eq!(Plan::decode(&bytes[1..]), None);
        prop_assert_eq!(Plan::decode(&[&bytes[..], &[0]].concat()), None);
    }

    #[test]
    fn a_trailer_comes_back_as_it_was(record in any_record(), sum in any::<u64>()) {
        let page = page_of(&record, sum);
        prop_assert_eq!(trailer::decode(&page), Some((record, sum)));
        prop_assert_eq!(trailer::verify(&page, &record), Ok(sum));
    }

    #[test]
    fn a_trailer_of_anything_else_is_told_from_the_one_expected(record in any_record(), other in any_record()) {
        let page = page_of(&record, 1);
        let check = |expected: ChunkRecord| trailer::verify(&page, &expected);
        prop_assert_eq!(check(ChunkRecord { key: other.key, ..record }), Err(Corruption::OtherChunk));
        let generation = record.generation.wrapping_add(1);
        prop_assert_eq!(check(ChunkRecord { generation, ..record }), Err(Corruption::Generation));
        let length = record.length.wrapping_add(1);
        prop_assert_eq!(check(ChunkRecord { length, ..record }), Err(Corruption::Trailer));
        let drive = (record.drive + 1) % 16;
        prop_assert_eq!(check(ChunkRecord { drive, ..record }), Err(Corruption::Trailer));
        prop_assume!(other.extents != record.extents);
        prop_assert_eq!(check(ChunkRecord { extents: other.extents, ..record }), Err(Corruption::Trailer));
    }

    #[test]
    fn the_same_payload_under_another_record_has_another_checksum(
        record in any_record(), other in any_record(), payload in vec(any::<u8>(), 0..100),
    ) {
        let sum = |record: ChunkRecord| {
            let mut hasher = trailer::payload_hasher();
            hasher.write(&payload);
            trailer::payload_sum(&record, &hasher)
        };
        let own = sum(record);
        prop_assert_eq!(own, sum(record));
        prop_assert_ne!(own, sum(ChunkRecord { key: other.key, ..record }));
        prop_assert_ne!(own, sum(ChunkRecord { parent: other.parent, ..record }));
        prop_assert_ne!(own, sum(ChunkRecord { generation: record.generation ^ 1, ..record }));
        prop_assert_ne!(own, sum(ChunkRecord { length: record.length ^ 1, ..record }));
    }

    #[test]
    fn a_file_header_comes_back_as_it_was_and_no_flipped_bit_is_taken(
        epoch in any::<u32>(), segment in any::<u64>(), records in any::<u64>(),
    ) {
        let file = FileHeader { epoch, segment, records };
        for (kind, other) in [(FileKind::Segment, FileKind::Checkpoint), (FileKind::Checkpoint, FileKind::Segment)] {
            let bytes = file.encode(kind);
            prop_assert_eq!(FileHeader::decode(&bytes, kind), Some(file));
            prop_assert_eq!(FileHeader::decode(&bytes, other), None, "a segment is no checkpoint");
            prop_assert_eq!(FileHeader::decode(&bytes[..RECORD_BYTES - 1], kind), None);
            for (bit, bytes) in flipped(&bytes) {
                prop_assert_eq!(FileHeader::decode(&bytes, kind), None, "bit {}", bit);
            }
        }
    }
}

/// Bytes that begin like something sound more often than chance would have it.
fn noise(len: usize) -> impl Strategy<Value = Vec<u8>> {
    (vec(any::<u8>(), len), 0_u8..4, 0_u8..5, prop::option::of(0_u32..20_000)).prop_map(
        |(mut bytes, kind, count, length)| {
            bytes[0] = kind;
            bytes[1] = count;
            if let Some(length) = length {
                bytes[80..84].copy_from_slice(&length.to_le_bytes());
                let blocks = u32::try_from(ChunkRecord::blocks(length)).unwrap();
                bytes[100..104].copy_from_slice(&blocks.to_le_bytes());
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_refused_without_a_panic(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(Plan::decode(&bytes), None);
        prop_assert_eq!(trailer::decode(&bytes), None);
        prop_assert_eq!(FileHeader::decode(&bytes, FileKind::Segment), None);
        prop_assert_eq!(FileHeader::decode(&bytes, FileKind::Checkpoint), None);
    }

    #[test]
    fn random_bytes_of_the_right_length_are_refused_without_a_panic(seed in any::<[u8; 32]>()) {
        let mut bytes = seed.repeat(BLOCK_BYTES / 32);
        prop_assert_eq!(Entry::decode(record_bytes(&bytes[..RECORD_BYTES])), None);
        prop_assert_eq!(Plan::decode(&bytes[..PLAN_BYTES]), None);
        prop_assert_eq!(trailer::decode(&bytes), None);
        bytes[..8].copy_from_slice(&trailer::MAGIC);
        bytes[8..12].copy_from_slice(&trailer::FORMAT_VERSION.to_le_bytes());
        prop_assert_eq!(trailer::decode(&bytes), None);
    }

    /// A checksum proves that the bytes are as they were written, not that whoever wrote them was right.
    #[test]
    fn what_a_right_checksum_lets_through_is_sound_and_hurts_nobody(bytes in noise(RECORD_BYTES)) {
        let bytes = summed(bytes);
        if let Some(Entry::Put(record)) = Entry::decode(record_bytes(&bytes)) {
            let list = record.extents.as_slice();
            prop_assert!((1..=3).contains(&list.len()));
            prop_assert!(list.iter().all(|extent| extent.blocks > 0));
            let blocks = record.extents.blocks();
            prop_assert!(ChunkRecord::blocks(record.length) <= blocks);
            prop_assert!(blocks <= ChunkRecord::room_blocks(record.length));
            let _ = record.extents.part(blocks - 1, 1);

            let mut catalog = Catalog::new(Limits { blocks: 100.into(), chunks_max: 4, tickets_max: 4 }, CachePolicy::Lru, 1);
            let fits = catalog.restore(record);
            prop_assert!(!fits || list.iter().all(|extent| extent.end() <= 100));
            catalog.tie_restored();
            prop_assert_eq!(catalog.contains(&record.key), fits);
            let next = ChunkKey::new([1; 32]);
            catalog.plan_store(&[(next, 1)], Some(record.key), 0, &mut Vec::new());
        }
    }

    #[test]
    fn a_trailer_page_with_a_right_checksum_and_anything_in_it_does_not_panic(bytes in noise(RECORD_BYTES)) {
        let mut page = page_of(&example(), 42);
        page[16..16 + RECORD_BYTES].copy_from_slice(&bytes);
        prop_assert_eq!(trailer::decode(&summed(page.clone())), None, "the record has a checksum of its own");
        page[16..16 + RECORD_BYTES].copy_from_slice(&summed(bytes));
        let _ = trailer::decode(&summed(page));
    }
}

#[test]
fn a_record_that_lies_nowhere_is_not_sound() {
    let decoded = |length: u32, start: u32, blocks: u32| {
        let extents = Extents::from_slice(&[Extent { start, blocks }]).unwrap();
        let record = ChunkRecord { length, extents, ..example() };
        Entry::decode(&Entry::Put(record).encode()) == Some(Entry::Put(record))
    };
    assert!(decoded(100_000, u32::MAX - 25, 26), "up to the last block there can be");
    assert!(!decoded(100_000, u32::MAX - 24, 26), "and not past it");
    assert!(!decoded(0, 7, 1), "a chunk of nothing");
    let (blocks, room) = (513, 528);
    assert!(decoded(2 << 20, 7, blocks) && decoded(2 << 20, 7, room), "with its room, or without");
    assert!(!decoded(2 << 20, 7, blocks - 1) && !decoded(2 << 20, 7, room + 1));
}
