//! What engines are asked: turns of conversations behind a few system prompts, or the requests of a trace.
//!
//! The conversations are the same for all engines, so what one of them stored another one finds. They come and go: the
//! engines take turns from a window that moves on, so that there is always something new and something old.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use fastrand::Rng;
use forebay::{ChunkKey, Namespace};
use serde::Deserialize;

/// Tokens of a chunk.
const CHUNK_TOKENS: usize = 16;
const SYSTEM_PROMPTS: u32 = 6;
/// Conversations that go on at a time.
const WINDOW: u32 = 48;
/// Chunks of a prompt, at most.
const CHUNKS_MAX: usize = 48;
/// One request of so many begins a new conversation.
const NEW_ONE_IN: u32 = 6;
/// Requests of a trace.
const TRACE_REQUESTS: usize = 2000;

/// The conversations that all engines share.
pub(crate) struct Conversations {
    newest: AtomicU32,
}

/// Where an engine's prompts come from.
pub(crate) enum Prompts {
    /// Turns of conversations.
    Turns(Arc<Conversations>),
    /// A trace; after its end it begins anew with other contents.
    Trace { requests: Vec<Vec<u64>>, next: usize, round: u64 },
}

#[derive(Deserialize)]
struct TraceLine {
    hash_ids: Vec<u64>,
}

impl Conversations {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { newest: AtomicU32::new(WINDOW) })
    }
}

impl Prompts {
    /// A trace made by `forebay replay --generate`.
    pub(crate) fn trace(directory: &Path, seed: u64) -> Result<Self, String> {
        let path = directory.join("trace.jsonl");
        let name = path.to_str().ok_or("the directory's name is no text")?;
        let command = format!("forebay replay --generate --requests {TRACE_REQUESTS} --seed {seed} --output");
        let mut arguments: Vec<String> = command.split(' ').map(str::to_owned).collect();
        arguments.push(name.to_owned());
        if forebay_cli::run(arguments) != 0 {
            return Err("`forebay replay --generate` made no trace".into());
        }
        let text = std::fs::read_to_string(&path).map_err(|error| format!("reading {name}: {error}"))?;
        let requests: Result<Vec<Vec<u64>>, _> = text
            .lines()
            .map(|line| serde_json::from_str::<TraceLine>(line).map(|request| request.hash_ids))
            .collect();
        let requests = requests.map_err(|error| format!("{name}: {error}"))?;
        if requests.len() != TRACE_REQUESTS {
            return Err(format!("{name} has {} requests", requests.len()));
        }
        Ok(Self::Trace { requests, next: 0, round: 0 })
    }

    /// The keys of the next prompt, at least one.
    pub(crate) fn next(&mut self, random: &mut Rng) -> forebay::Result<Vec<ChunkKey>> {
        match self {
            Self::Turns(conversations) => {
                if random.u32(..NEW_ONE_IN) == 0 {
                    conversations.newest.fetch_add(1, Ordering::Relaxed);
                }
                let newest = conversations.newest.load(Ordering::Relaxed);
                // The last ones are far more popular.
                let conversation = newest - random.u32(..WINDOW).min(random.u32(..WINDOW));
                let system = conversation % SYSTEM_PROMPTS;
                let shared = CHUNK_TOKENS * (1 + 2 * system as usize);
                // The longer it has been going on, the longer it is.
                let turns = 1 + (newest - conversation) / 8 + random.u32(..4);
                let own = CHUNK_TOKENS * 3 * turns as usize;
                let tokens: Vec<u32> = (0..u32::MAX)
                    .map(|at| (at << 4) | system)
                    .take(shared)
                    .chain((0..u32::MAX).map(|at| (1 << 31) | (conversation << 10) | at).take(own))
                    .take(CHUNK_TOKENS * CHUNKS_MAX)
                    .collect();
                Namespace::of_model("a soak").chunk_keys(&tokens, CHUNK_TOKENS, &[])
            }
            Self::Trace { requests, next, round } => {
                let ids = &requests[*next];
                let ids: Vec<[u8; 16]> = ids
                    .iter()
                    .take(CHUNKS_MAX)
                    .map(|id| ((u128::from(*round) << 64) | u128::from(*id)).to_le_bytes())
                    .collect();
                *next += 1;
                if *next == requests.len() {
                    (*next, *round) = (0, *round + 1);
                }
                // A block's id stands for all before it too.
                let namespace = Namespace::of_model("a soak's trace");
                let keys = ids.iter().map(|id| namespace.chunk_keys_from_blocks(&[id], 1));
                let keys: forebay::Result<Vec<Vec<ChunkKey>>> = keys.collect();
                Ok(keys?.concat())
            }
        }
    }
}
