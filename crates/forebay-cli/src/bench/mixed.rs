//! Loads one at a time, alone and beside stores at full speed: what a waiting user feels of somebody else's prefill.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use forebay::{ChunkKey, Error, ErrorKind, Lookup, Result};

use parking_lot::Mutex;

use super::prompts::Prompts;
use super::rig::{Direction, Rig};
use crate::quantiles::percentile;
use crate::stream::{Look, Moved, Stream};

/// Chunks that are loaded in turn. They are pinned, so that the stores do not evict them.
const LOADED_MAX: usize = 64;

/// The longest that a tier takes to say what is there.
const PATIENCE: Duration = Duration::from_mins(1);

/// Batches in which the background stores, in windows: it ends after one of them.
const BATCH_WINDOWS: usize = 4;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Mixed {
    alone: Moved,
    beside: Moved,
    /// What was stored meanwhile.
    pub(super) stores: Moved,
}

impl Mixed {
    /// `percent` of 100 loads took at most so many milliseconds, alone and beside stores.
    pub(super) fn load_ms(&mut self, percent: usize) -> [f64; 2] {
        [&mut self.alone, &mut self.beside]
            .map(|moved| percentile(&mut moved.latencies, percent).as_secs_f64() * 1e3)
    }

    /// How many times as long the 99th of 100 loads takes beside stores.
    pub(super) fn slowdown(&mut self) -> f64 {
        let [alone, beside] = self.load_ms(99);
        if alone > 0.0 { beside / alone } else { 0.0 }
    }

    pub(super) fn wrong(&self) -> u64 {
        self.alone.wrong + self.beside.wrong
    }
}

/// Loads chunks of `stored`, a prompt that is there, while `stream` stores prompts made by `fresh`.
pub(super) fn measure(
    rig: &dyn Rig,
    stored: &[ChunkKey],
    fresh: &mut Prompts,
    stream: &mut Stream,
    chunk_bytes: usize,
    passes: u32,
) -> Result<Mixed> {
    // One cache for both: they share its staging buffer.
    let cache = rig.cache(Direction::Write);
    let loaded = &stored[..(stored.len() / 4).clamp(1, LOADED_MAX)];
    let pinned = cache.lookup_within(loaded, PATIENCE);
    if !matches!(&pinned, Lookup::Hit(hit) if hit.chunks() == loaded.len()) {
        let message = format!("{} chunks of the last round are not all there any more", loaded.len());
        return Err(Error::new(ErrorKind::Io, message));
    }
    // Not in the order they lie in, so that no drive reads ahead.
    let order: Vec<ChunkKey> =
        (0..rig.mixed_loads()).map(|number| loaded[number * 37 % loaded.len()]).collect();
    let mut one = Stream::new(1, chunk_bytes, stream.copied())?;
    let mut mixed = Mixed::default();
    for _ in 0..passes {
        mixed.alone.add(one.load(cache, &order, Look::Stamps, |_| rig.may_go_on())?);
        let made = Mutex::new(Vec::new());
        let (stop, stored_bytes) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| -> Result<()> {
            let storing = scope.spawn(|| -> Result<Moved> {
                let mut all = Moved::default();
                while !stop.load(Ordering::Relaxed) {
                    let keys = fresh.next(BATCH_WINDOWS * stream.window())?;
                    rig.makes(&keys);
                    made.lock().extend(&keys);
                    let told = |bytes| {
                        stored_bytes.fetch_add(bytes, Ordering::Relaxed);
                        rig.may_go_on()
                    };
                    all.add(stream.store(cache, &keys, &Prompts::parent(&keys), told)?);
                }
                Ok(all)
            });
            while stored_bytes.load(Ordering::Relaxed) == 0 && !storing.is_finished() {
                thread::sleep(Duration::from_millis(1));
            }
            let loads = one.load(cache, &order, Look::Stamps, |_| rig.may_go_on());
            stop.store(true, Ordering::Relaxed);
            let background = storing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            mixed.stores.add(background?);
            mixed.beside.add(loads?);
            Ok(())
        })?;
        rig.done_with(&made.into_inner())?;
    }
    drop(pinned);
    Ok(mixed)
}
