//! What has to be so when nothing is under way, and what the process takes then.
//!
//! Promises: a slot, pin, plan, queued chunk, block of engine memory or extent that was not given back is a failure that says
//! which; so is a chunk that began and did not end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use forebay::catalog::BLOCK_BYTES;
use forebay::{Cache, Namespace};

use crate::faults::Faults;
use crate::heap;
use crate::instance::Instance;
use crate::ledger::Count;
use crate::server;
use crate::soak::Soak;

/// After the last end of a batch, what follows it (a removal of what was found damaged, a checkpoint) is over by then.
const SETTLE_MAX: Duration = Duration::from_secs(20);
/// The server answers again by then, though it was left alone for a while.
const ANSWER_MAX: Duration = Duration::from_mins(1);

/// So many answers in a row have come over each of the connections that a cache has (8, used in turn).
const ANSWERS: u64 = 32;

/// What the process takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) resident_kib: u64,
    /// The same before the allocator gave back what nobody uses.
    pub(crate) untrimmed_kib: u64,
    pub(crate) files: usize,
    pub(crate) threads: usize,
}

impl Taken {
    /// Counts, when what is free was given back.
    pub(crate) fn now() -> Self {
        let untrimmed_kib = resident_kib();
        heap::trim();
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let threads = std::fs::read_dir("/proc/self/task").map_or(0, |tasks| {
            let names = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("comm")));
            // The kernel's own, which work for a ring, come and go as it likes.
            names.flatten().filter(|name| !name.starts_with("iou-")).count()
        });
        Self { resident_kib: resident_kib(), untrimmed_kib, files, threads }
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_ascii_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

impl Soak {
    /// Brings all to rest, checks, measures, and lets all go on.
    pub(crate) fn rest(&self) -> Option<Taken> {
        self.ledger.is_paused.store(true, Ordering::SeqCst);
        let is_quiet = || {
            let calm = self.told.is_calm.load(Ordering::SeqCst);
            calm && self.signals.iter().all(|signals| signals.is_idle.load(Ordering::SeqCst))
        };
        if !self.wait_for("all requests to end", crate::client::BATCH_MAX + SETTLE_MAX, is_quiet) {
            return None;
        }
        // The client keeps a buffer for each connection, as long as the longest answer that it carried. New ones are
        // the same at every rest.
        if server::say(self.port, "CLIENT KILL TYPE normal").is_none() {
            self.ledger.fail("the server does not answer at rest");
        }
        for instance in &self.instances {
            let Some((cache, _)) = instance.cache() else {
                self.ledger.fail(format!("{}: no cache at rest", instance.name));
                continue;
            };
            self.ask_the_server(instance, &cache);
            self.check(instance, &cache);
        }
        Faults::count_moods(&self.ledger, &self.pools);
        let (begun, ended) = (
            self.ledger.get(Count::LoadsBegun) + self.ledger.get(Count::StoresBegun),
            self.ledger.get(Count::Ended),
        );
        if begun != ended {
            self.ledger.fail(format!("{begun} chunks began, {ended} ended"));
        }
        for (number, pool) in self.pools.iter().enumerate() {
            if pool.missing() > 0 {
                self.ledger.fail(format!("{} blocks of engine {number} are missing", pool.missing()));
            }
        }
        let taken = Taken::now();
        self.ledger.is_paused.store(false, Ordering::SeqCst);
        Some(taken)
    }

    /// Until the server has answered over each connection: then all of them are there, as at every rest.
    fn ask_the_server(&self, instance: &Instance, cache: &Cache) {
        let answers = |cache: &Cache| {
            let requests = cache.stats().control.remote.map(|remote| remote.client.requests);
            requests.map_or((0, 0), |requests| (requests.ok, requests.requests))
        };
        let mut number = self.ledger.now_ms();
        let mut before = answers(cache);
        self.wait_for(&format!("{} to be answered by the server", instance.name), ANSWER_MAX, || {
            number += 1;
            // Nobody has asked for this before.
            let key = Namespace::of_model("a question").chunk_keys_from_blocks(&[number.to_le_bytes()], 1);
            let key = key.unwrap_or_default();
            drop(cache.lookup_within(&key, Duration::from_millis(500)));
            let now = answers(cache);
            let (ok, all) = (now.0 - before.0, now.1 - before.1);
            if ok < all {
                before = now;
            }
            ok == all && ok >= ANSWERS
        });
    }

    fn check(&self, instance: &Instance, cache: &Arc<Cache>) {
        let what_is_left = || {
            let stats = cache.stats();
            let (control, mover) = (&stats.control, &stats.mover);
            let memory = control.memory.unwrap_or_default();
            let mut left = vec![
                ("slots", u64::from(mover.staging.in_use)),
                ("pins and plans on disk", control.disk.open_tickets),
                ("pins and plans in memory", memory.open_tickets),
                ("chunks on their way out of memory", memory.outgoing),
                ("queued stores", mover.queued_stores),
                ("queued loads", mover.queued_loads),
                ("queued copies", mover.queued_copies),
            ];
            if let Some(remote) = &control.remote {
                left.push(("plans of the server", remote.open_tickets));
                left.push(("chunks on their way to the server", remote.queued));
                left.push(("requests to the server", remote.client.requests.in_flight));
            }
            left.retain(|(_, count)| *count > 0);
            left
        };
        let deadline = Instant::now() + SETTLE_MAX;
        while !what_is_left().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        for (what, count) in what_is_left() {
            self.ledger.fail(format!("{}: at rest {count} {what} are left", instance.name));
        }
        // The keeper may be at a checkpoint; then the files are read once more.
        let mut wrong = Some("the journal cannot be read".to_owned());
        let deadline = Instant::now() + SETTLE_MAX;
        while wrong.is_some() && Instant::now() < deadline {
            wrong = space_is_wrong(instance, cache);
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(what) = wrong {
            self.ledger.fail(format!("{}: at rest {what}", instance.name));
        }
    }

    /// Whether it became so in time; a failure if not.
    fn wait_for(&self, what: &str, most: Duration, mut is_so: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + most;
        while !is_so() {
            self.look_at_beats();
            if self.ledger.is_over() {
                return false;
            }
            if Instant::now() > deadline {
                self.ledger.fail(format!("waited {most:?} for {what}"));
                self.ledger.is_over.store(true, Ordering::SeqCst);
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

/// What is wrong with the blocks in use: they are those of the chunks there are, and each is one chunk's.
fn space_is_wrong(instance: &Instance, cache: &Cache) -> Option<String> {
    let Some(records) = instance.records() else { return Some("the journal cannot be read".into()) };
    let disk = cache.stats().control.disk;
    let mut extents: Vec<(u64, u64)> = records
        .iter()
        .flat_map(|record| record.extents.as_slice().to_vec())
        .map(|extent| (extent.byte_start(), extent.byte_len() as u64))
        .collect();
    extents.sort_unstable();
    let bytes: u64 = extents.iter().map(|(_, len)| len).sum();
    if (disk.chunks, disk.used_bytes) != (records.len() as u64, bytes) {
        let (chunks, used) = (disk.chunks, disk.used_bytes / BLOCK_BYTES as u64);
        let (on_disk, blocks) = (records.len(), bytes / BLOCK_BYTES as u64);
        return Some(format!(
            "{used} blocks for {chunks} chunks, where the journal has {blocks} for {on_disk}"
        ));
    }
    let came = instance.chunks_at_start() + disk.stored;
    let went = disk.evictions + disk.corrupt + disk.io_failed;
    if came != disk.chunks + went {
        return Some(format!("{} chunks, where {came} came and {went} went", disk.chunks));
    }
    let shared = extents.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0);
    shared.map(|pair| format!("two chunks share the blocks {pair:?}"))
}
