//! Guarantee 1 under abuse: whatever happens to the bytes on disk, a load gives the right bytes or a miss.

mod support;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use forebay::{Cache, LoadStatus};
use support::*;

fn flip(path: &Path, bit: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, bit / 8).unwrap();
}

/// Where a chunk lies: its first extent, in bytes.
fn place_of(home: &Home, key: &forebay::ChunkKey) -> (u64, u64) {
    let found = forebay::tier::disk::recovery::read_journal(home.directory.path()).unwrap();
    let record = found.records.iter().find(|record| record.key == *key).expect("it was stored");
    let extents = record.extents.as_slice();
    assert_eq!(extents.len(), 1);
    (extents[0].byte_start(), extents[0].byte_len() as u64)
}

/// Nothing wrong is served; gives how many chunks are, and how many were counted as corrupt.
fn read_all(cache: &Cache, keys: &[forebay::ChunkKey], len: usize) -> (usize, u64) {
    let before = cache.stats().control.disk.corrupt;
    let right = count_right(cache, keys, len);
    (right, cache.stats().control.disk.corrupt - before)
}

#[test]
fn guarantee_1_every_single_flipped_bit_of_a_chunk_is_a_counted_miss() {
    // A chunk of 100 bytes: trailer page and padded payload, 65,536 bits, each flipped once.
    let home = Home::new(4 * KIB, 2, 16 << 20);
    let keys = prompt(0, 1);
    let cache = home.open();
    store_all(&cache, &keys, 100);
    // The only chunk gets the same blocks each time.
    let (start, len) = place_of(&home, &keys[0]);
    assert_eq!(len, 8192);
    for bit in 0..2 * 4096 * 8 {
        flip(&home.data(), start * 8 + bit);
        let (outcome, _) = load(&cache, &keys, 100).remove(0);
        assert_eq!(outcome.status, LoadStatus::Miss, "bit {bit}: {outcome:?}");
        assert_eq!(cache.stats().control.disk.corrupt, bit + 1, "bit {bit} is not counted");
        // It was dropped; the next store takes its place.
        store_all(&cache, &keys, 100);
    }
    assert_eq!(count_right(&cache, &keys, 100), 1);
}

#[test]
fn guarantee_1_random_flips_in_a_large_file_are_misses() {
    const LEN: usize = 256 * KIB;
    let home = Home::new(LEN, 4, 64 << 20);
    let cache = home.open();
    let keys = prompt(0, 100);
    store_all(&cache, &keys, LEN);
    let places: Vec<(u64, u64)> = keys.iter().map(|key| place_of(&home, key)).collect();
    let mut state = 42_u64;
    let mut hit: Vec<usize> = Vec::new();
    for _ in 0..60 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let victim = usize::try_from(state >> 33).unwrap() % keys.len();
        let (start, len) = places[victim];
        if !hit.contains(&victim) {
            hit.push(victim);
            flip(&home.data(), start * 8 + (state >> 7) % (len * 8));
        }
    }
    let (right, corrupt) = read_all(&cache, &keys, LEN);
    assert_eq!((right, corrupt), (100 - hit.len(), hit.len() as u64));
}

#[test]
fn guarantee_1_a_truncated_file_is_misses_from_there_on() {
    const LEN: usize = 16 * KIB;
    for cut in [0, 1, 4095, 4096, 4097, 100_000, 20_480 * 10 - 1] {
        let home = Home::new(LEN, 4, 16 << 20);
        let cache = home.open();
        let keys = prompt(0, 20);
        store_all(&cache, &keys, LEN);
        OpenOptions::new().write(true).open(home.data()).unwrap().set_len(cut).unwrap();
        let whole = usize::try_from(cut).unwrap() / (LEN + 4096);
        let (right, corrupt) = read_all(&cache, &keys, LEN);
        assert_eq!((right, corrupt), (whole, 20 - whole as u64), "cut at {cut}");
    }
}

#[test]
fn guarantee_1_a_swapped_pair_of_chunks_is_two_misses() {
    const LEN: usize = 16 * KIB;
    // Whole chunks, trailers only, payloads only.
    for (from, to) in [(0, LEN as u64 + 4096), (0, 4096), (4096, LEN as u64 + 4096)] {
        let home = Home::new(LEN, 4, 16 << 20);
        let cache = home.open();
        let keys = prompt(0, 3);
        store_all(&cache, &keys, LEN);
        let (a, b) = (place_of(&home, &keys[0]).0 + from, place_of(&home, &keys[1]).0 + from);
        let file = OpenOptions::new().read(true).write(true).open(home.data()).unwrap();
        let len = usize::try_from(to - from).unwrap();
        let (mut left, mut right) = (vec![0; len], vec![0; len]);
        file.read_exact_at(&mut left, a).unwrap();
        file.read_exact_at(&mut right, b).unwrap();
        file.write_all_at(&right, a).unwrap();
        file.write_all_at(&left, b).unwrap();
        assert_eq!(read_all(&cache, &keys, LEN), (1, 2), "bytes {from}..{to}");
    }
}

#[test]
fn guarantee_1_a_trailer_is_bound_to_key_generation_length_and_place() {
    use forebay::catalog::{ChunkRecord, Extent, Extents};
    use forebay::tier::disk::trailer::{Corruption, encode, payload_hasher, payload_sum, verify};

    let keys = prompt(0, 2);
    let place = |start| Extents::from_slice(&[Extent { start, blocks: 2 }]).unwrap();
    let right = ChunkRecord {
        key: keys[0],
        parent: keys[1],
        depth: 1,
        generation: 7,
        length: 100,
        stored_at_ms: 1,
        drive: 0,
        extents: place(0),
    };
    let mut page = vec![0; 4096];
    encode(&right, 42, &mut page);
    assert_eq!(verify(&page, &right), Ok(42));
    for (other, why) in [
        (ChunkRecord { key: keys[1], ..right }, Corruption::OtherChunk),
        (ChunkRecord { generation: 8, ..right }, Corruption::Generation),
        (ChunkRecord { length: 99, ..right }, Corruption::Trailer),
        (ChunkRecord { extents: place(2), ..right }, Corruption::Trailer),
    ] {
        assert_eq!(verify(&page, &other), Err(why));
        // The payload's checksum is bound to them as well: the same bytes elsewhere have another one.
        let payload = payload_hasher();
        assert_ne!(payload_sum(&other, &payload), payload_sum(&right, &payload));
    }
}

#[test]
fn guarantee_1_an_older_generation_of_the_same_key_is_a_miss() {
    const LEN: usize = 16 * KIB;
    let home = Home::new(LEN, 4, 16 << 20);
    let keys = prompt(0, 1);
    let cache = home.open();
    store_all(&cache, &keys, LEN);
    let old = std::fs::read(home.data()).unwrap()[..LEN + 4096].to_vec();
    // The same chunk again, in the same place, of a later generation.
    flip(&home.data(), 0);
    assert_eq!(read_all(&cache, &keys, LEN), (0, 1));
    store_all(&cache, &keys, LEN);
    assert_eq!(place_of(&home, &keys[0]).0, 0);
    assert_eq!(read_all(&cache, &keys, LEN), (1, 0));
    // Put the bit right again in the old copy: sound in itself, and stale.
    OpenOptions::new().write(true).open(home.data()).unwrap().write_all_at(&old, 0).unwrap();
    let (outcome, _) = load(&cache, &keys, LEN).remove(0);
    assert_eq!(outcome.reason.map(|reason| reason.to_string()).as_deref(), Some("corrupt: generation"));
    assert_eq!(outcome.status, LoadStatus::Miss);
}

#[test]
fn guarantee_1_an_older_copy_of_the_whole_data_file_gives_old_right_bytes_or_misses() {
    const LEN: usize = 16 * KIB;
    let home = Home::new(LEN, 4, 2 << 20);
    let first = prompt(0, 10);
    {
        let cache = home.open();
        store_all(&cache, &first, LEN);
        cache.close(PATIENCE);
    }
    let old = std::fs::read(home.data()).unwrap();
    let mut later = Vec::new();
    {
        let cache = home.open();
        for round in 1..40 {
            later.extend(prompt(round, 10));
            store(&cache, &prompt(round, 10), LEN);
        }
        cache.close(PATIENCE);
    }
    std::fs::write(home.data(), old).unwrap();
    let cache = home.open();
    // `count_right` checks the bytes of whatever is loaded.
    let there: Vec<_> = later.into_iter().filter(|key| cache.lookup(&[*key]).chunks() == 1).collect();
    assert!(!there.is_empty());
    let (right, corrupt) = read_all(&cache, &there, LEN);
    assert_eq!((right, corrupt), (0, there.len() as u64));
}

#[test]
fn guarantee_1_flips_anywhere_in_the_directory_never_serve_wrong_bytes() {
    const LEN: usize = 4 * KIB;
    let home = Home::new(LEN, 4, 4 << 20);
    let keys = prompt(0, 12);
    {
        let cache = home.open();
        store_all(&cache, &keys[..6], LEN);
        cache.close(PATIENCE);
    }
    {
        // A checkpoint of six and a journal of six more, as a death would leave it.
        let cache = home.open();
        store_all(&cache, &keys[6..], LEN);
        let copy = tempfile::TempDir::new().unwrap();
        copy_directory(home.directory.path(), copy.path());
        cache.close(PATIENCE);
        for file in ["checkpoint", "journal.3", "FORMAT", "LOCK", "namespaces"] {
            let path = copy.path().join(file);
            let Ok(bytes) = std::fs::read(&path) else { continue };
            for at in (0..bytes.len() as u64 * 8).step_by(61) {
                let trial = tempfile::TempDir::new().unwrap();
                copy_directory(copy.path(), trial.path());
                flip(&trial.path().join(file), at);
                let config = config(trial.path(), LEN, 4, 4 << 20);
                // A format that is not ours is refused; everything else opens and serves right bytes only.
                if let Ok(cache) = Cache::open(&config, LEN as u64, None) {
                    let right = count_right(&cache, &keys, LEN);
                    assert!(right >= 11, "{file} bit {at}: {right} chunks left");
                } else {
                    assert_eq!(file, "FORMAT", "bit {at}");
                }
            }
        }
    }
}

fn copy_directory(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
