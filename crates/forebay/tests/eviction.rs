//! The order of eviction of each policy: against a small model of its own on chunks that nothing hangs on, and by hand where
//! prompts, pins and restarts come in. That of the least recently used has its model in `catalog_model.rs`; what no
//! policy may do is tested there too.

#[path = "support/catalogs.rs"]
mod catalogs;

use std::collections::VecDeque;
use std::time::Duration;

use catalogs::{read, used};
use forebay::ChunkKey;
use forebay::catalog::{CachePolicy, Catalog, ChunkRecord, Limits};
use proptest::collection::vec;
use proptest::prelude::*;
use rustix::time::{ClockId, clock_gettime};

fn catalog_of(chunks: u32, policy: CachePolicy) -> Catalog {
    let limits = Limits { blocks: (2 * chunks).into(), chunks_max: u32::MAX, tickets_max: 1000 };
    Catalog::new(limits, policy, 1)
}

fn key(number: u32) -> ChunkKey {
    let mut bytes = [7; 32];
    // Parts of a key are taken for digests: each is spread over its range.
    bytes[8..].chunks_exact_mut(4).for_each(|part| {
        part.copy_from_slice(&number.wrapping_add(1).wrapping_mul(0x9e37_79b1).to_le_bytes());
    });
    ChunkKey::new(bytes)
}

fn keys(numbers: impl IntoIterator<Item = u32>) -> Vec<ChunkKey> {
    numbers.into_iter().map(key).collect()
}

fn store(catalog: &mut Catalog, keys: &[ChunkKey]) -> Vec<ChunkKey> {
    catalogs::store(catalog, keys, None)
}

fn order(catalog: &Catalog) -> Vec<ChunkKey> {
    catalog.committed().map(|record| record.key).collect()
}

fn restarted(catalog: &Catalog, chunks: u32, policy: CachePolicy) -> Catalog {
    let records: Vec<ChunkRecord> = catalog.committed().collect();
    let mut catalog = catalog_of(chunks, policy);
    records.iter().rev().for_each(|record| {
        catalog.restore(*record);
    });
    catalog.tie_restored();
    catalog
}

/// What a policy says of chunks that nothing hangs on and nobody uses.
trait Model {
    fn used(&mut self, key: u32);
    fn stored(&mut self, key: u32);
    fn dropped(&mut self, key: u32);
    fn evict(&mut self) -> u32;
}

/// In the order in which they were stored.
#[derive(Default)]
struct Fifo(Vec<u32>);

impl Model for Fifo {
    fn used(&mut self, _: u32) {}

    fn stored(&mut self, key: u32) {
        self.0.push(key);
    }

    fn dropped(&mut self, key: u32) {
        self.0.retain(|&other| other != key);
    }

    fn evict(&mut self) -> u32 {
        self.0.remove(0)
    }
}

/// With their fame, the least famous first, among equals the least recently used.
#[derive(Default)]
struct Lfu {
    list: Vec<(u32, u32)>,
    evicted: usize,
}

impl Lfu {
    fn put(&mut self, key: u32, fame: u32) {
        let fame = fame.min(15);
        let at = self.list.iter().position(|&(_, other)| other > fame).unwrap_or(self.list.len());
        self.list.insert(at, (key, fame));
    }

    fn take(&mut self, key: u32) -> u32 {
        let at = self.list.iter().position(|&(other, _)| other == key).unwrap();
        self.list.remove(at).1
    }
}

impl Model for Lfu {
    fn used(&mut self, key: u32) {
        let fame = self.take(key);
        self.put(key, fame + 1);
    }

    fn stored(&mut self, key: u32) {
        self.put(key, 1);
    }

    fn dropped(&mut self, key: u32) {
        self.take(key);
    }

    fn evict(&mut self) -> u32 {
        if self.evicted >= self.list.len() {
            self.evicted = 0;
            self.list.iter_mut().for_each(|(_, fame)| *fame = fame.saturating_sub(1));
        }
        self.evicted += 1;
        self.list.remove(0).0
    }
}

/// As the paper has it: keys with their uses in two queues, and what left the small one, the last at the end.
#[derive(Default)]
struct S3Fifo {
    small: VecDeque<(u32, u32)>,
    main: VecDeque<(u32, u32)>,
    went: Vec<Option<u32>>,
}

impl Model for S3Fifo {
    fn used(&mut self, key: u32) {
        let all = self.small.iter_mut().chain(&mut self.main);
        all.filter(|(other, _)| *other == key).for_each(|(_, uses)| *uses = 3.min(*uses + 1));
    }

    fn stored(&mut self, key: u32) {
        let held = self.small.len() + self.main.len();
        let from = self.went.len().saturating_sub(held - held / 10);
        let ghost = self.went[from..].iter_mut().find(|ghost| **ghost == Some(key));
        match ghost.and_then(Option::take) {
            Some(_) => self.main.push_back((key, 0)),
            None => self.small.push_back((key, 0)),
        }
    }

    fn dropped(&mut self, key: u32) {
        self.small.retain(|&(other, _)| other != key);
        self.main.retain(|&(other, _)| other != key);
    }

    fn evict(&mut self) -> u32 {
        loop {
            let held = self.small.len() + self.main.len();
            if self.main.is_empty() || 10 * self.small.len() >= held {
                let (key, uses) = self.small.pop_front().unwrap();
                if uses < 2 {
                    self.went.iter_mut().filter(|ghost| **ghost == Some(key)).for_each(|ghost| *ghost = None);
                    self.went.push(Some(key));
                    return key;
                }
                self.main.push_back((key, 0));
            } else {
                let (key, uses) = self.main.pop_front().unwrap();
                if uses == 0 {
                    return key;
                }
                self.main.push_back((key, uses - 1));
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Call {
    /// Looks a chunk up, and stores it if it is not there.
    Ask(u32),
    /// Stores a chunk, there or not.
    Store(u32),
    /// Finds that it is not what was stored.
    Drop(u32),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    // Low numbers come often.
    let number = || (0_u32..50, 0_u32..50).prop_map(|(one, other)| one.min(other));
    let call = prop_oneof![
        20 => number().prop_map(Call::Ask),
        2 => number().prop_map(Call::Store),
        1 => number().prop_map(Call::Drop),
    ];
    vec(call, 1..1000)
}

/// What catalog and model evict, for each call, until they differ.
fn agree(policy: CachePolicy, room: u32, mut model: impl Model, calls: Vec<Call>) {
    let mut catalog = catalog_of(room, policy);
    for call in calls {
        let (Call::Ask(number) | Call::Store(number) | Call::Drop(number)) = call;
        let is_there = catalog.contains(&key(number));
        match call {
            Call::Ask(_) if is_there => {
                assert_eq!(used(&mut catalog, &[key(number)]), 1);
                model.used(number);
            }
            Call::Store(_) if is_there => {
                assert_eq!(store(&mut catalog, &[key(number)]), []);
                model.used(number);
            }
            Call::Ask(_) | Call::Store(_) => {
                let is_full = catalog.len() == room as usize;
                let evicted: Vec<ChunkKey> = is_full.then(|| key(model.evict())).into_iter().collect();
                assert_eq!(store(&mut catalog, &[key(number)]), evicted);
                model.stored(number);
            }
            Call::Drop(_) if is_there => {
                let reading = read(&mut catalog, key(number));
                assert!(catalog.discard(reading).is_some());
                model.dropped(number);
            }
            Call::Drop(_) => {}
        }
    }
    // And all that is left, one after the other.
    for number in 1000..1000 + room {
        if catalog.len() == room as usize {
            assert_eq!(store(&mut catalog, &[key(number)]), [key(model.evict())]);
        } else {
            assert_eq!(store(&mut catalog, &[key(number)]), []);
        }
        model.stored(number);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fifo_takes_what_was_stored_first(room in 1_u32..40, calls in calls()) {
        agree(CachePolicy::Fifo, room, Fifo::default(), calls);
    }

    #[test]
    fn lfu_takes_what_was_used_least_of_late(room in 1_u32..40, calls in calls()) {
        agree(CachePolicy::Lfu, room, Lfu::default(), calls);
    }

    #[test]
    fn s3_fifo_takes_what_the_paper_says(room in 1_u32..40, calls in calls()) {
        agree(CachePolicy::S3Fifo, room, S3Fifo::default(), calls);
    }
}

#[test]
fn of_a_prompt_equally_old_throughout_the_deepest_chunk_goes_first() {
    for policy in CachePolicy::ALL {
        for piece in [1, 2, 5, 20] {
            let mut catalog = catalog_of(20, policy);
            let chain = keys(0..20);
            let mut parent = None;
            for piece in chain.chunks(piece) {
                assert_eq!(catalogs::store(&mut catalog, piece, parent), []);
                parent = piece.last().copied();
            }
            let from_its_end: Vec<ChunkKey> = chain.iter().rev().copied().collect();
            assert_eq!(order(&catalog), from_its_end, "{policy:?}");
            for (number, deepest) in (100..110).zip(from_its_end) {
                assert_eq!(store(&mut catalog, &[key(number)]), [deepest], "{policy:?}, pieces of {piece}");
            }
        }
    }
}

#[test]
fn what_was_passed_over_goes_as_soon_as_it_may() {
    for policy in [CachePolicy::Fifo, CachePolicy::Lfu, CachePolicy::S3Fifo] {
        let mut catalog = catalog_of(5, policy);
        (0..5).for_each(|number| assert_eq!(store(&mut catalog, &[key(number)]), []));
        let (zero, one) = (read(&mut catalog, key(0)), read(&mut catalog, key(1)));
        assert_eq!(store(&mut catalog, &[key(5)]), [key(2)], "{policy:?}: in use is passed over");
        assert!(catalog.release(one));
        assert_eq!(store(&mut catalog, &[key(6)]), [key(1)], "{policy:?}");
        assert_eq!(store(&mut catalog, &[key(7)]), [key(3)], "{policy:?}");
        assert!(catalog.release(zero));
        assert_eq!(store(&mut catalog, &[key(8)]), [key(0)], "{policy:?}");
        assert_eq!(store(&mut catalog, &[key(9)]), [key(4)], "{policy:?}");
    }
}

/// A set of prompts that is half the cache is used three times, then so many others of ten chunks are stored: how much of
/// the set is left.
fn left_after_a_scan(policy: CachePolicy, prompts: u32) -> usize {
    let mut catalog = catalog_of(100, policy);
    let hot: Vec<Vec<ChunkKey>> = (0..5).map(|prompt| keys(prompt * 10..prompt * 10 + 10)).collect();
    hot.iter().for_each(|prompt| assert_eq!(store(&mut catalog, prompt), []));
    for _ in 0..3 {
        hot.iter().for_each(|prompt| assert_eq!(used(&mut catalog, prompt), 10));
    }
    (100..100 + prompts).for_each(|prompt| {
        store(&mut catalog, &keys(prompt * 10..prompt * 10 + 10));
    });
    hot.iter().map(|prompt| used(&mut catalog, prompt)).sum()
}

#[test]
fn a_scan_leaves_what_is_hot_to_those_that_count_uses() {
    let twice_the_cache = CachePolicy::ALL.map(|policy| (policy.name(), left_after_a_scan(policy, 20)));
    assert_eq!(twice_the_cache, [("LRU", 0), ("FIFO", 0), ("LFU", 50), ("S3-FIFO", 50)]);
    // The fame of three uses has faded by then.
    let ten_times = CachePolicy::ALL.map(|policy| (policy.name(), left_after_a_scan(policy, 100)));
    assert_eq!(ten_times, [("LRU", 0), ("FIFO", 0), ("LFU", 0), ("S3-FIFO", 50)]);
}

#[test]
fn old_fame_fades() {
    let mut catalog = catalog_of(10, CachePolicy::Lfu);
    let famous = key(0);
    store(&mut catalog, &[famous]);
    (0..1000).for_each(|_| assert_eq!(used(&mut catalog, &[famous]), 1));
    let survived =
        (1..1000).take_while(|&number| !store(&mut catalog, &[key(number)]).contains(&famous)).count();
    // Nine free places, and one less for each ten of those that were evicted.
    assert!((140..=170).contains(&survived), "{survived}");
}

#[test]
fn fame_has_a_bound() {
    // Both have all the fame there is; one more use, and the first would have more.
    for (uses, first_to_go) in [(14, 0), (13, 1)] {
        let mut catalog = catalog_of(2, CachePolicy::Lfu);
        store(&mut catalog, &keys([0]));
        store(&mut catalog, &keys([1]));
        (0..1000).for_each(|_| assert_eq!(used(&mut catalog, &keys([0])), 1));
        (0..uses).for_each(|_| assert_eq!(used(&mut catalog, &keys([1])), 1));
        assert_eq!(store(&mut catalog, &keys([2])), keys([first_to_go]), "{uses}");
    }
}

#[test]
fn what_is_used_while_it_is_passed_over_has_fame_again() {
    let mut catalog = catalog_of(3, CachePolicy::Lfu);
    (0..3).for_each(|number| assert_eq!(store(&mut catalog, &[key(number)]), []));
    let reading = read(&mut catalog, key(0));
    assert_eq!(store(&mut catalog, &[key(3)]), [key(1)]);
    (0..2).for_each(|_| assert_eq!(used(&mut catalog, &[key(0)]), 1));
    assert!(catalog.release(reading));
    assert_eq!(store(&mut catalog, &[key(4)]), [key(2)]);
    assert_eq!(store(&mut catalog, &[key(5)]), [key(3)]);
}

#[test]
fn what_went_lately_and_comes_back_is_kept() {
    let mut catalog = catalog_of(20, CachePolicy::S3Fifo);
    let scan = |catalog: &mut Catalog, from: u32| {
        (from..from + 100).for_each(|number| {
            store(catalog, &[key(number)]);
        });
    };
    // The main queue is not empty, or there would be no other to be kept from.
    (0..20).for_each(|number| {
        store(&mut catalog, &[key(number)]);
        (0..2).for_each(|_| assert_eq!(used(&mut catalog, &[key(number)]), 1));
    });
    scan(&mut catalog, 100);
    let back = key(195);
    assert!(!catalog.contains(&back), "it has left the small queue");
    store(&mut catalog, &[back]);
    scan(&mut catalog, 300);
    assert!(catalog.contains(&back));
    assert!(!catalog.contains(&key(101)));
}

#[test]
fn a_restart_keeps_the_order_in_which_chunks_go() {
    for policy in CachePolicy::ALL {
        let mut catalog = catalog_of(30, policy);
        // Eight prompts of ten, of which three are whole in the end and used a different number of times.
        for prompt in 0..8 {
            store(&mut catalog, &keys(prompt * 10..prompt * 10 + 10));
            (0..prompt % 4).for_each(|_| {
                used(&mut catalog, &keys(prompt * 10..prompt * 10 + 5));
            });
        }
        let before = order(&catalog);
        let mut again = restarted(&catalog, 30, policy);
        assert_eq!(order(&again), before, "{policy:?}");
        for (number, first) in (1000..1003).zip(&before) {
            assert_eq!(store(&mut again, &[key(number)]), [*first], "{policy:?}");
        }
        // With less room, what is missing are ends.
        let smaller = restarted(&catalog, 17, policy);
        assert_eq!(order(&smaller).len(), 17);
        for record in smaller.committed() {
            assert!(record.parent == ChunkKey::NONE || smaller.contains(&record.parent), "{policy:?}");
        }
    }
}

#[test]
fn after_a_restart_the_famous_go_last_and_a_scan_takes_little() {
    let mut catalog = catalog_of(40, CachePolicy::Lfu);
    (0..40).for_each(|number| {
        store(&mut catalog, &[key(number)]);
    });
    (10..20).for_each(|number| assert_eq!(used(&mut catalog, &[key(number)]), 1));
    let again = restarted(&catalog, 40, CachePolicy::Lfu);
    assert_eq!(order(&again)[30..], keys(10..20));

    let mut catalog = catalog_of(40, CachePolicy::S3Fifo);
    (0..40).for_each(|number| {
        store(&mut catalog, &[key(number)]);
    });
    (10..30).for_each(|number| (0..2).for_each(|_| assert_eq!(used(&mut catalog, &[key(number)]), 1)));
    let mut again = restarted(&catalog, 40, CachePolicy::S3Fifo);
    (100..1000).for_each(|number| {
        store(&mut again, &[key(number)]);
    });
    let kept = (10..30).filter(|&number| again.contains(&key(number))).count();
    assert_eq!(kept, 20, "what was there before the restart is in the main queue");
}

/// Processor time of storing 20,000 chunks, each of which evicts one, beside a prompt of so many whose end is in use.
fn beside(policy: CachePolicy, kept: u32) -> Duration {
    let mut catalog = catalog_of(kept + 1000, policy);
    let chain = keys(0..kept);
    let mut parent = None;
    for piece in chain.chunks(1000) {
        catalogs::store(&mut catalog, piece, parent);
        parent = piece.last().copied();
    }
    let _in_use = read(&mut catalog, chain[chain.len() - 1]);
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let fill = |catalog: &mut Catalog, numbers: std::ops::Range<u32>| {
        numbers.for_each(|number| {
            store(catalog, &[key(number)]);
        });
    };
    fill(&mut catalog, 1_000_000..1_002_000);
    let begin = now();
    fill(&mut catalog, 2_000_000..2_020_000);
    assert!(catalog.contains(&chain[0]));
    now().saturating_sub(begin)
}

#[test]
fn what_may_not_go_is_not_looked_at_again_and_again() {
    for policy in [CachePolicy::Fifo, CachePolicy::Lfu, CachePolicy::S3Fifo] {
        let (few, many) = (beside(policy, 10), beside(policy, 100_000));
        assert!(many < 20 * few, "{policy:?}: {many:?} beside many, {few:?} beside few");
    }
}
