//! The memory tier's part of the control plane: a catalog without a journal, and the chunks that go on from it.
//!
//! Promises: as the disk's, but that all of it is gone with the process. A chunk that is to go on to disk or to the remote
//! store stays pinned until it is there or has failed to get there: so what was stored is not lost to an eviction, and
//! when memory is full of such chunks the next ones go straight to the tier behind.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::disk::now_ms;
use super::lookup::TierLookup;
use super::plans::TierStore;
use super::stats::MemoryStats;
use crate::catalog::{
    BLOCK_BYTES, Catalog, DriveBlocks, Limits, LoadDecision, MEMORY, NamespaceId, Plan, StoreDecision, Ticket,
};
use crate::config::Config;
use crate::events::Announcer;
use crate::key::ChunkKey;
use crate::outcome::{LoadStatus, Reason, Tier};
use crate::sync::Mutex;

/// Tickets that may be open at once.
const TICKETS_MAX: u32 = 1 << 20;
/// Chunks that are carried on at once; few enough in a model that some wait in line.
pub(crate) const ONWARD_MAX: usize = if cfg!(models) { 2 } else { 8 };

/// See the module's documentation.
pub(super) struct MemoryPlane {
    state: Arc<Mutex<State>>,
}

struct State {
    catalog: Catalog,
    closed: bool,
    /// Chunks still go on from here.
    sends: bool,
    /// Chunks that wait to be carried on, in order, and what of them is not over.
    outbox: VecDeque<Outgoing>,
    unsettled: HashSet<(ChunkKey, Tier)>,
    /// The parents of chunks that are being written, for the tier behind.
    parents: HashMap<Ticket, ChunkKey>,
    carried: usize,
}

/// A chunk that is to go on, pinned.
pub(super) struct Outgoing {
    /// To read it.
    pub(super) from: Plan,
    /// The chunk before it in its prompt.
    pub(super) parent: Option<ChunkKey>,
    /// Where to.
    pub(super) to: Tier,
}

/// Keeps chunks from being evicted.
pub(super) struct Pin {
    ticket: Ticket,
    state: Arc<Mutex<State>>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.state.lock().catalog.release(self.ticket);
    }
}

impl State {
    fn send(&mut self, key: &ChunkKey, parent: Option<ChunkKey>, to: Tier) -> bool {
        if !self.sends || self.unsettled.contains(&(*key, to)) {
            return self.sends;
        }
        let Some(LoadDecision::Read(plan)) = self.catalog.plan_load(&[*key]).pop() else { return false };
        self.unsettled.insert((*key, to));
        self.outbox.push_back(Outgoing { from: of_memory(plan), parent, to });
        true
    }
}

impl MemoryPlane {
    /// The memory tier of a configuration, if it has one.
    pub(super) fn of(config: &Config, chunk_bytes: u64, announcer: &Announcer) -> Option<Self> {
        let blocks = u32::try_from(config.memory_tier_bytes(chunk_bytes) / BLOCK_BYTES as u64).ok()?;
        if blocks == 0 {
            return None;
        }
        let limits =
            Limits { blocks: DriveBlocks::from(blocks), chunks_max: u32::MAX - 1, tickets_max: TICKETS_MAX };
        let mut catalog = Catalog::of_memory(limits, config.cache_policy);
        catalog.announce_by(announcer.clone(), Tier::Memory);
        let state = State {
            catalog,
            closed: false,
            sends: true,
            outbox: VecDeque::new(),
            unsettled: HashSet::new(),
            parents: HashMap::new(),
            carried: 0,
        };
        Some(Self { state: Arc::new(Mutex::new(state)) })
    }

    pub(super) fn lookup(&self, keys: &[ChunkKey]) -> TierLookup<Pin> {
        let mut state = self.state.lock();
        if state.closed {
            return TierLookup::Busy;
        }
        TierLookup::of(state.catalog.lookup(keys), |ticket| Pin { ticket, state: Arc::clone(&self.state) })
    }

    /// Plans the store of consecutive chunks, as the disk does.
    pub(super) fn plan_store(&self, chunks: &[(ChunkKey, u32)], parent: Option<ChunkKey>) -> Vec<TierStore> {
        let mut state = self.state.lock();
        if state.closed {
            return chunks.iter().map(|_| TierStore::Refused(Reason::Closed)).collect();
        }
        let decisions = state.catalog.plan_store(chunks, parent, now_ms(), &mut Vec::new());
        let mut before = parent;
        let decide = |(decision, (key, _)): (StoreDecision, &(ChunkKey, u32))| {
            let parent = before.replace(*key);
            match decision {
                StoreDecision::Write(plan) => {
                    state.parents.extend(parent.map(|parent| (plan.ticket, parent)));
                    TierStore::Write(of_memory(plan))
                }
                decision => decision.into(),
            }
        };
        decisions.into_iter().zip(chunks).map(decide).collect()
    }

    /// Plans the write-back of a chunk that is being loaded from another tier.
    pub(super) fn plan_write_back(
        &self,
        key: ChunkKey,
        length: u32,
        parent: Option<ChunkKey>,
    ) -> Option<Plan> {
        match self.plan_store(&[(key, length)], parent).pop() {
            Some(TierStore::Write(plan)) => Some(plan),
            _ => None,
        }
    }

    pub(super) fn plan_load(&self, key: &ChunkKey) -> Option<Plan> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        match state.catalog.plan_load(&[*key]).pop() {
            Some(LoadDecision::Read(plan)) => Some(of_memory(plan)),
            _ => None,
        }
    }

    /// The write under this ticket is over; what was written goes on to tier `onward`, if there is one. Whether it does;
    /// `None` when there is no such write.
    pub(super) fn finish_store(&self, ticket: Ticket, written: bool, onward: Option<Tier>) -> Option<bool> {
        let mut state = self.state.lock();
        let record = state.catalog.writing(ticket)?;
        let parent = state.parents.remove(&ticket);
        if !written {
            state.catalog.abort(ticket);
            return Some(false);
        }
        state.catalog.commit(ticket);
        Some(onward.is_some_and(|to| state.send(&record.key, parent, to)))
    }

    /// Sends a chunk that is here on to another tier, unless it is on its way there; `false` when that cannot be.
    pub(super) fn send(&self, key: &ChunkKey, parent: Option<ChunkKey>, to: Tier) -> bool {
        self.state.lock().send(key, parent, to)
    }

    /// Whether the write under this ticket is open.
    pub(super) fn is_writing(&self, ticket: Ticket) -> bool {
        self.state.lock().catalog.writing(ticket).is_some()
    }

    pub(super) fn contains(&self, key: &ChunkKey) -> bool {
        self.state.lock().catalog.contains(key)
    }

    /// The load under this ticket is over; a chunk that was not there is dropped. `false` when there is no such.
    pub(super) fn finish_load(&self, ticket: Ticket, status: LoadStatus) -> bool {
        let mut state = self.state.lock();
        match status {
            LoadStatus::Miss => state.catalog.discard(ticket).is_some(),
            LoadStatus::Loaded | LoadStatus::Failed => state.catalog.release(ticket),
        }
    }

    /// Takes out all chunks, or those of a namespace; says how many. What is on its way to the tier behind gets there.
    pub(super) fn clear(&self, namespace: Option<NamespaceId>) -> u64 {
        let is_meant = |key: &ChunkKey| namespace.is_none_or(|id| key.namespace_id() == id);
        self.state.lock().catalog.clear_some(0, u32::MAX, is_meant).0.len() as u64
    }

    /// The next chunk whose turn it is to go on. It counts as being carried until [`Self::settle`] or
    /// [`Self::send_elsewhere`].
    pub(super) fn next_outgoing(&self) -> Option<Outgoing> {
        let mut state = self.state.lock();
        if state.carried >= ONWARD_MAX {
            return None;
        }
        let next = state.outbox.pop_front()?;
        state.carried += 1;
        Some(next)
    }

    /// A chunk has come to its end on the tier it was carried to: it may be evicted.
    pub(super) fn settle(&self, from: Ticket, key: &ChunkKey, to: Tier) -> bool {
        let mut state = self.state.lock();
        // The ticket is answered once, whatever else became of the chunk meanwhile.
        let was_open = state.catalog.release(from);
        if was_open {
            state.carried -= 1;
            state.unsettled.remove(&(*key, to));
        }
        was_open
    }

    /// A chunk is to go to another tier than it was carried to, before all others, unless it is on its way there.
    pub(super) fn send_elsewhere(&self, outgoing: Outgoing, to: Tier) {
        let mut state = self.state.lock();
        let key = outgoing.from.record.key;
        state.carried -= 1;
        state.unsettled.remove(&(key, outgoing.to));
        if state.unsettled.insert((key, to)) {
            state.outbox.push_front(Outgoing { to, ..outgoing });
        } else {
            state.catalog.release(outgoing.from.ticket);
        }
    }

    /// Whether a chunk is on its way to this tier.
    pub(super) fn is_outgoing(&self, key: &ChunkKey, to: Tier) -> bool {
        self.state.lock().unsettled.contains(&(*key, to))
    }

    /// Whether chunks are on their way.
    pub(super) fn has_outgoing(&self) -> bool {
        !self.state.lock().unsettled.is_empty()
    }

    pub(super) fn stats(&self) -> MemoryStats {
        let state = self.state.lock();
        let space = state.catalog.space();
        let block = BLOCK_BYTES as u64;
        MemoryStats {
            chunks: state.catalog.len() as u64,
            used_bytes: (space.blocks() - space.free_blocks()) * block,
            capacity_bytes: space.blocks() * block,
            evictions: state.catalog.counts().evicted,
            cleared: state.catalog.counts().cleared,
            outgoing: state.unsettled.len() as u64,
            open_tickets: state.catalog.open_tickets() as u64,
        }
    }

    /// Takes no more plans and lets go of what waits.
    pub(super) fn close(&self) {
        self.stop_sending();
        self.state.lock().closed = true;
    }

    /// Sends nothing on any more, and lets go of what waits.
    pub(super) fn stop_sending(&self) {
        let mut state = self.state.lock();
        state.sends = false;
        for Outgoing { from, to, .. } in std::mem::take(&mut state.outbox) {
            state.unsettled.remove(&(from.record.key, to));
            state.catalog.release(from.ticket);
        }
    }
}

/// A plan of the catalog's only drive as one of the memory tier.
fn of_memory(mut plan: Plan) -> Plan {
    plan.record.drive = MEMORY;
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Value;

    fn plane() -> MemoryPlane {
        let config = Config::from_values([
            ("local_disk", Value::from("/nowhere")),
            ("max_local_disk_size", Value::from(1.0)),
            ("max_local_cpu_size", Value::from(0.125)),
        ]);
        MemoryPlane::of(&config.unwrap().config, 4096, &Announcer::default()).expect("there is room")
    }

    fn store(plane: &MemoryPlane, key: ChunkKey) {
        let Some(TierStore::Write(plan)) = plane.plan_store(&[(key, 4096)], None).pop() else {
            panic!("there is room")
        };
        assert_eq!(plane.finish_store(plan.ticket, true, Some(Tier::Disk)), Some(true));
    }

    #[test]
    fn a_chunk_that_is_sent_on_twice_is_carried_once_and_the_next_ones_too() {
        let plane = plane();
        for number in 0..3 * u8::try_from(ONWARD_MAX).unwrap() {
            let key = ChunkKey::new([number + 1; 32]);
            store(&plane, key);
            // The disk does not take it, so it is to go to the remote store; meanwhile it is stored again.
            plane.send_elsewhere(plane.next_outgoing().expect("its turn"), Tier::Remote);
            assert!(plane.send(&key, None, Tier::Disk));
            assert!(plane.send(&key, None, Tier::Disk), "it is on its way");
            let first = plane.next_outgoing().expect("to the remote store");
            let second = plane.next_outgoing().expect("to the disk");
            assert_eq!((first.to, second.to), (Tier::Remote, Tier::Disk));
            plane.send_elsewhere(second, Tier::Remote);
            assert!(plane.next_outgoing().is_none(), "it is on its way there");
            assert!(plane.settle(first.from.ticket, &key, Tier::Remote));
            assert!(!plane.settle(first.from.ticket, &key, Tier::Remote), "once");
            assert_eq!((plane.stats().outgoing, plane.stats().open_tickets), (0, 0));
        }
    }

    #[test]
    fn what_waits_is_let_go_of_when_nothing_is_sent_any_more() {
        let plane = plane();
        let keys: Vec<ChunkKey> = (1..20).map(|byte| ChunkKey::new([byte; 32])).collect();
        keys.iter().for_each(|key| store(&plane, *key));
        let carried = plane.next_outgoing().expect("its turn");
        plane.stop_sending();
        assert!(plane.next_outgoing().is_none());
        assert!(!plane.send(&keys[3], None, Tier::Disk));
        assert_eq!((plane.stats().outgoing, plane.stats().open_tickets), (1, 1));
        assert!(plane.settle(carried.from.ticket, &carried.from.record.key, Tier::Disk));
        assert_eq!((plane.stats().outgoing, plane.stats().open_tickets), (0, 0));
    }
}
