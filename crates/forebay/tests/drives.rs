//! Several drives: a chunk lies on one of them, they fill evenly, and whatever is least recently used makes room. Each has
//! a directory of its own: they are known whatever their order, and one that is lost takes its own chunks with it only.

mod support;

use std::fs;
use std::path::PathBuf;

use forebay::catalog::{
    AddressSpace, CachePolicy, Catalog, ChunkRecord, DRIVES_MAX, DriveBlocks, Drives, Extent, Extents,
    Limits, StoreDecision,
};
use forebay::config::Config;
use forebay::tier::disk::block_file::BlockFile;
use forebay::tier::disk::directory::open_data_files;
use forebay::tier::disk::format_file::read_format;
use forebay::tier::disk::journal::{segment_path, segments};
use forebay::tier::disk::recovery::read_journal;
use forebay::{Cache, ChunkKey, ErrorKind, LoadStatus, Lookup, Value};
use tempfile::TempDir;

/// Bytes of the chunks below: two blocks each, trailer included.
const LENGTH: u32 = 4096;

fn key(number: u8) -> ChunkKey {
    ChunkKey::new([number + 1; 32])
}

fn catalog_of(drives: &[u32]) -> Catalog {
    let blocks = DriveBlocks::from_slice(drives).unwrap();
    Catalog::new(Limits { blocks, chunks_max: 1000, tickets_max: 1000 }, CachePolicy::Lru, 1)
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

/// Payload bytes of the chunks of whole caches: 17 blocks each, trailer included.
const CHUNK: usize = 16 * 4096;
/// Bytes that each directory of a whole cache may hold.
const SHARE: u64 = 4 << 20;

/// A place for directories.
struct Places(TempDir);

impl Places {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A cache in these directories, [`SHARE`] in each.
    fn config(&self, names: &[&str]) -> Config {
        let paths = names.iter().map(|name| Value::from(self.path(name).to_str().unwrap())).collect();
        let more = [("local_disk", Value::List(paths))];
        support::config_with(self.0.path(), CHUNK, 8, SHARE * names.len() as u64, more)
    }

    fn open(&self, names: &[&str]) -> Cache {
        Cache::open(&self.config(names), CHUNK as u64, None).unwrap()
    }

    /// Why a cache in these directories cannot be opened.
    fn refused(&self, names: &[&str]) -> String {
        let error = Cache::open(&self.config(names), CHUNK as u64, None).err().expect("is opened");
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        error.to_string()
    }

    /// Directories `a`, `b` and `c` with a prompt in them.
    fn filled(chunks: usize) -> (Self, Vec<ChunkKey>) {
        let places = Self::new();
        let keys = support::prompt(1, chunks);
        support::store_all(&places.open(&["a", "b", "c"]), &keys, CHUNK);
        (places, keys)
    }

    /// The keys of those chunks that the journal of a cache has on a drive.
    fn on_drive(&self, home: &str, drive: u8) -> Vec<ChunkKey> {
        let found = read_journal(&self.path(home)).unwrap();
        assert_eq!(found.damage, None);
        found.records.iter().filter(|record| record.drive == drive).map(|record| record.key).collect()
    }
}

/// All chunks are found, as a prompt, and are right.
fn assert_all_there(cache: &Cache, keys: &[ChunkKey]) {
    let Lookup::Hit(hit) = cache.lookup(keys) else { panic!("nothing is found") };
    assert_eq!(hit.chunks(), keys.len());
    assert_eq!(support::count_right(cache, keys, CHUNK), keys.len());
}

/// Of these chunks exactly those are found that are not in `lost`.
fn assert_lost(cache: &Cache, keys: &[ChunkKey], lost: &[ChunkKey]) {
    for (key, (outcome, bytes)) in keys.iter().zip(support::load(cache, keys, CHUNK)) {
        let is_there = outcome.status == LoadStatus::Loaded;
        assert_eq!(is_there, !lost.contains(key), "{outcome:?}");
        assert!(!is_there || bytes == support::bytes_of(key, CHUNK), "wrong bytes");
    }
}

#[test]
fn chunks_are_spread_evenly_over_directories_and_found_again() {
    let (places, keys) = Places::filled(30);
    for drive in 0..3 {
        let chunks = places.on_drive("a", drive).len();
        assert!((8..=12).contains(&chunks), "{chunks} on drive {drive}");
    }
    let cache = places.open(&["a", "b", "c"]);
    assert_all_there(&cache, &keys);
    support::assert_nothing_leaked(&cache);
}

#[test]
fn threads_move_chunks_from_and_to_every_drive_too() {
    let places = Places::new();
    let mut config = places.config(&["a", "b", "c"]);
    config.disk_io_engine = forebay::config::IoEngineChoice::Threads;
    let cache = Cache::open(&config, CHUNK as u64, None).unwrap();
    let keys = support::prompt(1, 30);
    support::store_all(&cache, &keys, CHUNK);
    assert_all_there(&cache, &keys);
    assert_eq!(cache.stats().mover.io_engine, "threads");
}

/// The directories as they are at one moment are what `kill -9` leaves: nothing that was reported is only in memory.
#[test]
fn guarantee_6_all_drives_are_warm_after_death_wherever_they_are_mounted_then() {
    let places = Places::new();
    let cache = places.open(&["a", "b", "c"]);
    let keys = support::prompt(1, 30);
    support::store_all(&cache, &keys, CHUNK);
    for (from, to) in [("a", "home"), ("b", "x"), ("c", "y")] {
        fs::create_dir(places.path(to)).unwrap();
        for entry in fs::read_dir(places.path(from)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), places.path(to).join(entry.file_name())).unwrap();
        }
    }
    assert_all_there(&places.open(&["home", "y", "x"]), &keys);
    assert_all_there(&cache, &keys);
}

#[test]
fn the_order_behind_home_does_not_matter() {
    let (places, keys) = Places::filled(30);
    assert_all_there(&places.open(&["a", "c", "b"]), &keys);
    let config = places.config(&["a", "c", "b"]);
    let files = open_data_files(&config.local_disk, false).unwrap();
    let mut chunk = vec![0; CHUNK + 4096];
    // A mover on its own finds out which is which as well: the first trailer of each says it.
    for (drive, file) in files.iter() {
        file.read_at(&mut chunk, 0).unwrap();
        let trailer = &chunk[CHUNK..];
        let (record, _) = forebay::tier::disk::trailer::decode(trailer).expect("a chunk lies at the begin");
        assert_eq!(record.drive, drive);
    }
    assert_eq!(files.iter().count(), 3);
}

#[test]
fn a_directory_that_is_added_is_used() {
    let places = Places::new();
    let keys = support::prompt(1, 20);
    support::store_all(&places.open(&["a", "b"]), &keys, CHUNK);
    let cache = places.open(&["a", "new", "b"]);
    assert_all_there(&cache, &keys);
    let more = support::prompt(2, 20);
    support::store_all(&cache, &more, CHUNK);
    drop(cache);
    assert!(places.on_drive("a", 2).len() > 10, "it is the emptiest");
    assert_eq!(read_format(&places.path("new")).unwrap().unwrap().drive, 2);
    let cache = places.open(&["a", "b", "new"]);
    assert_all_there(&cache, &keys);
    assert_all_there(&cache, &more);
}

#[test]
fn a_directory_that_is_taken_away_takes_its_own_chunks_and_no_other() {
    let (places, keys) = Places::filled(30);
    let lost = places.on_drive("a", 1);
    assert_lost(&places.open(&["a", "c"]), &keys, &lost);
    assert!(places.on_drive("a", 1).is_empty(), "the journal has them no more");
    // What has come back is a new drive: what is still in it was given up.
    let cache = places.open(&["a", "b", "c"]);
    assert_lost(&cache, &keys, &lost);
    support::store_all(&cache, &support::prompt(3, 20), CHUNK);
    assert!(support::store(&cache, &keys, CHUNK).iter().all(|outcome| outcome.reason.is_none()));
    assert_all_there(&cache, &keys);
}

#[test]
fn a_drive_that_is_not_mounted_is_not_taken_for_a_new_one() {
    let (places, keys) = Places::filled(12);
    // What is found at its path instead is an empty directory.
    std::fs::rename(places.path("b"), places.path("unmounted")).unwrap();
    std::fs::create_dir(places.path("b")).unwrap();
    let message = places.refused(&["a", "b", "c"]);
    assert!(message.contains("/b") && message.contains("mount it"), "{message}");
    std::fs::remove_dir_all(places.path("b")).unwrap();
    std::fs::rename(places.path("unmounted"), places.path("b")).unwrap();
    assert_all_there(&places.open(&["a", "b", "c"]), &keys);
}

#[test]
fn data_that_is_lost_takes_the_chunks_of_its_drive_and_no_other() {
    for (name, drive) in [("a", 0), ("b", 1)] {
        let (places, keys) = Places::filled(30);
        let lost = places.on_drive("a", drive);
        fs::remove_file(places.path(name).join("data")).unwrap();
        let cache = places.open(&["a", "b", "c"]);
        assert_lost(&cache, &keys, &lost);
        assert_eq!(cache.stats().control.disk.corrupt, 0, "they were not even looked for");
        support::store_all(&cache, &support::prompt(3, 10), CHUNK);
        drop(cache);
        assert_lost(&places.open(&["a", "b", "c"]), &keys, &lost);
    }
}

#[test]
fn a_lost_journal_is_rebuilt_from_all_drives() {
    let (places, keys) = Places::filled(30);
    let home = places.path("a");
    for segment in segments(&home).unwrap() {
        fs::remove_file(segment_path(&home, segment)).unwrap();
    }
    fs::remove_file(home.join("checkpoint")).unwrap();
    let cache = places.open(&["a", "c", "b"]);
    assert_eq!(cache.stats().control.disk.rebuilt.as_deref(), Some("it is missing"));
    assert_all_there(&cache, &keys);
}

#[test]
fn a_lost_format_is_made_good_by_the_other_directories() {
    let (places, keys) = Places::filled(30);
    for name in ["a", "b", "c"] {
        let before = read_format(&places.path(name)).unwrap().unwrap();
        fs::remove_file(places.path(name).join("FORMAT")).unwrap();
        assert_all_there(&places.open(&["a", "b", "c"]), &keys);
        let after = read_format(&places.path(name)).unwrap().unwrap();
        assert_eq!((after.drive, &after.cache), (before.drive, &before.cache));
    }
}

#[test]
fn directories_that_are_not_of_one_cache_are_refused_and_nothing_is_lost() {
    let places = Places::new();
    let (ours, theirs) = (support::prompt(1, 10), support::prompt(2, 10));
    support::store_all(&places.open(&["a", "b"]), &ours, CHUNK);
    support::store_all(&places.open(&["x", "y"]), &theirs, CHUNK);
    let holds = |message: String, parts: &[&str]| {
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    holds(places.refused(&["a", "x"]), &["/x is the home of a cache", "take it off"]);
    holds(places.refused(&["a", "b", "y"]), &["/y is drive 1 of another cache", "home was", "/x;"]);
    holds(places.refused(&["b", "a"]), &["/b is drive 1 of the cache whose home is", "/a;", "home first"]);
    holds(places.refused(&["new", "b"]), &["/new has nothing in it", "/b is drive 1", "/a;", "home first"]);
    fs::create_dir(places.path("somebody")).unwrap();
    fs::write(places.path("somebody").join("data"), "a treasure").unwrap();
    let error = Cache::open(&places.config(&["a", "b", "somebody"]), CHUNK as u64, None).err().unwrap();
    assert!(error.kind() == ErrorKind::Format && error.to_string().contains("/somebody"), "{error}");
    assert_eq!(fs::read(places.path("somebody").join("data")).unwrap(), b"a treasure");

    assert_all_there(&places.open(&["a", "b"]), &ours);
    assert_all_there(&places.open(&["x", "y"]), &theirs);
}

#[test]
fn two_names_of_one_directory_are_refused() {
    let (places, keys) = Places::filled(10);
    std::os::unix::fs::symlink(places.path("b"), places.path("link")).unwrap();
    let message = places.refused(&["a", "b", "c", "link"]);
    assert!(message.contains("/b and ") && message.contains("/link are the same directory"), "{message}");
    assert_all_there(&places.open(&["a", "link", "c"]), &keys);
}

#[test]
fn every_directory_is_owned() {
    let places = Places::new();
    let cache = places.open(&["a", "b"]);
    let error = Cache::open(&places.config(&["b"]), CHUNK as u64, None).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Locked);
    drop(cache);
}

#[test]
fn guarantee_7_each_directory_keeps_to_its_share() {
    let places = Places::new();
    let cache = places.open(&["a", "b", "c"]);
    let allocated = |name| support::allocated_bytes(&places.path(name));
    for number in 0..12 {
        support::store_all(&cache, &support::prompt(number, 40), CHUNK);
        for name in ["a", "b", "c"] {
            assert!(allocated(name) <= SHARE, "{name} holds {} bytes", allocated(name));
        }
    }
    assert!(cache.stats().control.disk.evictions > 200);
    drop(cache);
    // A smaller share of the same: what lies past its end is given up.
    let mut config = places.config(&["a", "b", "c"]);
    config.max_local_disk_bytes = SHARE * 2;
    let cache = Cache::open(&config, CHUNK as u64, None).unwrap();
    for name in ["a", "b", "c"] {
        assert!(allocated(name) <= SHARE * 2 / 3, "{name} holds {} bytes", allocated(name));
    }
    let all: Vec<_> = (0..12).flat_map(|number| support::prompt(number, 40)).collect();
    assert_eq!(support::count_right(&cache, &all, CHUNK) as u64, cache.stats().control.disk.chunks);
}

#[test]
fn a_drive_that_cannot_be_read_costs_its_own_chunks_only() {
    let (places, keys) = Places::filled(30);
    let lost = places.on_drive("a", 1);
    let faults = support::Faults::new();
    let mut drive = 0;
    let wrap = |file: std::sync::Arc<dyn BlockFile>| {
        drive += 1;
        if drive == 2 { faults.around(file) } else { file }
    };
    let cache = Cache::open_with(&places.config(&["a", "b", "c"]), CHUNK as u64, None, wrap).unwrap();
    faults.fail_reads.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_lost(&cache, &keys, &lost);
    assert_eq!(cache.stats().control.disk.io_failed, lost.len() as u64);
    support::assert_nothing_leaked(&cache);
}

#[test]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few MiB")]
fn too_little_for_all_directories_is_said() {
    let places = Places::new();
    let mut config = places.config(&["a", "b", "c"]);
    config.max_local_disk_bytes = 1 << 20;
    let error = Cache::open(&config, CHUNK as u64, None).err().unwrap().to_string();
    assert!(error.contains("in each of 3 directories"), "{error}");
    let least: f64 = error.split("at least ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    config.max_local_disk_bytes = (least * f64::from(1 << 30)) as u64;
    Cache::open(&config, CHUNK as u64, None).unwrap();
}
