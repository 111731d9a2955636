//! What being watched costs: the same stores and loads by turns with nobody looking, with metrics and the page's figures
//! asked for each second, and with every chunk traced besides and its lines written (to nowhere). Prints medians, and ratios. `TMPDIR` names the drive.

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
const REPEATS: usize = 8;
const ROUNDS: usize = 27;
const SCRAPE_EVERY: Duration = Duration::from_secs(1);

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
fn while_watched(cache: &Arc<Cache>, work: impl FnOnce() -> Speed) -> Speed {
    let weak = Arc::downgrade(cache);
    let server = Server::start(([127, 0, 0, 1], 0).into(), "", Arc::new(weak)).expect("a server");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                get(&server, "/metrics");
                get(&server, "/api/now");
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

    // The first time blocks of the drive are written costs more.
    round(&cache, &keys, &bytes, &buffers);
    let [mut alone, mut watched, mut traced] = [const { Vec::new() }; 3];
    for number in 0..ROUNDS {
        // Each is as often the first, the second and the third: what comes later may be slower by that alone.
        for turn in 0..3 {
            match (number + turn) % 3 {
                0 => alone.push(round(&cache, &keys, &bytes, &buffers)),
                1 => watched.push(while_watched(&cache, || round(&cache, &keys, &bytes, &buffers))),
                _ => {
                    set_level(LevelFilter::DEBUG);
                    traced.push(while_watched(&cache, || round(&cache, &keys, &bytes, &buffers)));
                    set_level(LevelFilter::OFF);
                }
            }
        }
    }

    let of = |speeds: &[Speed], what: fn(&Speed) -> f64| median(speeds.iter().map(what).collect());
    for (name, speeds) in [("alone", &alone), ("watched", &watched), ("watched and traced", &traced)] {
        let ratio = |what: fn(&Speed) -> f64| {
            100.0 * median(alone.iter().zip(speeds).map(|(alone, speed)| what(speed) / what(alone)).collect())
        };
        println!(
            "{name:18} {:.2} GB/s  {:.3} CPU-s/GB; against alone {:.1} % of the throughput, {:.1} % of the processor time",
            of(speeds, |speed| speed.gb_per_s),
            of(speeds, |speed| speed.cpu_s_per_gb),
            ratio(|speed| speed.gb_per_s),
            ratio(|speed| speed.cpu_s_per_gb)
        );
    }
}
