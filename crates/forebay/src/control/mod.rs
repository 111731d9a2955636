//! The control plane: decides over all tiers, for as many threads as like.
//!
//! Promises: a lookup says how much of a prompt is there, tier by tier in the order memory, disk, remote, each going on
//! where the one before it ends; what it found on disk stays where it is until the hit is dropped; an outcome is taken
//! once. It never touches a chunk's bytes: a [`crate::mover::Mover`], of this process or another one, does. No call waits
//! for a device or for the remote store, except that what has to be in the journal is waited for, a few seconds at most
//! (`disk/mod.rs`), and that [`ControlPlane::lookup_within`] waits as long as it is told to.
//!
//! A mode is a capacity: without a memory tier there is no `memory` part, without a disk no `disk` part, without a
//! remote store no `remote` part, and nothing else differs.
//!
//! What is stored goes to the first of its tiers, and from there to the next ([`ControlPlane::next_copy`]): so engine memory
//! is waited for by the fastest of them only.

mod disk;
mod lookup;
pub(crate) mod memory;
mod plans;
mod remote;
mod sightings;
mod stats;
mod stepped;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use disk::DiskPlane;
pub use disk::pins::{Pinned, Pinning};
pub use lookup::{Hit, Lookup};
use lookup::{Pins, Unsure};
use memory::{MemoryPlane, Outgoing};
use plans::TierStore;
pub use plans::{CopyPlan, CopyStep, LoadPlan, Onward, StorePlan};
pub use remote::RemoteStats;
use remote::{Front, RemotePlane};
use sightings::Sightings;
pub use stats::{ControlStats, DiskStats, MemoryStats, NamespaceStats};
use stats::{Counters, add, read};

use crate::catalog::{ChunkRecord, NamespaceId, Plan, Ticket};
use crate::config::{Config, StoreTo};
use crate::error::{Error, ErrorKind, Result};
use crate::events::{Announcer, Events};
use crate::key::{ChunkKey, Namespace};
use crate::outcome::{LoadStatus, Reason, Tier, TierEnd};
use crate::sync::now;
use crate::tier::remote::client::Client;
use crate::tier::remote::names::Names;

/// See the module's documentation.
pub struct ControlPlane {
    memory: Option<MemoryPlane>,
    disk: Option<DiskPlane>,
    remote: Option<RemotePlane>,
    store_to: StoreTo,
    sightings: Sightings,
    counters: Counters,
    announcer: Announcer,
}

impl ControlPlane {
    /// Opens the tiers that the configuration names, for chunks of up to `chunk_bytes` payload bytes. `namespace` is
    /// noted in the home directory for people to read.
    ///
    /// # Errors
    /// When the configuration does not fit or a directory cannot be used: see
    /// [`Directory::open`](crate::tier::disk::directory::Directory::open). That a remote store does not answer is no
    /// error.
    pub fn open(config: &Config, chunk_bytes: u64, namespace: Option<&Namespace>) -> Result<Self> {
        Self::open_with(config, chunk_bytes, namespace, Client::of(config)?)
    }

    /// As [`Self::open`], with a client of the remote store that a mover in this process has too.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        config: &Config,
        chunk_bytes: u64,
        namespace: Option<&Namespace>,
        client: Option<Arc<Client>>,
    ) -> Result<Self> {
        let names = Names::of(config.staging_shape(chunk_bytes)?.slot_bytes);
        let has_disk = !config.local_disk.is_empty();
        let announcer = Announcer::default();
        let memory = MemoryPlane::of(config, chunk_bytes, &announcer);
        if memory.is_none() && config.local_cpu {
            tracing::warn!(
                "local_cpu is true, but max_local_cpu_size leaves no room for a chunk of {chunk_bytes} bytes beside the \
                 staging buffer: there is no memory tier"
            );
        }
        Ok(Self {
            memory,
            disk: has_disk
                .then(|| DiskPlane::open(config, chunk_bytes, namespace, &announcer))
                .transpose()?,
            remote: client.map(|client| RemotePlane::new(config, names, client, announcer.clone())),
            store_to: config.store_to,
            sightings: Sightings::new(config.store_after),
            counters: Counters::default(),
            announcer,
        })
    }

    /// What comes onto a tier and what leaves it from now on.
    pub fn events(&self) -> Events {
        self.announcer.subscribe()
    }

    /// How much of this prompt is there. What is on disk is pinned until the hit is dropped.
    pub fn lookup(&self, keys: &[ChunkKey]) -> Lookup {
        self.find(keys, false).0
    }

    /// As [`Self::lookup`], from what is known now: the remote store is not asked.
    pub fn lookup_known(&self, keys: &[ChunkKey]) -> Lookup {
        self.find(keys, true).0
    }

    /// As [`Self::lookup`], and waits for the remote store's answer for at most `patience`; after it, what is known then
    /// is the answer.
    pub fn lookup_within(&self, keys: &[ChunkKey], patience: Duration) -> Lookup {
        let deadline = now().checked_add(patience);
        loop {
            let (found, is_asked) = self.find(keys, false);
            let (true, Some(remote)) = (is_asked, &self.remote) else { return found };
            let now = now();
            let deadline = deadline.unwrap_or(now + patience.min(Duration::from_hours(1)));
            if now >= deadline {
                return self.lookup_known(keys);
            }
            remote.wait_for_answer(deadline);
        }
    }

    /// The answer, and whether the remote store is being asked for a better one.
    fn find(&self, keys: &[ChunkKey], settle: bool) -> (Lookup, bool) {
        let began = now();
        let (found, is_asked) = self.find_in_tiers(keys, settle);
        let counters = &self.counters;
        counters.lookup_times.note(now() - began);
        add(&counters.lookups, 1);
        let counter = match &found {
            Lookup::Hit(_) => &counters.hits,
            Lookup::Miss => &counters.misses,
            Lookup::Pending => &counters.pending,
            Lookup::Busy => &counters.busy_lookups,
        };
        add(counter, 1);
        if matches!(found, Lookup::Hit(_) | Lookup::Miss) {
            // Those of the others are asked for again.
            add(&counters.lookup_chunks, keys.len() as u64);
            add(&counters.hit_chunks, found.chunks() as u64);
        }
        (found, is_asked)
    }

    /// Each tier goes on where the one before it ends, until none of them does.
    fn find_in_tiers(&self, keys: &[ChunkKey], settle: bool) -> (Lookup, bool) {
        let mut pins = Pins::default();
        let mut unsure = Unsure::default();
        let mut chunks = 0;
        loop {
            let before = chunks;
            if let Some(memory) = &self.memory {
                chunks += memory.lookup(&keys[chunks..]).note(&mut pins.memory, &mut unsure);
            }
            if let Some(disk) = self.disk.as_ref().filter(|_| chunks < keys.len()) {
                chunks += disk.lookup(&keys[chunks..]).note(&mut pins.disk, &mut unsure);
            }
            if let Some(remote) = self.remote.as_ref().filter(|_| chunks < keys.len()) {
                match remote.front(&keys[chunks..], settle) {
                    Front::Known(more) => chunks += more,
                    Front::Asked => return (Lookup::Pending, true),
                }
            }
            let is_only_tier = self.memory.is_none() && self.remote.is_none();
            if chunks == keys.len() || chunks == before || is_only_tier {
                break;
            }
        }
        let found = match chunks {
            0 if unsure.is_written => Lookup::Pending,
            0 if unsure.is_busy => Lookup::Busy,
            0 => Lookup::Miss,
            _ => Lookup::Hit(Hit { chunks, _pins: pins }),
        };
        (found, false)
    }

    /// Forgets what is known of the absence of a chunk in the remote store: it is on its way there, and is to be asked
    /// for again.
    pub fn ask_again(&self, key: &ChunkKey) {
        if let Some(remote) = &self.remote {
            remote.ask_again(key);
        }
    }

    /// Plans the store of consecutive chunks of a prompt (key and payload bytes each); `parent` is the chunk before
    /// the first of them. Every [`StorePlan::Write`] must be answered by one [`Self::finish_store`].
    pub fn plan_store(&self, chunks: &[(ChunkKey, u32)], parent: Option<ChunkKey>) -> Vec<StorePlan> {
        let enough = self.sightings.count(chunks.iter().map(|(key, _)| *key));
        let (chunks, seldom) = chunks.split_at(enough);
        let mut plans = match &self.memory {
            Some(memory) if self.store_to.memory => self.plan_store_in(memory, chunks, parent),
            _ => self.plan_store_behind(chunks, parent),
        };
        plans.extend(seldom.iter().map(|_| StorePlan::Refused(Reason::Seldom)));
        plans
    }

    fn plan_store_in(
        &self,
        memory: &MemoryPlane,
        chunks: &[(ChunkKey, u32)],
        parent: Option<ChunkKey>,
    ) -> Vec<StorePlan> {
        let mut before = parent;
        let plan = |(decision, &(key, length)): (TierStore, &(ChunkKey, u32))| {
            let parent = before.replace(key);
            match decision {
                TierStore::Write(plan) => StorePlan::Write { plan, not_on_disk: None },
                TierStore::Present => StorePlan::Present(self.present_on(Tier::Memory, key, length, parent)),
                TierStore::InFlight(ticket) => StorePlan::InFlight(ticket),
                TierStore::Refused(_) => self
                    .plan_store_behind(&[(key, length)], parent)
                    .pop()
                    .unwrap_or(StorePlan::Refused(Reason::Full)),
            }
        };
        memory.plan_store(chunks, parent).into_iter().zip(chunks).map(plan).collect()
    }

    /// On the tiers behind memory.
    fn plan_store_behind(&self, chunks: &[(ChunkKey, u32)], parent: Option<ChunkKey>) -> Vec<StorePlan> {
        let Some(disk) = self.disk.as_ref().filter(|_| self.store_to.disk) else {
            return chunks.iter().map(|&(key, length)| self.plan_remote_store(key, length, None)).collect();
        };
        let plan = |(&(key, length), plan): (&(ChunkKey, u32), TierStore)| match plan {
            TierStore::Write(plan) => StorePlan::Write { plan, not_on_disk: None },
            TierStore::Present => StorePlan::Present(self.present_on(Tier::Disk, key, length, None)),
            TierStore::InFlight(ticket) => StorePlan::InFlight(ticket),
            TierStore::Refused(reason @ (Reason::Full | Reason::Journal)) => {
                self.plan_remote_store(key, length, Some(reason))
            }
            TierStore::Refused(reason) => {
                add(&self.counters.busy, u64::from(reason == Reason::Busy));
                StorePlan::Refused(reason)
            }
        };
        chunks.iter().zip(disk.plan_store(chunks, parent)).map(plan).collect()
    }

    /// Straight to the remote store, since there is no disk or it does not take the chunk.
    fn plan_remote_store(&self, key: ChunkKey, length: u32, not_on_disk: Option<Reason>) -> StorePlan {
        let Some(remote) = self.remote.as_ref().filter(|_| self.store_to.remote) else {
            return StorePlan::Refused(not_on_disk.unwrap_or(Reason::Full));
        };
        match remote.plan_store(key, length) {
            TierStore::Write(plan) => StorePlan::Write { plan, not_on_disk },
            TierStore::Present => {
                let refused = not_on_disk.map(|reason| TierEnd::refused(Tier::Disk, reason));
                let ended = refused.into_iter().chain([TierEnd::present(Tier::Remote)]).collect();
                StorePlan::Present(Onward { ended, queued: None })
            }
            TierStore::InFlight(ticket) => StorePlan::InFlight(ticket),
            TierStore::Refused(reason) => StorePlan::Refused(not_on_disk.unwrap_or(reason)),
        }
    }

    /// The tier that chunks go to from memory.
    fn behind_memory(&self) -> Option<Tier> {
        if self.store_to.disk && self.disk.is_some() {
            Some(Tier::Disk)
        } else if self.store_to.remote && self.remote.is_some() {
            Some(Tier::Remote)
        } else {
            None
        }
    }

    /// What becomes of a chunk that is on `tier` on those behind it: sees to it that it gets there.
    pub fn onward_of(&self, tier: Tier, key: ChunkKey, length: u32, parent: Option<ChunkKey>) -> Onward {
        match tier {
            Tier::Remote => Onward::default(),
            Tier::Disk => {
                let remote = self.remote.as_ref().filter(|_| self.store_to.remote);
                remote.map_or_else(Onward::default, |remote| remote.offer(key, length))
            }
            Tier::Memory => {
                let (Some(memory), Some(to)) = (&self.memory, self.behind_memory()) else {
                    return Onward::default();
                };
                let is_there = match to {
                    Tier::Disk => self.disk.as_ref().is_some_and(|disk| disk.contains(&key)),
                    _ => self.is_in_remote(&key),
                };
                if is_there {
                    self.present_on(to, key, length, parent)
                } else if memory.send(&key, parent, to) {
                    Onward::queued(to)
                } else {
                    Onward::ended(TierEnd::refused(to, Reason::Busy))
                }
            }
        }
    }

    fn present_on(&self, tier: Tier, key: ChunkKey, length: u32, parent: Option<ChunkKey>) -> Onward {
        let Onward { ended, queued } = self.onward_of(tier, key, length, parent);
        Onward { ended: [vec![TierEnd::present(tier)], ended].concat(), queued }
    }

    /// Takes a mover's word on a write: with `written` the chunk is committed and found from now on. Says what becomes of
    /// it on the tiers behind.
    ///
    /// # Errors
    /// Why it is not committed though it was written: [`Reason::Busy`] when the file system of home takes its time (then it
    /// may be found later, and goes on to the tiers behind when it is stored again); [`Reason::Unknown`] when the ticket is
    /// not that of an open write.
    pub fn finish_store(&self, ticket: Ticket, written: bool) -> Result<Onward, Reason> {
        match ticket.tier() {
            Tier::Memory => {
                let memory = self.memory.as_ref().ok_or(Reason::Unknown)?;
                let onward = self.behind_memory().filter(|_| written);
                let sent = memory.finish_store(ticket, written, onward).ok_or(Reason::Unknown)?;
                Ok(match (onward, sent) {
                    (Some(to), true) => Onward::queued(to),
                    (Some(to), false) => Onward::ended(TierEnd::refused(to, Reason::Closed)),
                    (None, _) => Onward::default(),
                })
            }
            Tier::Disk => {
                let disk = self.disk.as_ref().ok_or(Reason::Unknown)?;
                let ChunkRecord { key, length, .. } = disk.finish_store(ticket, written)?;
                Ok(if written { self.onward_of(Tier::Disk, key, length, None) } else { Onward::default() })
            }
            Tier::Remote => {
                let finished = self.remote.as_ref().and_then(|remote| remote.finish_store(ticket, written));
                finished.map(|()| Onward::default()).ok_or(Reason::Unknown)
            }
        }
    }

    /// What is next among the chunks that wait to be copied, if it is time for one.
    pub fn next_copy(&self) -> Option<CopyStep> {
        if let Some(memory) = &self.memory
            && let Some(outgoing) = memory.next_outgoing()
        {
            return Some(self.carry(memory, outgoing));
        }
        let (disk, remote) = (self.disk.as_ref()?, self.remote.as_ref()?);
        let to = remote.next_copy()?;
        let key = to.record.key;
        let reason = match disk.plan_load(&[key]).pop() {
            Some(Ok(from)) if from.record.length == to.record.length => {
                return Some(CopyStep::Copy(CopyPlan { from, to }));
            }
            Some(Ok(from)) => {
                disk.finish_load(from.ticket, LoadStatus::Failed, None);
                Reason::NotThere
            }
            Some(Err(reason)) => reason,
            None => Reason::NotThere,
        };
        remote.finish_store(to.ticket, false);
        let end = TierEnd::of(Tier::Remote, Some(&reason));
        Some(CopyStep::Ended { key, end, onward: Onward::default(), ticket: Some(to.ticket) })
    }

    /// Takes a chunk from memory to the tier behind.
    fn carry(&self, memory: &MemoryPlane, outgoing: Outgoing) -> CopyStep {
        let ChunkRecord { key, length, .. } = outgoing.from.record;
        let to = outgoing.to;
        let disk = self.disk.as_ref().filter(|_| to == Tier::Disk);
        let remote = self.remote.as_ref().filter(|_| to == Tier::Remote);
        let planned = disk
            .and_then(|disk| disk.plan_store(&[(key, length)], outgoing.parent).pop())
            .or_else(|| remote.map(|remote| remote.plan_store(key, length)));
        let end = match planned {
            Some(TierStore::Write(plan)) => {
                return CopyStep::Copy(CopyPlan { from: outgoing.from, to: plan });
            }
            Some(TierStore::Present) => TierEnd::present(to),
            Some(TierStore::InFlight(_)) => TierEnd::refused(to, Reason::InFlight),
            Some(TierStore::Refused(reason)) => TierEnd::refused(to, reason),
            None => TierEnd::refused(to, Reason::Closed),
        };
        let has_remote = self.store_to.remote && self.remote.is_some();
        if to == Tier::Disk && matches!(end.reason, Some(Reason::Full | Reason::Journal)) && has_remote {
            memory.send_elsewhere(outgoing, Tier::Remote);
            return CopyStep::Ended { key, end, onward: Onward::queued(Tier::Remote), ticket: None };
        }
        let onward = match end.reason {
            None => self.onward_of(to, key, length, outgoing.parent),
            Some(_) => Onward::default(),
        };
        memory.settle(outgoing.from.ticket, &key, to);
        CopyStep::Ended { key, end, onward, ticket: None }
    }

    /// Takes a mover's word on a copy; says how it ended, and what becomes of the chunk on the tiers behind. A chunk that
    /// could not be read from disk is dropped there. `None` when the plans are not those of an open copy.
    pub fn finish_copy(
        &self,
        from: &Plan,
        to: &Plan,
        verdict: Result<(), Reason>,
    ) -> Option<(TierEnd, Onward)> {
        let (key, tier) = (to.record.key, to.record.tier());
        let ended = self.finish_store(to.ticket, verdict.is_ok());
        let released = match (from.ticket.tier(), &verdict) {
            (Tier::Memory, _) => self.memory.as_ref()?.settle(from.ticket, &key, tier),
            (Tier::Disk, Err(reason @ Reason::Corrupt(_))) => {
                self.disk.as_ref()?.finish_load(from.ticket, LoadStatus::Miss, Some(reason))
            }
            (Tier::Disk, Err(reason @ Reason::Io(_))) => {
                self.disk.as_ref()?.finish_load(from.ticket, LoadStatus::Failed, Some(reason))
            }
            (Tier::Disk, _) => self.disk.as_ref()?.finish_load(from.ticket, LoadStatus::Loaded, None),
            (Tier::Remote, _) => false,
        };
        if !released || ended == Err(Reason::Unknown) {
            return None;
        }
        match verdict.and(ended) {
            Ok(onward) => Some((TierEnd::of(tier, None), onward)),
            Err(reason) => Some((TierEnd::of(tier, Some(&reason)), Onward::default())),
        }
    }

    /// Whether a chunk waits to be copied to a tier, or is being.
    pub fn is_being_copied(&self, key: &ChunkKey, to: Tier) -> bool {
        self.memory.as_ref().is_some_and(|memory| memory.is_outgoing(key, to))
            || (to == Tier::Remote && self.remote.as_ref().is_some_and(|remote| remote.is_being_copied(key)))
    }

    /// Whether chunks wait to be copied, or are being.
    pub fn has_copies(&self) -> bool {
        self.memory.as_ref().is_some_and(MemoryPlane::has_outgoing)
            || self.remote.as_ref().is_some_and(RemotePlane::has_copies)
    }

    /// Whether the write under this ticket is still to be told.
    pub fn is_writing(&self, ticket: Ticket) -> bool {
        match ticket.tier() {
            Tier::Memory => self.memory.as_ref().is_some_and(|memory| memory.is_writing(ticket)),
            Tier::Disk => self.disk.as_ref().is_some_and(|disk| disk.is_writing(ticket)),
            Tier::Remote => self.remote.as_ref().is_some_and(|remote| remote.is_writing(ticket)),
        }
    }

    /// Whether a chunk is on a tier now, as far as is known. Does not count as use.
    pub fn is_on(&self, tier: Tier, key: &ChunkKey) -> bool {
        match tier {
            Tier::Memory => self.memory.as_ref().is_some_and(|memory| memory.contains(key)),
            Tier::Disk => self.disk.as_ref().is_some_and(|disk| disk.contains(key)),
            Tier::Remote => self.is_in_remote(key),
        }
    }

    fn is_in_remote(&self, key: &ChunkKey) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.contains(key))
    }

    /// Plans a load of chunks of a prompt (key and payload bytes each): each that is there is open until its
    /// [`Self::finish_load`], and pinned if it is in memory or on disk. An error is why a chunk is not to be read:
    /// [`Reason::NotThere`] is a miss, [`Reason::Busy`] and [`Reason::Closed`] are not.
    pub fn plan_load(&self, chunks: &[(ChunkKey, u32)]) -> Vec<Result<LoadPlan, Reason>> {
        let mut before = None;
        let plan = |&(key, length): &(ChunkKey, u32)| {
            let parent = before.replace(key);
            if let Some(read) = self.memory.as_ref().and_then(|memory| memory.plan_load(&key)) {
                return Ok(LoadPlan { read, write_back: None });
            }
            let read = match self.disk.as_ref().and_then(|disk| disk.plan_load(&[key]).pop()) {
                None | Some(Err(Reason::NotThere)) => {
                    self.remote.as_ref().ok_or(Reason::NotThere)?.plan_load(key, length)?
                }
                Some(planned) => planned?,
            };
            let memory = self.memory.as_ref().filter(|_| self.store_to.memory);
            let length = read.record.length;
            let write_back = memory.and_then(|memory| memory.plan_write_back(key, length, parent));
            Ok(LoadPlan { read, write_back })
        };
        chunks.iter().map(plan).collect()
    }

    /// Takes a mover's word on a read. A chunk that was not what was stored, or could not be read, is dropped: it
    /// would fail again. `false` when the ticket is not that of an open read.
    pub fn finish_load(&self, ticket: Ticket, status: LoadStatus, reason: Option<&Reason>) -> bool {
        match ticket.tier() {
            Tier::Memory => self.memory.as_ref().is_some_and(|memory| memory.finish_load(ticket, status)),
            Tier::Disk => self.disk.as_ref().is_some_and(|disk| disk.finish_load(ticket, status, reason)),
            Tier::Remote => {
                self.remote.as_ref().is_some_and(|remote| remote.finish_load(ticket, status, reason))
            }
        }
    }

    /// Takes a mover's word on a write-back, once its load has ended. `false` when the ticket is not that of an open one.
    pub fn finish_write_back(&self, ticket: Ticket, loaded: bool) -> bool {
        self.memory.as_ref().is_some_and(|memory| memory.finish_store(ticket, loaded, None).is_some())
    }

    /// Takes all chunks out of memory and disk, or those of a namespace; says how many copies that were. Loads that are under
    /// way end as they would have; what is being written or on its way from tier to tier stays, and so may what is committed
    /// meanwhile. A remote store is others' too, and left alone.
    pub fn clear(&self, namespace: Option<NamespaceId>) -> u64 {
        let memory = self.memory.as_ref().map(|memory| memory.clear(namespace));
        let disk = self.disk.as_ref().map(|disk| disk.clear(namespace));
        memory.unwrap_or_default() + disk.unwrap_or_default()
    }

    /// Keeps chunks that are on disk from being evicted until they are unpinned, each together with those it continues, as
    /// long as no more than half of the capacity is pinned; says how many are. They are cleared and dropped as all others,
    /// and what is stored later is not pinned. A restart knows of no pins.
    ///
    /// # Errors
    /// Without a disk, and once it is closed.
    pub fn pin(&self, which: Pinning<'_>) -> Result<Pinned> {
        self.disk()?.pin(which)
    }

    /// Lets chunks be evicted again, but for those that others which are pinned continue, and not what they continue
    /// themselves; says how many were pinned.
    ///
    /// # Errors
    /// As of [`Self::pin`].
    pub fn unpin(&self, which: Pinning<'_>) -> Result<u64> {
        self.disk()?.unpin(which)
    }

    fn disk(&self) -> Result<&DiskPlane> {
        let none = || Error::new(ErrorKind::Argument, "there is no disk tier (local_disk)");
        self.disk.as_ref().ok_or_else(none)
    }

    /// Gives the disk tier so many bytes, all files of all directories together, as `max_local_disk_size` does at a start,
    /// and until the next start. What does not fit any more is evicted, in the policy's order and never what is in use. Says
    /// how many bytes chunks may take then. There are never more chunks than twice as many of the largest as fitted at
    /// the start, and a thousand.
    ///
    /// # Errors
    /// Without a disk; for less than two chunks on a drive, or than twice what is pinned; when a file system has no room
    /// above `disk_min_free_size`; while the capacity is being changed already; once it is closed. Then nothing has changed.
    /// When what is left is in use, or the directory cannot be written: then the capacity is what it had come to, see
    /// [`Self::stats`].
    pub fn set_disk_capacity(&self, capacity_bytes: u64) -> Result<u64> {
        self.disk()?.set_capacity(capacity_bytes)
    }

    /// Figures.
    pub fn stats(&self) -> ControlStats {
        let counters = &self.counters;
        ControlStats {
            lookups: read(&counters.lookups),
            hits: read(&counters.hits),
            misses: read(&counters.misses),
            pending: read(&counters.pending),
            busy: read(&counters.busy) + read(&counters.busy_lookups),
            busy_lookups: read(&counters.busy_lookups),
            lookup_chunks: read(&counters.lookup_chunks),
            hit_chunks: read(&counters.hit_chunks),
            lookup_times: counters.lookup_times.times(),
            dead_threads: self.dead_threads(),
            memory: self.memory.as_ref().map(MemoryPlane::stats),
            disk: self.disk.as_ref().map(DiskPlane::stats).unwrap_or_default(),
            remote: self.remote.as_ref().map(RemotePlane::stats),
        }
    }

    fn dead_threads(&self) -> Vec<String> {
        let disk = self.disk.as_ref().map(DiskPlane::dead_threads);
        let remote = self.remote.as_ref().map(RemotePlane::dead_threads);
        disk.into_iter().chain(remote).flatten().collect()
    }

    /// The tier that a chunk is stored to first.
    pub fn first_tier(&self) -> Tier {
        if self.store_to.memory && self.memory.is_some() {
            Tier::Memory
        } else {
            self.behind_memory().unwrap_or(Tier::Disk)
        }
    }

    /// The data file of each drive.
    pub fn data_paths(&self) -> &[(u8, PathBuf)] {
        self.disk.as_ref().map_or(&[], DiskPlane::data_paths)
    }

    /// Lets no more chunks be copied, and forgets those that wait.
    pub fn stop_copies(&self) {
        self.memory.iter().for_each(MemoryPlane::stop_sending);
        self.remote.iter().for_each(RemotePlane::stop_copies);
    }

    /// Takes no more plans, writes a checkpoint, ends the threads and gives the directories back. Outcomes of open plans
    /// are still taken; while a write is open the directories stay this one's, until the last who uses them is gone.
    pub fn close(&self) {
        self.memory.iter().for_each(MemoryPlane::close);
        self.remote.iter().for_each(RemotePlane::close);
        self.disk.iter().for_each(DiskPlane::close);
        self.announcer.close();
    }
}
