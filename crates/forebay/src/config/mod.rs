//! Configuration: from a file, the environment and arguments to one plain, checked [`Config`].
//!
//! Promises:
//!
//! * A [`Config`] that came from here has been checked: every limit is tested where the value is read, not where it would
//!   hurt. Whatever is given, reading it ends in a [`Config`] or in an error that names the key, the value, where it came
//!   from and the remedy; it never panics.
//! * An `LMCache` file is accepted as it is, unless it names a remote store that is not spoken here: a key of theirs that
//!   has no meaning here is a warning that says why. A key that neither knows is an error that names the nearest one.
//! * Secrets (credentials in URLs, the salt, everything in `extra_config`) are never shown: not by `Debug`, an error, a
//!   warning or [`Config::value`].
//!
//! Where to look: the table of keys is `keys`, `LMCache`'s is `peers`; `source` lays the sources over each other, `read`
//! gives one value its type, `resolve` applies the rules between keys.

mod explain;
mod extra;
mod file;
mod keys;
mod peers;
mod read;
mod resolve;
mod schemes;
mod secret;
mod source;
mod store_to;
mod suggest;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::catalog::CachePolicy;
pub use explain::{Explained, explain};
pub use keys::{KEYS, Key, Kind};
pub use peers::{PEER_KEYS, PeerKey, Verdict};
pub use source::Origin;
pub use store_to::StoreTo;
pub use value::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::staging::{Backing, Shape};
use crate::tier::remote::url::Place;

/// The configuration in force: sizes in bytes, times as [`Duration`], nothing left to look up.
#[derive(Clone, PartialEq)]
pub struct Config {
    /// Tokens of one chunk (`chunk_size`).
    pub chunk_size_tokens: u32,
    /// Whether there is a memory tier (`local_cpu`), if there is room for one: see [`memory_tier_bytes`](Self::memory_tier_bytes).
    /// False where `use_only_staging_buffer` is true.
    pub local_cpu: bool,
    /// Whether CPU memory never answers a lookup or load, not even from a store in flight.
    pub use_only_staging_buffer: bool,
    /// Bound on CPU memory, in bytes (`max_local_cpu_size`).
    pub max_local_cpu_bytes: u64,
    /// Directories of the disk tier, one for each drive, the first of them home. At most
    /// [`DRIVES_MAX`](crate::catalog::DRIVES_MAX), none of them twice; none at all where there is no disk tier, and then
    /// `remote_url` is set.
    pub local_disk: Vec<PathBuf>,
    /// Bound on disk space, in bytes, all directories together (`max_local_disk_size`). Above zero where `local_disk` is
    /// set, else zero.
    pub max_local_disk_bytes: u64,
    /// Store of the remote tier, credentials included; `None` where there is no such tier. Its scheme is `s3`, `redis`,
    /// `rediss`, `valkey`, `valkeys` or `file`, in lower case, and after `file://` comes an absolute path.
    pub remote_url: Option<String>,
    /// Bound on the space of a `file://` remote tier, in bytes (`max_remote_size`): set for one of those, and for no
    /// other.
    pub max_remote_bytes: Option<u64>,
    /// Longest single request to the remote store (`remote_timeout_s`).
    pub remote_timeout: Duration,
    /// Requests that are under way at the remote store at once, at least one.
    pub remote_max_requests: u32,
    /// How often a request that failed for a passing reason is tried again.
    pub remote_retries: u32,
    /// How long what the remote store answered a lookup is taken to hold (`remote_remember_s`).
    pub remote_remember: Duration,
    /// Which tiers a chunk is stored to: at least one, and only those that are configured.
    pub store_to: StoreTo,
    /// A chunk is stored when it is to be stored for the so-many-th time; at least one.
    pub store_after: u32,
    /// What a chunk to be stored does when a tier has its hands full.
    pub on_busy: OnBusy,
    /// How long a lookup that is still being answered may hold a request up (`lookup_wait_s`); zero: not at all.
    pub lookup_wait: Duration,
    /// What is evicted first.
    pub cache_policy: CachePolicy,
    /// When written chunks are made durable.
    pub disk_sync: DiskSync,
    /// Free space to leave on each file system of `local_disk`, in bytes (`disk_min_free_size`).
    pub disk_min_free_bytes: u64,
    /// Whether the page cache is bypassed.
    pub disk_direct_io: DirectIo,
    /// How the disk is read and written.
    pub disk_io_engine: IoEngineChoice,
    /// Threads that read and write the disk, where `io_uring` does not.
    pub disk_io_threads: u32,
    /// Longest wait of a load for a staging slot (`load_timeout_s`).
    pub load_timeout: Duration,
    /// Longest wait of a store for a staging slot (`store_timeout_s`).
    pub store_timeout: Duration,
    /// Bound of each queue, in chunks.
    pub max_queued_chunks: u32,
    /// Where metrics, health and the page are shown (`http_listen`); `None`: nowhere.
    pub http_listen: Option<SocketAddr>,
    /// Who says this may clear the cache, pin chunks and change the capacity over HTTP (`http_token`); empty: nobody may.
    pub http_token: String,
    /// Separates tenants (`cache_salt`).
    pub salt: String,
    /// Whether chunks of generated tokens are stored too.
    pub save_decode_cache: bool,
}

/// What a chunk to be stored does when a tier has its hands full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBusy {
    /// It waits, for at most `store_timeout`.
    Wait,
    /// It is not stored.
    Drop,
}

/// When written chunks are made durable against a loss of power. None of them is needed against `kill -9`, and with each
/// of them a damaged chunk is a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskSync {
    /// When the operating system likes: a loss of power may lose chunks.
    None,
    /// Every so often: a loss of power may lose the chunks stored since.
    Interval(Duration),
    /// Before a store is reported complete: a loss of power loses none that was.
    Always,
}

/// How the disk is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoEngineChoice {
    /// By `io_uring` where the kernel allows it, else by threads.
    Auto,
    /// By `io_uring`; where that is not to be had, the cache does not start.
    Uring,
    /// By threads.
    Threads,
}

/// Whether reading and writing bypasses the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectIo {
    /// Where the file system allows it.
    Auto,
    /// Never.
    Off,
}

/// A configuration, where each value came from, and what its author should know.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The configuration in force.
    pub config: Config,
    /// Where the value of each key of [`KEYS`] came from.
    pub origins: BTreeMap<&'static str, Origin>,
    /// What was given and has no effect, or another one than asked for. One sentence each.
    pub warnings: Vec<String>,
}

/// A resolved configuration stands wherever a [`Config`] is asked for: `Cache::open(&resolved, …)`.
impl Deref for Resolved {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

impl Config {
    /// The configuration that these keys give, and defaults for the rest. No file and no environment is read.
    ///
    /// ```
    /// use forebay::config::{Config, Value};
    ///
    /// let resolved = Config::from_values([
    ///     ("local_disk", Value::from("/nvme/kv")),
    ///     ("max_local_disk_size", Value::from(100)),
    ///     ("use_only_staging_buffer", Value::from(true)),
    /// ])?;
    /// assert_eq!(resolved.max_local_disk_bytes, 100 << 30);
    /// # Ok::<(), forebay::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`]: a key is unknown, a value cannot be used, or two keys contradict each other.
    pub fn from_values<K, V>(values: impl IntoIterator<Item = (K, V)>) -> Result<Resolved>
    where
        K: Into<String>,
        V: Into<Value>,
    {
        Self::load(None, [], values)
    }

    /// The configuration that a file, the environment and `overrides` give; of two the later one wins.
    ///
    /// The file is `path`, or else what `FOREBAY_CONFIG_FILE` or else `LMCACHE_CONFIG_FILE` of `environment` names, or
    /// none. `environment` is usually [`environment`]. A [`Value::Null`] takes a key back to its default.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`]: the file cannot be read, a key is unknown, a value cannot be used, or two keys contradict
    /// each other.
    pub fn load<K, V>(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Resolved>
    where
        K: Into<String>,
        V: Into<Value>,
    {
        let variables = source::variables(environment.into_iter());
        let path = path.or_else(|| {
            let named = variables.get("FOREBAY_CONFIG_FILE").or_else(|| variables.get("LMCACHE_CONFIG_FILE"));
            named.map(|path| Path::new(path.trim()))
        });
        let mut given = source::Given::default();
        if let Some(path) = path {
            given.add_file(path, file::read(path)?)?;
        }
        given.add_environment(&variables)?;
        given.add_arguments(overrides.into_iter().map(|(key, value)| (key.into(), value.into())))?;
        resolve::resolve(given)
    }

    /// The staging buffer for chunks of at most `chunk_bytes`: as many slots as there is use for, within
    /// `max_local_cpu_size`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`]: `chunk_bytes` is 0. [`ErrorKind::Config`]: fewer than two slots fit; the message says the
    /// smallest `max_local_cpu_size` that works.
    pub fn staging_shape(&self, chunk_bytes: u64) -> Result<Shape> {
        if chunk_bytes == 0 {
            return Err(Error::new(ErrorKind::Argument, "chunk_bytes is 0: a chunk has at least one byte"));
        }
        if let Some(shape) = Shape::within(self.max_local_cpu_bytes, chunk_bytes, self.backing()) {
            return Ok(shape);
        }
        let slot_bytes = Shape::slot_bytes(chunk_bytes, self.backing()).map(|slot_bytes| slot_bytes as u64);
        let slots = slot_bytes.map_or(0, |slot_bytes| self.max_local_cpu_bytes / slot_bytes);
        let remedy = match slot_bytes.and_then(|slot_bytes| slot_bytes.checked_mul(2)) {
            Some(needed) => format!("Set max_local_cpu_size to {} GiB or more", gib(needed)),
            None => "Make chunk_bytes smaller".into(),
        };
        Err(Error::new(
            ErrorKind::Config,
            format!(
                "`max_local_cpu_size` is {} GiB, which holds {slots} staging slots for chunks of {chunk_bytes} bytes, and two \
                 are needed. {remedy}",
                gib(self.max_local_cpu_bytes)
            ),
        ))
    }

    /// Bytes of the memory tier for chunks of at most `chunk_bytes`: what the staging buffer leaves of
    /// `max_local_cpu_size`. 0 where there is no memory tier, for `local_cpu` is false or less than one chunk is left.
    pub fn memory_tier_bytes(&self, chunk_bytes: u64) -> u64 {
        if !self.local_cpu {
            return 0;
        }
        let Ok(staging) = self.staging_shape(chunk_bytes) else { return 0 };
        let left = self.max_local_cpu_bytes.saturating_sub(staging.bytes());
        if left < chunk_bytes { 0 } else { left }
    }

    /// Where chunks go to and come from.
    fn backing(&self) -> Backing {
        let remote = self.remote_url.as_deref().map(Place::parse);
        let has_bucket = matches!(remote, Some(Ok(Place::Bucket(_))));
        let is_like_a_drive = remote.is_some() && !has_bucket;
        Backing { drives: self.local_disk.len() + usize::from(is_like_a_drive), has_bucket }
    }

    /// The value in force of the key `name`, in that key's own unit and fit to be shown: secrets are hidden. `None` if
    /// there is no such key; [`Value::Null`] if it is not set.
    pub fn value(&self, name: &str) -> Option<Value> {
        Some(match name {
            "chunk_size" => self.chunk_size_tokens.into(),
            "local_cpu" => self.local_cpu.into(),
            "use_only_staging_buffer" => self.use_only_staging_buffer.into(),
            "max_local_cpu_size" => gib(self.max_local_cpu_bytes).into(),
            "local_disk" => {
                let shown = |path: &PathBuf| Value::Text(path.to_string_lossy().into_owned());
                match self.local_disk.as_slice() {
                    [] => Value::Null,
                    [path] => shown(path),
                    paths => Value::List(paths.iter().map(shown).collect()),
                }
            }
            "max_local_disk_size" => {
                (self.max_local_disk_bytes > 0).then(|| gib(self.max_local_disk_bytes)).into()
            }
            "remote_url" => self.remote_url.as_deref().map(secret::without_credentials).into(),
            "max_remote_size" => self.max_remote_bytes.map(gib).into(),
            "remote_timeout_s" => self.remote_timeout.as_secs_f64().into(),
            "remote_max_requests" => self.remote_max_requests.into(),
            "remote_retries" => self.remote_retries.into(),
            "remote_remember_s" => self.remote_remember.as_secs_f64().into(),
            "store_to" => self.store_to.value(),
            "store_after" => self.store_after.into(),
            "on_busy" => match self.on_busy {
                OnBusy::Wait => "wait".into(),
                OnBusy::Drop => "drop".into(),
            },
            "lookup_wait_s" => self.lookup_wait.as_secs_f64().into(),
            "cache_policy" => self.cache_policy.name().into(),
            "disk_sync" => match self.disk_sync {
                DiskSync::None => "none".into(),
                DiskSync::Always => "always".into(),
                DiskSync::Interval(every) => every.as_secs_f64().into(),
            },
            "disk_min_free_size" => gib(self.disk_min_free_bytes).into(),
            "disk_direct_io" => match self.disk_direct_io {
                DirectIo::Auto => "auto".into(),
                DirectIo::Off => "off".into(),
            },
            "disk_io_engine" => match self.disk_io_engine {
                IoEngineChoice::Auto => "auto",
                IoEngineChoice::Uring => "io_uring",
                IoEngineChoice::Threads => "threads",
            }
            .into(),
            "disk_io_threads" => self.disk_io_threads.into(),
            "load_timeout_s" => self.load_timeout.as_secs_f64().into(),
            "store_timeout_s" => self.store_timeout.as_secs_f64().into(),
            "max_queued_chunks" => self.max_queued_chunks.into(),
            "http_listen" => self.http_listen.map(|address| address.to_string()).into(),
            "http_token" => (!self.http_token.is_empty()).then_some(secret::HIDDEN).into(),
            "cache_salt" => (!self.salt.is_empty()).then_some(secret::HIDDEN).into(),
            "save_decode_cache" => self.save_decode_cache.into(),
            _ => return None,
        })
    }
}

/// Every key with its value, secrets hidden.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Config");
        for key in KEYS {
            out.field(key.name, &format_args!("{}", self.value(key.name).unwrap_or(Value::Null)));
        }
        out.finish()
    }
}

/// The variables of this process that can concern [`Config::load`].
///
/// # Errors
///
/// [`ErrorKind::Config`]: one of them is not UTF-8.
pub fn environment() -> Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for (name, text) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        if !name.starts_with("FOREBAY_") && !name.starts_with("LMCACHE_") {
            continue;
        }
        let text = text.into_string().map_err(|_| {
            let message =
                format!("the environment variable {name} is not UTF-8 text. Set it again, or unset it");
            Error::new(ErrorKind::Config, message)
        })?;
        variables.push((name, text));
    }
    Ok(variables)
}

/// `bytes` in GiB. Written out in full it reads back as the same number of bytes.
#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^53 bytes")]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / keys::GIB as f64
}
