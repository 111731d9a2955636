//! Guarantee 6: a process that is killed at any instant loses nothing that it had reported complete.
//!
//! This program is its own victim: run with `child DIRECTORY` it stores chunks and says on its standard output what
//! was reported complete, until it is killed. How often that is done `FOREBAY_KILLS` says; `make kills` runs it a thousand
//! times.

mod support;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::{Cache, ChunkKey, LoadStatus, Lookup, StoreOutcome, StoreStatus};
use support::{Home, KIB, PATIENCE, allocated_bytes, bytes_of, config, count_right, load, prompt, store_all};

const CHUNK: usize = 64 * KIB;
/// What is killed if `FOREBAY_KILLS` says nothing else.
const KILLS: u32 = 50;
/// After so many a new directory is begun.
const KILLS_PER_DIRECTORY: u32 = 25;
const CHUNKS_PER_PROMPT: usize = 8;
const PROMPTS_PER_CYCLE: u32 = 9;
const CHUNKS_PER_CYCLE: usize = CHUNKS_PER_PROMPT * PROMPTS_PER_CYCLE as usize;
/// In every other directory all that its cycles store has room. In the others each cycle evicts for what it stores, and
/// what the last ones reported is there.
const LARGE_DISK: u64 = 160 << 20;
const TIGHT_DISK: u64 = 24 << 20;
const CYCLES_THAT_FIT: u32 = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, directory, first] = &arguments[..] {
        let (directory, first) = (Path::new(directory), first.parse().expect("a number"));
        match role.as_str() {
            "child" => child(directory, first, LARGE_DISK),
            "tight" => child(directory, first, TIGHT_DISK),
            "small" => child_of_small_chunks(directory, first),
            _ => {}
        }
    }
    // The arguments of a test runner that lists or filters are honoured as far as there is something to.
    if arguments.iter().any(|argument| argument == "--list") {
        return;
    }
    let tests: [(&str, fn()); 5] = [
        ("guarantee_6_kills_lose_nothing_reported", kills),
        ("guarantee_6_a_lost_journal_is_rebuilt_from_the_trailers", lost_journal),
        ("guarantee_6_a_torn_journal_tail_costs_only_itself", torn_tail),
        ("guarantee_7_many_deaths_leave_no_more_than_the_capacity", many_deaths),
        ("start_up_with_a_hundred_thousand_chunks_takes_under_a_second", start_up),
    ];
    println!("\nrunning {} tests", tests.len());
    for (name, test) in tests {
        test();
        println!("test {name} ... ok");
    }
    println!("\ntest result: ok. {} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n", tests.len());
}

/// Stores prompt after prompt and says what was stored; is killed, or ends in the loop's last line.
fn child(directory: &Path, first: u32, disk_bytes: u64) -> ! {
    let config = config(directory, CHUNK, 4, disk_bytes);
    let cache = Cache::open(&config, CHUNK as u64, None).expect("the cache opens");
    println!("open");
    for number in first..first + PROMPTS_PER_CYCLE {
        let keys = prompt(number, CHUNKS_PER_PROMPT);
        let chunks = keys.iter().map(|key| (*key, Box::new(bytes_of(key, CHUNK)) as _)).collect();
        let tell = |end: &StoreOutcome| {
            if end.status == StoreStatus::Stored {
                let mut out = std::io::stdout().lock();
                let _ = writeln!(out, "{}", end.key).and_then(|()| out.flush());
            }
        };
        cache.store(chunks, None, Some(Arc::new(tell))).expect("stores").wait(Some(PATIENCE));
    }
    loop {
        std::thread::park();
    }
}

const SMALL_DISK: u64 = 8 << 20;

/// Stores as many small chunks as almost fill a journal, says so and waits for its end.
fn child_of_small_chunks(directory: &Path, first: u32) -> ! {
    let config = config(directory, CHUNK, 4, SMALL_DISK);
    let cache = Cache::open(&config, CHUNK as u64, None).expect("the cache opens");
    for number in first..first + 11 {
        let keys = prompt(number, 100);
        // A keeper that does not keep up has stores refused as busy.
        while cache.lookup(&keys).chunks() < keys.len() {
            let chunks = keys.iter().map(|key| (*key, Box::new(vec![1_u8; 1]) as _)).collect();
            cache.store(chunks, None, None).expect("stores").wait(Some(PATIENCE));
        }
    }
    println!("stored");
    loop {
        std::thread::park();
    }
}

fn many_deaths() {
    let directory = tempfile::TempDir::new().unwrap();
    for death in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["small", directory.path().to_str().unwrap(), &(death * 100).to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert_eq!(lines.next().as_deref(), Some("stored"), "death {death}");
        child.kill().unwrap();
        child.wait().unwrap();
        let bytes = allocated_bytes(directory.path());
        assert!(bytes <= SMALL_DISK, "{bytes} bytes after {death} deaths");
    }
    let cache =
        Cache::open(&config(directory.path(), CHUNK, 4, SMALL_DISK), CHUNK as u64, None).expect("it opens");
    assert_eq!(cache.lookup(&prompt(1910, 100)).chunks(), 100);
}

fn key_of(line: &str) -> ChunkKey {
    let byte = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).expect("hexadecimal");
    ChunkKey::from_slice(&(0..64).step_by(2).map(byte).collect::<Vec<u8>>()).expect("a key")
}

/// What kills have shown so far.
#[derive(Default)]
struct Seen {
    kills: u32,
    midway: u32,
    reported: usize,
    found: usize,
    checked: usize,
    evicted: usize,
}

fn kills() {
    let kills: u32 = match std::env::var("FOREBAY_KILLS") {
        Ok(number) => number.parse().expect("FOREBAY_KILLS is a number"),
        Err(_) => KILLS,
    };
    let (began, mut seen) = (Instant::now(), Seen::default());
    for number in 0.. {
        let left = kills - seen.kills;
        if left == 0 {
            break;
        }
        kills_in_one_directory(number % 2 == 1, left.min(KILLS_PER_DIRECTORY), &mut seen);
    }
    let Seen { midway, reported, found, checked, evicted, .. } = seen;
    assert!(midway > kills / 2, "only {midway} of {kills} were killed while they stored");
    assert!(kills <= KILLS_PER_DIRECTORY || evicted > 0, "nothing was evicted");
    println!(
        "{kills} kills ({midway} while storing) in {:?}: {reported} chunks reported, {found} found after a kill, \
         {checked} loaded and compared; 0 wrong, 0 lost",
        began.elapsed()
    );
}

fn kills_in_one_directory(is_tight: bool, cycles: u32, seen: &mut Seen) {
    let directory = tempfile::TempDir::new().unwrap();
    let (role, disk_bytes) = if is_tight { ("tight", TIGHT_DISK) } else { ("child", LARGE_DISK) };
    // What each cycle reported.
    let mut reported: Vec<HashSet<ChunkKey>> = Vec::new();
    for cycle in 0..cycles {
        let first = cycle * PROMPTS_PER_CYCLE;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([role, directory.path().to_str().unwrap(), &first.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert_eq!(lines.next().as_deref(), Some("open"), "cycle {cycle}");
        // The instant is random twice: after a number of reports, and then some microseconds later.
        let entropy = u64::from(seen.kills + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        let reports = usize::try_from(entropy).unwrap() % CHUNKS_PER_CYCLE;
        let mut told: Vec<String> = lines.by_ref().take(reports).collect();
        let later = Instant::now() + Duration::from_micros(entropy % 3000);
        while Instant::now() < later {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had said before it died is still in the pipe. A line cut by death was not said.
        told.extend(lines.filter(|line| line.len() == 64));
        seen.kills += 1;
        seen.midway += u32::from(told.len() < CHUNKS_PER_CYCLE);
        seen.reported += told.len();
        reported.push(told.iter().map(|line| key_of(line)).collect());

        assert!(allocated_bytes(directory.path()) <= disk_bytes, "cycle {cycle}: more than the capacity");
        let config = config(directory.path(), CHUNK, 4, disk_bytes);
        let cache = Cache::open(&config, CHUNK as u64, None).expect("it opens");
        assert_eq!(cache.stats().control.disk.rebuilt, None, "cycle {cycle}: a death is no damage");
        // Every chunk that is found is whole: all of them where few fit; else the last cycle's now, and all at the end.
        let all = is_tight || cycle + 1 == cycles;
        let mut found = Vec::new();
        for (then, reported) in (0..).zip(&reported) {
            let has_room = !is_tight || then + CYCLES_THAT_FIT > cycle;
            let prompts = then * PROMPTS_PER_CYCLE..(then + 1) * PROMPTS_PER_CYCLE;
            // To look is to use: the end of a prompt first, as a lookup of all of it does.
            for key in prompts.flat_map(|number| prompt(number, CHUNKS_PER_PROMPT).into_iter().rev()) {
                let there = matches!(cache.lookup(&[key]), Lookup::Hit(_));
                let lost = !there && has_room && reported.contains(&key);
                assert!(!lost, "cycle {cycle}: {key} was reported in cycle {then} and is lost");
                seen.found += usize::from(there);
                seen.evicted += usize::from(!there && reported.contains(&key));
                if there && (all || then == cycle) {
                    found.push(key);
                }
            }
        }
        for (key, (outcome, bytes)) in found.iter().zip(load(&cache, &found, CHUNK)) {
            assert_eq!(outcome.status, LoadStatus::Loaded, "cycle {cycle}: {outcome:?}");
            assert!(bytes == bytes_of(key, CHUNK), "cycle {cycle}: wrong bytes");
        }
        seen.checked += found.len();
        assert_eq!(cache.stats().control.disk.corrupt, 0, "cycle {cycle}: a chunk was half there");
    }
}

fn lost_journal() {
    let home = Home::new(CHUNK, 4, 64 << 20);
    let (small, large) = (prompt(0, 30), prompt(1, 30));
    {
        let cache = home.open();
        store_all(&cache, &small, 5000);
        store_all(&cache, &large, CHUNK);
        cache.close(PATIENCE);
    }
    let delete: [fn(&Home); 3] = [
        |home| remove_matching(home, "journal."),
        |home| remove_matching(home, "checkpoint"),
        |home| ["journal.", "checkpoint", "FORMAT"].iter().for_each(|name| remove_matching(home, name)),
    ];
    for (round, delete) in delete.into_iter().enumerate() {
        delete(&home);
        {
            let cache = home.open();
            assert!(cache.stats().control.disk.rebuilt.is_some(), "round {round}");
            assert_eq!(count_right(&cache, &small, 5000), 30, "round {round}");
            assert_eq!(count_right(&cache, &large, CHUNK), 30, "round {round}");
            assert_eq!(cache.lookup(&large).chunks(), 30);
            cache.close(PATIENCE);
        }
        // What was rebuilt was written down.
        let cache = home.open();
        assert_eq!(cache.stats().control.disk.rebuilt, None, "round {round}");
        assert_eq!(cache.stats().control.disk.chunks, 60, "round {round}");
    }
}

fn remove_matching(home: &Home, prefix: &str) {
    for entry in std::fs::read_dir(home.directory.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().unwrap().starts_with(prefix) {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

fn torn_tail() {
    let home = Home::new(CHUNK, 4, 64 << 20);
    let keys = prompt(0, 10);
    let whole = {
        let cache = home.open();
        store_all(&cache, &keys, CHUNK);
        // The journal as a death now would leave it.
        let whole = std::fs::read(home.path("journal.1")).unwrap();
        cache.close(PATIENCE);
        whole
    };
    let record = forebay::catalog::RECORD_BYTES;
    assert_eq!(whole.len(), 11 * record);
    for cut in 0..=whole.len() {
        remove_matching(&home, "checkpoint");
        remove_matching(&home, "journal.");
        std::fs::write(home.path("journal.1"), &whole[..cut]).unwrap();
        let found = forebay::tier::disk::recovery::read_journal(home.directory.path()).unwrap();
        assert_eq!(found.damage, None, "cut at {cut}");
        assert_eq!(found.records.len(), (cut / record).saturating_sub(1), "cut at {cut}");
        assert_eq!(found.interrupted, u64::from(cut % record != 0 || cut == 0), "cut at {cut}");
    }
    let cache = home.open();
    assert_eq!(count_right(&cache, &keys, CHUNK), 10);
}

fn start_up() {
    const CHUNKS: usize = 100_000;
    let directory = tempfile::TempDir::new().unwrap();
    let config = config(directory.path(), 4 * KIB, 64, 1 << 30);
    let keys: Vec<ChunkKey> = (0..100).flat_map(|number| prompt(number, CHUNKS / 100)).collect();
    {
        let cache = Cache::open(&config, 4 * KIB as u64, None).unwrap();
        let one = vec![7_u8; 16];
        for prompt in keys.chunks(CHUNKS / 100) {
            let chunks = prompt.iter().map(|key| (*key, Box::new(one.clone()) as _)).collect();
            let ends = cache.store(chunks, None, None).unwrap().wait(Some(PATIENCE)).expect("stores end");
            assert!(ends.iter().all(|end| end.status == StoreStatus::Stored));
        }
        // Not closed in order: what is read is a checkpoint and a journal, as after a death.
        let copy = directory.path().with_extension("copy");
        std::fs::create_dir(&copy).unwrap();
        for entry in std::fs::read_dir(directory.path()).unwrap().map(Result::unwrap) {
            if entry.file_name() != "data" {
                std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
            }
        }
        drop(cache);
        remove_all_but_data(directory.path());
        for entry in std::fs::read_dir(&copy).unwrap().map(Result::unwrap) {
            std::fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
        }
        std::fs::remove_dir_all(copy).unwrap();
    }
    let started = Instant::now();
    let cache = Cache::open(&config, 4 * KIB as u64, None).unwrap();
    let took = started.elapsed();
    let stats = cache.stats().control.disk;
    assert_eq!((stats.chunks, stats.rebuilt), (CHUNKS as u64, None));
    assert_eq!(cache.lookup(&keys[..CHUNKS / 100]).chunks(), CHUNKS / 100);
    println!("start-up with {CHUNKS} chunks took {took:?}");
    assert!(took < Duration::from_secs(1), "start-up took {took:?}");
}

fn remove_all_but_data(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_name() != "data" {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}
