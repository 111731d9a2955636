//! The table of keys.
//!
//! Everything that is said about a key anywhere comes from here: how its value is read, its default, its limits, what
//! an error about it recommends, the lines of `forebay config` and the table in `docs/CONFIG.md` (a test compares them).

use std::fmt;

use super::schemes;
use crate::catalog::DRIVES_MAX;

/// Bytes of a GiB, the unit of every size in the configuration.
pub(super) const GIB: u64 = 1 << 30;

/// Most disk space of one cache: what 2^32 extents of 4 KiB address.
pub(super) const DISK_BYTES_MAX: u64 = 16 << 40;

/// Most CPU memory of one cache. Keeps the number of slots (4 KiB and more each) within 32 bits.
const CPU_BYTES_MAX: u64 = 8 << 40;

/// Most space of a remote tier that we bound ourselves: a PiB.
const REMOTE_BYTES_MAX: u64 = 1 << 50;

/// Least of a size that holds chunks: two slots of one page.
const SIZE_BYTES_MIN: u64 = 8 << 10;

/// Longest wait that can be configured, in seconds.
const WAIT_SECONDS_MAX: u32 = 3600;

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// Its name in a file and as an argument; in the environment `FOREBAY_` and the name in upper case.
    pub name: &'static str,
    /// What its value has to be.
    pub kind: Kind,
    /// Its value when it is not given, as it would be written; `None`: not set.
    pub default: Option<&'static str>,
    /// One line about what it does.
    pub meaning: &'static str,
    /// What to do when its value cannot be used.
    pub remedy: &'static str,
    /// Whether `LMCACHE_` and the name in upper case is read too, because `LMCache`'s key means the same.
    pub shared: bool,
}

/// What the value of a key has to be. Its `Display` is the phrase that messages and documentation use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number of `unit` from `min` to `max`.
    Whole {
        /// What is counted; empty when there is nothing to say.
        unit: &'static str,
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// A size, written as a number of GiB, that comes to between `min_bytes` and `max_bytes`.
    Size {
        /// The least, in bytes.
        min_bytes: u64,
        /// The most, in bytes.
        max_bytes: u64,
    },
    /// A time, written as a number of seconds above zero and at most `max`.
    Seconds {
        /// The most, in seconds.
        max: u32,
    },
    /// A time that may be none, written as a number of seconds from zero to `max`.
    SecondsOrZero {
        /// The most, in seconds.
        max: u32,
    },
    /// One or several directories.
    Directories,
    /// The URL of a store that we speak; it may hold credentials, so it is never shown whole.
    Url,
    /// Tiers.
    Tiers,
    /// What is done when a tier is busy.
    Busy,
    /// Text of at most `max_bytes` that is never shown.
    Secret {
        /// The longest, in bytes.
        max_bytes: usize,
    },
    /// The name of an eviction policy.
    Policy,
    /// When the disk is told to make what was written durable.
    Sync {
        /// The longest interval, in seconds.
        max: u32,
    },
    /// Whether the page cache is bypassed.
    DirectIo,
    /// How the disk is read and written.
    IoEngine,
    /// Where to listen.
    Listen,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Switch => f.write_str("true or false"),
            Self::Whole { unit: "", min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Whole { unit, min, max } => write!(f, "a whole number of {unit} from {min} to {max}"),
            Self::Size { min_bytes: 0, max_bytes } => {
                write!(f, "a number of GiB from 0 to {}", max_bytes / GIB)
            }
            Self::Size { max_bytes, .. } => {
                write!(f, "a number of GiB above 0, at most {}", max_bytes / GIB)
            }
            Self::Seconds { max } => write!(f, "a number of seconds above 0, at most {max}"),
            Self::SecondsOrZero { max } => write!(f, "a number of seconds from 0 to {max}"),
            Self::Directories => {
                write!(f, "a path, plain or as file:///path, or a list of up to {DRIVES_MAX}")
            }
            Self::Url => write!(f, "a URL, scheme://…, of {}", schemes::SPOKEN_TEXT),
            Self::Tiers => f.write_str("all, or one or several of memory, disk and remote"),
            Self::Busy => f.write_str("wait or drop"),
            Self::Secret { max_bytes } => write!(f, "text of at most {max_bytes} bytes"),
            Self::Policy => f.write_str("LRU, FIFO, LFU or S3-FIFO"),
            Self::Sync { max } => {
                write!(f, "none, always, or a number of seconds above 0, at most {max}")
            }
            Self::DirectIo => f.write_str("auto or off"),
            Self::IoEngine => f.write_str("auto, io_uring or threads"),
            Self::Listen => f.write_str("a port from 0 to 65535, or an IP address and a port"),
        }
    }
}

/// All keys, in the order people think of them.
pub const KEYS: &[Key] = &[
    Key {
        name: "chunk_size",
        kind: Kind::Whole { unit: "tokens", min: 1, max: 1 << 20 },
        default: Some("256"),
        meaning: "Tokens of one chunk, the unit that is stored and found.",
        remedy: "Set chunk_size to the tokens of one chunk, for example 256",
        shared: true,
    },
    Key {
        name: "local_cpu",
        kind: Kind::Switch,
        default: Some("true"),
        meaning: "A memory tier in front of the others: it keeps chunks in what max_local_cpu_size leaves beside the staging buffer. Where that is less than one chunk there is none.",
        remedy: "Set local_cpu to true or false; with false CPU memory stages chunks and keeps none",
        shared: true,
    },
    Key {
        name: "use_only_staging_buffer",
        kind: Kind::Switch,
        default: Some("false"),
        meaning: "No lookup or load is ever answered from CPU memory, not even from a store in flight. Implies local_cpu: false.",
        remedy: "Set use_only_staging_buffer to true or false",
        shared: true,
    },
    Key {
        name: "max_local_cpu_size",
        kind: Kind::Size { min_bytes: SIZE_BYTES_MIN, max_bytes: CPU_BYTES_MAX },
        default: Some("5.0"),
        meaning: "The bound on CPU memory. What is used of it is allocated at start, none after: a staging buffer takes some 24 MiB for each drive and for the remote tier (128 for a bucket), and works with 8 (16); a memory tier takes the rest.",
        remedy: "Set max_local_cpu_size to the CPU memory in GiB that the cache may use, for example 0.25",
        shared: true,
    },
    Key {
        name: "local_disk",
        kind: Kind::Directories,
        default: None,
        meaning: "The directory of the disk tier, or one for each of several drives; the first is home. One cache at a time owns them.",
        remedy: "Set local_disk to a directory on a local drive, for example /nvme/kv",
        shared: true,
    },
    Key {
        name: "max_local_disk_size",
        kind: Kind::Size { min_bytes: SIZE_BYTES_MIN, max_bytes: DISK_BYTES_MAX },
        default: None,
        meaning: "The bound on disk space below local_disk, all directories together, an even part for each. Has to be set when local_disk is.",
        remedy: "Set max_local_disk_size to the disk space in GiB that the cache may use, for example 100",
        shared: true,
    },
    Key {
        name: "remote_url",
        kind: Kind::Url,
        default: None,
        meaning: "The store of the remote tier, which several caches may share. With local_disk it stands behind the disk, without it takes its place.",
        remedy: "Set remote_url to a store such as s3://bucket/prefix, redis://host:6379 or file:///mnt/kv, or leave it out",
        shared: true,
    },
    Key {
        name: "max_remote_size",
        kind: Kind::Size { min_bytes: SIZE_BYTES_MIN, max_bytes: REMOTE_BYTES_MAX },
        default: None,
        meaning: "The bound on the space below the directory of a file:// remote_url. Has to be set for one; has no effect with other stores, which bound themselves.",
        remedy: "Set max_remote_size to the space in GiB that the remote tier may use, for example 1000",
        shared: false,
    },
    Key {
        name: "remote_timeout_s",
        kind: Kind::Seconds { max: WAIT_SECONDS_MAX },
        default: Some("5"),
        meaning: "Longest single request to the remote store; after it the request has failed. One carries up to 6 MiB, to a bucket 12.",
        remedy: "Set remote_timeout_s to seconds, for example 5",
        shared: false,
    },
    Key {
        name: "remote_max_requests",
        kind: Kind::Whole { unit: "requests", min: 1, max: 1024 },
        default: Some("32"),
        meaning: "Requests that are under way at the remote store at once.",
        remedy: "Set remote_max_requests to 32, or to more for a store that is far away",
        shared: false,
    },
    Key {
        name: "remote_retries",
        kind: Kind::Whole { unit: "", min: 0, max: 10 },
        default: Some("2"),
        meaning: "How often a request to the remote store that failed for a passing reason is tried again.",
        remedy: "Set remote_retries to a small number, for example 2, or to 0 for none",
        shared: false,
    },
    Key {
        name: "remote_remember_s",
        kind: Kind::Seconds { max: WAIT_SECONDS_MAX },
        default: Some("30"),
        meaning: "How long what the remote store answered a lookup is taken to hold, before it is asked again.",
        remedy: "Set remote_remember_s to seconds, for example 30",
        shared: false,
    },
    Key {
        name: "store_to",
        kind: Kind::Tiers,
        default: Some("all"),
        meaning: "Which tiers a chunk is stored to. Each has to be configured; all stands for those that are.",
        remedy: "Set store_to to all, or to tiers that are configured, for example [memory, disk]",
        shared: false,
    },
    Key {
        name: "store_after",
        kind: Kind::Whole { unit: "", min: 1, max: 1000 },
        default: Some("1"),
        meaning: "A chunk is stored when it is to be stored for the so-many-th time: with 2, what is seen once is not.",
        remedy: "Set store_after to 1 to store every chunk, or to 2 to store what comes again",
        shared: false,
    },
    Key {
        name: "on_busy",
        kind: Kind::Busy,
        default: Some("wait"),
        meaning: "What a chunk to be stored does when a tier has its hands full: wait for at most store_timeout_s, or not be stored.",
        remedy: "Set on_busy to wait or drop",
        shared: false,
    },
    Key {
        name: "lookup_wait_s",
        kind: Kind::SecondsOrZero { max: 60 },
        default: Some("1.0"),
        meaning: "How long a lookup that is still being answered may hold a request up; after it what was found until then counts.",
        remedy: "Set lookup_wait_s to seconds, for example 1.0, or to 0 to hold no request up",
        shared: false,
    },
    Key {
        name: "cache_policy",
        kind: Kind::Policy,
        default: Some("LRU"),
        meaning: "What is evicted first when a tier is full: the chunk unused for longest (LRU), stored first (FIFO), used least \
                  often of late (LFU), or S3-FIFO: stored first of those that were hardly used since. A prompt's end always \
                  goes before its front.",
        remedy: "Set cache_policy to LRU, FIFO, LFU or S3-FIFO",
        shared: true,
    },
    Key {
        name: "disk_sync",
        kind: Kind::Sync { max: WAIT_SECONDS_MAX },
        default: Some("none"),
        meaning: "When written chunks are made durable: never by us, before each store completes, or every so many seconds. \
                  With none a killed process loses nothing; a power loss may lose chunks, and never gives wrong bytes.",
        remedy: "Set disk_sync to none, always, or seconds such as 5",
        shared: false,
    },
    Key {
        name: "disk_min_free_size",
        kind: Kind::Size { min_bytes: 0, max_bytes: DISK_BYTES_MAX },
        default: Some("1.0"),
        meaning: "Free space that is left on each file system of local_disk, whatever max_local_disk_size allows.",
        remedy: "Set disk_min_free_size to the GiB to leave free, for example 1.0",
        shared: false,
    },
    Key {
        name: "disk_direct_io",
        kind: Kind::DirectIo,
        default: Some("auto"),
        meaning: "O_DIRECT: auto uses it where the file system allows it, off goes through the page cache.",
        remedy: "Set disk_direct_io to auto or off",
        shared: false,
    },
    Key {
        name: "disk_io_engine",
        kind: Kind::IoEngine,
        default: Some("auto"),
        meaning: "How the disk is read and written: auto uses io_uring where the kernel allows it and threads elsewhere.",
        remedy: "Set disk_io_engine to auto, io_uring or threads",
        shared: false,
    },
    Key {
        name: "disk_io_threads",
        kind: Kind::Whole { unit: "threads", min: 2, max: 64 },
        default: Some("4"),
        meaning: "Threads that read and write the disk, where io_uring does not.",
        remedy: "Set disk_io_threads to 4, or to more for an array of drives",
        shared: false,
    },
    Key {
        name: "load_timeout_s",
        kind: Kind::Seconds { max: WAIT_SECONDS_MAX },
        default: Some("10"),
        meaning: "Longest wait of a chunk to be loaded for a staging slot; after it the chunk fails as busy and is recomputed.",
        remedy: "Set load_timeout_s to seconds, for example 10",
        shared: false,
    },
    Key {
        name: "store_timeout_s",
        kind: Kind::Seconds { max: WAIT_SECONDS_MAX },
        default: Some("30"),
        meaning: "Longest wait of a chunk to be stored for a staging slot; after it the chunk is not stored.",
        remedy: "Set store_timeout_s to seconds, for example 30",
        shared: false,
    },
    Key {
        name: "max_queued_chunks",
        kind: Kind::Whole { unit: "chunks", min: 1, max: 1 << 24 },
        default: Some("65536"),
        meaning: "The bound of each queue. A store or load that would exceed it is refused as busy.",
        remedy: "Set max_queued_chunks to a number of chunks, for example 65536",
        shared: false,
    },
    Key {
        name: "http_listen",
        kind: Kind::Listen,
        default: None,
        meaning: "Where metrics, health and a page are shown over HTTP: a port of 127.0.0.1, or an address and a port. Port 0 is \
                  any that is free. Not set: nowhere.",
        remedy: "Set http_listen to a port such as 9180, or to an address and a port such as 0.0.0.0:9180",
        shared: false,
    },
    Key {
        name: "http_token",
        kind: Kind::Secret { max_bytes: 1024 },
        default: Some(""),
        meaning: "Who says this word may clear the cache, pin chunks and change the capacity over HTTP. Not set: nobody may, and what is shown can only be read.",
        remedy: "Set http_token to a long random text, best as the variable FOREBAY_HTTP_TOKEN",
        shared: false,
    },
    Key {
        name: "cache_salt",
        kind: Kind::Secret { max_bytes: 1024 },
        default: Some(""),
        meaning: "Separates tenants: engines with different salts never find each other's chunks. Who makes keys by hand gives it to the namespace.",
        remedy: "Set cache_salt to text, in quotes when it looks like a number or a truth value",
        shared: false,
    },
    Key {
        name: "save_decode_cache",
        kind: Kind::Switch,
        default: Some("false"),
        meaning: "Stores chunks of generated tokens too, not only of prompts.",
        remedy: "Set save_decode_cache to true or false",
        shared: true,
    },
];

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}
