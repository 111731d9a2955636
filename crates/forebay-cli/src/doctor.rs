//! `forebay doctor`: what a machine and a directory are good for, and the configuration that follows.
//!
//! Promises: each finding names a command that shows the same, or what of it a command can show; nothing is changed but
//! for a sub-directory of the one that is examined, which is removed again, at the latest by the next run.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use forebay::{Error, ErrorKind, PageMemory, Result};
use rustix::fs::{OFlags, statvfs};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use crate::bench::{DriveSpeed, drive_speed};
use crate::figures::{size, table};
use crate::scratch::Scratch;

/// What a cache leaves free on its file system unless it is told otherwise (`disk_min_free_size`).
const FLOOR_BYTES: u64 = 1 << 30;
/// Least room for a cache that is worth its while.
const ROOM_BYTES_MIN: u64 = 4 << 30;
/// The staging buffer that is advised, and what a machine should have of memory beside it.
const STAGING_BYTES: u64 = 256 << 20;
const MEMORY_BYTES_MIN: u64 = 1 << 30;
/// Enough staging where memory is short.
const STAGING_BYTES_MIN: u64 = 64 << 20;
/// The capability to lock memory beyond the limit, in the kernel's order.
const CAP_IPC_LOCK: u32 = 14;
/// A drive below this is hardly faster than computing anew.
const SPEED_GBPS_MIN: f64 = 0.3;
/// What is written to measure a drive.
const MEASURED_BYTES: u64 = 1 << 30;

/// Examine a machine and a directory, and advise a configuration
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// A directory on the drive that a cache is to use
    directory: PathBuf,
    /// Do not measure the drive, which writes and reads a gigabyte
    #[arg(long)]
    no_measure: bool,
    /// Say it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Good,
    /// It works, and could do better.
    Fair,
    /// A cache does not work here, or is of no use.
    Bad,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    found: String,
    verdict: Verdict,
    /// What to do about it.
    advice: Option<String>,
    /// A command that shows the same.
    see: String,
}

#[derive(Debug, Serialize)]
struct Examined {
    directory: PathBuf,
    findings: Vec<Finding>,
    /// Keys and values, as they would stand in a file.
    configuration: Vec<(&'static str, String)>,
}

/// Runs it; gives whether nothing is bad.
pub(crate) fn run(args: &DoctorArgs, out: &mut dyn Write) -> Result<bool> {
    let directory = fs::canonicalize(&args.directory)
        .map_err(|error| Error::io(format!("examining {}", args.directory.display()), error))?;
    if !directory.is_dir() {
        let message = format!("{} is no directory; name one on the drive to be used", directory.display());
        return Err(Error::new(ErrorKind::Argument, message));
    }
    let examined = examine(directory, !args.no_measure)?;
    let said = if args.json { json(&examined)? } else { text(&examined) };
    out.write_all(said.as_bytes()).map_err(|error| Error::io("writing the findings", error))?;
    Ok(examined.findings.iter().all(|finding| finding.verdict != Verdict::Bad))
}

fn examine(directory: PathBuf, measure: bool) -> Result<Examined> {
    let scratch = Scratch::in_directory(&directory, 0)?;
    let room = statvfs(&directory)
        .map_err(|error| Error::io(format!("examining {}", directory.display()), error))?;
    let free_bytes = room.f_bavail * room.f_frsize;
    let uring = io_uring::IoUring::new(8).map(drop);
    let direct = takes_direct_io(&scratch.raw());
    let system = file_system(&directory);
    let memory_bytes = memory_bytes();
    let worth_measuring = measure && system.verdict != Verdict::Bad && free_bytes >= 2 * MEASURED_BYTES;
    let mut findings = vec![
        system,
        space(&directory, free_bytes),
        direct_io(&directory, direct.as_ref().err()),
        ring(uring.as_ref().err()),
        memlock(),
        huge_pages(),
        memory(memory_bytes),
        descriptors(),
    ];
    if worth_measuring {
        findings.push(speed(&directory, &drive_speed(scratch.raw(), MEASURED_BYTES)?, uring.is_ok()));
    }
    let configuration = configuration(&directory, free_bytes, memory_bytes, uring.is_ok());
    Ok(Examined { directory, findings, configuration })
}

fn file_system(directory: &Path) -> Finding {
    let kind = mount_of(directory).unwrap_or_else(|| "unknown".to_owned());
    let see = format!("findmnt -n -o FSTYPE -T {}", quoted(directory));
    let (verdict, advice) = match kind.as_str() {
        "tmpfs" | "ramfs" => {
            (Verdict::Bad, Some("this is memory, not a drive: name a directory on a drive".to_owned()))
        }
        "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "lustre" | "glusterfs" | "9p" | "virtiofs" => (
            Verdict::Bad,
            Some(format!("a mounted store is a remote tier: remote_url=file://{}", directory.display())),
        ),
        kind if kind.starts_with("fuse") => (
            Verdict::Fair,
            Some(
                "what is mounted so may be anything: if it is not a local drive, it is a remote tier"
                    .to_owned(),
            ),
        ),
        "overlay" => (
            Verdict::Fair,
            Some("this is a container's own layer: mount a directory of the host's drive into it".to_owned()),
        ),
        _ => (Verdict::Good, None),
    };
    Finding { what: "file system", found: kind, verdict, advice, see }
}

/// The type of the file system that `directory` is on: the longest mount point that it is below, the last of those.
fn mount_of(directory: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = |line: &str| {
        let mut words = line.split(' ');
        let (point, kind) = (words.nth(1)?, words.next()?);
        // The kernel writes blanks so.
        let point = point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
        directory.starts_with(&point).then(|| (point.len(), kind.to_owned()))
    };
    mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

fn space(directory: &Path, free_bytes: u64) -> Finding {
    let enough = free_bytes >= FLOOR_BYTES + ROOM_BYTES_MIN;
    Finding {
        what: "free space",
        found: size(free_bytes),
        verdict: if enough { Verdict::Good } else { Verdict::Bad },
        advice: (!enough).then(|| {
            format!(
                "free {} there, or name another directory",
                size(FLOOR_BYTES + ROOM_BYTES_MIN - free_bytes)
            )
        }),
        see: format!("df -h --output=avail {}", quoted(directory)),
    }
}

/// Writes a block of a file past the page cache.
fn takes_direct_io(path: &Path) -> io::Result<()> {
    let block = PageMemory::new(4096).map_err(io::Error::other)?;
    let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
    let file: File = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)?;
    let written = file.write_all_at(block.as_slice(), 0);
    fs::remove_file(path)?;
    written
}

fn direct_io(directory: &Path, refused: Option<&io::Error>) -> Finding {
    let probe = quoted(&directory.join("probe"));
    let see = format!("dd if=/dev/zero of={probe} oflag=direct bs=4k count=1 && rm {probe}");
    match refused {
        None => Finding {
            what: "direct I/O",
            found: "works".to_owned(),
            verdict: Verdict::Good,
            advice: None,
            see,
        },
        Some(error) => Finding {
            what: "direct I/O",
            found: format!("refused: {error}"),
            verdict: Verdict::Fair,
            advice: Some(
                "all would go through the page cache; ext4 and xfs on a drive do without".to_owned(),
            ),
            see,
        },
    }
}

fn ring(refused: Option<&io::Error>) -> Finding {
    let see = "cat /proc/sys/kernel/io_uring_disabled; grep Seccomp: /proc/self/status".to_owned();
    match refused {
        None => Finding { what: "io_uring", found: "allowed".to_owned(), verdict: Verdict::Good, advice: None, see },
        Some(error) => Finding {
            what: "io_uring",
            found: format!("refused: {error}"),
            verdict: Verdict::Fair,
            advice: Some(
                "threads read and write instead, at more processor time; in a container allow it in the seccomp profile"
                    .to_owned(),
            ),
            see,
        },
    }
}

fn memlock() -> Finding {
    let limit = getrlimit(Resource::Memlock).current;
    let enough = limit.is_none_or(|bytes| bytes >= STAGING_BYTES) || has_capability(CAP_IPC_LOCK);
    let found = limit.map_or_else(|| "unlimited".to_owned(), size);
    Finding {
        what: "memory that may be locked",
        found,
        verdict: if enough { Verdict::Good } else { Verdict::Fair },
        advice: (!enough).then(|| {
            let wanted = size(STAGING_BYTES);
            format!("with {wanted} the kernel knows the staging buffer beforehand: ulimit -l, LimitMEMLOCK=")
        }),
        see: "ulimit -l".to_owned(),
    }
}

fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    u64::from_str_radix(line.trim(), 16).is_ok_and(|effective| effective >> number & 1 == 1)
}

fn huge_pages() -> Finding {
    const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    let setting = fs::read_to_string(SETTING).unwrap_or_default();
    let chosen = setting.split('[').nth(1).and_then(|rest| rest.split(']').next()).unwrap_or("none");
    let good = ["always", "madvise"].contains(&chosen);
    Finding {
        what: "huge pages",
        found: chosen.to_owned(),
        verdict: if good { Verdict::Good } else { Verdict::Fair },
        advice: (!good).then(|| format!("echo madvise > {SETTING} saves processor time")),
        see: format!("cat {SETTING}"),
    }
}

/// What is free, or what the process's group may have in all, if that is less.
fn memory_bytes() -> u64 {
    const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap_or_default();
    let free =
        line.split_ascii_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10;
    let limits = LIMITS.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    limits.fold(free, u64::min)
}

fn memory(bytes: u64) -> Finding {
    let enough = bytes >= STAGING_BYTES + MEMORY_BYTES_MIN;
    Finding {
        what: "memory to be had",
        found: size(bytes),
        verdict: if enough { Verdict::Good } else { Verdict::Fair },
        advice: (!enough).then(|| "staging is given less below; 24 MiB a drive is enough".to_owned()),
        see: "grep MemAvailable /proc/meminfo; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes"
            .to_owned(),
    }
}

fn descriptors() -> Finding {
    let limit = getrlimit(Resource::Nofile).current;
    let enough = limit.is_none_or(|number| number >= 1024);
    Finding {
        what: "open files",
        found: limit.map_or_else(|| "unlimited".to_owned(), |number| number.to_string()),
        verdict: if enough { Verdict::Good } else { Verdict::Fair },
        advice: (!enough).then(|| "ulimit -n 1024, or LimitNOFILE=".to_owned()),
        see: "ulimit -n".to_owned(),
    }
}

fn speed(directory: &Path, speed: &DriveSpeed, has_uring: bool) -> Finding {
    let enough = speed.is_direct && speed.read_gbps >= SPEED_GBPS_MIN;
    let past = if speed.is_direct { "" } else { ", through the page cache" };
    let advice = if speed.is_direct {
        "computing a prompt may be as fast as reading it: measure with your model"
    } else {
        "this is the page cache's speed, not the drive's"
    };
    Finding {
        what: "the drive",
        found: format!("{:.2} GB/s read, {:.2} GB/s written{past}", speed.read_gbps, speed.write_gbps),
        verdict: if enough { Verdict::Good } else { Verdict::Fair },
        advice: (!enough).then(|| advice.to_owned()),
        // Without the first word its buffers lie on pages of 4 KiB, and a drive that takes 254 pieces of memory with a request
        // at most gets them as several.
        see: format!(
            "GLIBC_TUNABLES=glibc.malloc.hugetlb=1 fio --name=drive --unlink=1 --directory={} --rw=read --size={MEASURED_BYTES} \
             --bs={} --iodepth={} --ioengine={} --direct={}",
            quoted(directory),
            speed.read_bytes,
            speed.read_depth,
            if has_uring { "io_uring" } else { "libaio" },
            u8::from(speed.is_direct)
        ),
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// What to set, for a machine with little memory and a good drive.
fn configuration(
    directory: &Path,
    free_bytes: u64,
    memory_bytes: u64,
    has_uring: bool,
) -> Vec<(&'static str, String)> {
    // A tenth is left to others on the drive.
    let room_bytes = free_bytes.saturating_sub(FLOOR_BYTES) / 10 * 9;
    let short = memory_bytes < STAGING_BYTES + MEMORY_BYTES_MIN;
    let staging_bytes = if short { STAGING_BYTES_MIN } else { STAGING_BYTES };
    let mut keys = vec![
        // JSON's text is YAML's, whatever is in it.
        ("local_disk", serde_json::Value::from(directory.display().to_string()).to_string()),
        ("max_local_disk_size", (room_bytes >> 30).max(1).to_string()),
        ("local_cpu", "false".to_owned()),
        ("use_only_staging_buffer", "true".to_owned()),
        ("max_local_cpu_size", gib(staging_bytes).to_string()),
    ];
    if !has_uring {
        keys.push(("disk_io_threads", "8".to_owned()));
    }
    keys
}

#[expect(clippy::cast_precision_loss, reason = "a few MiB")]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn json(examined: &Examined) -> Result<String> {
    let text = serde_json::to_string_pretty(examined);
    text.map(|text| text + "\n").map_err(|error| Error::new(ErrorKind::Argument, error.to_string()))
}

fn text(examined: &Examined) -> String {
    let row = |finding: &Finding| {
        let verdict = match finding.verdict {
            Verdict::Good => "good",
            Verdict::Fair => "fair",
            Verdict::Bad => "BAD",
        };
        [verdict, finding.what, &finding.found, &finding.see].map(str::to_owned)
    };
    let rows: Vec<[String; 4]> = examined.findings.iter().map(row).collect();
    let mut said = format!("{}\n\n", examined.directory.display());
    said += &table(["", "what", "found", "to see it"], &rows);
    let advice: Vec<String> = examined
        .findings
        .iter()
        .filter_map(|finding| Some(format!("{}: {}", finding.what, finding.advice.as_ref()?)))
        .collect();
    if !advice.is_empty() {
        said.extend(["\nWhat to do:\n  ", &advice.join("\n  "), "\n"]);
    }
    let lines = examined.configuration.iter().map(|(key, value)| format!("  {key}: {value}\n"));
    said += "\nA configuration for it:\n";
    said.extend(lines);
    said
}
