//! `forebay replay`: a recorded trace once more, through the catalog alone or on a real directory.
//!
//! Each request looks up its prompt, loads what is found and stores the rest; it is finished before the next begins.
//! The trace's times are not kept. What is found depends on nothing but the trace, the capacity and the policy, so the
//! hit rate is the same simulated and real, on every machine.

mod real;
mod simulated;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use forebay::catalog::CachePolicy;
use forebay::{ChunkKey, Error, ErrorKind, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::figures::{count, gb_per_s, size, table};
use crate::process::{cpu, resident_bytes};
use crate::quantiles::percentile;
use crate::scratch::Shape;
use crate::stream::Moved;
use crate::{generate, sizes, trace};
use real::Real;
use simulated::Simulated;

/// Arguments of `forebay replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct ReplayArgs {
    /// The trace: JSON lines with timestamp, `input_length`, `output_length`, `hash_ids`
    #[arg(value_name = "TRACE", required_unless_present = "generate")]
    trace: Option<PathBuf>,

    /// Chunks that the cache holds
    #[arg(long, value_name = "N", required_unless_present = "generate", value_parser = clap::value_parser!(u64).range(2..))]
    capacity_chunks: Option<u64>,

    /// What is evicted first: lru, fifo, lfu or s3-fifo
    #[arg(long, value_name = "NAME", default_value = "lru", value_parser = policy)]
    policy: CachePolicy,

    /// Bytes of a chunk, such as 2MiB
    #[arg(long, value_name = "SIZE", default_value = "2MiB", value_parser = sizes::parse)]
    chunk_size: u64,

    /// Ask the catalog only; move no byte
    #[arg(long, conflicts_with_all = ["dir", "staging"])]
    simulate: bool,

    /// The directory to replay in, in a sub-directory that is removed afterwards
    #[arg(long, value_name = "DIR", required_unless_present_any = ["simulate", "generate"])]
    dir: Option<PathBuf>,

    /// Bound on the staging buffer, which takes no more than it can use
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = sizes::parse)]
    staging: u64,

    /// Stop after so many requests
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// Print JSON, for programs
    #[arg(long)]
    json: bool,

    /// Make a trace instead of replaying one
    #[arg(long, conflicts_with_all = ["trace", "capacity_chunks", "simulate", "dir", "limit", "json"])]
    generate: bool,

    /// With --generate: how many requests
    #[arg(long, value_name = "N", default_value_t = 10_000, requires = "generate")]
    requests: usize,

    /// With --generate: another seed gives another trace, the same seed the same
    #[arg(long, default_value_t = 1, requires = "generate")]
    seed: u64,

    /// With --generate: the file to write, instead of standard output
    #[arg(long, value_name = "PATH", requires = "generate")]
    output: Option<PathBuf>,
}

const HELP: &str = "\
Each request looks up its prompt, loads what is found and stores the rest, and is finished before the next begins. On a
directory, every byte loaded is compared with what was stored; that, and making the chunks, is in no figure.

With --json, one object:
  trace, mode, policy, capacity_chunks, chunk_bytes       what was replayed; mode is simulated or real
  requests, blocks, hit_blocks, hit_rate                  hit_rate: share of the blocks asked for that are part of a
                                                          contiguous prefix hit
  loaded_bytes, stored_bytes, load_gbps, store_gbps       what was moved (simulated: would be) and how fast, while it was
                                                          moved; 1 GB is 1000000000 bytes; null when simulated
  lookup_us, load_ms                                      {p50, p99}: of a lookup; of loading all a request found
  stored_chunks, present_chunks, refused_chunks           present: there already, behind a gap; refused: no room
  evictions, wrong_chunks, retries                        wrong_chunks: loaded, and not what was stored
  cpu_s, seconds, rss_bytes                               processor time of the process, time in all, memory at the end

Exit code: 0 replayed, 1 a chunk was loaded that is not what was stored, 2 it could not be done.";

fn policy(name: &str) -> Result<CachePolicy, String> {
    CachePolicy::named(name).ok_or_else(|| {
        let names = CachePolicy::ALL.map(|policy| policy.name().to_ascii_lowercase());
        format!("this version has no such policy; it has {}", names.join(", "))
    })
}

/// What requests are sent to.
trait Replayed {
    /// Serves a prompt of these blocks to its end.
    fn request(&mut self, keys: &[ChunkKey], now_ms: u64) -> Result<Step>;
}

/// What came of one request.
#[derive(Default)]
struct Step {
    hit: usize,
    lookup: Duration,
    loaded: Moved,
    stored: Moved,
    evicted: u64,
}

/// What came of all.
struct Report {
    mode: &'static str,
    requests: u64,
    blocks: u64,
    hit_blocks: u64,
    lookups: Vec<Duration>,
    loads: Vec<Duration>,
    loaded: Moved,
    stored: Moved,
    evicted: u64,
    cpu: Duration,
    time: Duration,
}

/// Runs the command; gives whether every byte was right.
pub(crate) fn run(args: &ReplayArgs, out: &mut dyn Write) -> Result<bool> {
    if args.generate {
        return generate(args, out).map(|()| true);
    }
    let path = args.trace.as_deref().ok_or_else(|| missing("TRACE"))?;
    let capacity = args.capacity_chunks.ok_or_else(|| missing("--capacity-chunks"))?;
    let chunk_bytes = u32::try_from(args.chunk_size).map_err(|_| {
        let message = format!("--chunk-size {} is 4 GiB or more; make it smaller", size(args.chunk_size));
        Error::new(ErrorKind::Argument, message)
    })?;
    let requests = trace::read(path, args.limit)?;
    let mut report = if args.simulate {
        replay(&requests, "simulated", &mut Simulated::new(capacity, chunk_bytes, args.policy)?)?
    } else {
        let dir = args.dir.as_deref().ok_or_else(|| missing("--dir"))?;
        let shape = Shape {
            chunks: capacity,
            chunk_bytes,
            staging_bytes: args.staging,
            threads: None,
            policy: args.policy,
        };
        replay(&requests, "real", &mut Real::in_directory(dir, &shape)?)?
    };
    let written = if args.json {
        writeln!(out, "{:#}", report.json(args, capacity))
    } else {
        report.tell(args, capacity, out)
    };
    written.map_err(|error| Error::io("writing the result", error))?;
    Ok(report.loaded.wrong == 0)
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::Argument, format!("{what} is missing; see forebay replay --help"))
}

fn generate(args: &ReplayArgs, out: &mut dyn Write) -> Result<()> {
    let requests = generate::generate(args.requests, args.seed);
    let Some(path) = &args.output else {
        return trace::write(out, &requests).map_err(|error| Error::io("writing the trace", error));
    };
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        trace::write(&mut file, &requests)?;
        file.flush()
    };
    write().map_err(|error| Error::io(format!("writing the trace {}", path.display()), error))
}

fn replay(requests: &[trace::Request], mode: &'static str, to: &mut dyn Replayed) -> Result<Report> {
    let progress = ProgressBar::new(requests.len() as u64);
    let style =
        ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} requests, {eta} left, {msg}");
    progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut keys = trace::Keys::new();
    let mut report = Report {
        mode,
        requests: 0,
        blocks: 0,
        hit_blocks: 0,
        lookups: Vec::with_capacity(requests.len()),
        loads: Vec::new(),
        loaded: Moved::default(),
        stored: Moved::default(),
        evicted: 0,
        cpu: Duration::ZERO,
        time: Duration::ZERO,
    };
    let begin = Instant::now();
    for request in requests {
        let keys = keys.of(&request.hash_ids)?;
        let cpu_begin = cpu();
        let step = to.request(&keys, request.timestamp)?;
        let all_cpu = cpu().saturating_sub(cpu_begin);
        report.add(keys.len(), step, all_cpu);
        progress.inc(1);
        if report.requests.is_multiple_of(64) {
            progress.set_message(format!("hit rate {:.4}", report.hit_rate()));
        }
    }
    report.time = begin.elapsed();
    progress.finish_and_clear();
    Ok(report)
}

impl Report {
    fn add(&mut self, blocks: usize, step: Step, all_cpu: Duration) {
        self.requests += 1;
        self.blocks += blocks as u64;
        self.hit_blocks += step.hit as u64;
        self.lookups.push(step.lookup);
        // What moved bytes knows how much of it was the measurement's own.
        let moved_cpu = step.loaded.cpu + step.stored.cpu;
        self.cpu += if moved_cpu > Duration::ZERO { moved_cpu } else { all_cpu };
        if step.loaded.time > Duration::ZERO {
            self.loads.push(step.loaded.time);
        }
        self.loaded.add(step.loaded);
        self.stored.add(step.stored);
        self.evicted += step.evicted;
    }

    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    fn hit_rate(&self) -> f64 {
        self.hit_blocks as f64 / self.blocks.max(1) as f64
    }

    fn json(&mut self, args: &ReplayArgs, capacity: u64) -> serde_json::Value {
        let real = self.mode == "real";
        let rate = |moved: &Moved| real.then(|| gb_per_s(moved.bytes, moved.time.as_secs_f64()));
        let mut at = |percent| percentile(&mut self.lookups, percent).as_secs_f64() * 1e6;
        let lookup_us = json!({ "p50": at(50), "p99": at(99) });
        let mut at = |percent| real.then(|| percentile(&mut self.loads, percent).as_secs_f64() * 1e3);
        let load_ms = json!({ "p50": at(50), "p99": at(99) });
        json!({
            "trace": args.trace.as_deref().map(|path| path.display().to_string()),
            "mode": self.mode,
            "policy": args.policy.name().to_ascii_lowercase(),
            "capacity_chunks": capacity,
            "chunk_bytes": args.chunk_size,
            "requests": self.requests,
            "blocks": self.blocks,
            "hit_blocks": self.hit_blocks,
            "hit_rate": self.hit_rate(),
            "loaded_bytes": self.loaded.bytes,
            "stored_bytes": self.stored.bytes,
            "load_gbps": rate(&self.loaded),
            "store_gbps": rate(&self.stored),
            "lookup_us": lookup_us,
            "load_ms": load_ms,
            "stored_chunks": self.stored.chunks,
            "present_chunks": self.stored.present,
            "refused_chunks": self.stored.refused,
            "evictions": self.evicted,
            "wrong_chunks": self.loaded.wrong,
            "retries": self.loaded.retries + self.stored.retries,
            "cpu_s": self.cpu.as_secs_f64(),
            "seconds": self.time.as_secs_f64(),
            "rss_bytes": resident_bytes(),
        })
    }

    fn tell(&mut self, args: &ReplayArgs, capacity: u64, out: &mut dyn Write) -> io::Result<()> {
        let real = self.mode == "real";
        writeln!(
            out,
            "{}, {} of {} each, {}, {}: hit rate {:.4} ({} of {} blocks)\n",
            count(self.requests, "request"),
            count(capacity, "chunk"),
            size(args.chunk_size),
            args.policy.name().to_ascii_lowercase(),
            self.mode,
            self.hit_rate(),
            self.hit_blocks,
            self.blocks,
        )?;
        let row = |what: &str, moved: &Moved, times: [String; 2]| {
            let rate = gb_per_s(moved.bytes, moved.time.as_secs_f64());
            let rate = if real { format!("{rate:.2}") } else { String::new() };
            let [p50, p99] = times;
            [what.to_owned(), moved.chunks.to_string(), size(moved.bytes), rate, p50, p99]
        };
        let [p50, p99] =
            [50, 99].map(|it| format!("{:.1} µs", percentile(&mut self.lookups, it).as_secs_f64() * 1e6));
        let lookups = ["lookup".to_owned(), String::new(), String::new(), String::new(), p50, p99];
        let times = [50, 99].map(|it| match percentile(&mut self.loads, it) {
            Duration::ZERO => String::new(),
            time => format!("{:.2} ms", time.as_secs_f64() * 1e3),
        });
        let rows = [
            lookups,
            row("load", &self.loaded, times),
            row("store", &self.stored, [const { String::new() }; 2]),
        ];
        let head = ["a request's", " chunks", " bytes", " GB/s", " p50", " p99"];
        write!(out, "{}", table(head, &rows))?;
        writeln!(
            out,
            "\n{}, {} were there behind a gap, {} had no room; {:.2} s of processor time, {:.2} s in all",
            count(self.evicted, "eviction"),
            count(self.stored.present, "chunk"),
            self.stored.refused,
            self.cpu.as_secs_f64(),
            self.time.as_secs_f64(),
        )?;
        match (real, self.loaded.wrong) {
            (false, _) => Ok(()),
            (true, 0) => writeln!(out, "Every byte loaded was the one stored."),
            (true, wrong) => writeln!(out, "{} held WRONG BYTES.", count(wrong, "loaded chunk")),
        }
    }
}
