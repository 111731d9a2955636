//! The remote tier's part of the control plane: what is known to be there, and what is under way.
//!
//! The store is not ours alone, so nothing is decided on its room, and nothing in it is pinned. What it answered is
//! remembered for a while (`remote_remember_s`); what is not known is asked, many chunks at a time, without anybody
//! waiting: a lookup is told that it is being asked.
//!
//! Promises: never says of a chunk that it is there without having seen that within the time that answers are
//! remembered; a load may find it gone all the same, and ends as a miss. Each ticket is answered once. What is
//! remembered, asked for and queued is bounded.
//!
//! Of disk and remote tier together, the remote one is fed from the disk: a chunk is queued when it has been committed
//! there, by its name alone, and copied when its turn comes. So the engine's memory and the staging buffer never wait
//! for a store that is slower than the disk.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::plans::{Onward, TierStore};
use super::stats::{add, read};
use crate::catalog::{ChunkRecord, Plan, Ticket};
use crate::config::Config;
use crate::events::{Announcer, Cause, Change};
use crate::key::ChunkKey;
use crate::outcome::{LoadStatus, Reason, Tier, TierEnd};
use crate::sync::{Condvar, Mutex, now};
use crate::tier::remote::client::{Client, ClientStats};
use crate::tier::remote::names::Names;
use crate::tier::remote::presence::front;

/// Tickets that may be open at once.
const TICKETS_MAX: usize = 1 << 20;
/// Chunks whose presence is remembered, twice as many at most.
const KNOWN_MAX: usize = 1 << 19;
/// Prompts that the store is asked about at once.
const ASKED_MAX: usize = 64;
/// Requests of one lookup at a time.
const LOOKUP_WIDTH: usize = 32;
/// How long a chunk is taken for absent when the store did not answer: it is asked again soon, but not at once.
const UNANSWERED: Duration = Duration::from_secs(1);
/// How long the absence of a chunk is remembered at most: somebody else may be storing it.
const ABSENT: Duration = Duration::from_secs(5);
/// Chunks that are copied at once: one is read while another is sent.
const COPIES_MAX: usize = 4;

/// See the module's documentation.
pub(super) struct RemotePlane {
    shared: Arc<Shared>,
}

struct Shared {
    client: Arc<Client>,
    names: Names,
    remember: Duration,
    queue_max: usize,
    state: Mutex<State>,
    /// Something has become known.
    answered: Condvar,
    counters: Counters,
    announcer: Announcer,
}

#[derive(Default)]
struct State {
    closed: bool,
    /// Chunks are not copied here any more.
    takes_no_copies: bool,
    known: Known,
    /// First chunks of the fronts that are being asked for.
    asked: HashSet<ChunkKey>,
    open: HashMap<Ticket, Open>,
    /// Chunks that are being stored.
    storing: HashMap<ChunkKey, Ticket>,
    tickets: u64,
    /// Chunks on disk that are to be copied, first come first served, and which those are.
    outbox: VecDeque<(ChunkKey, u32)>,
    queued: HashSet<ChunkKey>,
    copying: usize,
}

#[derive(Clone, Copy)]
struct Open {
    key: ChunkKey,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Load,
    Store,
    Copy,
}

#[derive(Default)]
struct Counters {
    lookups: AtomicU64,
    unanswered: AtomicU64,
    stored: AtomicU64,
    store_failed: AtomicU64,
    refused: AtomicU64,
    loaded: AtomicU64,
    load_failed: AtomicU64,
    corrupt: AtomicU64,
    gone: AtomicU64,
}

/// Figures of the remote tier.
#[derive(Debug, Clone)]
pub struct RemoteStats {
    /// Fronts of prompts that the store was asked about.
    pub lookups: u64,
    /// Of them, those that it did not answer.
    pub unanswered: u64,
    /// Chunks stored.
    pub stored: u64,
    /// Chunks that could not be stored.
    pub store_failed: u64,
    /// Chunks that were not tried, since too many waited.
    pub refused: u64,
    /// Chunks loaded.
    pub loaded: u64,
    /// Chunks that could not be loaded.
    pub load_failed: u64,
    /// Chunks that were not what was stored.
    pub corrupt: u64,
    /// Chunks that were there when looked up, and gone when loaded.
    pub gone: u64,
    /// Chunks that wait to be copied from disk.
    pub queued: u64,
    /// Plans that are open.
    pub open_tickets: u64,
    /// Requests.
    pub client: ClientStats,
}

/// How much of a prompt the store has, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Front {
    /// So many chunks, and not the next one.
    Known(usize),
    /// It is being asked for.
    Asked,
}

/// Whether chunks are there, each for as long as that is remembered.
#[derive(Default)]
struct Known {
    young: HashMap<ChunkKey, (bool, Instant)>,
    old: HashMap<ChunkKey, (bool, Instant)>,
}

impl Known {
    fn get(&self, key: &ChunkKey, now: Instant) -> Option<bool> {
        let (there, until) = self.young.get(key).or_else(|| self.old.get(key))?;
        (now < *until).then_some(*there)
    }

    fn set(&mut self, key: ChunkKey, there: bool, until: Instant) {
        if self.young.len() >= KNOWN_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, (there, until));
    }

    /// How many of these are there from the front, and whether the next one is known not to be.
    fn front(&self, keys: &[ChunkKey], now: Instant) -> (usize, bool) {
        for (at, key) in keys.iter().enumerate() {
            match self.get(key, now) {
                Some(true) => {}
                Some(false) => return (at, true),
                None => return (at, false),
            }
        }
        (keys.len(), true)
    }
}

impl State {
    fn ticket(&mut self, key: ChunkKey, what: What) -> Option<Ticket> {
        if self.open.len() >= TICKETS_MAX {
            return None;
        }
        self.tickets += 1;
        let ticket = Ticket::of_remote(self.tickets);
        self.open.insert(ticket, Open { key, what });
        Some(ticket)
    }
}

impl Shared {
    fn there(&self, state: &mut State, key: ChunkKey) {
        state.known.set(key, true, now() + self.remember);
    }

    fn absent(&self, state: &mut State, key: ChunkKey, for_at_most: Duration) {
        state.known.set(key, false, now() + self.remember.min(for_at_most));
    }
}

impl RemotePlane {
    pub(super) fn new(config: &Config, names: Names, client: Arc<Client>, announcer: Announcer) -> Self {
        let shared = Shared {
            client,
            names,
            remember: config.remote_remember,
            queue_max: config.max_queued_chunks as usize,
            state: Mutex::default(),
            answered: Condvar::new(),
            counters: Counters::default(),
            announcer,
        };
        Self { shared: Arc::new(shared) }
    }

    /// How much of this prompt is there; asks for what is not known, unless `settle`.
    pub(super) fn front(&self, keys: &[ChunkKey], settle: bool) -> Front {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        let (there, is_all) = state.known.front(keys, now());
        if is_all || settle || state.closed {
            return Front::Known(there);
        }
        let first = keys[there];
        if state.asked.contains(&first) {
            return Front::Asked;
        }
        if state.asked.len() >= ASKED_MAX {
            // Too much is asked already: what is known has to do.
            return Front::Known(there);
        }
        state.asked.insert(first);
        drop(state);
        add(&shared.counters.lookups, 1);
        let (asking, keys) = (Arc::clone(shared), keys[there..].to_vec());
        let ended = Asking { shared: Arc::clone(shared), first };
        shared.client.spawn(async move {
            // However this ends, nobody goes on waiting for it.
            let _ended = ended;
            let names: Vec<String> = keys.iter().map(|key| asking.names.end(key)).collect();
            let answer = front(&**asking.client.objects(), &names, LOOKUP_WIDTH).await;
            let mut state = asking.state.lock();
            match answer {
                Ok(there) => {
                    keys[..there].iter().for_each(|key| asking.there(&mut state, *key));
                    keys.get(there).into_iter().for_each(|key| asking.absent(&mut state, *key, ABSENT));
                }
                Err(fault) => {
                    add(&asking.counters.unanswered, 1);
                    asking.absent(&mut state, keys[0], UNANSWERED);
                    tracing::debug!(%fault, "the remote store did not answer a lookup");
                }
            }
        });
        Front::Asked
    }

    /// Waits until something that was asked is answered, or until `deadline`.
    pub(super) fn wait_for_answer(&self, deadline: Instant) {
        let mut state = self.shared.state.lock();
        if !state.asked.is_empty() {
            self.shared.answered.wait_until(&mut state, deadline);
        }
    }

    /// Forgets what is known of a chunk's absence, so that it is asked again.
    pub(super) fn ask_again(&self, key: &ChunkKey) {
        let mut state = self.shared.state.lock();
        if state.known.get(key, now()) == Some(false) {
            state.known.young.remove(key);
            state.known.old.remove(key);
        }
    }

    pub(super) fn plan_store(&self, key: ChunkKey, length: u32) -> TierStore {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        if state.closed {
            return TierStore::Refused(Reason::Closed);
        }
        if state.known.get(&key, now()) == Some(true) {
            return TierStore::Present;
        }
        if let Some(&ticket) = state.storing.get(&key) {
            return TierStore::InFlight(ticket);
        }
        let Some(ticket) = state.ticket(key, What::Store) else {
            return TierStore::Refused(Reason::Busy);
        };
        state.storing.insert(key, ticket);
        TierStore::Write(Plan { ticket, record: ChunkRecord::in_remote(key, length) })
    }

    /// A plan to read a chunk, unless it is known not to be there.
    pub(super) fn plan_load(&self, key: ChunkKey, length: u32) -> Result<Plan, Reason> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(Reason::Closed);
        }
        if state.known.get(&key, now()) == Some(false) {
            return Err(Reason::NotThere);
        }
        let ticket = state.ticket(key, What::Load).ok_or(Reason::Busy)?;
        Ok(Plan { ticket, record: ChunkRecord::in_remote(key, length) })
    }

    /// Whether a store or copy under this ticket is open.
    pub(super) fn is_writing(&self, ticket: Ticket) -> bool {
        self.shared.state.lock().open.get(&ticket).is_some_and(|open| open.what != What::Load)
    }

    pub(super) fn contains(&self, key: &ChunkKey) -> bool {
        self.shared.state.lock().known.get(key, now()) == Some(true)
    }

    /// The store or copy under this ticket is over. `None` when there is no such.
    pub(super) fn finish_store(&self, ticket: Ticket, written: bool) -> Option<()> {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        if !state.open.get(&ticket).is_some_and(|open| open.what != What::Load) {
            return None;
        }
        let Open { key, what } = state.open.remove(&ticket)?;
        if state.storing.get(&key) == Some(&ticket) {
            state.storing.remove(&key);
        }
        if what == What::Copy {
            state.copying -= 1;
        }
        if written {
            shared.there(&mut state, key);
            shared.announcer.tell(Tier::Remote, key, Change::Stored);
            add(&shared.counters.stored, 1);
        } else {
            add(&shared.counters.store_failed, 1);
        }
        Some(())
    }

    /// The load under this ticket is over. `false` when there is no such.
    pub(super) fn finish_load(&self, ticket: Ticket, status: LoadStatus, reason: Option<&Reason>) -> bool {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        if !state.open.get(&ticket).is_some_and(|open| open.what == What::Load) {
            return false;
        }
        let Some(Open { key, .. }) = state.open.remove(&ticket) else { return false };
        match (status, reason) {
            (LoadStatus::Loaded, _) => {
                add(&shared.counters.loaded, 1);
                shared.there(&mut state, key);
            }
            (LoadStatus::Miss, Some(Reason::NotThere)) => {
                add(&shared.counters.gone, 1);
                shared.announcer.tell(Tier::Remote, key, Change::Removed(Cause::Gone));
                shared.absent(&mut state, key, ABSENT);
            }
            (LoadStatus::Miss, _) => {
                add(&shared.counters.corrupt, 1);
                shared.announcer.tell(Tier::Remote, key, Change::Removed(Cause::Unsound));
                shared.absent(&mut state, key, ABSENT);
            }
            (LoadStatus::Failed, Some(Reason::Remote(_) | Reason::TimedOut)) => {
                add(&shared.counters.load_failed, 1);
                shared.absent(&mut state, key, UNANSWERED);
            }
            (LoadStatus::Failed, _) => add(&shared.counters.load_failed, 1),
        }
        true
    }

    /// Offers a chunk that is on disk: says what becomes of it here.
    pub(super) fn offer(&self, key: ChunkKey, length: u32) -> Onward {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        if state.takes_no_copies {
            return Onward::ended(TierEnd::refused(Tier::Remote, Reason::Closed));
        }
        if state.known.get(&key, now()) == Some(true) {
            return Onward::ended(TierEnd::present(Tier::Remote));
        }
        if state.queued.contains(&key) || state.storing.contains_key(&key) {
            return Onward::queued(Tier::Remote);
        }
        if state.outbox.len() >= shared.queue_max {
            add(&shared.counters.refused, 1);
            return Onward::ended(TierEnd::refused(Tier::Remote, Reason::Busy));
        }
        state.queued.insert(key);
        state.outbox.push_back((key, length));
        Onward::queued(Tier::Remote)
    }

    /// The next chunk whose turn it is to be copied.
    pub(super) fn next_copy(&self) -> Option<Plan> {
        let mut state = self.shared.state.lock();
        if state.copying >= COPIES_MAX || state.open.len() >= TICKETS_MAX {
            return None;
        }
        let (key, length) = state.outbox.pop_front()?;
        state.queued.remove(&key);
        let ticket = state.ticket(key, What::Copy)?;
        state.copying += 1;
        state.storing.insert(key, ticket);
        Some(Plan { ticket, record: ChunkRecord::in_remote(key, length) })
    }

    /// Whether a chunk waits to be copied, or is being.
    pub(super) fn is_being_copied(&self, key: &ChunkKey) -> bool {
        let state = self.shared.state.lock();
        state.queued.contains(key) || state.storing.contains_key(key)
    }

    /// Whether chunks wait to be copied, or are being.
    pub(super) fn has_copies(&self) -> bool {
        let state = self.shared.state.lock();
        state.copying > 0 || !state.outbox.is_empty()
    }

    pub(super) fn dead_threads(&self) -> Vec<String> {
        self.shared.client.dead_threads()
    }

    pub(super) fn stats(&self) -> RemoteStats {
        let shared = &self.shared;
        let (queued, open_tickets) = {
            let state = shared.state.lock();
            (state.outbox.len() as u64, state.open.len() as u64)
        };
        let counters = &shared.counters;
        RemoteStats {
            lookups: read(&counters.lookups),
            unanswered: read(&counters.unanswered),
            stored: read(&counters.stored),
            store_failed: read(&counters.store_failed),
            refused: read(&counters.refused),
            loaded: read(&counters.loaded),
            load_failed: read(&counters.load_failed),
            corrupt: read(&counters.corrupt),
            gone: read(&counters.gone),
            queued,
            open_tickets,
            client: shared.client.stats(),
        }
    }

    /// Takes no more plans and forgets what waits to be copied.
    pub(super) fn close(&self) {
        self.stop_copies();
        self.shared.state.lock().closed = true;
        self.shared.answered.notify_all();
    }

    /// Takes no more copies and forgets what waits to be copied.
    pub(super) fn stop_copies(&self) {
        let mut state = self.shared.state.lock();
        state.takes_no_copies = true;
        state.queued.clear();
        state.outbox.clear();
    }
}

/// A front that is being asked for.
struct Asking {
    shared: Arc<Shared>,
    first: ChunkKey,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.shared.state.lock().asked.remove(&self.first);
        self.shared.answered.notify_all();
    }
}
