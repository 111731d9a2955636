//! Another capacity while the cache is used: what does not fit goes in its order, what is in use stays, and no byte is
//! wrong meanwhile.

#[path = "support/forbidden.rs"]
mod forbidden;
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use forbidden::forbid;
use forebay::control::Pinning;
use forebay::{Cache, ChunkKey, Config, ErrorKind, LoadStatus, Lookup, Value};
use support::{
    Home, KIB, PATIENCE, allocated_bytes, assert_nothing_leaked, bytes_of, config_with, count_right, load,
    prompt, store, store_all,
};

const CHUNK: usize = 60 * KIB;
/// What such a chunk takes.
const ROOM: u64 = 64 << 10;
const MIB: u64 = 1 << 20;
/// What `fallocate` is asked for when space is taken, and when it is given back.
const TAKE: u32 = 0;
const GIVE_BACK: u32 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE).cast_unsigned();

fn disk(cache: &Cache) -> forebay::control::DiskStats {
    cache.stats().control.disk
}

/// Prompts of one chunk, stored one after the other.
fn singles(cache: &Cache, numbers: std::ops::Range<u32>) -> Vec<ChunkKey> {
    let keys: Vec<ChunkKey> = numbers.map(|number| prompt(number, 1)[0]).collect();
    keys.iter().for_each(|key| store_all(cache, &[*key], CHUNK));
    keys
}

#[test]
fn a_smaller_disk_loses_what_goes_first_and_gives_its_room_back() {
    let home = Home::new(CHUNK, 4, 24 * MIB);
    let cache = home.open();
    let (before, full) = (disk(&cache).capacity_bytes, allocated_bytes(home.directory.path()));
    let keys = singles(&cache, 0..200);
    // What is used again stays.
    drop(cache.lookup(&keys[..1]));
    let now = cache.set_disk_capacity(12 * MIB).unwrap();
    assert_eq!((now, disk(&cache).capacity_bytes), (before - 12 * MIB, before - 12 * MIB));
    let stats = disk(&cache);
    assert!(stats.used_bytes <= now && stats.chunks == stats.used_bytes / ROOM, "{stats:?}");
    // No more went than had to, and those that were stored first.
    assert!(now - stats.used_bytes < 2 * ROOM, "{stats:?}");
    let left = usize::try_from(stats.chunks).unwrap() - 1;
    assert_eq!((stats.evictions, count_right(&cache, &keys[..1], CHUNK)), (200 - stats.chunks, 1));
    assert_eq!(count_right(&cache, &keys[200 - left..], CHUNK), left);
    assert_eq!(count_right(&cache, &keys[1..200 - left], CHUNK), 0);
    let allocated = allocated_bytes(home.directory.path());
    assert!(allocated <= full - 12 * MIB + 256 * KIB as u64, "{allocated} of {full}: given back");
    // It stays that small.
    singles(&cache, 1000..1200);
    assert!(disk(&cache).used_bytes <= now && allocated_bytes(home.directory.path()) <= 12 * MIB);
    let keys = singles(&cache, 2000..2100);
    assert_nothing_leaked(&cache);
    drop(cache);

    // A start has what the configuration says, and all that was there.
    let cache = home.open();
    assert_eq!(disk(&cache).capacity_bytes, before);
    assert_eq!(count_right(&cache, &keys, CHUNK), 100);
    singles(&cache, 3000..3200);
    assert!(disk(&cache).chunks > 300);
}

#[test]
fn a_larger_disk_holds_more_first_what_was_given_up_and_then_what_never_was() {
    let home = Home::new(CHUNK, 4, 12 * MIB);
    let cache = home.open();
    let before = disk(&cache).capacity_bytes;
    let old = singles(&cache, 0..100);
    cache.set_disk_capacity(8 * MIB).unwrap();
    let kept = count_right(&cache, &old, CHUNK);
    let now = cache.set_disk_capacity(20 * MIB).unwrap();
    assert_eq!(now, disk(&cache).capacity_bytes);
    // A little less than that is more: a start with so much gives more of it to the journal.
    assert!((before + 8 * MIB - 256 * KIB as u64..before + 8 * MIB).contains(&now), "{now} after {before}");
    assert!(std::fs::metadata(home.data()).unwrap().len() == now, "the file is as long as that");
    let (evicted, chunks) = (disk(&cache).evictions, disk(&cache).chunks);
    let new = singles(&cache, 100..100 + u32::try_from(now / ROOM - chunks).unwrap());
    assert_eq!(disk(&cache).evictions, evicted, "all of it is there for chunks");
    assert_eq!(count_right(&cache, &old, CHUNK), kept);
    assert_eq!(count_right(&cache, &new, CHUNK), new.len());
    assert!(disk(&cache).chunks > before / ROOM);
    assert!(allocated_bytes(home.directory.path()) <= 20 * MIB);
    assert_nothing_leaked(&cache);
    drop(cache);
    // With that in the configuration a start finds all of them.
    let larger = support::config(home.directory.path(), CHUNK, 4, 20 * MIB);
    let cache = Cache::open(&larger, CHUNK as u64, None).unwrap();
    assert_eq!(count_right(&cache, &new, CHUNK), new.len());
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let home = Home::new(CHUNK, 4, 12 * MIB);
    let cache = home.open();
    let keys = singles(&cache, 0..50);
    let before = disk(&cache);
    for (bytes, kind, what) in [
        (0, ErrorKind::Argument, "two chunks"),
        (MIB / 4, ErrorKind::Argument, "two chunks"),
        (u64::MAX, ErrorKind::NoSpace, "disk_min_free_size"),
        (1 << 50, ErrorKind::NoSpace, "disk_min_free_size"),
    ] {
        let error = cache.set_disk_capacity(bytes).unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(what), "{bytes}: {error}");
    }
    // What it says is enough, is.
    let least = cache.set_disk_capacity(1).unwrap_err().to_string();
    let gib: f64 = least.split_whitespace().rev().nth(1).unwrap().parse().unwrap();
    let after = disk(&cache);
    assert_eq!(
        (before.capacity_bytes, before.chunks, before.evictions),
        (after.capacity_bytes, after.chunks, after.evictions)
    );
    assert_eq!(count_right(&cache, &keys, CHUNK), 50);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size of a test")]
    let bytes = (gib * f64::from(1 << 30)).ceil() as u64;
    assert!(cache.set_disk_capacity(bytes).unwrap() >= 2 * ROOM);
    assert_eq!(count_right(&cache, &singles(&cache, 90..91), CHUNK), 1);
    cache.close(std::time::Duration::ZERO);
    assert_eq!(cache.set_disk_capacity(12 * MIB).unwrap_err().kind(), ErrorKind::Closed);
    std::fs::create_dir(home.path("shared")).unwrap();
    let without_disk = Config::from_values([
        ("remote_url", Value::from(format!("file://{}", home.path("shared").display()))),
        ("max_remote_size", Value::from(1.0)),
        ("max_local_cpu_size", Value::from(0.125)),
        ("local_cpu", Value::from(false)),
    ]);
    let cache = Cache::open(&without_disk.unwrap().config, CHUNK as u64, None).unwrap();
    assert!(cache.set_disk_capacity(MIB).unwrap_err().to_string().contains("no disk tier"));
}

#[test]
fn what_is_in_use_stays_and_it_says_how_far_it_came() {
    let home = Home::new(CHUNK, 4, 12 * MIB);
    let cache = home.open();
    let mine = prompt(7, 100);
    store_all(&cache, &mine, CHUNK);
    singles(&cache, 100..150);
    let Lookup::Hit(hit) = cache.lookup(&mine) else { panic!("it was stored") };
    let error = cache.set_disk_capacity(4 * MIB).unwrap_err();
    let stats = disk(&cache);
    assert!(error.kind() == ErrorKind::NoSpace && error.can_retry(), "{error}");
    assert!(error.to_string().contains(&format!("{} bytes", stats.capacity_bytes)), "{error}");
    // All but those went.
    assert_eq!((stats.chunks, stats.used_bytes), (100, 100 * ROOM));
    assert!(stats.capacity_bytes - stats.used_bytes < ROOM);
    assert_eq!(count_right(&cache, &mine, CHUNK), 100);
    drop(hit);
    assert!(cache.set_disk_capacity(4 * MIB).is_ok());
    assert!(disk(&cache).used_bytes <= 4 * MIB);
    // Of a prompt the front stays.
    let left = usize::try_from(disk(&cache).chunks).unwrap();
    assert_eq!(cache.lookup(&mine).chunks(), left);
}

/// Another capacity, from a file system that refuses this of `fallocate`.
fn set_where(cache: &Cache, mode: u32, errno: i32, bytes: u64) -> forebay::Result<u64> {
    let refused = || {
        forbid(libc::SYS_fallocate, Some(mode), errno);
        cache.set_disk_capacity(bytes)
    };
    std::thread::scope(|scope| scope.spawn(refused).join().unwrap())
}

/// Fills the cache; gives the keys, all of which are there.
fn filled(cache: &Cache, from: u32) -> Vec<ChunkKey> {
    let chunks = u32::try_from(disk(cache).capacity_bytes / ROOM).unwrap();
    let keys = singles(cache, from..from + chunks);
    assert_eq!(count_right(cache, &keys, CHUNK), keys.len());
    keys
}

#[test]
fn where_no_space_is_taken_back_from_within_a_file_the_disk_is_smaller_all_the_same() {
    let home = Home::new(CHUNK, 4, 24 * MIB);
    let cache = home.open();
    let (before, allocated) = (disk(&cache).capacity_bytes, allocated_bytes(home.directory.path()));
    filled(&cache, 0);
    let now = set_where(&cache, GIVE_BACK, libc::EOPNOTSUPP, 12 * MIB).unwrap();
    assert_eq!((now, disk(&cache).capacity_bytes), (before - 12 * MIB, before - 12 * MIB));
    assert!(disk(&cache).used_bytes <= now);
    let keys = filled(&cache, 1000);
    assert!(allocated_bytes(home.directory.path()) >= allocated - MIB, "the file goes on having it");
    assert_eq!(cache.set_disk_capacity(24 * MIB).unwrap(), before);
    assert_eq!(count_right(&cache, &keys, CHUNK), keys.len());
    filled(&cache, 2000);
    assert_nothing_leaked(&cache);
}

#[test]
fn space_that_cannot_be_given_back_is_used_again() {
    let home = Home::new(CHUNK, 4, 24 * MIB);
    let cache = home.open();
    let before = disk(&cache).capacity_bytes;
    filled(&cache, 0);
    let error = set_where(&cache, GIVE_BACK, libc::EIO, 12 * MIB).unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.to_string().contains("back"), "{error}");
    assert_eq!(disk(&cache).capacity_bytes, before);
    // All of it.
    let keys = filled(&cache, 1000);
    // And once it can be, it is.
    let now = cache.set_disk_capacity(12 * MIB).unwrap();
    assert!(allocated_bytes(home.directory.path()) <= 12 * MIB);
    let left = usize::try_from(disk(&cache).chunks).unwrap();
    assert!(now - disk(&cache).used_bytes < 2 * ROOM);
    assert_eq!(count_right(&cache, &keys[keys.len() - left..], CHUNK), left);
    assert_nothing_leaked(&cache);
}

#[test]
fn space_that_is_not_to_be_had_changes_nothing() {
    let home = Home::new(CHUNK, 4, 12 * MIB);
    let cache = home.open();
    let keys = filled(&cache, 0);
    let file_bytes = || std::fs::metadata(home.data()).unwrap().len();
    let all = || (disk(&cache).capacity_bytes, file_bytes(), allocated_bytes(home.directory.path()));
    let before = all();
    // At its end, and of what it gave up before.
    let error = set_where(&cache, TAKE, libc::ENOSPC, 24 * MIB).unwrap_err();
    assert!(error.to_string().contains("taking space"), "{error}");
    assert_eq!(all(), before);
    cache.set_disk_capacity(8 * MIB).unwrap();
    let smaller = all();
    assert!(set_where(&cache, TAKE, libc::ENOSPC, 12 * MIB).is_err());
    assert_eq!(all(), smaller);
    let left = usize::try_from(disk(&cache).chunks).unwrap();
    assert_eq!(count_right(&cache, &keys[keys.len() - left..], CHUNK), left);
    assert!(cache.set_disk_capacity(24 * MIB).unwrap() > before.0);
    filled(&cache, 1000);
    assert_nothing_leaked(&cache);
}

#[test]
fn pins_that_come_while_the_disk_becomes_smaller_have_half_of_what_it_will_be() {
    const SMALL: u64 = 8 * MIB;
    let home = Home::new(4 * KIB - 256, 4, 24 * MIB);
    let cache = home.open();
    let large = disk(&cache).capacity_bytes;
    store_all(&cache, &prompt(2, 1), home.chunk_bytes);
    let keys = prompt(1, usize::try_from(large / disk(&cache).used_bytes).unwrap() - 100);
    let mut meanwhile = 0;
    for _ in 0..10 {
        cache.clear(None);
        store_all(&cache, &keys, home.chunk_bytes);
        let pinned_at = std::thread::scope(|scope| {
            let pinning = scope.spawn(|| {
                let began = Instant::now();
                while disk(&cache).capacity_bytes == large && began.elapsed() < PATIENCE {
                    std::thread::yield_now();
                }
                cache.pin(Pinning::All).unwrap();
                disk(&cache).capacity_bytes
            });
            cache.set_disk_capacity(SMALL).unwrap();
            pinning.join().unwrap()
        });
        let stats = disk(&cache);
        meanwhile += u32::from(pinned_at > stats.capacity_bytes);
        assert!(stats.pinned_chunks > 0 && 2 * stats.pinned_bytes <= stats.capacity_bytes, "{stats:?}");
        cache.unpin(Pinning::All).unwrap();
        assert_eq!(cache.set_disk_capacity(24 * MIB).unwrap(), large);
    }
    assert!(meanwhile > 0, "none was pinned meanwhile");
    assert_nothing_leaked(&cache);
}

#[test]
fn all_drives_become_smaller_and_larger() {
    let places = tempfile::tempdir().unwrap();
    let paths: Vec<_> = ["a", "b", "c"].map(|name| places.path().join(name)).to_vec();
    let list = paths.iter().map(|path| Value::from(path.to_str().unwrap())).collect();
    let config = config_with(places.path(), CHUNK, 8, 36 * MIB, [("local_disk", Value::List(list))]);
    let cache = Cache::open(&config, CHUNK as u64, None).unwrap();
    let before = disk(&cache).capacity_bytes;
    let keys = singles(&cache, 0..400);
    let now = cache.set_disk_capacity(18 * MIB).unwrap();
    assert_eq!(now, before - 18 * MIB);
    let allocated: u64 = paths.iter().map(|path| allocated_bytes(path)).sum();
    assert!(allocated <= 18 * MIB, "{allocated} bytes");
    let there = count_right(&cache, &keys, CHUNK);
    assert_eq!(there as u64, disk(&cache).chunks);
    let left_bytes = now - disk(&cache).used_bytes;
    assert!(left_bytes < 6 * ROOM, "no more went than had to: {left_bytes}");
    assert_eq!(cache.set_disk_capacity(36 * MIB).unwrap(), before);
    let more = singles(&cache, 1000..1100);
    assert_eq!(count_right(&cache, &more, CHUNK), 100);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_little_less_room_costs_little_though_all_that_is_old_lies_on_one_drive() {
    let places = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Value::from(places.path().join(name).to_str().unwrap()));
    let open = |drives: Vec<Value>, bytes| {
        let more = [("local_disk", Value::List(drives))];
        Cache::open(&config_with(places.path(), CHUNK, 8, bytes, more), CHUNK as u64, None).unwrap()
    };
    let one = open(vec![a.clone()], 12 * MIB);
    singles(&one, 0..200);
    drop(one);
    // The second drive is new, and has what is stored from now on.
    let cache = open(vec![a, b], 24 * MIB);
    singles(&cache, 1000..1150);
    let before = disk(&cache);
    assert!(before.chunks > 300, "{before:?}");
    let now = cache.set_disk_capacity(24 * MIB - 2 * MIB).unwrap();
    let after = disk(&cache);
    assert!(after.used_bytes <= now && now - after.used_bytes <= before.capacity_bytes - before.used_bytes);
    assert!(before.chunks - after.chunks <= 2 * MIB / ROOM + 1, "{before:?} {after:?}");
    // Larger again, each drive has its share and all is as it was.
    assert_eq!(cache.set_disk_capacity(24 * MIB).unwrap(), before.capacity_bytes);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_directory_that_was_made_anew_is_nothing_that_the_one_before_makes_smaller_or_larger() {
    let home = Home::new(CHUNK, 4, 12 * MIB);
    let old = home.open();
    std::fs::remove_dir_all(home.directory.path()).unwrap();
    std::fs::create_dir(home.directory.path()).unwrap();
    let new = home.open();
    let keys = singles(&new, 0..100);
    let (length, allocated) =
        (std::fs::metadata(home.data()).unwrap().len(), allocated_bytes(home.directory.path()));
    for bytes in [6 * MIB, 30 * MIB] {
        let error = old.set_disk_capacity(bytes).unwrap_err();
        assert!(error.to_string().contains("removed"), "{error}");
    }
    assert_eq!(std::fs::metadata(home.data()).unwrap().len(), length);
    assert!(allocated_bytes(home.directory.path()) >= allocated);
    assert_eq!(count_right(&new, &keys, CHUNK), 100);
}

#[test]
fn chunks_of_many_sizes_do_not_all_go_for_a_little_less_room() {
    let home = Home::new(CHUNK, 4, 12 * MIB);
    let cache = home.open();
    // Small ones everywhere, of which every other one is in use: no room for a large one anywhere.
    let small: Vec<ChunkKey> = (0..1400).map(|number| prompt(number, 1)[0]).collect();
    small.iter().for_each(|key| store_all(&cache, &[*key], 100));
    let held: Vec<_> = small.iter().step_by(2).map(|key| cache.lookup(&[*key])).collect();
    let before = disk(&cache).capacity_bytes;
    let error = cache.set_disk_capacity(before - 4 * MIB);
    let stats = disk(&cache);
    assert_eq!(count_right(&cache, &small.iter().step_by(2).copied().collect::<Vec<_>>(), 100), 700);
    assert!(error.is_ok() || stats.used_bytes > 0, "{error:?}");
    drop(held);
    assert_nothing_leaked(&cache);
}

#[test]
fn while_others_store_and_load_nobody_gets_a_wrong_byte_and_a_restart_finds_what_is_there() {
    let home = Home::new(CHUNK, 8, 16 * MIB);
    let cache = home.open();
    let over = AtomicBool::new(false);
    let mut sizes = Vec::new();
    std::thread::scope(|scope| {
        let (cache, over) = (&cache, &over);
        let workers: Vec<_> = (0..3_u32)
            .map(|worker| {
                scope.spawn(move || {
                    let mut loaded = 0;
                    for round in (0..).take_while(|_| !over.load(Ordering::Relaxed)) {
                        let keys = prompt(worker * 1000 + round % 40, 5);
                        store(cache, &keys, CHUNK);
                        for (outcome, bytes) in load(cache, &keys, CHUNK) {
                            let right = bytes == bytes_of(&outcome.key, CHUNK);
                            assert!(outcome.status != LoadStatus::Loaded || right, "a wrong byte");
                            loaded += u32::from(outcome.status == LoadStatus::Loaded);
                        }
                    }
                    loaded
                })
            })
            .collect();
        for round in 0..24 {
            let bytes = [4, 16, 6, 24, 3, 12][round % 6] * MIB;
            if let Ok(now) = cache.set_disk_capacity(bytes) {
                sizes.push(now);
                let stats = disk(cache);
                assert!(stats.used_bytes <= now, "{stats:?}");
            }
        }
        over.store(true, Ordering::Relaxed);
        for worker in workers {
            assert!(worker.join().unwrap() > 0, "something was loaded");
        }
    });
    assert!(sizes.len() >= 12, "mostly it could be done: {sizes:?}");
    let stats = disk(&cache);
    assert_eq!((stats.corrupt, stats.io_failed), (0, 0), "no chunk lies where space was given back");
    cache.set_disk_capacity(16 * MIB).unwrap();
    let keys: Vec<ChunkKey> =
        (0..3).flat_map(|worker| (0..40).flat_map(move |round| prompt(worker * 1000 + round, 5))).collect();
    let there = count_right(&cache, &keys, CHUNK);
    assert_eq!(there as u64, disk(&cache).chunks);
    assert_nothing_leaked(&cache);
    drop(cache);
    let cache = home.open();
    assert_eq!(count_right(&cache, &keys, CHUNK), there);
    assert_eq!(disk(&cache).corrupt, 0);
}
