//! `forebay bench`: Forebay's store and load beside what the drive or the remote store gives a plain program, in one run,
//! alternately.
//!
//! A drive on a shared machine is three times as fast in one minute as in the next, so no figure of it means much by
//! itself: each round measures the ceiling and the cache right after each other, and their ratio is what counts.
//! `docs/MEASURING.md` says what is measured and what is not.

mod bare;
mod ceiling;
mod disk;
mod kernel;
mod memory;
mod mixed;
mod prompts;
mod remote;
mod report;
mod rig;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use forebay::catalog::{BLOCK_BYTES, CachePolicy};
use forebay::{ChunkKey, Error, ErrorKind, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::figures::{gb_per_s, size};
use crate::process::resident_bytes;
use crate::scratch::{MEMORY_DISK_BYTES, Scratch, Shape};
use crate::sizes;
use crate::stream::{Look, Moved, Stream};
use ceiling::Ceiling;
use disk::DiskRig;
use kernel::interrupted;
use memory::MemoryRig;
use prompts::Prompts;
use remote::RemoteRig;
use report::{Report, Rounds};
use rig::{Direction, Pass, Rig};

/// Bytes of the chunks that are kept under way, and fewest of them.
const WINDOW_BYTES: usize = 192 << 20;
const WINDOW_MIN: usize = 6;

/// Fewest chunks that say anything.
const CHUNKS_MIN: u64 = 16;

/// A tier that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum TierName {
    /// Local disk, beside direct transfers of a file
    Disk,
    /// Memory, beside a plain copy by one thread
    Memory,
    /// A remote store, beside a bare client of it
    Remote,
}

/// Arguments of `forebay bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct BenchArgs {
    /// The tier to be measured
    #[arg(long, value_enum, default_value_t = TierName::Disk)]
    tier: TierName,

    /// A directory on the drive to be measured (for disk; for memory, any); a sub-directory is made in it and removed
    /// afterwards
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// The store to be measured (for remote), named as in a configuration; what is put there is removed afterwards
    #[arg(long, value_name = "URL")]
    remote_url: Option<String>,

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
  rss_mib         resident without the benchmark's buffers (own_buffers_mib): at the end, or for memory and remote, where
                  the plain program leaves memory behind, before that is begun
  page_cache_growth_mib, staging_bytes       pages of the data file in the page cache; most of the staging buffer in use
  noisy           the ceiling itself changed by more than a factor of 2 between rounds: the ratios tell nothing
  ratio_spread, ceiling_spread               least and most of the rounds
  ceilings_gbps, ceilings_ratio              for remote: of the plain programs one by one, of which the fastest is the ceiling
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

/// What a drive gives a plain program, in GB/s.
pub(crate) struct DriveSpeed {
    pub(crate) read_gbps: f64,
    pub(crate) write_gbps: f64,
    /// Reads under way at a time when it is read the fastest, and bytes of each.
    pub(crate) read_depth: usize,
    pub(crate) read_bytes: usize,
    /// Past the page cache.
    pub(crate) is_direct: bool,
}

/// Measures a drive by a file of so many bytes at `path`, which is left there.
pub(crate) fn drive_speed(path: PathBuf, bytes: u64) -> Result<DriveSpeed> {
    const EACH_BYTES: usize = 2 << 20;
    const BUFFERS: usize = 32;
    let chunks = bytes / EACH_BYTES as u64;
    let ceiling = Ceiling::prepare(path, chunks, EACH_BYTES, BUFFERS, &mut || {})?;
    let gbps = |direction| {
        let pass = ceiling.measure(direction, &mut || {})?;
        Ok::<_, Error>(gb_per_s(chunks * EACH_BYTES as u64, pass.time.as_secs_f64()))
    };
    let (write_gbps, read_gbps) = (gbps(Direction::Write)?, gbps(Direction::Read)?);
    Ok(DriveSpeed {
        read_gbps,
        write_gbps,
        read_depth: ceiling.read_depth,
        read_bytes: EACH_BYTES,
        is_direct: ceiling.direct,
    })
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
    let window = window(chunk_bytes as usize);
    let shape = Shape {
        chunks,
        chunk_bytes,
        staging_bytes: args.staging,
        threads: args.threads,
        policy: CachePolicy::Lru,
    };
    // Before there are threads.
    let stop = match args.tier {
        TierName::Remote => interrupted().map_err(|error| Error::io("asking for signals", error))?,
        TierName::Disk | TierName::Memory => Arc::default(),
    };
    let progress = progress();
    let told = |bytes| progress.inc(bytes);
    let stream = || Stream::new(window, shape.chunk_bytes as usize, args.copied);
    match args.tier {
        TierName::Disk => {
            let dir = needed(args.dir.as_deref(), "a directory on the drive to be measured", "--dir DIR")?;
            // A little more than a round, for what is under way.
            let shape = Shape { chunks: chunks + window as u64 + 1, ..shape };
            let raw_bytes = chunks * args.chunk_size;
            let scratch = Scratch::in_directory(dir, shape.disk_bytes().saturating_add(raw_bytes))?;
            progress.set_length(moved_bytes(args, chunks, shape.chunks, 1) + raw_bytes);
            progress.set_message("preparing");
            let stream = stream()?;
            let rig = DiskRig::prepare(scratch, &shape, chunks, stream.window(), &mut { told })?;
            Bench { rig: &rig, progress, shape, chunks, args }.run(stream, Prompts::new())
        }
        TierName::Remote => {
            no_disk_options(args)?;
            let url = needed(args.remote_url.as_deref(), "the store to be measured", "--remote-url URL")?;
            let mut prompts = Prompts::of_this_run();
            let first = prompts.next(1)?[0];
            progress.set_message("preparing");
            let rig = RemoteRig::prepare(url, &shape, chunks, window, &first, stop)?;
            progress.set_length(moved_bytes(args, chunks, 2 * rig.warm_up_chunks(), rig.ceilings() as u64));
            Bench { rig: &rig, progress, shape, chunks, args }.run(stream()?, prompts)
        }
        TierName::Memory => {
            no_disk_options(args)?;
            // Its disk has nothing but a journal.
            let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
            let shape = Shape { chunks: chunks + window as u64 + 1, ..shape };
            let scratch = Scratch::in_directory(&dir, MEMORY_DISK_BYTES)?;
            progress.set_length(moved_bytes(args, chunks, shape.chunks, 1));
            progress.set_message("preparing");
            let rig = MemoryRig::prepare(scratch, &shape, chunks, window)?;
            Bench { rig: &rig, progress, shape, chunks, args }.run(stream()?, Prompts::new())
        }
    }
}

fn no_disk_options(args: &BenchArgs) -> Result<()> {
    if args.threads.is_some() || args.copied {
        let message = "--threads and --copied are of the disk, whose chunks need no copy; leave them out";
        return Err(Error::new(ErrorKind::Argument, message));
    }
    Ok(())
}

fn needed<T>(given: Option<T>, what: &str, option: &str) -> Result<T> {
    given.ok_or_else(|| Error::new(ErrorKind::Argument, format!("{what} is not named; add {option}")))
}

/// Bytes that are moved in all, but for what is tried before and the mixed part.
fn moved_bytes(args: &BenchArgs, chunks: u64, warm_up_chunks: u64, ceilings: u64) -> u64 {
    let rounds = chunks * 2 * (1 + ceilings) * u64::from(args.rounds);
    (rounds + chunks + warm_up_chunks) * args.chunk_size
}

/// A measurement, once all is there.
struct Bench<'a> {
    rig: &'a dyn Rig,
    progress: ProgressBar,
    shape: Shape,
    /// Chunks of a round.
    chunks: u64,
    args: &'a BenchArgs,
}

impl Bench<'_> {
    fn run(self, mut stream: Stream, mut prompts: Prompts) -> Result<Report> {
        let Self { rig, args, .. } = self;
        let mut made = |chunks: u64| {
            let keys = prompts.next(usize::try_from(chunks).unwrap_or(usize::MAX))?;
            rig.makes(&keys);
            Ok::<_, Error>(keys)
        };
        let mut keys = made(rig.warm_up_chunks())?;
        self.store(&mut stream, &keys)?;
        let [writes, reads] = [Direction::Write, Direction::Read].map(|direction| rig.cache(direction));
        if !std::ptr::eq(writes, reads) {
            self.load(&mut stream, &keys, Look::Stamps)?;
        }
        let own_memory = |stream: &Stream| resident_bytes().saturating_sub(stream.buffer_bytes() as u64);
        let without_plain = own_memory(&stream);
        self.progress.set_message("making the plain program ready");
        let only_before = rig.make_plain()?;
        let mut write = Rounds::beside(rig.ceilings());
        let mut read = Rounds::beside(rig.ceilings());
        let (mut retries, mut wrong) = (0, 0);
        for round in 1..=args.rounds {
            rig.done_with(&keys)?;
            keys = made(self.chunks)?;
            for direction in [Direction::Write, Direction::Read] {
                let what = if direction == Direction::Write { "write" } else { "read" };
                self.progress.set_message(format!("round {round} of {}, {what}", args.rounds));
                let mut ours = || match direction {
                    Direction::Write => self.store(&mut stream, &keys),
                    Direction::Read => self.load(&mut stream, &keys, Look::Stamps),
                };
                let (passes, moved) = if round % 2 == 1 {
                    let passes = self.plain(direction)?;
                    (passes, ours()?)
                } else {
                    let moved = ours()?;
                    (self.plain(direction)?, moved)
                };
                retries += moved.retries;
                wrong += moved.wrong;
                match direction {
                    Direction::Write => write.add(&passes, moved),
                    Direction::Read => read.add(&passes, moved),
                }
            }
        }
        self.progress.set_message("comparing every byte");
        wrong += self.load(&mut stream, &keys, Look::Whole)?.wrong;
        self.progress.set_message("loads beside stores");
        let each = self.shape.chunk_bytes as usize;
        let mixed = mixed::measure(rig, &keys, &mut prompts, &mut stream, each, args.rounds)?;
        wrong += mixed.wrong();

        let staging = rig.cache(Direction::Write).stats().mover.staging;
        let slot_bytes = staging.slot_bytes as u64;
        self.progress.finish_and_clear();
        Ok(Report {
            shape: self.shape,
            total_bytes: self.chunks * args.chunk_size,
            rounds: args.rounds,
            own: rig.own([write.best(), read.best()])?,
            write,
            read,
            mixed,
            copied: args.copied,
            resident_bytes: if only_before { without_plain } else { own_memory(&stream) },
            staging_bytes: u64::from(staging.in_use_max) * slot_bytes,
            staging_buffer_bytes: u64::from(staging.slots) * slot_bytes,
            staging_huge_bytes: staging.huge_bytes as u64,
            window: stream.window(),
            own_bytes: stream.buffer_bytes(),
            retries,
            wrong,
        })
    }

    /// A pass of each of the plain programs.
    fn plain(&self, direction: Direction) -> Result<Vec<Pass>> {
        let pass = |ceiling| {
            self.rig.may_go_on()?;
            self.rig.pass(ceiling, direction, &mut |bytes| self.progress.inc(bytes))
        };
        (0..self.rig.ceilings()).map(pass).collect()
    }

    fn told(&self, bytes: u64) -> Result<()> {
        self.progress.inc(bytes);
        self.rig.may_go_on()
    }

    fn store(&self, stream: &mut Stream, keys: &[ChunkKey]) -> Result<Moved> {
        let cache = self.rig.cache(Direction::Write);
        self.all_of(keys, stream.store(cache, keys, &Prompts::parent(keys), |bytes| self.told(bytes))?)
    }

    fn load(&self, stream: &mut Stream, keys: &[ChunkKey], look: Look) -> Result<Moved> {
        let cache = self.rig.cache(Direction::Read);
        self.all_of(keys, stream.load(cache, keys, look, |bytes| self.told(bytes))?)
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

fn progress() -> ProgressBar {
    let progress = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:30} {percent} %, {eta} left, {msg}");
    progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    progress
}
