//! `forebay bench`: Forebay's store and load beside what the drive gives a plain program, in one run, alternately.
//!
//! A drive on a shared machine is three times as fast in one minute as in the next, so no figure of it means much by
//! itself: each round measures the ceiling and the cache right after each other, and their ratio is what counts.
//! `docs/MEASURING.md` says what is measured and what is not.

mod ceiling;
mod kernel;
mod mixed;
mod prompts;
mod report;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use forebay::catalog::{BLOCK_BYTES, CachePolicy};
use forebay::tier::disk::directory::data_path;
use forebay::{Cache, ChunkKey, Error, ErrorKind, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::figures::size;
use crate::process::resident_bytes;
use crate::scratch::{Scratch, Shape};
use crate::sizes;
use crate::stream::{Look, Moved, Stream};
use ceiling::{Ceiling, Direction};
use kernel::cached_bytes;
use prompts::Prompts;
use report::{Report, Rounds};

/// Bytes of the chunks that are kept under way, and fewest of them.
const WINDOW_BYTES: usize = 192 << 20;
const WINDOW_MIN: usize = 6;

/// Fewest chunks that say anything.
const CHUNKS_MIN: u64 = 16;

/// Arguments of `forebay bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct BenchArgs {
    /// A directory on the drive to be measured; a sub-directory is made in it and removed afterwards
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// Bytes of a chunk, a multiple of 4 KiB
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = sizes::parse)]
    chunk_size: u64,

    /// Bytes that a round writes, and then reads, each of the two ways
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = sizes::parse)]
    total: u64,

    /// Let this many threads of the cache read and write, whatever the kernel offers [default: its own choice]
    #[arg(long, value_name = "N")]
    threads: Option<u32>,

    /// Bound on the staging buffer, which takes no more than it can use
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = sizes::parse)]
    staging: u64,

    /// Store by a copy into the staging buffer, as if the engine's memory were none the drive can reach
    #[arg(long)]
    copied: bool,

    /// Rounds that are measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Each round writes --total as a plain program would (the ceiling: io_uring, huge pages, direct I/O, best queue depth, as
much memory as the chunks that are under way have),
stores it through the cache with all checks on, then reads and loads it, by turns the one or the other first. All blocks
of both files were written before. Twice --total is needed on the drive. GB are 1000000000 bytes.

p50 and p99 are of a chunk, from its submission to its completion callback. Chunks of 192 MiB are under way (6 at least,
256 at most), so most of that time is the wait for those before it. `mixed` loads one chunk at a time.

With --json, one object:
  write, read     gbps, ceiling_gbps, ratio (of each round): medians over the rounds; cpu_s_per_gb: processor time of the
                  process, without making and checking chunks; p50_ms, p99_ms
  mixed           alone_p99_ms, beside_stores_p99_ms (and p50): one load at a time, with nothing else under way and beside
                  stores at full speed; slowdown: their ratio; stores_gbps: of those stores
  rss_mib         resident at the end, without the benchmark's buffers (own_buffers_mib)
  page_cache_growth_mib, staging_bytes       pages of the data file in the page cache; most of the staging buffer in use
  noisy           the ceiling itself changed by more than a factor of 2 between rounds: the ratios tell nothing
  ratio_spread, ceiling_spread               least and most of the rounds
  chunk_bytes, total_bytes, threads, window, rounds, copied, io_engine, ceiling_engine, ceiling_depth,
  ceiling_cpu_s_per_gb, direct_io,
  staging_buffer_bytes, staging_huge_bytes, retries, wrong_chunks

Exit code: 0 measured, 1 a chunk was loaded that is not what was stored, 2 it could not be done.";

/// Runs the command; gives whether every byte was right.
pub(crate) fn run(args: &BenchArgs, out: &mut dyn Write) -> Result<bool> {
    let mut report = measure(args)?;
    let written = if args.json { writeln!(out, "{:#}", report.json()) } else { report.tell(out) };
    written.map_err(|error| Error::io("writing the result", error))?;
    Ok(report.wrong == 0)
}

/// Chunks of a round, and their size.
fn chunks(args: &BenchArgs) -> Result<(u64, u32)> {
    let wrong = |message| Err(Error::new(ErrorKind::Argument, message));
    if !args.chunk_size.is_multiple_of(BLOCK_BYTES as u64) {
        return wrong(format!("--chunk-size {} is no multiple of 4 KiB", args.chunk_size));
    }
    let Ok(chunk_bytes) = u32::try_from(args.chunk_size) else {
        return wrong(format!("--chunk-size {} is 4 GiB or more; make it smaller", size(args.chunk_size)));
    };
    let chunks = args.total / args.chunk_size;
    if chunks < CHUNKS_MIN {
        return wrong(format!(
            "--total {} is less than {CHUNKS_MIN} chunks of {}; make it larger",
            size(args.total),
            size(args.chunk_size)
        ));
    }
    Ok((chunks, chunk_bytes))
}

/// Chunks that are kept under way: a prompt or two, which is far more than the processor's cache holds.
fn window(chunk_bytes: usize) -> usize {
    (WINDOW_BYTES / chunk_bytes).max(WINDOW_MIN)
}

fn measure(args: &BenchArgs) -> Result<Report> {
    let (chunks, chunk_bytes) = chunks(args)?;
    let each = chunk_bytes as usize;
    let total_bytes = chunks * args.chunk_size;
    // A little more than a round, for what is under way.
    let spare = window(chunk_bytes as usize) as u64 + 1;
    let shape = Shape {
        chunks: chunks + spare,
        chunk_bytes,
        staging_bytes: args.staging,
        threads: args.threads,
        policy: CachePolicy::Lru,
    };
    let scratch = Scratch::in_directory(&args.dir, shape.disk_bytes().saturating_add(total_bytes))?;
    let progress = progress(chunks * (4 * u64::from(args.rounds) + 2) + shape.chunks);

    // The cache first: what is wrong with the sizes is said before gigabytes are written.
    let bench = Bench { cache: scratch.open_cache(&shape)?, progress, chunks, each };
    let begun = bench.cache.stats().mover;
    let mut stream = Stream::new(window(each), each, args.copied)?;
    bench.progress.set_message("preparing");
    let ceiling =
        Ceiling::prepare(scratch.raw(), chunks, each, stream.window(), &mut || bench.progress.inc(1))?;
    let data = File::open(data_path(&scratch.cache()));
    let data = data.map_err(|error| Error::io("opening the data file", error))?;
    let cached = || cached_bytes(&data).map_err(|error| Error::io("asking for the data file's pages", error));
    let cached_before = cached()?;

    let mut prompts = Prompts::new();
    // Touches every block of the data file, so that no round pays for the first write to it.
    let warm_up = prompts.next(usize::try_from(shape.chunks).unwrap_or(usize::MAX))?;
    bench.store(&mut stream, &warm_up)?;

    let (mut write, mut read) = (Rounds::default(), Rounds::default());
    let (mut retries, mut wrong) = (0, 0);
    let mut keys = warm_up;
    for round in 1..=args.rounds {
        keys = prompts.next(usize::try_from(chunks).unwrap_or(usize::MAX))?;
        for direction in [Direction::Write, Direction::Read] {
            let what = if direction == Direction::Write { "write" } else { "read" };
            bench.progress.set_message(format!("round {round} of {}, {what}", args.rounds));
            let mut ours = || match direction {
                Direction::Write => bench.store(&mut stream, &keys),
                Direction::Read => bench.load(&mut stream, &keys, Look::Stamps),
            };
            let theirs = || ceiling.measure(direction, &mut || bench.progress.inc(1));
            let (pass, moved) = if round % 2 == 1 {
                let pass = theirs()?;
                (pass, ours()?)
            } else {
                let moved = ours()?;
                (theirs()?, moved)
            };
            retries += moved.retries;
            wrong += moved.wrong;
            match direction {
                Direction::Write => write.add(pass, moved),
                Direction::Read => read.add(pass, moved),
            }
        }
    }
    bench.progress.set_message("comparing every byte");
    wrong += bench.load(&mut stream, &keys, Look::Whole)?.wrong;
    bench.progress.set_message("loads beside stores");
    let mixed = mixed::measure(&bench.cache, &keys, &mut prompts, &mut stream, each, args.rounds)?;
    wrong += mixed.wrong();

    let staging = bench.cache.stats().mover.staging;
    let slot_bytes = staging.slot_bytes as u64;
    bench.progress.finish_and_clear();
    Ok(Report {
        shape,
        total_bytes,
        rounds: args.rounds,
        ceiling,
        write,
        read,
        mixed,
        direct_io: begun.direct_io,
        io_engine: begun.io_engine,
        copied: args.copied,
        resident_bytes: resident_bytes().saturating_sub(stream.buffer_bytes() as u64),
        page_cache_growth_bytes: cached()?.saturating_sub(cached_before),
        staging_bytes: u64::from(staging.in_use_max) * slot_bytes,
        staging_buffer_bytes: u64::from(staging.slots) * slot_bytes,
        staging_huge_bytes: staging.huge_bytes as u64,
        window: stream.window(),
        own_bytes: stream.buffer_bytes(),
        retries,
        wrong,
    })
}

/// The cache under measurement.
struct Bench {
    cache: Cache,
    progress: ProgressBar,
    chunks: u64,
    each: usize,
}

impl Bench {
    fn store(&self, stream: &mut Stream, keys: &[ChunkKey]) -> Result<Moved> {
        let told = |bytes| self.progress.inc(bytes / self.each as u64);
        self.all_of(keys, stream.store(&self.cache, keys, &Prompts::parent(keys), told)?)
    }

    fn load(&self, stream: &mut Stream, keys: &[ChunkKey], look: Look) -> Result<Moved> {
        let told = |bytes| self.progress.inc(bytes / self.each as u64);
        self.all_of(keys, stream.load(&self.cache, keys, look, told)?)
    }

    /// A round that did not move everything would be compared with a ceiling that did.
    fn all_of(&self, keys: &[ChunkKey], moved: Moved) -> Result<Moved> {
        if moved.chunks == keys.len() as u64 {
            return Ok(moved);
        }
        let message = format!(
            "of {} chunks {} were moved, {} were there already and {} had no room, in a cache for {} chunks and more",
            keys.len(),
            moved.chunks,
            moved.present,
            moved.refused,
            self.chunks
        );
        Err(Error::new(ErrorKind::NoSpace, message))
    }
}

fn progress(chunks: u64) -> ProgressBar {
    let progress = ProgressBar::new(chunks);
    let style = ProgressStyle::with_template("{bar:30} {percent} %, {eta} left, {msg}");
    progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    progress
}
