//! The address space against a bitmap: which blocks are free, and which of them are handed out.

use std::panic::{AssertUnwindSafe, catch_unwind};

use forebay::catalog::{AddressSpace, EXTENTS_MAX, Extent, Extents};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Debug, Clone)]
enum Call {
    Allocate(u32),
    Free(Index),
    Reserve(Vec<(u32, u32)>),
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => (0_u32..20).prop_map(Call::Allocate),
        4 => any::<Index>().prop_map(Call::Free),
        1 => vec((0_u32..70, 0_u32..12), 1..=EXTENTS_MAX).prop_map(Call::Reserve),
    ]
}

/// A space, the bitmap that says what is taken, and what was handed out.
struct World {
    space: AddressSpace,
    taken: Vec<bool>,
    held: Vec<Extents>,
}

impl World {
    fn new(blocks: u32) -> Self {
        Self { space: AddressSpace::new(blocks), taken: vec![false; blocks as usize], held: Vec::new() }
    }

    /// The free ranges, as wide as they are.
    fn free_ranges(&self) -> Vec<Extent> {
        let mut ranges: Vec<Extent> = Vec::new();
        for (block, _) in (0_u32..).zip(&self.taken).filter(|(_, taken)| !**taken) {
            match ranges.last_mut() {
                Some(range) if range.end() == u64::from(block) => range.blocks += 1,
                _ => ranges.push(Extent { start: block, blocks: 1 }),
            }
        }
        ranges
    }

    /// Marks blocks as taken; `false`, and nothing marked, when one of them is not there or not free.
    fn mark(&mut self, extents: &[Extent]) -> bool {
        let mut marked = self.taken.clone();
        for extent in extents {
            for block in u64::from(extent.start)..extent.end() {
                match usize::try_from(block).ok().and_then(|block| marked.get_mut(block)) {
                    Some(taken) if !*taken => *taken = true,
                    _ => return false,
                }
            }
        }
        self.taken = marked;
        true
    }

    fn allocate(&mut self, blocks: u32) {
        let ranges = self.free_ranges();
        let smallest = ranges.iter().filter(|range| range.blocks >= blocks).map(|range| range.blocks).min();
        let mut sizes: Vec<u32> = ranges.iter().map(|range| range.blocks).collect();
        sizes.sort_unstable_by(|one, other| other.cmp(one));
        let reach: u32 = sizes.iter().take(EXTENTS_MAX).sum();
        match self.space.allocate(blocks) {
            Some(extents) => {
                let list = extents.as_slice();
                assert_eq!(extents.blocks(), u64::from(blocks), "as much as was asked for");
                assert!((1..=EXTENTS_MAX).contains(&list.len()), "in as few extents as a chunk may span");
                assert!(list.iter().all(|extent| extent.blocks > 0), "none of them empty");
                assert!(self.mark(list), "and all of it was free");
                if let Some(smallest) = smallest {
                    assert_eq!(list.len(), 1, "in one piece when there is one that is large enough");
                    let range = ranges
                        .iter()
                        .find(|range| list[0].start >= range.start && list[0].end() <= range.end());
                    assert_eq!(range.unwrap().blocks, smallest, "the smallest such");
                }
                self.held.push(extents);
            }
            None => assert!(blocks == 0 || reach < blocks, "refused though {blocks} blocks are to be had"),
        }
    }

    fn apply(&mut self, call: Call) {
        match call {
            Call::Allocate(blocks) => self.allocate(blocks),
            Call::Free(index) => {
                if !self.held.is_empty() {
                    let extents = self.held.swap_remove(index.index(self.held.len()));
                    self.space.free(&extents);
                    for extent in extents.as_slice() {
                        self.taken[extent.start as usize..][..extent.blocks as usize].fill(false);
                    }
                }
            }
            Call::Reserve(list) => {
                let list: Vec<Extent> =
                    list.into_iter().map(|(start, blocks)| Extent { start, blocks }).collect();
                let extents = Extents::from_slice(&list).unwrap();
                let sound = list.iter().all(|extent| extent.blocks > 0) && self.mark(&list);
                assert_eq!(self.space.reserve(&extents), sound, "all of it, or nothing");
                if sound {
                    self.held.push(extents);
                }
            }
        }
    }

    fn check(&self) {
        let ranges = self.free_ranges();
        let free: u64 = ranges.iter().map(|range| u64::from(range.blocks)).sum();
        assert_eq!(self.space.free_blocks(), free);
        assert_eq!(self.space.blocks() as usize, self.taken.len());
        // What is free in the bitmap can be taken as wide as it is: neighbours were joined.
        let mut all = self.space.clone();
        for range in &ranges {
            assert!(all.reserve(&Extents::from_slice(&[*range]).unwrap()), "{range:?} is free");
        }
        assert_eq!(all.free_blocks(), 0);
        if let Some(widest) = ranges.iter().map(|range| range.blocks).max() {
            let taken = self.space.clone().allocate(widest).expect("there is such a range");
            assert_eq!(taken.as_slice().len(), 1, "the widest range is one range");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_space_is_what_a_bitmap_says(blocks in 1_u32..70, calls in vec(call(), 1..100)) {
        let mut world = World::new(blocks);
        for call in calls {
            world.apply(call);
            world.check();
        }
        for extents in std::mem::take(&mut world.held) {
            world.space.free(&extents);
        }
        prop_assert_eq!(world.space.free_blocks(), u64::from(blocks), "nothing leaked");
        let whole = world.space.allocate(blocks).map(|extents| extents.as_slice().len());
        prop_assert_eq!(whole, Some(1), "and all of it is one range again");
    }

    #[test]
    fn a_space_restored_from_what_is_held_answers_like_the_one_before(
        blocks in 1_u32..70, calls in vec(call(), 1..60), then in vec(1_u32..20, 0..10),
    ) {
        let mut world = World::new(blocks);
        calls.into_iter().for_each(|call| world.apply(call));
        let mut restored = AddressSpace::new(blocks);
        for extents in world.held.iter().rev() {
            prop_assert!(restored.reserve(extents));
        }
        for blocks in then {
            prop_assert_eq!(restored.free_blocks(), world.space.free_blocks());
            prop_assert_eq!(restored.allocate(blocks), world.space.allocate(blocks));
        }
    }

    #[test]
    fn giving_back_what_is_free_already_is_noticed(
        blocks in 1_u32..70, calls in vec(call(), 1..60), at in any::<Index>(), len in 1_u32..6,
    ) {
        let mut world = World::new(blocks);
        calls.into_iter().for_each(|call| world.apply(call));
        let start = u32::try_from(at.index(blocks as usize)).unwrap();
        let extent = Extent { start, blocks: len };
        let taken = (u64::from(start)..extent.end())
            .all(|block| usize::try_from(block).ok().and_then(|block| world.taken.get(block)) == Some(&true));
        prop_assume!(!taken);
        let extents = Extents::from_slice(&[extent]).unwrap();
        prop_assert!(catch_unwind(AssertUnwindSafe(|| world.space.free(&extents))).is_err());
    }
}

#[test]
fn a_space_of_no_blocks_has_none() {
    let mut space = AddressSpace::new(0);
    assert_eq!((space.blocks(), space.free_blocks()), (0, 0));
    assert_eq!(space.allocate(0), None);
    assert_eq!(space.allocate(1), None);
    assert!(!space.reserve(&Extents::from_slice(&[Extent { start: 0, blocks: 1 }]).unwrap()));
}

#[test]
fn the_largest_space_ends_where_its_addresses_do() {
    let mut space = AddressSpace::new(u32::MAX);
    let whole = space.allocate(u32::MAX).unwrap();
    assert_eq!(whole.as_slice(), [Extent { start: 0, blocks: u32::MAX }]);
    assert_eq!(space.free_blocks(), 0);
    space.free(&whole);
    let last = Extents::from_slice(&[Extent { start: u32::MAX - 1, blocks: 1 }]).unwrap();
    assert!(space.reserve(&last));
    let past = Extents::from_slice(&[Extent { start: u32::MAX, blocks: 1 }]).unwrap();
    assert!(!space.reserve(&past));
    let far_past = Extents::from_slice(&[Extent { start: u32::MAX, blocks: u32::MAX }]).unwrap();
    assert!(!space.reserve(&far_past));
    space.free(&last);
    assert_eq!(space.allocate(u32::MAX).map(|extents| extents.as_slice().len()), Some(1));
}

#[test]
fn a_chunk_spans_three_extents_and_not_four() {
    let mut space = AddressSpace::new(8);
    let held: Vec<Extents> = (0..8).map(|_| space.allocate(1).unwrap()).collect();
    held.iter().step_by(2).for_each(|extents| space.free(extents));
    assert_eq!(space.free_blocks(), 4, "four blocks, none beside another");
    assert_eq!(space.allocate(4), None);
    assert_eq!(space.free_blocks(), 4, "a refusal takes nothing");
    assert_eq!(space.allocate(3).unwrap().as_slice().len(), 3);
    assert_eq!(Extents::from_slice(&[Extent::default(); 4]), None);
}
