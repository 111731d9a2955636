//! The smallest engine: it loads what is there of a prompt, computes the rest and stores it. Then it is started anew, and asked
//! the same.
//!
//! `cargo run -p forebay --example engine [DIRECTORY]`

use std::path::Path;
use std::sync::Arc;

use forebay::outcome::LoadStatus;
use forebay::{Cache, Config, Namespace, Result, Value};
use parking_lot::Mutex;

const CHUNK_TOKENS: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;

/// What an engine does with a prompt. Gives its KV, and how many chunks of that were loaded.
fn prefill(cache: &Cache, prompt: &[u32]) -> Result<(Vec<Vec<u8>>, usize)> {
    let keys = Namespace::of_model("a-model").chunk_keys(prompt, CHUNK_TOKENS, &[])?;

    // What is found stays pinned until `hit` is dropped.
    let hit = cache.lookup(&keys);
    let buffers: Vec<_> = (0..hit.chunks()).map(|_| Arc::new(Mutex::new(vec![0_u8; CHUNK_BYTES]))).collect();
    let loads = keys.iter().zip(&buffers).map(|(key, buffer)| (*key, Box::new(Arc::clone(buffer)) as _));
    let ends = cache.load(loads.collect(), None).wait(None).unwrap_or_default();
    drop(hit);

    // Only what was loaded may be used. The rest is computed, and from there on stored.
    let loaded = ends.iter().take_while(|end| end.status == LoadStatus::Loaded).count();
    let mut kv: Vec<_> = buffers[..loaded].iter().map(|buffer| buffer.lock().clone()).collect();
    kv.extend(prompt.chunks_exact(CHUNK_TOKENS).skip(loaded).map(compute));
    let stores = (loaded..keys.len()).map(|at| (keys[at], Box::new(kv[at].clone()) as _));
    let parent = loaded.checked_sub(1).map(|before| keys[before]);
    cache.store(stores.collect(), parent, None)?.wait(None);
    Ok((kv, loaded))
}

/// Stands for a forward pass: the KV of a chunk's tokens.
fn compute(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).cycle().take(CHUNK_BYTES).collect()
}

/// Opens the cache, as an engine does at its start, answers one prompt, and closes it. Gives how many chunks were loaded.
fn run(directory: &Path) -> Result<usize> {
    let config = Config::from_values([
        ("local_disk", Value::from(directory.to_string_lossy().as_ref())),
        ("max_local_disk_size", Value::from(0.0625)), // GiB
        ("max_local_cpu_size", Value::from(0.002)),   // GiB: two slots of 1 MiB
        ("use_only_staging_buffer", Value::from(true)),
    ])?
    .config;
    let cache = Cache::open(&config, CHUNK_BYTES as u64, None)?;
    let prompt: Vec<u32> = (0..10 * 256 + 7).collect();
    let (kv, loaded) = prefill(&cache, &prompt)?;
    let right =
        kv.iter().zip(prompt.chunks(CHUNK_TOKENS)).filter(|(kv, tokens)| **kv == compute(tokens)).count();
    println!("{} chunks, {loaded} of them loaded, {right} right", kv.len());
    Ok(loaded)
}

fn main() -> Result<()> {
    let given = std::env::args().nth(1);
    let made = std::env::temp_dir().join(format!("forebay-engine-{}", std::process::id()));
    let directory = given.as_ref().map_or(made.as_path(), Path::new);
    let ended = run(directory).and_then(|_| run(directory));
    if given.is_none() {
        std::fs::remove_dir_all(made).ok();
    }
    ended.map(|_| ())
}

#[test]
fn the_second_start_loads_what_the_first_has_computed() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(run(directory.path()).unwrap(), 0);
    assert_eq!(run(directory.path()).unwrap(), 10);
}
