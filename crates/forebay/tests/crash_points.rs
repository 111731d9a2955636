//! Guarantee 6, by name: a process dies at each point of `src/crash_points.rs`, on the real disk, and loses nothing that
//! it had reported complete.
//!
//! This program is its own victim, as `crash.rs` is. In each scenario a first child lives to its end and notes which points
//! it passes and how often; then one child after the other dies at each of them, at its first passing, one in the
//! middle and the last. A second one dies where the first did, over what that left behind, so that starts that
//! die are followed by starts that die. Then the directory is opened and looked through.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use forebay::config::Config;
use forebay::crash_points::Point;
use forebay::{Cache, ChunkKey, LoadStatus, Namespace, StoreOutcome, StoreStatus, Value};
use support::{KIB, PATIENCE, allocated_bytes, bytes_of, config_with, load, prompt};
use tempfile::TempDir;

/// What fills a directory beforehand: prompts from 0 on, each of so many chunks of one byte.
const FILLER_CHUNKS: usize = 10;
const FILLER_BYTES: usize = 1;
/// Fillers stored last, which none of the others makes room by.
const FILLERS_KEPT: usize = 150;
/// Records in the journal of such a directory: a life more, and a checkpoint is due.
const RECORDS_BEFORE: u64 = 1300;
/// What the children store: prompts from here on.
const FIRST_PROMPT: u32 = 100_000;
const CHUNKS_PER_PROMPT: usize = 4;

/// What a life finds, and how it goes on from there.
struct Scenario {
    name: &'static str,
    drives: usize,
    chunk_bytes: usize,
    capacity_bytes: u64,
    sync: Value,
    engine: &'static str,
    /// What a life stores.
    prompts: u32,
    before: Before,
}

/// What is there before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// Full, and soon due for a checkpoint.
    Full,
    /// The same without its journal.
    FullWithoutJournal,
    /// The same, of more capacity.
    Larger,
    /// Full, and with each life it becomes smaller and larger while it is used.
    FullAndResized,
}

fn scenarios() -> Vec<Scenario> {
    let full = |name, sync, engine, before| Scenario {
        name,
        drives: 1,
        chunk_bytes: 8 * KIB,
        capacity_bytes: 4 << 20,
        sync,
        engine,
        prompts: 12,
        before,
    };
    vec![
        // Chunks of several parts, on two drives.
        Scenario {
            name: "new",
            drives: 2,
            chunk_bytes: 6 << 20,
            capacity_bytes: 72 << 20,
            sync: Value::from("none"),
            engine: "auto",
            prompts: 2,
            before: Before::Nothing,
        },
        full("full", Value::from("none"), "auto", Before::Full),
        full("always", Value::from("always"), "threads", Before::Full),
        full("interval", Value::from(0.001), "auto", Before::Full),
        full("rebuilt", Value::from("none"), "auto", Before::FullWithoutJournal),
        full("smaller", Value::from("none"), "threads", Before::Larger),
        Scenario {
            capacity_bytes: 6 << 20,
            ..full("resized", Value::from("none"), "auto", Before::FullAndResized)
        },
    ]
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, scenario, directory, first] = &arguments[..]
        && role == "child"
    {
        let scenarios = scenarios();
        let scenario = scenarios.iter().find(|known| known.name == *scenario).expect("a scenario");
        return child(scenario, Path::new(directory), first.parse().expect("a number"));
    }
    if arguments.iter().any(|argument| argument == "--list") {
        return;
    }
    println!("\nrunning 1 test");
    guarantee_6_a_death_at_any_point_loses_nothing_reported();
    println!("test guarantee_6_a_death_at_any_point_loses_nothing_reported ... ok");
    println!("\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n");
}

fn guarantee_6_a_death_at_any_point_loses_nothing_reported() {
    // Most of the time is waited for drives: all scenarios at once.
    let scenarios = scenarios();
    let died_at: BTreeSet<Point> = std::thread::scope(|scope| {
        let running: Vec<_> = scenarios
            .iter()
            .map(|scenario| scope.spawn(move || Image::of(scenario).die_everywhere()))
            .collect();
        running.into_iter().flat_map(|running| running.join().expect("a scenario passes")).collect()
    });
    let never: Vec<_> = Point::ALL.iter().filter(|point| !died_at.contains(point)).collect();
    assert!(never.is_empty(), "nobody died at {never:?}");
}

impl Scenario {
    fn directories(&self, world: &Path) -> Vec<PathBuf> {
        (0..self.drives).map(|drive| world.join(drive.to_string())).collect()
    }

    fn config(&self, world: &Path, capacity_bytes: u64) -> Config {
        let directories = self.directories(world);
        let names = directories.iter().map(|path| Value::from(path.to_str().expect("a plain name")));
        let more = [
            ("local_disk", Value::List(names.collect())),
            ("disk_sync", self.sync.clone()),
            ("disk_io_engine", Value::from(self.engine)),
        ];
        config_with(world, self.chunk_bytes, 4, capacity_bytes, more)
    }

    fn open(&self, world: &Path) -> Cache {
        let config = self.config(world, self.capacity_bytes);
        Cache::open(&config, self.chunk_bytes as u64, Some(&Namespace::of_model("test")))
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// What the disk's capacity becomes, one after the other, when a life has stored so many prompts. Nothing is stored while it
    /// has more than at a start, which would lose what lies past its end.
    fn capacities_after(&self, prompts: u32) -> Vec<u64> {
        let usual = self.capacity_bytes;
        match (self.before, prompts) {
            (Before::FullAndResized, 3) => vec![usual - (3 << 19)],
            (Before::FullAndResized, 6) => vec![usual],
            (Before::FullAndResized, 9) => vec![usual + (1 << 20), usual],
            _ => Vec::new(),
        }
    }

    /// The length of a chunk that a child stores: many are small, some as large as may be.
    fn length_of(&self, key: &ChunkKey) -> usize {
        match key.as_bytes()[16] % 3 {
            0 => self.chunk_bytes,
            _ => 1 + usize::from(key.as_bytes()[17]) * 30,
        }
    }

    fn store(&self, cache: &Cache, keys: &[ChunkKey], tell: impl Fn(&StoreOutcome) + Send + Sync + 'static) {
        let chunks =
            keys.iter().map(|key| (*key, Box::new(bytes_of(key, self.length_of(key))) as _)).collect();
        cache.store(chunks, None, Some(Arc::new(tell))).expect("stores").wait(Some(PATIENCE)).expect("ends");
    }
}

/// Opens, stores and closes, and says on its standard output what was stored; unless it dies.
fn child(scenario: &Scenario, world: &Path, first: u32) {
    let cache = scenario.open(world);
    for prompts in 0..scenario.prompts {
        for capacity_bytes in scenario.capacities_after(prompts) {
            cache.set_disk_capacity(capacity_bytes).expect("nothing is in use");
        }
        scenario.store(&cache, &prompt(first + prompts, CHUNKS_PER_PROMPT), |end| {
            if end.status == StoreStatus::Stored {
                let mut out = std::io::stdout().lock();
                writeln!(out, "{}", end.key).and_then(|()| out.flush()).expect("somebody listens");
            }
        });
    }
    cache.close(PATIENCE);
}

/// Directories as a life finds them.
struct Image<'a> {
    scenario: &'a Scenario,
    world: TempDir,
    /// What fills them, in the order in which it was stored.
    fillers: Vec<ChunkKey>,
}

impl<'a> Image<'a> {
    fn of(scenario: &'a Scenario) -> Self {
        let world = TempDir::new().expect("a temporary directory");
        for directory in scenario.directories(world.path()) {
            std::fs::create_dir(directory).unwrap();
        }
        let mut image = Self { scenario, world, fillers: Vec::new() };
        if scenario.before != Before::Nothing {
            image.fill();
        }
        image
    }

    fn fill(&mut self) {
        let made = TempDir::new().expect("a temporary directory");
        let larger = u64::from(self.scenario.before == Before::Larger) << 20;
        let config = self.scenario.config(made.path(), self.scenario.capacity_bytes + larger);
        let cache = Cache::open(&config, self.scenario.chunk_bytes as u64, None).expect("the cache opens");
        let home = made.path().join("0");
        let records = || std::fs::metadata(home.join("journal.1")).unwrap().len() / 128;
        for number in 0.. {
            if records() >= RECORDS_BEFORE {
                break;
            }
            let keys = prompt(number, FILLER_CHUNKS);
            support::store_all(&cache, &keys, FILLER_BYTES);
            self.fillers.extend(keys);
        }
        assert!(cache.stats().control.disk.evictions > 0, "it is not full");
        // As a death now would leave it.
        copy(made.path(), self.world.path());
        if self.scenario.before == Before::FullWithoutJournal {
            std::fs::remove_file(self.world.path().join("0/journal.1")).unwrap();
        }
    }

    /// Has a child live in a copy to its end; gives how often it passed which point.
    fn rehearse(&self) -> BTreeMap<Point, u64> {
        let world = TempDir::new().expect("a temporary directory");
        copy(self.world.path(), world.path());
        let notes = world.path().join("points");
        let (died, told) =
            self.live(world.path(), FIRST_PROMPT, ("FOREBAY_NOTE_POINTS", notes.to_str().unwrap()));
        assert!(!died, "{}", self.scenario.name);
        let stored = self.scenario.prompts as usize * CHUNKS_PER_PROMPT;
        assert_eq!(told.len(), stored, "{}: all that it stores", self.scenario.name);
        let mut passings = BTreeMap::new();
        for line in std::fs::read_to_string(&notes).unwrap().lines() {
            let point = Point::ALL.iter().find(|point| format!("{point:?}") == line).expect("a point");
            *passings.entry(*point).or_default() += 1;
        }
        std::fs::remove_file(notes).unwrap();
        self.examine(world.path(), &told, 1, "in order");
        passings
    }

    /// Has children die at each point that is passed, and gives these.
    fn die_everywhere(&self) -> BTreeSet<Point> {
        let (began, mut deaths, mut told) = (Instant::now(), 0, 0);
        let mut died_at = BTreeSet::new();
        for (point, passings) in self.rehearse() {
            for passing in BTreeSet::from([1, passings.div_ceil(2), passings]) {
                let (died, reported) = self.die_at(point, passing);
                // Of later passings there may be fewer, as threads have their turns.
                assert!(died > 0 || passing > 1, "{}: nobody died at {point:?}", self.scenario.name);
                deaths += died;
                told += reported;
            }
            died_at.insert(point);
        }
        let name = self.scenario.name;
        println!("{name}: {deaths} deaths, {told} chunks reported, none lost, {:?}", began.elapsed());
        died_at
    }

    /// Has two children in a row die at that passing of a point, and looks at what they leave behind. Gives how many did,
    /// and how many chunks they had reported.
    fn die_at(&self, point: Point, passing: u64) -> (u32, usize) {
        let world = TempDir::new().expect("a temporary directory");
        copy(self.world.path(), world.path());
        let mut deaths = 0;
        let mut all = Vec::new();
        for life in 0..2 {
            let order = format!("{point:?}:{passing}");
            let first = FIRST_PROMPT + life * self.scenario.prompts;
            let (died, told) = self.live(world.path(), first, ("FOREBAY_DIE_AT", &order));
            deaths += u32::from(died);
            all.extend(told);
        }
        self.examine(world.path(), &all, 2, &format!("{point:?}, passing {passing}"));
        (deaths, all.len())
    }

    /// One life; whether it died, and what it had reported.
    fn live(&self, world: &Path, first: u32, order: (&str, &str)) -> (bool, Vec<ChunkKey>) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", self.scenario.name, world.to_str().unwrap(), &first.to_string()])
            .env(order.0, order.1)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        // A line cut by death was not said.
        let told = lines.filter(|line| line.len() == 64).map(|line| key_of(&line)).collect();
        let ended = child.wait().unwrap();
        let died = ended.signal() == Some(libc::SIGKILL);
        assert!(died || ended.success(), "{}, {order:?}: {ended}", self.scenario.name);
        (died, told)
    }

    /// Opens what so many lives have left behind: what they had reported is there, all that is there is right, there is no
    /// more of it than may be, and it can be gone on with.
    fn examine(&self, world: &Path, told: &[ChunkKey], lives: u32, at: &str) {
        let scenario = self.scenario;
        let at = format!("{}, {at}", scenario.name);
        let is_within = || {
            for directory in scenario.directories(world) {
                let bytes = allocated_bytes(&directory);
                assert!(bytes <= scenario.capacity_bytes / scenario.drives as u64, "{at}: {bytes} bytes");
            }
        };
        if !matches!(scenario.before, Before::Larger | Before::FullAndResized) {
            is_within();
        }
        let theirs = FIRST_PROMPT..FIRST_PROMPT + lives * scenario.prompts;
        let theirs: Vec<_> = theirs.flat_map(|number| prompt(number, CHUNKS_PER_PROMPT)).collect();
        let new = prompt(FIRST_PROMPT * 2, CHUNKS_PER_PROMPT);
        {
            let cache = scenario.open(world);
            // The journal of a directory that is new comes after its data.
            if matches!(scenario.before, Before::Full | Before::Larger | Before::FullAndResized) {
                assert_eq!(cache.stats().control.disk.rebuilt, None, "{at}: a death is no damage");
            }
            let is_there = |key: &ChunkKey| cache.lookup(&[*key]).chunks() == 1;
            for key in told {
                assert!(is_there(key), "{at}: {key} was reported and is lost");
            }
            if scenario.before != Before::Larger {
                let kept = &self.fillers[self.fillers.len().saturating_sub(FILLERS_KEPT)..];
                assert!(kept.iter().all(is_there), "{at}: what was there before is lost");
            }
            let there = |keys: &[ChunkKey]| keys.iter().copied().filter(is_there).collect::<Vec<_>>();
            let fillers = there(&self.fillers);
            for (key, (end, bytes)) in fillers.iter().zip(load(&cache, &fillers, FILLER_BYTES)) {
                assert_eq!(end.status, LoadStatus::Loaded, "{at}: {key}");
                assert!(bytes == bytes_of(key, FILLER_BYTES), "{at}: wrong bytes");
            }
            there(&theirs).iter().for_each(|key| self.assert_right(&cache, key, &at));
            let stats = cache.stats().control.disk;
            assert_eq!((stats.corrupt, stats.io_failed), (0, 0), "{at}: a chunk was half there");
            scenario.store(&cache, &new, |end| assert_eq!(end.status, StoreStatus::Stored));
            cache.close(PATIENCE);
        }
        is_within();
        let cache = scenario.open(world);
        told.iter().chain(&new).for_each(|key| self.assert_right(&cache, key, &at));
    }

    fn assert_right(&self, cache: &Cache, key: &ChunkKey, at: &str) {
        let length = self.scenario.length_of(key);
        let (end, bytes) = load(cache, &[*key], length).remove(0);
        assert_eq!(end.status, LoadStatus::Loaded, "{at}: {end:?}");
        assert!(bytes == bytes_of(key, length), "{at}: wrong bytes under {key}");
    }
}

/// Copies directories of files.
fn copy(from: &Path, to: &Path) {
    for directory in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(directory.file_name());
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(directory.path()).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

fn key_of(line: &str) -> ChunkKey {
    let byte = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).expect("hexadecimal");
    ChunkKey::from_slice(&(0..64).step_by(2).map(byte).collect::<Vec<u8>>()).expect("a key")
}
