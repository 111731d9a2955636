//! How long it takes to find room: a chunk's extents are given back and another one's taken, in a tier that is nine
//! tenths full.

#[path = "../tests/support/prompts.rs"]
#[expect(dead_code, reason = "only its random numbers are needed")]
mod prompts;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use forebay::catalog::{AddressSpace, Extents};
use prompts::Random;

const CHUNKS: u32 = 100_000;
const CHUNK_BLOCKS: u32 = 32;

fn space(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("space");
    // All of one size, or any from half of it to half as much again.
    for (name, spread) in [("one size", 0), ("many sizes", CHUNK_BLOCKS)] {
        let mut random = Random(1);
        let mut blocks = move || {
            let over = u32::try_from(random.below(u64::from(spread) + 1)).expect("a few");
            CHUNK_BLOCKS - spread / 2 + over
        };
        let mut space = AddressSpace::new(CHUNKS * CHUNK_BLOCKS);
        let mut held: Vec<Extents> = Vec::new();
        while space.free_blocks() > u64::from(space.blocks() / 10) {
            held.extend(space.allocate(blocks()));
        }
        let mut random = Random(2);
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                let at = usize::try_from(random.below(held.len() as u64)).expect("an index");
                space.free(&held.swap_remove(at));
                // One that finds its room too scattered is refused, as in a catalog that may evict no more for it.
                held.extend(space.allocate(blocks()));
                if held.len() < CHUNKS as usize / 2 {
                    held.extend(space.allocate(CHUNK_BLOCKS));
                }
            });
        });
    }
}

criterion_group!(benches, space);
criterion_main!(benches);
