//! What the proof of a chunk costs: its trailer page, and the hash of its payload.

use std::hash::Hasher;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use forebay::ChunkKey;
use forebay::catalog::{BLOCK_BYTES, ChunkRecord, Extent, Extents};
use forebay::tier::disk::trailer;

/// Payload bytes: of 256 tokens of a small model.
const LENGTH: u32 = 4 << 20;

fn record() -> ChunkRecord {
    let blocks = u32::try_from(ChunkRecord::blocks(LENGTH)).expect("a chunk's blocks");
    ChunkRecord {
        key: ChunkKey::new([1; 32]),
        parent: ChunkKey::new([2; 32]),
        depth: 3,
        generation: 4,
        length: LENGTH,
        stored_at_ms: 5,
        drive: 0,
        extents: Extents::from_slice(&[Extent { start: 6, blocks }]).expect("one extent"),
    }
}

fn trailers(criterion: &mut Criterion) {
    let record = record();
    let mut page = vec![0; BLOCK_BYTES];
    let mut group = criterion.benchmark_group("trailer");
    group.bench_function("encode", |bencher| {
        bencher.iter(|| trailer::encode(black_box(&record), 7, &mut page));
    });
    group.bench_function("verify", |bencher| {
        bencher.iter(|| trailer::verify(black_box(&page), &record).expect("it was just written"));
    });
    let payload = vec![8; LENGTH as usize];
    group.throughput(Throughput::Bytes(u64::from(LENGTH)));
    group.bench_function("payload hash", |bencher| {
        bencher.iter(|| {
            let mut hasher = trailer::payload_hasher();
            hasher.write(black_box(&payload));
            hasher.finish()
        });
    });
}

criterion_group!(benches, trailers);
criterion_main!(benches);
