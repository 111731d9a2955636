//! What a catalog takes of memory, counted by the allocator: the bound that `docs/DESIGN.md` names.
//!
//! One test, alone in its process, so that nobody else's memory is counted.

#[path = "support/prompts.rs"]
mod prompts;

use std::alloc::System;

use forebay::catalog::CachePolicy;
use prompts::{Random, catalog_of, fill, look_up, serve, store};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CHUNKS: u32 = 1_000_000;
const PER_CHUNK_MAX: usize = 128;

/// Bytes that are allocated now.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

#[test]
fn a_catalogued_chunk_takes_at_most_128_bytes() {
    for policy in CachePolicy::ALL {
        println!("{}:", policy.name());
        measure(policy);
    }
}

fn measure(policy: CachePolicy) {
    let before = allocated();
    let mut catalog = catalog_of(CHUNKS, policy);
    let prompts = u64::from(CHUNKS) / 128;
    (0..prompts).for_each(|prompt| store(&mut catalog, prompt, 0, 128));
    let fill_bytes = (allocated() - before) / catalog.len();
    println!("{} chunks just stored: {fill_bytes} bytes each", catalog.len());
    assert!(fill_bytes <= PER_CHUNK_MAX);

    let prompts = serve(&mut catalog, u64::from(CHUNKS), prompts);
    let churn_bytes = (allocated() - before) / catalog.len();
    println!("{} chunks after as many were evicted: {churn_bytes} bytes each", catalog.len());
    assert!(churn_bytes <= PER_CHUNK_MAX);

    // What is held beside the catalog, by lookups that are open, is given back.
    let mut keys = [forebay::ChunkKey::NONE; 128];
    let mut random = Random(prompts);
    (0..10_000).for_each(|_| {
        fill(&mut keys, prompts - 1 - random.below(1000));
        look_up(&mut catalog, &keys);
    });
    let lookup_bytes = (allocated() - before) / catalog.len();
    assert!(lookup_bytes <= churn_bytes, "lookups leave nothing behind");

    // A restart: what is needed only while ties are made is not kept.
    let records: Vec<forebay::catalog::ChunkRecord> = catalog.committed().collect();
    let before = allocated();
    let mut restored = catalog_of(CHUNKS, policy);
    records.iter().rev().for_each(|record| assert!(restored.restore(*record)));
    restored.tie_restored();
    let restored_bytes = (allocated() - before) / restored.len();
    println!("{} chunks restored: {restored_bytes} bytes each", restored.len());
    assert!(restored_bytes <= PER_CHUNK_MAX);
    assert!(restored.committed().eq(records), "and each of them is the one it was");
}
