//! foyer's side of the disk benchmark: the phases of `../disk/peer.py`, told in the same lines.
//!
//! As near to disk-only as foyer comes: values are written with its storage writer, which passes over the memory
//! cache, and every write is awaited. It drops what exceeds its flush buffer without a word, so no more than one
//! buffer is ever in flight. Loads do put what they read into the memory cache; it is small and read in order, so
//! nothing is answered from it. Memory cache and its two flush buffers together are the staging size.
//! Checksums are on, as foyer has them.

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy,
    PsyncIoEngineConfig, RecoverMode,
};
use serde_json::{Value, json};

const MIB: usize = 1 << 20;
const LOOKUP_S: f64 = 0.5;
/// What an entry takes in the flush buffer beside its value, and more.
const ENTRY_OVERHEAD_MAX: usize = 64 << 10;

type Cache = HybridCache<u64, Vec<u8>>;

struct Options {
    directory: String,
    chunk_bytes: usize,
    chunks: usize,
    batch: usize,
    staging_bytes: usize,
    threads: usize,
    salt: u64,
}

impl Options {
    fn read() -> Result<Self, Box<dyn Error>> {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let given: HashMap<&str, &str> =
            words.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
        let text = |name: &str| given.get(name).copied().ok_or(format!("{name} is missing"));
        let number = |name: &str| -> Result<usize, Box<dyn Error>> { Ok(text(name)?.parse()?) };
        Ok(Self {
            directory: text("--directory")?.to_owned(),
            chunk_bytes: number("--chunk-bytes")?,
            chunks: number("--chunks")?,
            batch: number("--batch")?,
            staging_bytes: number("--staging-bytes")?,
            threads: number("--threads")?,
            salt: number("--salt")? as u64,
        })
    }
}

/// What a chunk must hold: one random block, changed by the number of chunk and round.
struct Content {
    base: Vec<u64>,
    salt: u64,
}

impl Content {
    fn new(chunk_bytes: usize, salt: u64) -> Self {
        let mut state = 7_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        Self { base: (0..chunk_bytes / 8).map(|_| next()).collect(), salt }
    }

    fn words(&self, chunk: usize) -> impl Iterator<Item = u64> {
        let key = ((self.salt << 32) + chunk as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let key = key ^ key >> 29;
        self.base.iter().map(move |word| word ^ key)
    }

    fn make(&self, chunk: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.base.len() * 8);
        self.words(chunk).for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        bytes
    }

    fn right(&self, bytes: &[u8], chunk: usize) -> bool {
        bytes.len() == self.base.len() * 8
            && bytes.chunks_exact(8).zip(self.words(chunk)).all(|(seen, word)| seen == word.to_le_bytes())
    }
}

/// Wall and processor seconds of the timed parts; processor time is that of all threads.
#[derive(Default)]
struct Clock {
    wall_s: f64,
    cpu_s: f64,
    each_ms: Vec<f64>,
}

impl Clock {
    async fn time<T>(&mut self, work: impl Future<Output = T>) -> T {
        let (cpu_s, began) = (process_cpu_s(), Instant::now());
        let result = work.await;
        let took_s = began.elapsed().as_secs_f64();
        self.cpu_s += process_cpu_s() - cpu_s;
        self.wall_s += took_s;
        self.each_ms.push(took_s * 1000.0);
        result
    }
}

fn process_cpu_s() -> f64 {
    // SAFETY: `rusage` is plain numbers, for which zero is a value, and the call writes to nothing else.
    let used = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut used);
        used
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(used.ru_utime) + seconds(used.ru_stime)
}

/// Prints a phase and waits until the starter has looked at memory and emptied the page cache.
fn tell(phase: &str, mut seen: Value) -> Result<(), Box<dyn Error>> {
    seen["phase"] = json!(phase);
    println!("{seen}");
    std::io::stdout().flush()?;
    if std::io::stdin().lock().read_line(&mut String::new())? == 0 {
        return Err("the starter is gone".into());
    }
    Ok(())
}

fn batches(chunks: usize, size: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..chunks).step_by(size).map(move |first| first..chunks.min(first + size))
}

fn flush_buffer_bytes(staging_bytes: usize) -> usize {
    staging_bytes * 3 / 8
}

async fn open(options: &Options) -> Result<Cache, Box<dyn Error>> {
    // A block holds whole entries only: eight of them, so that little of it stays empty.
    let block_bytes = (8 * (options.chunk_bytes + MIB)).max(64 * MIB);
    let device = FsDeviceBuilder::new(&options.directory)
        .with_capacity((2 * options.chunks * options.chunk_bytes).max(4 * block_bytes) + 4 * block_bytes)
        .with_direct(true)
        .build()?;
    let engine = BlockEngineConfig::new(device)
        .with_block_size(block_bytes)
        .with_buffer_pool_size(flush_buffer_bytes(options.staging_bytes))
        .with_submit_queue_size_threshold(flush_buffer_bytes(options.staging_bytes) * 2);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(options.threads)
        .max_blocking_threads(options.threads)
        .build()?;
    let cache = HybridCacheBuilder::new()
        .with_policy(HybridCachePolicy::WriteOnInsertion)
        .memory(options.staging_bytes / 4)
        .with_weighter(|_, value: &Vec<u8>| value.len())
        .storage()
        .with_io_engine_config(PsyncIoEngineConfig::new())
        .with_engine_config(engine)
        .with_recover_mode(RecoverMode::Quiet)
        .with_spawner(runtime.into())
        .build()
        .await?;
    Ok(cache)
}

async fn store(cache: &Cache, values: Vec<(usize, Vec<u8>)>, in_flight_max: usize) {
    let mut in_flight = 0;
    for (chunk, value) in values {
        let bytes = value.len() + ENTRY_OVERHEAD_MAX;
        if in_flight + bytes > in_flight_max {
            cache.storage().wait().await;
            in_flight = 0;
        }
        in_flight += bytes;
        cache.storage_writer(chunk as u64).force().insert(value);
    }
    cache.storage().wait().await;
}

async fn load(
    cache: &Cache,
    chunks: std::ops::Range<usize>,
) -> Vec<Option<foyer::HybridCacheEntry<u64, Vec<u8>>>> {
    let gets: Vec<_> = chunks
        .map(|chunk| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.get(&(chunk as u64)).await })
        })
        .collect();
    let mut found = Vec::with_capacity(gets.len());
    for get in gets {
        found.push(get.await.ok().and_then(Result::ok).flatten());
    }
    found
}

async fn read(cache: &Cache, content: &Content, options: &Options, size: usize) -> Value {
    cache.memory().clear();
    let (mut clock, mut missing, mut wrong) = (Clock::default(), 0, 0);
    for batch in batches(options.chunks, size) {
        for (chunk, entry) in batch.clone().zip(clock.time(load(cache, batch)).await) {
            match entry {
                None => missing += 1,
                Some(entry) if !content.right(entry.value(), chunk) => wrong += 1,
                Some(_) => {}
            }
        }
    }
    json!({
        "bytes": (options.chunks - missing) * options.chunk_bytes, "wall_s": clock.wall_s, "cpu_s": clock.cpu_s,
        "each_ms": clock.each_ms, "missing": missing, "wrong": wrong,
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::read()?;
    let content = Content::new(options.chunk_bytes, options.salt);
    tell("imported", json!({}))?;
    let cache = open(&options).await?;
    // A batch of values is the caller's before it is stored and after it was loaded.
    let caller_bytes = options.batch * options.chunk_bytes;
    let about = json!({
        "name": "foyer", "checked": true, "staging_bytes": options.staging_bytes, "caller_bytes": caller_bytes,
    });
    tell("open", about)?;

    let mut clock = Clock::default();
    for batch in batches(options.chunks, options.batch) {
        let values = batch.map(|chunk| (chunk, content.make(chunk))).collect();
        clock.time(store(&cache, values, flush_buffer_bytes(options.staging_bytes))).await;
    }
    let bytes = options.chunks * options.chunk_bytes;
    tell("write", json!({"bytes": bytes, "wall_s": clock.wall_s, "cpu_s": clock.cpu_s}))?;

    tell("read_one", read(&cache, &content, &options, 1).await)?;
    tell("read_batch", read(&cache, &content, &options, options.batch).await)?;

    cache.memory().clear();
    let (mut clock, mut asked, mut found) = (Clock::default(), 0, 0);
    while clock.wall_s < LOOKUP_S {
        found = clock
            .time(async {
                (0..options.chunks).filter(|chunk| cache.storage().may_contains(&(*chunk as u64))).count()
            })
            .await;
        asked += options.chunks;
    }
    tell("lookup", json!({"keys": asked, "found": found, "wall_s": clock.wall_s}))?;
    cache.close().await?;
    tell("closed", json!({}))
}
