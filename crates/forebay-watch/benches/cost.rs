//! What being watched costs: the same stores and loads by turns with nobody looking, with metrics and the page's figures
//! asked for each second, and with chunks traced besides and their lines written (to nowhere). Prints medians of the ratios,
//! and between what they are likely to be. `TMPDIR` names the drive.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use forebay::{Cache, ChunkKey, Config, Namespace, Value};
use forebay_watch::Server;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// Chunks of the first size are the worst there is; of the second, as `forebay bench` has them.
const CHUNKS_MIB: [usize; 2] = [2, 8];
const BATCH: usize = 256 << 20;
/// Rounds are of about a second, so that each is watched once, and what else the machine does falls on neighbours alike.
const REPEATS: usize = 8;
const ROUNDS: usize = 80;
const SCRAPE_EVERY: Duration = Duration::from_secs(1);
/// How it is watched, if it is, and from what level on lines are written.
const WATCHES: [(&str, Option<LevelFilter>); 4] = [
    ("alone", None),
    ("watched", Some(LevelFilter::OFF)),
    ("watched, a line for each chunk", Some(LevelFilter::DEBUG)),
    ("watched, a span for each chunk, lines for all its steps", Some(LevelFilter::TRACE)),
];

/// Bytes that all stores read.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// GB/s of wall time, and seconds of processor time for a GB, of what was stored and loaded.
#[derive(Clone, Copy)]
struct Speed {
    gb_per_s: f64,
    cpu_s_per_gb: f64,
}

fn cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default()).as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "far from the limit")]
fn round(cache: &Cache, keys: &[ChunkKey], bytes: &Arc<Vec<u8>>, buffers: &[Arc<Mutex<Vec<u8>>>]) -> Speed {
    let (began, cpu_before) = (Instant::now(), cpu_s());
    for _ in 0..REPEATS {
        let chunks = keys.iter().map(|key| (*key, Box::new(Shared(Arc::clone(bytes))) as _)).collect();
        let stored = cache.store(chunks, None, None).expect("right chunks").wait(None).expect("an end");
        assert!(stored.iter().all(|outcome| outcome.reason.is_none()), "{stored:?}");
        let sinks =
            keys.iter().zip(buffers).map(|(key, buffer)| (*key, Box::new(Arc::clone(buffer)) as _)).collect();
        let loaded = cache.load(sinks, None).wait(None).expect("an end");
        assert!(loaded.iter().all(|outcome| outcome.reason.is_none()), "{loaded:?}");
        cache.clear(None);
    }
    let gb = (2 * REPEATS * BATCH) as f64 / 1e9;
    Speed { gb_per_s: gb / began.elapsed().as_secs_f64(), cpu_s_per_gb: (cpu_s() - cpu_before) / gb }
}

fn get(server: &Server, path: &str) {
    let mut stream = TcpStream::connect(server.address()).expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.address());
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{path}");
}

/// Has metrics and the page's figures asked for all the while.
fn while_watched(server: &Server, work: impl FnOnce() -> Speed) -> Speed {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                get(server, "/metrics");
                get(server, "/api/now");
                thread::park_timeout(SCRAPE_EVERY);
            }
        });
        let speed = work();
        over.store(true, Ordering::Relaxed);
        scraper.thread().unpark();
        speed
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median, and between what the median of many more rounds is in 95 cases of 100: the binomial distribution's word.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small"
)]
fn likely(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    let beside = (0.98 * (values.len() as f64).sqrt()).ceil() as usize;
    format!("{:.1} % ({:.1} to {:.1})", values[half], values[half - beside], values[half + beside])
}

fn main() {
    let (level, handle) = reload::Layer::new(LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::sink).with_filter(level);
    tracing_subscriber::registry().with(lines).init();

    for mib in CHUNKS_MIB {
        println!("chunks of {mib} MiB, {ROUNDS} rounds");
        measure(mib << 20, |level| handle.modify(|now| *now = level).expect("there is a subscriber"));
    }
}

fn measure(chunk: usize, set_level: impl Fn(LevelFilter)) {
    let count = BATCH / chunk;
    let directory = tempfile::TempDir::new().expect("a directory");
    let config = Config::from_values([
        ("local_disk", Value::from(directory.path().join("kv").to_str().expect("text"))),
        ("max_local_disk_size", Value::from(1.0)),
        ("max_local_cpu_size", Value::from(0.125)),
        ("local_cpu", Value::from(false)),
        ("use_only_staging_buffer", Value::from(true)),
        ("disk_min_free_size", Value::from(0.0)),
    ])
    .expect("a configuration")
    .config;
    let cache = Arc::new(Cache::open(&config, chunk as u64, None).expect("a cache"));
    let tokens: Vec<u32> = (0..u32::try_from(4 * count).expect("small")).collect();
    let keys = Namespace::of_model("cost").chunk_keys(&tokens, 4, &[]).expect("keys");
    let bytes = Arc::new((0..chunk).map(|at| u8::try_from(at % 251).expect("small")).collect::<Vec<u8>>());
    let buffers: Vec<_> = (0..count).map(|_| Arc::new(Mutex::new(vec![0; chunk]))).collect();

    let server =
        Server::start(([127, 0, 0, 1], 0).into(), "", Arc::new(Arc::downgrade(&cache))).expect("a server");

    // The first time blocks of the drive are written costs more.
    round(&cache, &keys, &bytes, &buffers);
    let mut speeds = WATCHES.map(|_| Vec::new());
    for number in 0..ROUNDS {
        // Each is as often the first as the last: what comes later may be slower by that alone.
        for turn in 0..WATCHES.len() {
            let kind = (number + turn) % WATCHES.len();
            let work = || round(&cache, &keys, &bytes, &buffers);
            let speed = match WATCHES[kind].1 {
                None => work(),
                Some(level) => {
                    set_level(level);
                    let speed = while_watched(&server, work);
                    set_level(LevelFilter::OFF);
                    speed
                }
            };
            speeds[kind].push(speed);
        }
    }

    let of = |speeds: &[Speed], what: fn(&Speed) -> f64| median(speeds.iter().map(what).collect());
    let [alone, watched @ ..] = &speeds;
    println!(
        "{:.2} GB/s, {:.3} CPU-s/GB",
        of(alone, |speed| speed.gb_per_s),
        of(alone, |speed| speed.cpu_s_per_gb)
    );
    for ((name, _), speeds) in WATCHES[1..].iter().zip(watched) {
        let ratio = |what: fn(&Speed) -> f64| {
            likely(alone.iter().zip(speeds).map(|(alone, speed)| 100.0 * what(speed) / what(alone)).collect())
        };
        println!(
            "{name}: {} of the throughput, {} of the processor time",
            ratio(|speed| speed.gb_per_s),
            ratio(|speed| speed.cpu_s_per_gb)
        );
    }
}
