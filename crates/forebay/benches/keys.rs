//! How long it takes to name a prompt's chunks: 128 chunks of 256 tokens, and the same from an engine's block hashes.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use forebay::Namespace;

const CHUNKS: usize = 128;
const CHUNK_TOKENS: usize = 256;
/// Blocks of 16 tokens, as vLLM has them by default.
const CHUNK_BLOCKS: usize = 16;

fn keys(criterion: &mut Criterion) {
    let namespace = Namespace::of_model("a-model");
    let mut group = criterion.benchmark_group("keys");
    group.throughput(Throughput::Elements(CHUNKS as u64));
    let tokens: Vec<u32> = (0..).take(CHUNKS * CHUNK_TOKENS).collect();
    group.bench_function("from tokens", |bencher| {
        bencher.iter(|| namespace.chunk_keys(&tokens, CHUNK_TOKENS, &[]).expect("the size is not 0"));
    });
    let blocks: Vec<[u8; 32]> =
        (0_u8..=255).cycle().map(|byte| [byte; 32]).take(CHUNKS * CHUNK_BLOCKS).collect();
    group.bench_function("from block hashes", |bencher| {
        bencher
            .iter(|| namespace.chunk_keys_from_blocks(&blocks, CHUNK_BLOCKS).expect("the number is not 0"));
    });
}

criterion_group!(benches, keys);
criterion_main!(benches);
