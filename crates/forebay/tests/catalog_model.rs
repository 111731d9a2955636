//! The catalog against a model: generated histories of calls, after each of which its promises are checked.
//!
//! The model is as plain as it can be made: a list of chunks with who uses them, and which was said to continue
//! which. It does not know how the catalog picks what it evicts, only what must never be picked. The order of
//! eviction has tests of its own, on histories simple enough for a list to tell the answer.

#[path = "support/catalogs.rs"]
mod catalogs;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use catalogs::{LENGTH, keys_of, read, store, used};
use forebay::ChunkKey;
use forebay::catalog::{
    BLOCK_BYTES, CachePolicy, Catalog, ChunkRecord, DriveBlocks, Entry, Extent, Kept, LoadDecision,
    LookupDecision, Plan, StoreDecision, Ticket, Withheld,
};
use forebay::catalog::{EXTENTS_MAX, Limits};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// [`BLOCK_BYTES`], as lengths of chunks are counted.
const BLOCK: u32 = 4096;
const _: () = assert!(BLOCK as usize == BLOCK_BYTES);

/// Keys there are. They form a tree, as prompts that share beginnings do: key `k` continues key `(k - 1) / 2`.
const KEYS: u8 = 15;

fn key(number: u8) -> ChunkKey {
    ChunkKey::new([number + 1; 32])
}

/// The prompt that ends with key `last`, from its first chunk on.
fn prompt(last: u8) -> Vec<ChunkKey> {
    let mut path = vec![last];
    while let Some(&front) = path.last()
        && front > 0
    {
        path.push((front - 1) / 2);
    }
    path.into_iter().rev().map(key).collect()
}

/// A call of a history. An [`Index`] picks among whatever is there when the call is made.
#[derive(Debug, Clone)]
enum Call {
    Lookup {
        last: u8,
    },
    /// Stores the end of a prompt, from chunk `from` on.
    Store {
        last: u8,
        from: usize,
        lengths: Vec<u32>,
        name_parent: bool,
    },
    /// Stores keys in any order, as often as they come, after any parent: what no honest caller would do.
    StoreAnything {
        keys: Vec<u8>,
        lengths: Vec<u32>,
        parent: Option<u8>,
    },
    Load {
        keys: Vec<u8>,
    },
    Commit(Index),
    Abort(Index),
    Release(Index),
    Discard(Index),
    /// Answers a ticket that was answered before, or never given to this catalog.
    AnswerAgain(Index),
    /// Keeps what is there under these keys from eviction, as long as that takes no more blocks; lets it go again.
    Keep {
        keys: Vec<u8>,
        blocks_max: u64,
    },
    LetGo {
        keys: Vec<u8>,
    },
    /// The same of all of them, a few places at a time.
    KeepAll {
        at_once: u32,
        blocks_max: u64,
    },
    LetAllGo {
        at_once: u32,
    },
    /// Keeps what kept ones continue.
    KeepWhole {
        at_once: u32,
    },
    /// Takes some of them out.
    Clear {
        from: u32,
        most: u32,
        odd: bool,
    },
    /// Takes out all of some, so many places at a time.
    ClearAll {
        at_once: u32,
        odd: bool,
    },
    /// Makes drives smaller, one larger up to what it was, and one larger than that.
    Withhold {
        blocks: u32,
        unit: u32,
        chunks: usize,
    },
    GiveOut {
        drive: Index,
        blocks: u32,
    },
    Extend {
        drive: Index,
        blocks: u32,
    },
    Restart,
}

/// Which of two kinds a chunk is of, that are cleared each for itself.
fn is_of(odd: bool, key: &ChunkKey) -> bool {
    (key.as_bytes()[0] % 2 == 1) == odd
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![Just(1), Just(BLOCK), Just(BLOCK + 1), Just(3 * BLOCK), Just(7 * BLOCK), Just(50 * BLOCK)]
}

fn call(honest: bool) -> impl Strategy<Value = Call> {
    let lengths = || vec(length(), 4);
    let store = if honest {
        (0..KEYS, 0_usize..4, lengths(), prop::bool::weighted(0.9))
            .prop_map(|(last, from, lengths, name_parent)| Call::Store { last, from, lengths, name_parent })
            .boxed()
    } else {
        (vec(0..KEYS, 1..6), lengths(), prop::option::of(0..KEYS))
            .prop_map(|(keys, lengths, parent)| Call::StoreAnything { keys, lengths, parent })
            .boxed()
    };
    let pick = any::<Index>;
    prop_oneof![
        8 => store,
        6 => pick().prop_map(Call::Commit),
        3 => (0..KEYS).prop_map(|last| Call::Lookup { last }),
        2 => vec(0..KEYS, 1..4).prop_map(|keys| Call::Load { keys }),
        4 => pick().prop_map(Call::Release),
        1 => pick().prop_map(Call::Abort),
        2 => pick().prop_map(Call::Discard),
        1 => pick().prop_map(Call::AnswerAgain),
        2 => (vec(0..KEYS, 1..4), 0_u64..40).prop_map(|(keys, blocks_max)| Call::Keep { keys, blocks_max }),
        1 => vec(0..KEYS, 1..4).prop_map(|keys| Call::LetGo { keys }),
        1 => (1_u32..4, 0_u64..40).prop_map(|(at_once, blocks_max)| Call::KeepAll { at_once, blocks_max }),
        1 => (1_u32..4).prop_map(|at_once| Call::LetAllGo { at_once }),
        2 => (1_u32..4).prop_map(|at_once| Call::KeepWhole { at_once }),
        3 => (0_u32..12, 0_u32..5, any::<bool>()).prop_map(|(from, most, odd)| Call::Clear { from, most, odd }),
        1 => (1_u32..4, any::<bool>()).prop_map(|(at_once, odd)| Call::ClearAll { at_once, odd }),
        2 => (1_u32..12, 1_u32..5, 0_usize..4)
            .prop_map(|(blocks, unit, chunks)| Call::Withhold { blocks, unit, chunks }),
        2 => (pick(), 1_u32..12).prop_map(|(drive, blocks)| Call::GiveOut { drive, blocks }),
        1 => (pick(), 0_u32..4).prop_map(|(drive, blocks)| Call::Extend { drive, blocks }),
        1 => Just(Call::Restart),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let drives = prop_oneof![vec(4_u32..40, 1), vec(4_u32..14, 2..4)];
    (drives, 1_u32..12, 2_u32..24).prop_map(|(drives, chunks_max, tickets_max)| Limits {
        blocks: DriveBlocks::from_slice(&drives).unwrap(),
        chunks_max,
        tickets_max,
    })
}

fn policy() -> impl Strategy<Value = CachePolicy> {
    prop::sample::select(CachePolicy::ALL.to_vec())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Writing,
    Committed,
    /// Not found any more, but still being read.
    Dropped,
}

#[derive(Debug)]
struct Chunk {
    record: ChunkRecord,
    state: State,
    users: usize,
    /// Nobody may evict it.
    is_kept: bool,
    /// Generations of the chunks that the catalog was told continue this one.
    continued_by: BTreeSet<u64>,
}

#[derive(Debug, Clone)]
enum Open {
    Lookup(Vec<u64>),
    Read(u64),
    Write(u64),
}

/// The catalog and what must be true of it. Chunks are known by their generations, which are never used twice.
struct World {
    limits: Limits,
    policy: CachePolicy,
    honest: bool,
    epoch: u32,
    catalog: Catalog,
    chunks: BTreeMap<u64, Chunk>,
    open: BTreeMap<Ticket, Open>,
    closed: BTreeSet<Ticket>,
    /// Blocks of each drive, and those that are withheld.
    sizes: Vec<u32>,
    withheld: BTreeSet<(usize, u32)>,
    evicted: u64,
    dropped: u64,
}

impl World {
    fn new(limits: Limits, policy: CachePolicy, honest: bool) -> Self {
        Self {
            limits,
            policy,
            honest,
            epoch: 1,
            catalog: Catalog::new(limits, policy, 1),
            chunks: BTreeMap::new(),
            open: BTreeMap::new(),
            closed: BTreeSet::new(),
            sizes: limits.blocks.as_slice().to_vec(),
            withheld: BTreeSet::new(),
            evicted: 0,
            dropped: 0,
        }
    }

    /// The chunk that is there, or being written, under a key.
    fn live(&self, key: ChunkKey) -> Option<u64> {
        let is_live = |chunk: &Chunk| chunk.record.key == key && chunk.state != State::Dropped;
        self.chunks.iter().find(|(_, chunk)| is_live(chunk)).map(|(&generation, _)| generation)
    }

    fn committed(&self, key: ChunkKey) -> Option<u64> {
        self.live(key).filter(|generation| self.chunks[generation].state == State::Committed)
    }

    fn opened(&mut self, ticket: Ticket, open: Open) {
        assert!(!self.closed.contains(&ticket), "a ticket is never used twice");
        assert!(self.open.insert(ticket, open).is_none(), "a ticket is never used twice");
        assert!(self.open.len() <= self.limits.tickets_max as usize, "more tickets are open than may be");
    }

    fn close(&mut self, ticket: Ticket) -> Open {
        self.closed.insert(ticket);
        self.open.remove(&ticket).expect("the ticket was open")
    }

    fn tickets_left(&self) -> bool {
        self.open.len() < self.limits.tickets_max as usize
    }

    fn remove(&mut self, generation: u64) {
        self.chunks.remove(&generation).expect("it was there");
        self.chunks.values_mut().for_each(|chunk| {
            chunk.continued_by.remove(&generation);
        });
    }

    fn stop_using(&mut self, generation: u64) {
        let chunk = self.chunks.get_mut(&generation).expect("a chunk in use is there");
        chunk.users -= 1;
        if chunk.users == 0 && chunk.state == State::Dropped {
            self.remove(generation);
        }
    }

    /// A chunk that may be evicted: nobody uses it and nothing hangs on it.
    fn may_go(&self, chunk: &Chunk) -> bool {
        let continued = chunk.continued_by.iter().any(|child| self.chunks[child].state != State::Dropped);
        chunk.state == State::Committed && chunk.users == 0 && !continued && !chunk.is_kept
    }

    fn pick(&self, index: Index, wanted: impl Fn(&Open) -> bool) -> Option<Ticket> {
        let tickets: Vec<Ticket> =
            self.open.iter().filter(|(_, open)| wanted(open)).map(|(ticket, _)| *ticket).collect();
        (!tickets.is_empty()).then(|| *index.get(&tickets))
    }

    fn apply(&mut self, call: Call) {
        match call {
            Call::Lookup { last } => self.lookup(&prompt(last)),
            Call::Store { last, from, lengths, name_parent } => {
                let path = prompt(last);
                let from = from.min(path.len() - 1);
                let parent = (from > 0 && name_parent).then(|| path[from - 1]);
                let chunks: Vec<(ChunkKey, u32)> = path[from..].iter().copied().zip(lengths).collect();
                self.store(&chunks, parent);
            }
            Call::StoreAnything { keys, lengths, parent } => {
                let chunks: Vec<(ChunkKey, u32)> =
                    keys.into_iter().map(key).zip(lengths.into_iter().cycle()).collect();
                self.store(&chunks, parent.map(key));
            }
            Call::Load { keys } => self.load(&keys.into_iter().map(key).collect::<Vec<_>>()),
            Call::Commit(index) => {
                let ticket = self.pick(index, |open| matches!(open, Open::Write(_)));
                ticket.into_iter().for_each(|ticket| self.commit(ticket));
            }
            Call::Abort(index) => {
                let ticket = self.pick(index, |open| matches!(open, Open::Write(_)));
                ticket.into_iter().for_each(|ticket| self.abort(ticket));
            }
            Call::Release(index) => {
                let ticket = self.pick(index, |_| true);
                ticket.into_iter().for_each(|ticket| self.release(ticket));
            }
            Call::Discard(index) => {
                let ticket = self.pick(index, |_| true);
                ticket.into_iter().for_each(|ticket| self.discard(ticket));
            }
            Call::AnswerAgain(index) => {
                let closed: Vec<Ticket> = self.closed.iter().copied().collect();
                if !closed.is_empty() {
                    self.is_refused(*index.get(&closed));
                }
            }
            Call::Keep { keys, blocks_max } => {
                let keep = |number| (key(number), self.catalog.keep(&key(number), blocks_max));
                let mut asked: Vec<(ChunkKey, bool)> = keys.into_iter().map(keep).collect();
                // What had no room first may have it once what it continues is kept for another's sake.
                asked.iter_mut().for_each(|(key, is_kept)| *is_kept |= self.catalog.is_kept(key));
                self.keep(&asked, blocks_max);
            }
            Call::LetGo { keys } => {
                for key in keys.into_iter().map(key) {
                    let was_kept = self.catalog.let_go(&key);
                    self.let_go(key, was_kept);
                }
            }
            Call::KeepAll { at_once, blocks_max } => {
                let (mut kept, mut left_out, mut from) = (0, 0, Some(0));
                while let Some(place) = from {
                    let (more, less, next) = self.catalog.keep_some(place, at_once, blocks_max, |_| true);
                    (kept, left_out, from) = (kept + more, left_out + less, next);
                }
                let there: Vec<ChunkKey> =
                    (0..KEYS).map(key).filter(|&key| self.committed(key).is_some()).collect();
                assert_eq!(kept + left_out, there.len() as u64, "each is met once");
                let asked: Vec<_> = there.iter().map(|key| (*key, self.catalog.is_kept(key))).collect();
                self.keep(&asked, blocks_max);
            }
            Call::LetAllGo { at_once } => {
                let (mut let_go, mut from) = (0, Some(0));
                while let Some(place) = from {
                    let (more, next) = self.catalog.let_some_go(place, at_once, |_| true);
                    (let_go, from) = (let_go + more, next);
                }
                assert_eq!(let_go, self.chunks.values().filter(|chunk| chunk.is_kept).count() as u64);
                self.chunks.values_mut().for_each(|chunk| chunk.is_kept = false);
            }
            Call::Clear { from, most, odd } => {
                self.clear(from, most, odd);
            }
            Call::ClearAll { at_once, odd } => self.clear_all(at_once, odd),
            Call::KeepWhole { at_once } => self.keep_whole(at_once),
            Call::Withhold { blocks, unit, chunks } => self.withhold(blocks, unit, chunks),
            Call::GiveOut { drive, blocks } => {
                let drive = drive.index(self.sizes.len());
                if let Some(extent) = self.catalog.withheld(u8::try_from(drive).unwrap(), blocks) {
                    assert!((1..=blocks).contains(&extent.blocks));
                    for block in blocks_of(extent) {
                        assert!(self.withheld.remove(&(drive, block)), "it was withheld");
                    }
                    self.catalog.give_out(u8::try_from(drive).unwrap(), extent);
                } else {
                    assert!(self.withheld.iter().all(|(other, _)| *other != drive));
                }
            }
            Call::Extend { drive, blocks } => {
                let drive = drive.index(self.sizes.len());
                self.catalog.extend(u8::try_from(drive).unwrap(), blocks);
                self.sizes[drive] += blocks;
            }
            Call::Restart => self.restart(),
        }
    }

    fn withhold(&mut self, blocks: u32, unit: u32, chunks: usize) {
        let mut removed = Vec::new();
        let Withheld { extents, is_stuck } = self.catalog.withhold(blocks, unit, chunks, &mut removed);
        assert!(removed.len() <= chunks, "no more go than may");
        self.evicted(&removed);
        let mut done = 0;
        for (drive, extent) in extents {
            assert!(extent.blocks > 0);
            done += extent.blocks;
            for block in blocks_of(extent) {
                assert!(self.withheld.insert((usize::from(drive), block)), "it is withheld once");
            }
        }
        assert!(done <= blocks, "no more than was asked for");
        if is_stuck {
            let left = self.chunks.values().find(|chunk| self.may_go(chunk));
            assert!(left.is_none() || !self.honest, "{left:?} could have gone");
            assert_eq!(self.catalog.space().free_blocks(), 0, "not a block is left");
        } else if done < blocks {
            assert_eq!(removed.len(), chunks, "as many went as may");
        }
    }

    /// Takes in what was evicted.
    fn evicted(&mut self, removed: &[Entry]) {
        for entry in removed {
            let Entry::Remove(key, generation) = *entry else { panic!("an eviction is a removal") };
            let chunk = self.chunks.get(&generation).expect("what is evicted was there before this call");
            assert_eq!(chunk.record.key, key);
            assert_eq!(chunk.state, State::Committed, "what is being written is not evicted");
            assert!(chunk.users == 0 && !chunk.is_kept, "what is in use or kept is not evicted");
            assert!(
                !self.honest || self.may_go(chunk),
                "{key:?} is evicted before a chunk that continues it"
            );
            self.remove(generation);
            self.evicted += 1;
        }
    }

    fn lookup(&mut self, keys: &[ChunkKey]) {
        let found: Vec<u64> = keys.iter().map_while(|&key| self.committed(key)).collect();
        match self.catalog.lookup(keys) {
            LookupDecision::Hit { chunks, ticket } => {
                assert_eq!(chunks, found.len(), "a hit is the whole committed prefix");
                assert!(chunks > 0, "a hit has at least one chunk");
                found.iter().for_each(|generation| {
                    self.chunks.get_mut(generation).expect("it was found").users += 1;
                });
                self.opened(ticket, Open::Lookup(found));
            }
            LookupDecision::Miss => {
                assert!(found.is_empty() && self.live(keys[0]).is_none(), "the first chunk is not there");
            }
            LookupDecision::Pending => {
                assert!(found.is_empty() && self.live(keys[0]).is_some(), "the first chunk is being written");
            }
            LookupDecision::Busy => {
                assert!(!found.is_empty() && !self.tickets_left(), "there is a ticket for what is there");
            }
        }
    }

    fn load(&mut self, keys: &[ChunkKey]) {
        let decisions = self.catalog.plan_load(keys);
        assert_eq!(decisions.len(), keys.len(), "one decision a chunk");
        for (&key, decision) in keys.iter().zip(decisions) {
            let there = self.committed(key);
            match decision {
                LoadDecision::Read(plan) => {
                    let generation = there.expect("only what is committed is read");
                    let chunk = self.chunks.get_mut(&generation).expect("it is there");
                    assert_eq!(plan.record, chunk.record, "the plan is the chunk's");
                    chunk.users += 1;
                    self.opened(plan.ticket, Open::Read(generation));
                }
                LoadDecision::Miss => assert!(there.is_none(), "what is there can be read"),
                LoadDecision::Busy => {
                    assert!(
                        there.is_some() && !self.tickets_left(),
                        "busy is no miss, and not without a reason"
                    );
                }
            }
        }
    }

    fn store(&mut self, chunks: &[(ChunkKey, u32)], parent: Option<ChunkKey>) {
        let mut removed = Vec::new();
        let known: Vec<(Option<u64>, bool)> =
            chunks.iter().map(|&(key, _)| (self.live(key), self.committed(key).is_some())).collect();
        let newest = self.chunks.keys().next_back().copied();
        let decisions = self.catalog.plan_store(chunks, parent, 77, &mut removed);
        assert_eq!(decisions.len(), chunks.len(), "one decision a chunk");

        // Ties that existed before hold for what was evicted; those made by this very call are checked below.
        let present_before: BTreeMap<u64, ChunkKey> =
            self.chunks.iter().map(|(&generation, chunk)| (generation, chunk.record.key)).collect();
        let parent_generation = parent.and_then(|key| self.live(key));
        self.evicted(&removed);

        let single = chunks.len() == 1;
        let mut before = parent_generation;
        for ((&(key, length), decision), (was, was_committed)) in chunks.iter().zip(decisions).zip(known) {
            let mut this = None;
            match decision {
                StoreDecision::Write(plan) => this = Some(self.written(&plan, key, length, newest)),
                StoreDecision::Present => {
                    assert!(was_committed, "present is what is committed");
                    this = was;
                }
                StoreDecision::InFlight(ticket) => {
                    let Some(Open::Write(generation)) = self.open.get(&ticket) else {
                        panic!("in flight under a ticket that is not that of an open write")
                    };
                    assert_eq!(self.chunks[generation].record.key, key);
                    this = Some(*generation);
                }
                StoreDecision::Busy => {
                    assert!(!self.tickets_left(), "there is a ticket for it");
                }
                StoreDecision::Full if single => self.was_full(key, length, before),
                StoreDecision::Full => {}
            }
            if let (Some(before), Some(this)) = (before, this) {
                self.tied(before, this, &present_before);
            }
            before = this;
        }
    }

    /// Takes in a chunk that is to be written.
    fn written(&mut self, plan: &Plan, key: ChunkKey, length: u32, newest: Option<u64>) -> u64 {
        assert!(self.live(key).is_none(), "what is there or under way is not written again");
        let Plan { ticket, record } = *plan;
        assert_eq!((record.key, record.length, record.stored_at_ms), (key, length, 77));
        assert_eq!(record.extents.blocks(), ChunkRecord::blocks(length), "the space is what it needs");
        assert!(record.extents.as_slice().len() <= EXTENTS_MAX);
        assert!(newest.is_none_or(|newest| record.generation > newest), "generations grow");
        let generation = record.generation;
        let chunk =
            Chunk { record, state: State::Writing, users: 0, is_kept: false, continued_by: BTreeSet::new() };
        assert!(self.chunks.insert(generation, chunk).is_none(), "a generation is never used twice");
        self.opened(ticket, Open::Write(generation));
        generation
    }

    /// Notes that `child` was said to continue `parent`.
    fn tied(&mut self, parent: u64, child: u64, present_before: &BTreeMap<u64, ChunkKey>) {
        if parent == child || !self.chunks.contains_key(&child) {
            return;
        }
        match self.chunks.get_mut(&parent) {
            Some(chunk) => {
                chunk.continued_by.insert(child);
            }
            None => assert!(
                !self.honest,
                "{:?} was evicted by the call that stores what continues it",
                present_before.get(&parent)
            ),
        }
    }

    /// A chunk was refused for want of room: there is none that may be freed.
    fn was_full(&self, key: ChunkKey, length: u32, parent: Option<u64>) {
        let blocks = ChunkRecord::blocks(length);
        let excused =
            !self.tickets_left() || blocks > u64::from(self.limits.blocks.largest()) || !self.honest;
        let left =
            self.chunks.iter().find(|(generation, chunk)| self.may_go(chunk) && parent != Some(**generation));
        assert!(excused || left.is_none(), "{key:?} was refused although {left:?} could have gone");
    }

    fn discard(&mut self, ticket: Ticket) {
        let removal = self.catalog.discard(ticket);
        let Open::Read(generation) = self.open[&ticket] else {
            assert_eq!(removal, None, "only a read finds out that a chunk is bad");
            return;
        };
        let chunk = self.chunks.get_mut(&generation).expect("it was being read");
        let gone = Entry::Remove(chunk.record.key, generation);
        let expected = (chunk.state == State::Committed).then_some(gone);
        assert_eq!(removal, Some(expected), "a chunk is dropped once");
        self.dropped += u64::from(expected.is_some());
        (chunk.state, chunk.is_kept) = (State::Dropped, false);
        self.stop_using(generation);
        self.close(ticket);
    }

    /// Some chunks were asked to be kept, as long as all that is kept takes no more than `blocks_max`: those of which the
    /// catalog says that they are. Each of those asked for is, or there is no room for it with what it continues, or
    /// that is not whole.
    fn keep(&mut self, asked: &[(ChunkKey, bool)], blocks_max: u64) {
        let before = self.kept_blocks();
        for (key, is_kept) in asked {
            assert!(!is_kept || self.committed(*key).is_some(), "what is kept is there");
            assert_eq!(self.catalog.is_kept(key), *is_kept);
        }
        for chunk in self.chunks.values_mut().filter(|chunk| chunk.state == State::Committed) {
            let is_kept = self.catalog.is_kept(&chunk.record.key);
            assert!(is_kept || !chunk.is_kept, "what was kept still is");
            chunk.is_kept = is_kept;
        }
        let after = self.kept_blocks();
        assert!(after <= blocks_max.max(before), "no more is kept than may be");
        for (key, _) in asked.iter().filter(|(_, is_kept)| !is_kept) {
            let Some(generation) = self.committed(*key) else { continue };
            // With nothing under way and room for all there is, nothing is in the way.
            let all: u64 = self.chunks.values().map(|chunk| chunk.record.extents.blocks()).sum();
            let is_quiet = self.chunks.values().all(|chunk| chunk.state == State::Committed);
            assert!(!is_quiet || all > blocks_max, "{:?} could be kept", self.chunks[&generation]);
        }
    }

    fn keep_whole(&mut self, at_once: u32) {
        let mut from = Some(0);
        while let Some(place) = from {
            from = self.catalog.keep_what_is_continued(place, at_once);
        }
        self.keep(&[], u64::MAX);
        for chunk in self.chunks.values().filter(|chunk| chunk.state == State::Committed) {
            let is_needed = chunk.continued_by.iter().any(|child| self.chunks[child].is_kept);
            assert!(chunk.is_kept || !is_needed || !self.honest, "a kept chunk hangs on {chunk:?}");
        }
    }

    fn kept_blocks(&self) -> u64 {
        let kept = self.chunks.values().filter(|chunk| chunk.is_kept);
        kept.map(|chunk| chunk.record.extents.blocks()).sum()
    }

    fn let_go(&mut self, key: ChunkKey, was_kept: bool) {
        let generation = self.committed(key);
        let is_kept = generation.is_some_and(|generation| self.chunks[&generation].is_kept);
        assert_eq!(was_kept, is_kept);
        if let Some(generation) = generation {
            self.chunks.get_mut(&generation).expect("it is there").is_kept = false;
        }
    }

    fn clear(&mut self, from: u32, most: u32, odd: bool) -> Option<u32> {
        let (cleared, next) = self.catalog.clear_some(from, most, |key| is_of(odd, key));
        assert!(cleared.len() <= most as usize);
        for entry in cleared {
            let Entry::Remove(key, generation) = entry else { panic!("what is cleared is removed") };
            assert_eq!(self.committed(key), Some(generation));
            assert!(is_of(odd, &key));
            let chunk = self.chunks.get_mut(&generation).expect("it is there");
            (chunk.state, chunk.is_kept) = (State::Dropped, false);
            if chunk.users == 0 {
                self.remove(generation);
            }
        }
        next
    }

    fn clear_all(&mut self, at_once: u32, odd: bool) {
        let mut from = Some(0);
        while let Some(place) = from {
            from = self.clear(place, at_once, odd);
        }
        let mut left = self.catalog.committed();
        assert!(left.all(|record| !is_of(odd, &record.key)), "none is left out");
    }

    fn is_refused(&mut self, ticket: Ticket) {
        assert!(!self.catalog.commit(ticket), "an answered ticket cannot be committed");
        assert!(!self.catalog.abort(ticket), "an answered ticket cannot be aborted");
        assert!(!self.catalog.release(ticket), "an answered ticket cannot be released");
        assert_eq!(self.catalog.discard(ticket), None, "an answered ticket drops nothing");
        assert_eq!(self.catalog.writing(ticket), None);
    }

    /// The process dies; what was committed comes back, in the order in which it was to go.
    fn restart(&mut self) {
        self.epoch += 1;
        let records: Vec<ChunkRecord> = self.catalog.committed().collect();
        self.limits.blocks = DriveBlocks::from_slice(&self.sizes).unwrap();
        self.withheld.clear();
        self.catalog = Catalog::new(self.limits, self.policy, self.epoch);
        for record in records.iter().rev() {
            assert!(self.catalog.restore(*record), "what was committed fits again");
        }
        self.catalog.tie_restored();
        let again: Vec<ChunkRecord> = self.catalog.committed().collect();
        // What continues a chunk that was stored after it is tied to that one by the restart, and goes before it then.
        if self.policy == CachePolicy::Lru || ends_come_first(&records) {
            assert_eq!(again, records, "the order survives");
        } else {
            assert!(!self.honest || ends_come_first(&again), "{again:?}");
        }

        self.closed.extend(std::mem::take(&mut self.open).into_keys());
        self.chunks.retain(|_, chunk| chunk.state == State::Committed);
        self.chunks.values_mut().for_each(|chunk| {
            (chunk.users, chunk.is_kept) = (0, false);
            chunk.continued_by.clear();
        });
        let by_key: HashMap<ChunkKey, u64> =
            self.chunks.iter().map(|(&generation, chunk)| (chunk.record.key, generation)).collect();
        for record in records {
            if let Some(parent) = by_key.get(&record.parent) {
                self.chunks.get_mut(parent).expect("just listed").continued_by.insert(record.generation);
            }
        }
        (self.evicted, self.dropped) = (0, 0);
        let closed: Vec<Ticket> = self.closed.iter().copied().collect();
        closed.into_iter().for_each(|ticket| self.is_refused(ticket));
    }

    fn check(&self) {
        let live: Vec<&Chunk> = self.chunks.values().filter(|chunk| chunk.state != State::Dropped).collect();
        assert_eq!(self.catalog.len(), live.len());
        assert_eq!(self.catalog.is_empty(), live.is_empty());
        assert!(self.catalog.len() <= self.limits.chunks_max as usize, "more chunks than may be");
        assert_eq!(self.catalog.open_tickets(), self.open.len());
        assert_eq!(
            (self.catalog.counts().evicted, self.catalog.counts().dropped),
            (self.evicted, self.dropped)
        );

        let kept = self.chunks.values().filter(|chunk| chunk.is_kept);
        for chunk in self.chunks.values().filter(|chunk| chunk.state == State::Committed) {
            assert_eq!(self.catalog.is_kept(&chunk.record.key), chunk.is_kept);
        }
        let expected = Kept { chunks: kept.count() as u64, blocks: self.kept_blocks() };
        assert_eq!(self.catalog.kept(), expected);

        // Blocks belong to one chunk at a time: those being written, read and dropped included.
        let mut blocks = self.withheld.clone();
        for chunk in self.chunks.values() {
            let drive = usize::from(chunk.record.drive);
            for extent in chunk.record.extents.as_slice() {
                assert!(extent.end() <= u64::from(self.sizes[drive]), "an extent lies on its drive");
                for block in blocks_of(*extent) {
                    assert!(
                        blocks.insert((drive, block)),
                        "block {block} belongs to two chunks, or to nobody"
                    );
                }
            }
        }
        let all: u64 = self.sizes.iter().map(|&blocks| u64::from(blocks)).sum();
        let free = all - blocks.len() as u64;
        assert_eq!(self.catalog.space().free_blocks(), free, "free blocks and chunks' blocks are all blocks");
        assert_eq!(self.catalog.space().blocks(), all - self.withheld.len() as u64);

        for number in 0..KEYS {
            let there = self.committed(key(number)).is_some();
            assert_eq!(self.catalog.contains(&key(number)), there, "found is what is committed");
        }
        let mut listed: Vec<ChunkRecord> = self.catalog.committed().collect();
        listed.sort_unstable_by_key(|record| record.generation);
        let committed = self.chunks.values().filter(|chunk| chunk.state == State::Committed);
        assert!(
            listed.iter().eq(committed.map(|chunk| &chunk.record)),
            "each is listed once, as it was stored"
        );
        for (&ticket, open) in &self.open {
            let writing = match open {
                Open::Write(generation) => Some(self.chunks[generation].record),
                Open::Lookup(_) | Open::Read(_) => None,
            };
            assert_eq!(self.catalog.writing(ticket), writing);
        }
    }

    fn commit(&mut self, ticket: Ticket) {
        assert!(self.catalog.commit(ticket), "an open write can be committed");
        let Open::Write(generation) = self.close(ticket) else { panic!("that was no write") };
        self.chunks.get_mut(&generation).expect("it was being written").state = State::Committed;
    }

    fn abort(&mut self, ticket: Ticket) {
        assert!(self.catalog.abort(ticket), "an open write can be aborted");
        let Open::Write(generation) = self.close(ticket) else { panic!("that was no write") };
        self.remove(generation);
    }

    fn release(&mut self, ticket: Ticket) {
        let released = self.catalog.release(ticket);
        match self.open[&ticket].clone() {
            Open::Write(_) => return assert!(!released, "a write is not over by being released"),
            Open::Read(generation) => self.stop_using(generation),
            Open::Lookup(all) => all.into_iter().for_each(|generation| self.stop_using(generation)),
        }
        assert!(released, "an open lookup or read can be released");
        self.close(ticket);
    }

    /// Answers everything that is open.
    fn settle(&mut self) {
        for (ticket, open) in self.open.clone() {
            match open {
                Open::Write(_) => self.abort(ticket),
                Open::Lookup(_) | Open::Read(_) => self.release(ticket),
            }
        }
    }
}

fn blocks_of(extent: Extent) -> std::ops::Range<u32> {
    extent.start..extent.start + extent.blocks
}

/// Whether whoever has room for a part of these only, from the last on, has whole fronts of prompts.
fn ends_come_first(records: &[ChunkRecord]) -> bool {
    let places: HashMap<ChunkKey, usize> = records.iter().map(|record| record.key).zip(0..).collect();
    let parents = records.iter().map(|record| places.get(&record.parent));
    parents.zip(0..).all(|(parent, place)| parent.is_none_or(|&parent| parent > place))
}

fn run(limits: Limits, policy: CachePolicy, honest: bool, calls: Vec<Call>) {
    let mut world = World::new(limits, policy, honest);
    for call in calls {
        world.apply(call);
        world.check();
    }
    world.settle();
    world.check();
    assert_eq!(world.catalog.open_tickets(), 0);
    let held: u64 = world.catalog.committed().map(|record| record.extents.blocks()).sum();
    assert_eq!(world.catalog.space().free_blocks() + held, world.catalog.space().blocks(), "nothing leaked");
    assert_eq!(world.catalog.committed().count(), world.catalog.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_promise_holds_after_every_call(
        limits in limits(),
        policy in policy(),
        calls in vec(call(true), 1..120),
    ) {
        run(limits, policy, true, calls);
    }

    /// What continues what cannot be believed here; all other promises hold all the same.
    #[test]
    fn callers_that_contradict_themselves_break_nothing(
        limits in limits(),
        policy in policy(),
        calls in vec(call(false), 1..120),
    ) {
        run(limits, policy, false, calls);
    }
}

/// A catalog with room for `chunks` chunks of [`LENGTH`].
fn catalog_of(chunks: u32) -> Catalog {
    Catalog::new(
        Limits { blocks: (2 * chunks).into(), chunks_max: 1000, tickets_max: 1000 },
        CachePolicy::Lru,
        1,
    )
}

fn write(catalog: &mut Catalog, keys: &[ChunkKey], parent: Option<ChunkKey>) -> Vec<Ticket> {
    let chunks: Vec<(ChunkKey, u32)> = keys.iter().map(|&key| (key, LENGTH)).collect();
    catalog
        .plan_store(&chunks, parent, 0, &mut Vec::new())
        .into_iter()
        .map(|decision| match decision {
            StoreDecision::Write(plan) => plan.ticket,
            other => panic!("{other:?} where there is room"),
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// The model is a list, the least recently used chunk first.
    #[test]
    fn with_nothing_in_use_eviction_takes_the_least_recently_used(
        room in 8_u32..14,
        calls in vec((0..KEYS, any::<bool>()), 1..200),
    ) {
        let mut catalog = catalog_of(room);
        let mut list: Vec<ChunkKey> = Vec::new();
        for (last, is_store) in calls {
            let keys = prompt(last);
            let mut touched = keys.clone();
            if is_store {
                let mut expected = Vec::new();
                let missing = keys.iter().filter(|key| !list.contains(key)).count();
                for _ in (room as usize..).take((list.len() + missing).saturating_sub(room as usize)) {
                    let at = list.iter().position(|key| !keys.contains(key)).unwrap();
                    expected.push(list.remove(at));
                }
                prop_assert_eq!(store(&mut catalog, &keys, None), expected);
            } else {
                let chunks = keys.iter().take_while(|key| list.contains(key)).count();
                prop_assert_eq!(used(&mut catalog, &keys), chunks);
                touched.truncate(chunks);
            }
            // All of a prompt is used at once; its end counts as older, since it is of no use without its beginning.
            list.retain(|key| !touched.contains(key));
            list.extend(touched.iter().rev());
            let order: Vec<ChunkKey> = catalog.committed().map(|record| record.key).collect();
            prop_assert_eq!(&order, &list);
        }
    }
}

#[test]
fn of_a_prompt_equally_old_throughout_the_deepest_chunk_goes_first() {
    let mut catalog = catalog_of(5);
    let chain: Vec<ChunkKey> = (0..5).map(key).collect();
    assert_eq!(store(&mut catalog, &chain, None), []);
    for (number, deepest) in (5..10).zip(chain.iter().rev()) {
        assert_eq!(store(&mut catalog, &[key(number)], None), [*deepest]);
    }
}

#[test]
fn a_prompt_stored_piece_by_piece_is_as_one_stored_at_once() {
    let mut catalog = catalog_of(5);
    let chain: Vec<ChunkKey> = (0..5).map(key).collect();
    store(&mut catalog, &chain[..2], None);
    store(&mut catalog, &chain[2..4], Some(chain[1]));
    store(&mut catalog, &chain[4..], Some(chain[3]));
    for (number, deepest) in (5..10).zip(chain.iter().rev()) {
        assert_eq!(store(&mut catalog, &[key(number)], None), [*deepest]);
    }
}

#[test]
fn a_store_is_refused_while_everything_is_in_use_and_not_after() {
    let mut catalog = catalog_of(3);
    store(&mut catalog, &[key(0)], None);
    store(&mut catalog, &[key(1)], None);
    let LookupDecision::Hit { ticket: looked_up, .. } = catalog.lookup(&[key(0)]) else { panic!("stored") };
    let reading = read(&mut catalog, key(1));
    let writing = write(&mut catalog, &[key(2)], None);

    let full = |catalog: &mut Catalog| {
        let mut removed = Vec::new();
        let decisions = catalog.plan_store(&[(key(14), LENGTH)], None, 0, &mut removed);
        assert_eq!(removed, [], "nothing in use is evicted");
        decisions == [StoreDecision::Full]
    };
    assert!(full(&mut catalog), "all three are in use");
    assert!(catalog.release(reading));
    assert_eq!(store(&mut catalog, &[key(3)], None), [key(1)], "what was being read may go now");
    let three = read(&mut catalog, key(3));
    assert!(full(&mut catalog));
    assert!(catalog.release(looked_up));
    assert_eq!(store(&mut catalog, &[key(4)], None), [key(0)], "what was looked up may go now");
    let four = read(&mut catalog, key(4));
    assert!(full(&mut catalog));
    assert!(catalog.commit(writing[0]));
    assert_eq!(store(&mut catalog, &[key(5)], None), [key(2)], "what was being written may go now");
    assert!(catalog.release(three) && catalog.release(four));
    assert_eq!(catalog.open_tickets(), 0);
}

#[test]
fn a_chunk_of_any_size_finds_room_when_all_may_go() {
    let mut catalog = catalog_of(10);
    (0..10).for_each(|number| assert_eq!(store(&mut catalog, &[key(number)], None), []));
    let all = u32::try_from(19 * BLOCK_BYTES).unwrap();
    let mut removed = Vec::new();
    let decisions = catalog.plan_store(&[(key(10), all)], None, 0, &mut removed);
    assert!(matches!(decisions[..], [StoreDecision::Write(_)]));
    assert_eq!(keys_of(&removed), (0..10).map(key).collect::<Vec<_>>());
    let mut removed = Vec::new();
    assert_eq!(catalog.plan_store(&[(key(11), all + 1)], None, 0, &mut removed), [StoreDecision::Full]);
    assert_eq!(removed, [], "nothing is evicted for what is larger than the tier");
}

#[test]
fn a_dropped_chunk_can_be_stored_again_while_the_old_one_is_still_read() {
    let mut catalog = catalog_of(2);
    store(&mut catalog, &[key(0)], None);
    let (one, other) = (read(&mut catalog, key(0)), read(&mut catalog, key(0)));
    assert!(catalog.discard(one).is_some());
    assert!(!catalog.contains(&key(0)));
    assert_eq!(catalog.space().free_blocks(), 2, "its blocks are kept while it is read");
    assert_eq!(store(&mut catalog, &[key(0)], None), []);
    assert!(catalog.contains(&key(0)));
    assert_eq!(catalog.discard(other), Some(None), "it was dropped already");
    assert!(catalog.contains(&key(0)), "the new one is not the one that was bad");
    assert_eq!(catalog.space().free_blocks(), 2);
}

#[test]
fn a_chunk_that_cannot_be_restored_changes_nothing() {
    let mut catalog = catalog_of(3);
    store(&mut catalog, &[key(0), key(1), key(2)], None);
    let records: Vec<ChunkRecord> = catalog.committed().collect();
    let limits = Limits { blocks: 6.into(), chunks_max: 2, tickets_max: 9 };
    let mut restored = Catalog::new(limits, CachePolicy::Lru, 2);
    assert!(restored.restore(records[0]));
    assert!(!restored.restore(records[0]), "the key is there");
    assert!(!restored.restore(ChunkRecord { key: key(9), ..records[0] }), "the blocks are another chunk's");
    assert!(restored.restore(records[1]));
    assert!(!restored.restore(records[2]), "there are as many chunks as may be");
    assert_eq!(restored.len(), 2);
    assert_eq!(restored.space().free_blocks(), 2);
    assert_eq!(restored.open_tickets(), 0);
}

#[test]
fn a_restored_chunk_of_any_depth_can_be_continued() {
    let mut catalog = catalog_of(3);
    store(&mut catalog, &[key(0)], None);
    let record = catalog.committed().next().unwrap();
    for depth in [0, 1, u32::MAX - 1, u32::MAX] {
        let mut restored = catalog_of(3);
        assert!(restored.restore(ChunkRecord { depth, ..record }));
        restored.tie_restored();
        assert_eq!(store(&mut restored, &[key(1), key(2)], Some(key(0))), []);
    }
}

#[test]
fn generations_of_a_later_epoch_are_larger_than_all_of_an_earlier_one() {
    let generations = |epoch| {
        let mut catalog = Catalog::new(
            Limits { blocks: 40.into(), chunks_max: 20, tickets_max: 20 },
            CachePolicy::Lru,
            epoch,
        );
        (0..9).for_each(|number| assert_eq!(store(&mut catalog, &[key(number)], None), []));
        catalog.committed().map(|record| record.generation).collect::<Vec<u64>>()
    };
    let (first, second) = (generations(7), generations(8));
    assert!(first.iter().max() < second.iter().min());
    assert!(first.iter().all(|&generation| Catalog::epoch_of(generation) == 7));
    assert!(second.iter().all(|&generation| Catalog::epoch_of(generation) == 8));
}

#[test]
fn a_ticket_of_an_earlier_epoch_is_refused_by_a_later_one() {
    let limits = Limits { blocks: 40.into(), chunks_max: 20, tickets_max: 20 };
    let old = write(&mut Catalog::new(limits, CachePolicy::Lru, 1), &[key(0)], None)[0];
    let mut catalog = Catalog::new(limits, CachePolicy::Lru, 2);
    write(&mut catalog, &[key(1)], None);
    assert_eq!(catalog.writing(old), None, "a mover's late answer is about a chunk of the old epoch");
    assert!(!catalog.commit(old), "what nobody has written must not be found");
    assert!(!catalog.contains(&key(1)));
}

/// Evicts for two new chunks while `child` is being read, and says whether `parent` is still there.
fn outlives_eviction(catalog: &mut Catalog, parent: ChunkKey, child: ChunkKey) -> bool {
    assert!(catalog.contains(&parent) && catalog.contains(&child));
    let reading = read(catalog, child);
    catalog.plan_store(&[(key(13), LENGTH), (key(14), LENGTH)], None, 0, &mut Vec::new());
    assert!(catalog.release(reading));
    catalog.contains(&parent)
}

#[test]
fn a_chunk_stored_again_after_a_failed_store_is_kept_for_the_chunk_that_continues_it() {
    let mut catalog = catalog_of(2);
    let tickets = write(&mut catalog, &[key(0), key(1)], None);
    assert!(catalog.abort(tickets[0]) && catalog.commit(tickets[1]));
    assert_eq!(store(&mut catalog, &[key(0), key(1)], None), []);
    assert!(outlives_eviction(&mut catalog, key(0), key(1)));
}

#[test]
fn a_chunk_stored_again_after_it_was_dropped_is_kept_for_the_chunk_that_continues_it() {
    let mut catalog = catalog_of(2);
    store(&mut catalog, &[key(0), key(1)], None);
    let reading = read(&mut catalog, key(0));
    assert!(catalog.discard(reading).is_some());
    assert_eq!(store(&mut catalog, &[key(0), key(1)], None), []);
    assert!(outlives_eviction(&mut catalog, key(0), key(1)));
}

#[test]
fn a_chunk_stored_after_the_one_that_continues_it_is_kept_for_it() {
    let mut catalog = catalog_of(2);
    store(&mut catalog, &[key(1)], Some(key(0)));
    assert_eq!(store(&mut catalog, &[key(0), key(1)], None), []);
    assert!(outlives_eviction(&mut catalog, key(0), key(1)));
}

/// What the catalog says of a chunk that is there.
fn record_of(catalog: &Catalog, key: ChunkKey) -> ChunkRecord {
    catalog.committed().find(|record| record.key == key).expect("it is there")
}

fn drop_chunk(catalog: &mut Catalog, key: ChunkKey) {
    let reading = read(catalog, key);
    assert!(matches!(catalog.discard(reading), Some(Some(_))));
}

#[test]
fn a_record_names_its_parent_whatever_becomes_of_that_one() {
    let mut catalog = catalog_of(4);
    store(&mut catalog, &[key(0), key(1)], None);
    let named = |catalog: &Catalog| record_of(catalog, key(1)).parent;
    drop_chunk(&mut catalog, key(0));
    assert_eq!(named(&catalog), key(0), "dropped");
    store(&mut catalog, &[key(2), key(3)], None);
    assert_eq!(named(&catalog), key(0), "and its place taken");
    let again = write(&mut catalog, &[key(0)], None);
    catalog.plan_store(&[(key(1), LENGTH)], Some(key(0)), 0, &mut Vec::new());
    assert_eq!(named(&catalog), key(0), "being stored again");
    assert!(catalog.abort(again[0]));
    assert_eq!(named(&catalog), key(0), "in vain");

    let records: Vec<ChunkRecord> = catalog.committed().collect();
    let mut restored = catalog_of(4);
    records.iter().for_each(|record| assert!(restored.restore(*record)));
    restored.tie_restored();
    assert_eq!(named(&restored), key(0), "restored without it");
    store(&mut restored, &[key(0), key(1)], None);
    assert_eq!(named(&restored), key(0), "and then stored again");
}

#[test]
fn a_record_names_the_parent_it_was_stored_with_and_not_the_one_it_is_tied_to() {
    let mut catalog = catalog_of(4);
    store(&mut catalog, &[key(1)], Some(key(0)));
    store(&mut catalog, &[key(2), key(1)], None);
    assert_eq!(record_of(&catalog, key(1)).parent, key(0), "whatever was claimed of it later");
    store(&mut catalog, &[key(3)], None);
    store(&mut catalog, &[key(2), key(3)], None);
    assert_eq!(record_of(&catalog, key(3)).parent, ChunkKey::NONE);
}

#[test]
fn what_takes_the_place_of_a_dropped_chunk_is_not_kept_for_the_chunk_that_continued_that_one() {
    let mut catalog = catalog_of(2);
    store(&mut catalog, &[key(0), key(1)], None);
    drop_chunk(&mut catalog, key(0));
    assert_eq!(store(&mut catalog, &[key(2)], None), []);
    let reading = read(&mut catalog, key(1));
    assert_eq!(store(&mut catalog, &[key(3)], None), [key(2)], "nothing continues it");
    assert!(catalog.release(reading));
    assert_eq!(store(&mut catalog, &[key(4), key(5)], None), [key(1), key(3)]);
}

#[test]
fn a_prompt_stored_in_any_order_of_memory_is_found_whole() {
    let mut catalog = catalog_of(15);
    // Places are given back and used again, so that the prompt's chunks lie one beside the other, apart and reversed.
    let filler: Vec<ChunkKey> = (100..115).map(key).collect();
    filler.iter().for_each(|&key| assert_eq!(store(&mut catalog, &[key], None), []));
    for at in [3, 9, 8, 7, 1, 14, 0, 2, 4, 5, 6, 13, 12, 11, 10] {
        drop_chunk(&mut catalog, filler[at]);
    }
    let chain: Vec<ChunkKey> = (0..15).map(key).collect();
    store(&mut catalog, &chain, None);
    for chunks in 1..=15 {
        assert_eq!(used(&mut catalog, &chain[..chunks]), chunks);
    }
    drop_chunk(&mut catalog, chain[7]);
    assert_eq!(used(&mut catalog, &chain), 7);
}
