//! The remote store: a cache that has nothing else, beside a bare client of the same library.
//!
//! Chunks are stored through one cache and loaded through another, which knows nothing of them. Everything is under
//! names that no other run has.
//!
//! Promises: what was put is removed when this is dropped, as far as the store answers, and what a round is done with
//! right then.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay::tier::remote::client::Client;
use forebay::tier::remote::names::Names;
use forebay::tier::remote::url::Place;
use forebay::{Cache, ChunkKey, Config, Error, ErrorKind, Result, Value};
use serde_json::json;

use super::bare::{Bare, Load, remove};
use super::rig::{Direction, Own, Pass, Rig};
use crate::figures::size;
use crate::scratch::{Shape, gib};

/// Loads of one pass of the mixed part: fewer than of a drive, since the store has to hold what is stored meanwhile.
const MIXED_LOADS: usize = 50;

/// See the module's documentation.
pub(super) struct RemoteRig {
    /// The one that stores, and the one that loads.
    caches: [Cache; 2],
    client: Arc<Client>,
    /// Of whole chunks and, if that is something else, of parts.
    bares: Vec<Bare>,
    names: Names,
    part_bytes: usize,
    chunk_bytes: u32,
    warm_up_chunks: u64,
    /// Chunks that may be in the store.
    made: parking_lot::Mutex<HashSet<ChunkKey>>,
    /// The directory in which all is, if the store is one.
    directory: Option<PathBuf>,
    stop: Arc<AtomicBool>,
}

impl RemoteRig {
    /// Opens both caches of this shape, for `chunks` chunks a round and as many buffers as `window` of them. `first` is the first key of those that will be stored.
    pub(super) fn prepare(
        url: &str,
        shape: &Shape,
        chunks: u64,
        window: usize,
        first: &ChunkKey,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let config = config(url, shape, chunks)?;
        let Some(client) = Client::of(&config)? else {
            return Err(Error::new(ErrorKind::Argument, "no remote store is named"));
        };
        let namespace = Names::namespace(first);
        let asked = format!("{namespace}/{first}/is-there");
        let objects = Arc::clone(client.objects());
        let there = client.wait_for(async move { objects.has(&asked).await });
        there.map_err(|fault| {
            let message =
                format!("{} cannot be measured: {fault}; see to it that it runs and answers", client.place());
            Error::new(ErrorKind::Io, message)
        })?;
        let open = || Cache::open(&config, shape.chunk_bytes.into(), None);
        let caches = [open()?, open()?];
        let part_bytes = caches[0].stats().mover.staging.slot_bytes;
        let chunk_bytes = shape.chunk_bytes as usize;
        let load = |object_bytes: usize| Load {
            prefix: format!("{namespace}/bare/{object_bytes}"),
            object_bytes,
            bytes: chunks * chunk_bytes as u64,
            memory_bytes: window * chunk_bytes,
        };
        let directory = match Place::parse(url)? {
            Place::Directory(root) => Some(root.join(&namespace)),
            Place::Bucket(_) | Place::Server(_) => None,
        };
        let mut sizes = vec![chunk_bytes, part_bytes];
        sizes.dedup();
        Ok(Self {
            caches,
            bares: sizes
                .into_iter()
                .map(|object_bytes| Bare::new(&client, load(object_bytes), &stop))
                .collect(),
            client,
            names: Names::of(part_bytes),
            part_bytes,
            chunk_bytes: shape.chunk_bytes,
            warm_up_chunks: chunks.min(window as u64),
            made: parking_lot::Mutex::default(),
            directory,
            stop,
        })
    }

    fn remove_all(&self) -> Result<()> {
        let keys: Vec<ChunkKey> = self.made.lock().iter().copied().collect();
        let chunks = self.done_with(&keys);
        self.bares.iter().try_for_each(Bare::remove)?;
        if let Some(directory) = &self.directory {
            let removed = std::fs::remove_dir_all(directory);
            if let Err(error) = removed
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(Error::io(format!("removing {}", directory.display()), error));
            }
        }
        chunks
    }
}

impl Rig for RemoteRig {
    fn cache(&self, direction: Direction) -> &Cache {
        match direction {
            Direction::Write => &self.caches[0],
            Direction::Read => &self.caches[1],
        }
    }

    fn make_plain(&self) -> Result<bool> {
        self.bares.iter().try_for_each(Bare::try_depths)?;
        Ok(true)
    }

    fn ceilings(&self) -> usize {
        self.bares.len()
    }

    fn pass(&self, ceiling: usize, direction: Direction, told: &mut dyn FnMut(u64)) -> Result<Pass> {
        let bare = &self.bares[ceiling];
        let pass = bare.measure(direction, told)?;
        if direction == Direction::Read {
            // The next round's are new.
            bare.remove()?;
        }
        Ok(pass)
    }

    fn warm_up_chunks(&self) -> u64 {
        self.warm_up_chunks
    }

    fn mixed_loads(&self) -> usize {
        MIXED_LOADS
    }

    fn makes(&self, keys: &[ChunkKey]) {
        self.made.lock().extend(keys);
    }

    fn done_with(&self, keys: &[ChunkKey]) -> Result<()> {
        let names = keys.iter().flat_map(|key| self.names.of_chunk(key, self.chunk_bytes));
        remove(&self.client, &names.collect::<Vec<_>>())?;
        let mut made = self.made.lock();
        keys.iter().for_each(|key| {
            made.remove(key);
        });
        Ok(())
    }

    fn may_go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Closed, "interrupted; nothing was measured"));
        }
        Ok(())
    }

    fn own(&self, best: [usize; 2]) -> Result<Own> {
        let [write, read] = best.map(|best| &self.bares[best]);
        let of = |direction: Direction| -> Vec<_> {
            let all = self.bares.iter();
            all.map(|bare| json!({ "object_bytes": bare.object_bytes(), "depth": bare.depth(direction) }))
                .collect()
        };
        Ok(Own {
            io_engine: self.client.place().to_owned(),
            ceiling_engine: format!(
                "a bare client, objects of {} write, {} read",
                size(write.object_bytes() as u64),
                size(read.object_bytes() as u64)
            ),
            ceiling_depth: [write.depth(Direction::Write), read.depth(Direction::Read)],
            plain_names: self
                .bares
                .iter()
                .map(|bare| format!("a bare client with objects of {}", size(bare.object_bytes() as u64)))
                .collect(),
            json: vec![
                ("tier", "remote".into()),
                ("part_bytes", self.part_bytes.into()),
                ("bare", json!({ "write": of(Direction::Write), "read": of(Direction::Read) })),
                (
                    "ceiling_object_bytes",
                    json!({ "write": write.object_bytes(), "read": read.object_bytes() }),
                ),
            ],
            memory: String::new(),
            notes: Vec::new(),
        })
    }
}

impl Drop for RemoteRig {
    fn drop(&mut self) {
        // Nothing is put after what is there has been removed.
        self.caches.iter().for_each(|cache| cache.close(Duration::from_secs(10)));
        if let Err(error) = self.remove_all() {
            tracing::warn!(%error, store = self.client.place(), "not all that was put for the measurement was removed");
        }
    }
}

fn config(url: &str, shape: &Shape, chunks: u64) -> Result<Config> {
    let mut values = vec![
        ("remote_url", Value::from(url)),
        ("local_cpu", false.into()),
        ("use_only_staging_buffer", true.into()),
        ("max_local_cpu_size", gib(shape.staging_bytes).into()),
    ];
    if url.starts_with("file:") {
        // Never to be reached: what is measured is not to be removed by the store's own bound.
        let bytes = chunks.saturating_mul(shape.chunk_bytes.into()).saturating_mul(64);
        values.push(("max_remote_size", gib(bytes).into()));
    }
    Ok(Config::from_values(values)?.config)
}
