//! Forebay keeps the KV cache of prompts on local disk and in remote stores, so that a prompt is prefilled once and read
//! many times: by the next request, after a restart, on the next instance. CPU memory is a tier in front of them, or
//! nothing but a staging buffer that a chunk passes through.
//!
//! # The way of a chunk
//!
//! A prompt is cut into chunks, and [`key`] names them: a chain of digests over namespace and tokens. To **store**,
//! the [`catalog`] decides where each chunk goes and what is evicted for it; the [`mover`] takes a slot of the
//! [`staging`] buffer, gathers the chunk from the engine's memory and writes it to the [disk tier](tier::disk) with a
//! trailer that proves it; then [`control`] puts it into the journal, and from that moment it is found. From there it is
//! copied to the [remote tier](tier::remote), if there is one; in front of both there may be a tier in memory. To **load**, a
//! lookup says how much of a prompt is there and pins it; the mover reads chunk by chunk through its slots, checks,
//! and scatters into the engine's memory. [`cache`] is all of that in one object.
//!
//! ```
//! use std::sync::Arc;
//! use forebay::{Cache, Config, Lookup, Namespace, Value};
//!
//! # fn main() -> forebay::Result<()> {
//! # let directory = std::env::temp_dir().join(format!("forebay-doc-{}", std::process::id()));
//! let config = Config::from_values([
//!     ("local_disk", Value::from(directory.to_str().unwrap_or_default())),
//!     ("max_local_disk_size", Value::from(0.0625)), // GiB
//!     ("local_cpu", Value::from(false)),
//!     ("use_only_staging_buffer", Value::from(true)),
//!     ("max_local_cpu_size", Value::from(0.002)), // GiB: two slots of 1 MiB
//! #   ("disk_min_free_size", Value::from(0.0)),
//! ])?.config;
//! let cache = Cache::open(&config, 1 << 20, None)?;
//! let keys = Namespace::of_model("a-model").chunk_keys(&[7; 512], 256, &[])?;
//!
//! let chunks = keys.iter().map(|key| (*key, Box::new(vec![1_u8; 1 << 20]) as _)).collect();
//! cache.store(chunks, None, None)?.wait(None);
//!
//! let Lookup::Hit(hit) = cache.lookup(&keys) else { panic!("both chunks were stored") };
//! let buffer = Arc::new(parking_lot::Mutex::new(vec![0; 1 << 20]));
//! cache.load(vec![(keys[0], Box::new(Arc::clone(&buffer)))], None).wait(None);
//! assert_eq!((hit.chunks(), buffer.lock()[0]), (2, 1));
//! # drop((hit, cache));
//! # std::fs::remove_dir_all(directory).ok();
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//!
//! `docs/DESIGN.md` has the ideas and the numbered guarantees, `docs/FORMAT.md` every byte on disk. Here:
//! [`catalog`] decides and does no I/O · [`control`] has a part for each tier, the disk's is the catalog with its journal ·
//! [`mover`] does and knows no policy · [`checksum`] is what it proves bytes by · [`staging`] is bounded memory ·
//! [`memory`] is what it is made of · [`histogram`] is how long things took ·
//! [`events`] is what comes onto a tier and leaves it · [`tier::disk`] is the directory ·
//! `tier::memory` keeps chunks in CPU memory · [`tier::remote`] is a store that instances share · [`outcome`] is how
//! things end · [`config`] is what a user sets · [`error`] is what can be wrong.

pub mod cache;
pub mod catalog;
pub mod checksum;
pub mod config;
pub mod control;
mod copies;
pub mod crash_points;
mod crew;
pub mod error;
pub mod events;
mod following;
pub mod histogram;
pub mod key;
pub mod memory;
#[cfg(models)]
pub mod models;
pub mod mover;
pub mod outcome;
mod prompt;
mod queue;
pub mod staging;
mod sync;
mod tellers;
pub mod tier;

/// The target of what is traced of a chunk on its way.
pub(crate) const CHUNK_TRACES: &str = "forebay::chunk";

pub use cache::{Cache, CacheStats};
pub use config::{Config, Value};
pub use control::{ControlPlane, Lookup};
pub use error::{Error, ErrorKind, Result};
pub use key::{ChunkKey, Namespace};
pub use memory::{PageMemory, Pages};
pub use mover::{Mover, Regions};
pub use outcome::{LoadOutcome, LoadStatus, Reason, StoreOutcome, StoreStatus};
