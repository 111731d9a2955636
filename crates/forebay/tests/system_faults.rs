//! Guarantee 9 against what the system does to a cache that runs: its directory is removed, there are no more file
//! descriptors, its file system turns read-only, the thread of its ring dies, files are put back or exchanged, times jump.
//!
//! What is the whole process's (limits, mounts, descriptors) is tried in a process of its own: the test runs itself again.

mod support;

use std::fs::{self, File, FileTimes};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use forebay::tier::disk::block_file::BlockFile;
use forebay::tier::disk::journal::{segment_path, segments};
use forebay::{Cache, ChunkKey, ErrorKind, LoadStatus, Reason, StoreStatus, Value};
use rustix::process::{Resource, getrlimit, setrlimit};
use support::*;
use tempfile::TempDir;

const CHUNK: usize = 64 * KIB;
/// Small enough for a journal that is soon full.
const SMALL_DISK: u64 = 8 << 20;
/// Closing has nothing to wait for that does not answer.
const CLOSING: Duration = Duration::from_secs(9);

/// Says in which of the two processes it is: the first time it runs the test again, behind the program `before`, and gives
/// `false` when that has passed.
fn is_alone(test: &str, before: &[&str]) -> bool {
    if std::env::var_os("FOREBAY_ALONE").is_some() {
        return true;
    }
    let me = std::env::current_exe().unwrap();
    let mut whole: Vec<_> = before.iter().map(|word| PathBuf::from(*word)).collect();
    whole.push(me);
    let ended = Command::new(&whole[0])
        .args(&whole[1..])
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env("FOREBAY_ALONE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    let passed = ended.status.success() && said.contains("1 passed");
    assert!(passed, "{}: {said}{}", ended.status, String::from_utf8_lossy(&ended.stderr));
    false
}

/// Stores small chunks until one is not taken; gives those that were stored, and why not.
fn store_until_refused(cache: &Cache, first: u32) -> (Vec<ChunkKey>, Reason) {
    let mut stored = Vec::new();
    for number in first..first + 1000 {
        for end in store(cache, &prompt(number, 50), 1) {
            match end.status {
                StoreStatus::Stored => stored.push(end.key),
                _ => return (stored, end.reason.expect("a reason")),
            }
        }
    }
    panic!("the journal was never full");
}

/// Of these chunks of one byte the last two hundred are loaded, and right.
fn assert_the_last_are_right(cache: &Cache, keys: &[ChunkKey]) {
    assert_eq!(count_right(cache, &keys[keys.len() - 200..], 1), 200);
}

fn close_in_time(cache: Cache) {
    let began = Instant::now();
    cache.close(Duration::from_secs(1));
    drop(cache);
    assert!(began.elapsed() < CLOSING, "closing took {:?}", began.elapsed());
}

/// Stores until it is taken again.
fn store_in_the_end(cache: &Cache, number: u32) {
    let (began, keys) = (Instant::now(), prompt(number, 1));
    while store(cache, &keys, 1)[0].status != StoreStatus::Stored {
        assert!(began.elapsed() < PATIENCE, "stores are refused for ever");
        std::thread::yield_now();
    }
    assert_eq!(count_right(cache, &keys, 1), 1);
}

#[test]
fn guarantee_9_a_directory_that_is_removed_under_a_cache_costs_its_future_only() {
    let home = Home::new(CHUNK, 2, SMALL_DISK);
    let path = home.directory.path();
    let cache = home.open();
    let (before, during) = (prompt(1_000_000, 20), prompt(1_000_001, 20));
    store_all(&cache, &before, CHUNK);
    let batch = begin_store(&cache, &during, CHUNK);
    fs::remove_dir_all(path).unwrap();
    for end in batch.wait(Some(PATIENCE)).expect("stores end") {
        assert!(end.status == StoreStatus::Stored || end.reason.is_some(), "{end:?}");
    }
    // Files that are open are there for as long as they are.
    assert_eq!(count_right(&cache, &before, CHUNK), 20);
    // What would be lost is not told as stored.
    let (stored, reason) = store_until_refused(&cache, 0);
    assert!(stored.is_empty() && reason == Reason::Journal, "{stored:?}, {reason:?}");
    let stats = cache.stats().control.disk;
    assert!(stats.journal_errors > 0 && stats.degraded.is_some(), "{stats:?}");
    assert_nothing_leaked(&cache);
    close_in_time(cache);
    assert!(!path.exists(), "something was made where the directory was");
    // Whoever opens it next begins anew.
    let cache = home.open();
    assert_eq!(cache.stats().control.disk.chunks, 0);
    store_all(&cache, &before, CHUNK);
    assert_eq!(count_right(&cache, &before, CHUNK), 20);
}

#[test]
fn guarantee_6_a_directory_that_was_removed_and_made_anew_is_its_new_owners() {
    let home = Home::new(CHUNK, 2, SMALL_DISK);
    let path = home.directory.path();
    let old = home.open();
    store_all(&old, &prompt(0, 20), CHUNK);
    fs::remove_dir_all(path).unwrap();
    let new = home.open();
    let keys = prompt(1, 20);
    store_all(&new, &keys, CHUNK);
    // It ends in order, with a checkpoint.
    close_in_time(old);
    // As a death now would leave it.
    let copy = TempDir::new().unwrap();
    copy_files(path, copy.path());
    let config = config(copy.path(), CHUNK, 2, SMALL_DISK);
    let cache = Cache::open(&config, CHUNK as u64, None).unwrap();
    assert_eq!((cache.lookup(&keys).chunks(), cache.stats().control.disk.chunks), (20, 20));
    assert_eq!(count_right(&cache, &keys, CHUNK), 20);
}

/// Lets this process open no more files than are open now, and so many.
fn limit_files(more: u64) -> rustix::process::Rlimit {
    let before = getrlimit(Resource::Nofile);
    let next = File::open("/dev/null").unwrap().as_raw_fd();
    let lowered = rustix::process::Rlimit { current: Some(u64::try_from(next).unwrap() + more), ..before };
    setrlimit(Resource::Nofile, lowered).unwrap();
    before
}

#[test]
fn guarantee_9_without_file_descriptors_a_start_says_so_and_a_later_one_loses_nothing() {
    if !is_alone("guarantee_9_without_file_descriptors_a_start_says_so_and_a_later_one_loses_nothing", &[]) {
        return;
    }
    let home = Home::new(CHUNK, 2, SMALL_DISK);
    let keys = prompt(0, 20);
    store_all(&home.open(), &keys, CHUNK);
    let mut refusals = 0;
    loop {
        let before = limit_files(refusals);
        let opened = Cache::open(&home.config, CHUNK as u64, None);
        setrlimit(Resource::Nofile, before).unwrap();
        match opened {
            Ok(cache) => {
                assert_eq!(count_right(&cache, &keys, CHUNK), 20);
                store_all(&cache, &prompt(1, 20), CHUNK);
                break;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                let message = error.to_string();
                assert!(message.contains("Too many open files"), "{message}");
                assert!(message.contains(home.directory.path().to_str().unwrap()), "which file: {message}");
            }
        }
        refusals += 1;
    }
    assert!(refusals > 3, "a start opens several files: only {refusals} were too many");
}

#[test]
fn guarantee_9_without_file_descriptors_a_cache_runs_on_and_recovers() {
    if !is_alone("guarantee_9_without_file_descriptors_a_cache_runs_on_and_recovers", &[]) {
        return;
    }
    let home = Home::new(CHUNK, 2, SMALL_DISK);
    let cache = home.open();
    let before = limit_files(0);
    // Threads that begin have files open for a moment, which may have counted: once all have, what is left is taken.
    let first = prompt(8888, 50);
    store_all(&cache, &first, 1);
    assert_eq!(count_right(&cache, &first, 1), 50);
    let plugs: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    // No segment can be begun and no checkpoint made: the journal fills up.
    let (stored, reason) = store_until_refused(&cache, 0);
    assert!(matches!(reason, Reason::Busy | Reason::Journal), "{reason:?}");
    let stats = cache.stats().control.disk;
    assert!(stats.journal_errors > 0, "{stats:?}");
    assert_the_last_are_right(&cache, &stored);
    setrlimit(Resource::Nofile, before).unwrap();
    drop(plugs);
    store_in_the_end(&cache, 9999);
    assert!(cache.stats().control.disk.degraded.is_none());
    assert_nothing_leaked(&cache);
    drop(cache);
    assert_the_last_are_right(&home.open(), &stored);
}

#[test]
fn guarantee_4_caches_that_come_and_go_leave_no_descriptor_thread_or_mapping() {
    if !is_alone("guarantee_4_caches_that_come_and_go_leave_no_descriptor_thread_or_mapping", &[]) {
        return;
    }
    let count = |of: &str| fs::read_dir(Path::new("/proc/self").join(of)).unwrap().count();
    let mappings = || fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    for engine in ["auto", "threads"] {
        let home = Home::new(CHUNK, 2, SMALL_DISK);
        let more = [("disk_io_engine", Value::from(engine)), ("disk_sync", Value::from(0.01))];
        let config = config_with(home.directory.path(), CHUNK, 2, SMALL_DISK, more);
        let mut seen = Vec::new();
        for number in 0..12 {
            {
                let cache = Cache::open(&config, CHUNK as u64, None).unwrap();
                store_all(&cache, &prompt(number, 4), CHUNK);
                assert_eq!(count_right(&cache, &prompt(number, 4), CHUNK), 4);
            }
            seen.push((count("fd"), count("task"), mappings()));
        }
        // The first ones are what the allocator and the runtime keep.
        let (early, late) = (seen[3], seen[11]);
        assert_eq!((early.0, early.1), (late.0, late.1), "{engine}: descriptors, threads: {seen:?}");
        assert!(late.2 < early.2 + 8, "{engine}: mappings grow with each of eight: {seen:?}");
    }
}

/// Runs a program that must succeed, or end with one of these codes.
fn run(program: &str, arguments: &[&str], codes: &[i32]) {
    let ended = Command::new(program).args(arguments).output().expect(program);
    let code = ended.status.code().unwrap_or(-1);
    assert!(code == 0 || codes.contains(&code), "{program} {arguments:?}: {ended:?}");
}

/// A file system of its own, which is ext4 and turns read-only at its first error, as many a system disk is set to.
/// Needs root: it is mounted in a namespace that ends with the process.
struct Mounted(TempDir);

impl Mounted {
    fn new() -> Self {
        let mounted = Self(TempDir::new().unwrap());
        File::create(mounted.image()).unwrap().set_len(64 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", mounted.image().to_str().unwrap()], &[]);
        fs::create_dir(mounted.path()).unwrap();
        mounted.mount();
        mounted
    }

    fn image(&self) -> PathBuf {
        self.0.path().join("image")
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("mounted")
    }

    fn mount(&self) {
        let (image, path) = (self.image(), self.path());
        run("mount", &["-o", "loop,errors=remount-ro", image.to_str().unwrap(), path.to_str().unwrap()], &[]);
    }

    /// Turns it read-only, as an error of the drive does. A plain `mount -o remount,ro` is refused while files are open
    /// for writing.
    fn turn_read_only(&self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let path = self.path();
        let line =
            mounts.lines().find(|line| line.split(' ').nth(1) == path.to_str()).expect("it is mounted");
        let device = Path::new(line.split(' ').next().unwrap()).file_name().unwrap().to_owned();
        let trigger = Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error");
        fs::write(trigger, "a test").unwrap();
        let refused = File::create(path.join("anything")).expect_err("it can still be written to");
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }

    /// The kernel lets go of a ring's files a moment after its end.
    fn unmount(&self) {
        let began = Instant::now();
        while !Command::new("umount").arg(self.path()).output().expect("umount").status.success() {
            assert!(began.elapsed() < PATIENCE, "somebody still has a file open in it");
            std::thread::yield_now();
        }
    }

    /// Mends and mounts it again.
    fn mend(&self) {
        self.unmount();
        // 1 says that it was mended.
        run("e2fsck", &["-f", "-y", self.image().to_str().unwrap()], &[1]);
        self.mount();
    }
}

#[test]
fn guarantee_9_a_file_system_that_turns_read_only_fails_stores_and_keeps_loads() {
    let test = "guarantee_9_a_file_system_that_turns_read_only_fails_stores_and_keeps_loads";
    if !is_alone(test, &["unshare", "--mount"]) {
        return;
    }
    let mounted = Mounted::new();
    let more = [("disk_sync", Value::from("always"))];
    let config = config_with(&mounted.path().join("cache"), CHUNK, 2, 24 << 20, more);
    let open = || Cache::open(&config, CHUNK as u64, None);
    let cache = open().unwrap();
    let (before, during, after) = (prompt(0, 20), prompt(1, 40), prompt(2, 20));
    store_all(&cache, &before, CHUNK);
    let batch = begin_store(&cache, &during, CHUNK);
    let mut stored = Vec::new();
    while stored.len() < 5 {
        stored.extend(batch.poll().into_iter().map(|end| end.key));
    }
    mounted.turn_read_only();
    // In that moment ext4 tells some who sync that they have, and they have not.
    for end in batch.wait(Some(PATIENCE)).expect("stores end") {
        let refused = matches!(end.reason, Some(Reason::Io(_) | Reason::Journal));
        assert!(end.status == StoreStatus::Stored || refused, "{end:?}");
    }
    for end in store(&cache, &after, CHUNK) {
        assert!(matches!(end.reason, Some(Reason::Io(_) | Reason::Journal)), "{end:?}");
    }
    assert_eq!(count_right(&cache, &before, CHUNK), 20, "what can be read is read");
    let stats = cache.stats();
    assert!(stats.control.disk.store_failed >= 20, "{stats:?}");
    assert_eq!(cache.lookup(&after).chunks(), 0);
    assert_nothing_leaked(&cache);
    close_in_time(cache);
    let error = open().err().expect("there is nothing to be written to");
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("Read-only file system"), "{error}");
    mounted.mend();
    let cache = open().unwrap();
    assert_eq!(cache.stats().control.disk.rebuilt, None);
    assert_eq!(count_right(&cache, &before, CHUNK), 20);
    assert_eq!(count_right(&cache, &stored, CHUNK), stored.len(), "what was reported is lost");
    store_all(&cache, &after, CHUNK);
    drop(cache);
    mounted.unmount();
}

#[test]
fn guarantee_7_the_disk_takes_what_is_free_above_the_floor_and_no_more() {
    const FLOOR: u64 = 16 << 20;
    let test = "guarantee_7_the_disk_takes_what_is_free_above_the_floor_and_no_more";
    if !is_alone(test, &["unshare", "--mount"]) {
        return;
    }
    let mounted = Mounted::new();
    let free_bytes = || {
        let room = rustix::fs::statvfs(mounted.path()).unwrap();
        room.f_bavail * room.f_frsize
    };
    let mut config = config_with(&mounted.path().join("cache"), CHUNK, 2, 256 << 20, []);
    config.disk_min_free_bytes = FLOOR;
    let capacity_bytes = |cache: &Cache| cache.stats().control.disk.capacity_bytes;
    let there = free_bytes();
    let cache = Cache::open(&config, CHUNK as u64, None).unwrap();
    let capacity = capacity_bytes(&cache);
    // What is left above the floor is for the journal.
    assert!(there - FLOOR - (8 << 20) < capacity && capacity < there - FLOOR, "{capacity} of {there}");
    assert!((FLOOR..FLOOR + (8 << 20)).contains(&free_bytes()), "{} are left", free_bytes());
    for number in 0..20 {
        store(&cache, &prompt(number, 40), CHUNK);
    }
    assert!(free_bytes() >= FLOOR && cache.stats().control.disk.evictions > 0);
    let chunks = cache.stats().control.disk.chunks;
    drop(cache);
    // What it has is its own at the next start, though it is not free any more.
    let cache = Cache::open(&config, CHUNK as u64, None).unwrap();
    let capacity_again = capacity_bytes(&cache);
    assert!(
        capacity - (1 << 20) < capacity_again && capacity_again <= capacity,
        "{capacity_again} of {capacity}"
    );
    assert!(cache.stats().control.disk.chunks + 20 > chunks);
    drop(cache);
    mounted.unmount();
}

#[test]
fn guarantee_6_a_chunk_whose_data_cannot_be_synced_is_not_told_as_stored() {
    let home = Home::new(CHUNK, 2, 64 << 20);
    let more = [("disk_sync", Value::from("always"))];
    let config = config_with(home.directory.path(), CHUNK, 2, 64 << 20, more);
    let faults = Faults::new();
    let cache = Cache::open_with(&config, CHUNK as u64, None, |file| faults.around(file)).unwrap();
    let (before, during) = (prompt(0, 5), prompt(1, 5));
    store_all(&cache, &before, CHUNK);
    faults.fail_syncs.store(true, Ordering::SeqCst);
    for end in store(&cache, &during, CHUNK) {
        assert!(matches!(end.reason, Some(Reason::Io(_))), "{end:?}");
    }
    assert_eq!((cache.lookup(&during).chunks(), cache.stats().control.disk.store_failed), (0, 5));
    faults.fail_syncs.store(false, Ordering::SeqCst);
    store_all(&cache, &during, CHUNK);
    assert_eq!([&before, &during].map(|keys| count_right(&cache, keys, CHUNK)), [5, 5]);
    assert_nothing_leaked(&cache);
}

/// A file that the kernel is asked for directly, but does not take into its table: so the ring's thread asks for the
/// descriptor with each piece, and dies of it once it is to.
struct Deadly {
    file: Arc<dyn BlockFile>,
    /// A descriptor that cannot be read or written by.
    path: File,
    asked: AtomicU32,
    dies: Arc<AtomicBool>,
}

impl BlockFile for Deadly {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> std::io::Result<usize> {
        self.file.write_at(buffer, offset)
    }

    fn sync(&self) -> std::io::Result<()> {
        self.file.sync()
    }

    fn is_direct(&self) -> bool {
        self.file.is_direct()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        assert!(!self.dies.load(Ordering::SeqCst), "the ring's thread dies");
        // First it is asked whether there is one, then for the table.
        match self.asked.fetch_add(1, Ordering::SeqCst) {
            1 => Some(self.path.as_fd()),
            _ => self.file.descriptor(),
        }
    }
}

#[test]
fn guarantee_9_when_the_rings_thread_dies_everything_ends_and_nothing_is_lost() {
    let home = Home::new(CHUNK, 4, 64 << 20);
    let more = [
        ("disk_io_engine", Value::from("io_uring")),
        ("load_timeout_s", Value::from(1.0)),
        ("store_timeout_s", Value::from(1.0)),
    ];
    let config = config_with(home.directory.path(), CHUNK, 4, 64 << 20, more);
    let dies = Arc::<AtomicBool>::default();
    let wrap = |file| {
        let flags = rustix::fs::OFlags::PATH.bits().cast_signed();
        let path = fs::OpenOptions::new().read(true).custom_flags(flags).open(home.data()).unwrap();
        Arc::new(Deadly { file, path, asked: 0.into(), dies: Arc::clone(&dies) }) as Arc<dyn BlockFile>
    };
    let cache = match Cache::open_with(&config, CHUNK as u64, None, wrap) {
        // Where the system forbids it there is no such thread.
        Err(error) if error.to_string().contains("Operation not permitted") => return,
        opened => opened.unwrap(),
    };
    let (keys, others) = (prompt(0, 30), prompt(1, 30));
    store_all(&cache, &keys, CHUNK);
    assert_eq!(count_right(&cache, &keys, CHUNK), 30);
    dies.store(true, Ordering::SeqCst);
    let began = Instant::now();
    for round in 0..2 {
        for (end, _) in load(&cache, &keys, CHUNK) {
            assert_eq!(end.status, LoadStatus::Failed, "round {round}: {end:?}");
        }
        for end in store(&cache, &others, CHUNK) {
            assert!(matches!(end.status, StoreStatus::Failed | StoreStatus::Refused), "{end:?}");
            assert!(end.reason.is_some(), "{end:?}");
        }
    }
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    let stats = cache.stats();
    assert!(stats.control.disk.store_failed > 0, "{stats:?}");
    assert_eq!(stats.mover.io_engine, "io_uring (dead)");
    // Nothing was read, so nothing is known to be wrong.
    assert_eq!(cache.lookup(&keys).chunks(), 30);
    assert_eq!((stats.control.disk.corrupt, stats.control.disk.io_failed), (0, 0));
    close_in_time(cache);
    let cache = home.open();
    assert_eq!(count_right(&cache, &keys, CHUNK), 30);
    store_all(&cache, &others, CHUNK);
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn remove_files(directory: &Path, is_meant: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if is_meant(entry.file_name().to_str().unwrap()) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

fn is_of_the_journal(name: &str) -> bool {
    name.starts_with("journal.") || name == "checkpoint"
}

#[test]
fn guarantee_1_an_older_journal_under_newer_data_gives_right_bytes_or_misses() {
    const LEN: usize = 16 * KIB;
    for (with_format, in_order) in [(false, true), (true, true), (false, false), (true, false)] {
        let home = Home::new(LEN, 4, 2 << 20);
        let path = home.directory.path();
        let older = TempDir::new().unwrap();
        let first = prompt(0, 20);
        {
            let cache = home.open();
            store_all(&cache, &first, LEN);
            if in_order {
                cache.close(PATIENCE);
            }
            copy_files(path, older.path());
        }
        // Later ones take the place of most of them.
        let later: Vec<_> = (1..30).map(|number| prompt(number, 5)).collect();
        {
            let cache = home.open();
            later.iter().for_each(|keys| store_all(&cache, keys, LEN));
            assert!(cache.stats().control.disk.evictions > 20);
            cache.close(PATIENCE);
        }
        let is_put_back = |name: &str| is_of_the_journal(name) || (with_format && name == "FORMAT");
        remove_files(path, is_put_back);
        remove_files(older.path(), |name| !is_put_back(name));
        copy_files(older.path(), path);
        for round in 0..2 {
            let cache = home.open();
            let known = cache.stats().control.disk.chunks;
            assert_eq!(
                known,
                if round == 0 { 20 } else { 20 + 5 },
                "what the older journal says, and what came since"
            );
            if round == 0 {
                store_all(&cache, &prompt(99, 5), LEN);
                continue;
            }
            // `count_right` compares the bytes of all that is loaded.
            let right = count_right(&cache, &first, LEN);
            assert_eq!(
                cache.stats().control.disk.corrupt,
                20 - right as u64,
                "each of the others is counted"
            );
            assert!(right < 20, "nothing was overwritten");
            assert_eq!(later.iter().map(|keys| count_right(&cache, keys, LEN)).sum::<usize>(), 0);
            assert_eq!(count_right(&cache, &prompt(99, 5), LEN), 5);
            store_all(&cache, &first, LEN);
            assert_eq!(count_right(&cache, &first, LEN), 20);
        }
    }
}

#[test]
fn guarantee_1_files_exchanged_between_two_caches_give_right_bytes_or_misses() {
    type IsMeant = fn(&str) -> bool;
    let trials: [(&str, IsMeant); 5] = [
        ("data", |name| name == "data"),
        ("the journal", is_of_the_journal),
        ("the checkpoint", |name| name == "checkpoint"),
        ("FORMAT", |name| name == "FORMAT"),
        ("all but the data", |name| name != "data"),
    ];
    for (what, is_meant) in trials {
        // As many chunks of equal size: the same places and generations in both, under other keys.
        let homes = [Home::new(CHUNK, 2, SMALL_DISK), Home::new(CHUNK, 2, SMALL_DISK)];
        let keys = [prompt(0, 20), prompt(1, 20)];
        for (home, keys) in homes.iter().zip(&keys) {
            let cache = home.open();
            store_all(&cache, keys, CHUNK);
            cache.close(PATIENCE);
        }
        let copies = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        for (home, copy) in homes.iter().zip(&copies) {
            copy_files(home.directory.path(), copy.path());
            remove_files(home.directory.path(), is_meant);
            remove_files(copy.path(), |name| !is_meant(name));
        }
        copy_files(copies[0].path(), homes[1].directory.path());
        copy_files(copies[1].path(), homes[0].directory.path());
        for home in &homes {
            let cache = home.open();
            let right: usize = keys.iter().map(|keys| count_right(&cache, keys, CHUNK)).sum();
            let disk = cache.stats().control.disk;
            // What belongs together is found, and nothing else; each chunk that is not what its record says is counted.
            let expected = if what == "FORMAT" { (20, 0) } else { (0, 20) };
            assert_eq!((right, disk.corrupt), expected, "{what}: {disk:?}");
            for keys in &keys {
                store(&cache, keys, CHUNK);
                assert_eq!(count_right(&cache, keys, CHUNK), 20, "{what}");
            }
        }
    }
}

#[test]
fn guarantee_6_a_segment_that_is_missing_is_damage_wherever_it_was() {
    // Each life ends by a death: a checkpoint that names segment 2, and segments 2 to 5 with ten chunks each.
    let home = Home::new(CHUNK, 2, 64 << 20);
    let path = home.directory.path();
    let keys: Vec<_> = (0..5).map(|number| prompt(number, 10)).collect();
    for (number, keys) in keys.iter().enumerate() {
        let cache = home.open();
        store_all(&cache, keys, CHUNK);
        if number == 0 {
            cache.close(PATIENCE);
            continue;
        }
        let died = TempDir::new().unwrap();
        copy_files(path, died.path());
        drop(cache);
        remove_files(path, |_| true);
        copy_files(died.path(), path);
    }
    let all = segments(path).unwrap();
    assert_eq!(all.len(), 5, "the empty one of the checkpoint, and one for each death: {all:?}");
    for missing in &all {
        let trial = TempDir::new().unwrap();
        copy_files(path, trial.path());
        fs::remove_file(segment_path(trial.path(), *missing)).unwrap();
        let config = config(trial.path(), CHUNK, 2, 64 << 20);
        let cache = Cache::open(&config, CHUNK as u64, None).unwrap();
        let rebuilt = cache.stats().control.disk.rebuilt;
        if *missing == *all.last().unwrap() {
            // It looks like a journal that ends before it.
            assert_eq!(rebuilt, None);
            assert_eq!(cache.stats().control.disk.chunks, 40);
            continue;
        }
        assert_eq!(rebuilt, Some(format!("journal segment {missing} is missing")));
        keys.iter().for_each(|keys| assert_eq!(count_right(&cache, keys, CHUNK), 10, "without {missing}"));
    }
}

#[test]
fn guarantee_7_after_a_death_what_is_new_goes_after_what_is_old() {
    const LEN: usize = 4 * KIB;
    for without_journal in [false, true] {
        let home = Home::new(LEN, 4, 2 << 20);
        let cache = home.open();
        let mut old = 0;
        while cache.stats().control.disk.evictions == 0 {
            store_all(&cache, &prompt(old, 10), LEN);
            old += 1;
        }
        let died = TempDir::new().unwrap();
        copy_files(home.directory.path(), died.path());
        if without_journal {
            remove_files(died.path(), is_of_the_journal);
        }
        let config = config(died.path(), LEN, 4, 2 << 20);
        let cache = Cache::open(&config, LEN as u64, None).unwrap();
        // Half of what there is room for, one chunk after the other.
        let new: Vec<_> = (1000..1000 + old / 2).flat_map(|number| prompt(number, 10)).collect();
        for keys in new.chunks(10) {
            store_all(&cache, keys, LEN);
        }
        let lost = new.iter().filter(|key| cache.lookup(&[**key]).chunks() == 0).count();
        assert_eq!(lost, 0, "of {} that are new", new.len());
    }
}

#[test]
fn guarantee_6_the_times_of_files_mean_nothing() {
    let home = Home::new(CHUNK, 2, SMALL_DISK);
    let keys = prompt(0, 20);
    store_all(&home.open(), &keys, CHUNK);
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    for (number, time) in (1..).zip([UNIX_EPOCH, SystemTime::now() + days(40_000), UNIX_EPOCH + days(1)]) {
        for entry in fs::read_dir(home.directory.path()).unwrap().map(Result::unwrap) {
            let times = FileTimes::new().set_accessed(time).set_modified(time);
            File::options().write(true).open(entry.path()).unwrap().set_times(times).unwrap();
        }
        let cache = home.open();
        assert_eq!(cache.stats().control.disk.rebuilt, None);
        assert_eq!(count_right(&cache, &keys, CHUNK), 20);
        store_all(&cache, &prompt(number, 2), CHUNK);
    }
}
