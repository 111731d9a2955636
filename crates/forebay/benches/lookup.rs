//! How long a lookup takes: walks along the first 128 chunks of random prompts, each with its release.
//!
//! `fresh` is a catalog that was just filled, each prompt stored in one call. `churned` is one that has been evicted
//! and stored into until three times as much went through it as it holds, by eight prompts at a time, piece by piece.
//! `scattered` is the worst there is: chunks lie in the order of their keys, so that a prompt's lie anywhere.

#[path = "../tests/support/prompts.rs"]
mod prompts;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use forebay::ChunkKey;
use forebay::catalog::{CachePolicy, Catalog, ChunkRecord, Limits};
use rustix::time::{ClockId, clock_gettime};

use prompts::{Random, catalog_of, fill, look_up, serve, store};

/// Chunks of a walk.
const WALK: usize = 128;
/// Walks between two looks at the clock: their keys lie in the cache, as those that were just computed do.
const AT_ONCE: usize = 16;

fn fresh(chunks: u32) -> (Catalog, u64) {
    let mut catalog = catalog_of(chunks, CachePolicy::Lru);
    let prompts = u64::from(chunks) / WALK as u64;
    (0..prompts).for_each(|prompt| store(&mut catalog, prompt, 0, WALK as u64));
    (catalog, prompts)
}

fn churned(chunks: u32) -> (Catalog, u64) {
    let mut catalog = catalog_of(chunks, CachePolicy::Lru);
    let prompts = serve(&mut catalog, 3 * u64::from(chunks), 0);
    (catalog, prompts)
}

fn scattered(chunks: u32) -> (Catalog, u64) {
    let (ordered, prompts) = fresh(chunks);
    let mut records: Vec<ChunkRecord> = ordered.committed().collect();
    records.sort_unstable_by_key(|record| record.key);
    let limits = Limits { blocks: (2 * chunks).into(), chunks_max: chunks, tickets_max: 1 << 20 };
    let mut catalog = Catalog::new(limits, CachePolicy::Lru, 2);
    records.into_iter().for_each(|record| assert!(catalog.restore(record)));
    catalog.tie_restored();
    (catalog, prompts)
}

/// The prompts whose first chunks are all there.
fn whole(catalog: &mut Catalog, prompts: u64) -> Vec<u64> {
    let mut keys = [ChunkKey::NONE; WALK];
    (0..prompts)
        .filter(|&prompt| {
            fill(&mut keys, prompt);
            look_up(catalog, &keys) == WALK
        })
        .collect()
}

/// What this thread has had of a processor: others may be using the machine.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("time does not run backwards")
}

fn walks(catalog: &mut Catalog, whole: &[u64], random: &mut Random, count: u64) -> Duration {
    let mut keys = vec![[ChunkKey::NONE; WALK]; AT_ONCE];
    let mut took = Duration::ZERO;
    let mut left = usize::try_from(count).expect("few enough");
    while left > 0 {
        let now = left.min(AT_ONCE);
        for keys in &mut keys[..now] {
            let at = usize::try_from(random.below(whole.len() as u64)).expect("an index");
            fill(keys, whole[at]);
        }
        let start = cpu_time();
        for keys in &keys[..now] {
            assert_eq!(look_up(catalog, keys), WALK);
        }
        took += cpu_time().saturating_sub(start);
        left -= now;
    }
    took
}

fn lookup(criterion: &mut Criterion) {
    type Layout = (&'static str, fn(u32) -> (Catalog, u64));
    let layouts: [Layout; 3] = [("fresh", fresh), ("churned", churned), ("scattered", scattered)];
    for (name, layout) in layouts {
        let mut group = criterion.benchmark_group(format!("lookup/{name}"));
        group.throughput(Throughput::Elements(WALK as u64));
        group
            .sample_size(20)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2));
        for chunks in [10_000, 100_000, 1_000_000, 10_000_000] {
            // Filled when it is measured, and not for what is filtered out.
            let mut filled = None;
            group.bench_function(BenchmarkId::from_parameter(chunks), |bencher| {
                let (catalog, whole) = filled.get_or_insert_with(|| {
                    let (mut catalog, prompts) = layout(chunks);
                    let whole = whole(&mut catalog, prompts);
                    (catalog, whole)
                });
                let mut random = Random(1);
                bencher.iter_custom(|count| walks(catalog, whole, &mut random, count));
            });
        }
    }
}

criterion_group!(benches, lookup);
criterion_main!(benches);
