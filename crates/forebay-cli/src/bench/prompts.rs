//! Keys for a benchmark: prompts that nobody has stored before.

use std::time::{SystemTime, UNIX_EPOCH};

use forebay::{ChunkKey, Namespace, Result};

/// Chunks of a prompt.
const PROMPT_CHUNKS: usize = 64;

/// Makes prompts, no two of which share a chunk.
pub(super) struct Prompts {
    namespace: Namespace,
    made: u64,
}

impl Prompts {
    pub(super) fn new() -> Self {
        Self { namespace: Namespace::of_model("a benchmark"), made: 0 }
    }

    /// Prompts that no other run makes, whatever it measures.
    pub(super) fn of_this_run() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let salt = format!("{} {}", std::process::id(), now.as_nanos());
        Self { namespace: Namespace { salt, ..Namespace::of_model("a benchmark") }, made: 0 }
    }

    /// The keys of so many chunks, in whole prompts but for the last.
    pub(super) fn next(&mut self, chunks: usize) -> Result<Vec<ChunkKey>> {
        let mut keys = Vec::with_capacity(chunks);
        while keys.len() < chunks {
            self.made += 1;
            let blocks = vec![self.made.to_le_bytes(); PROMPT_CHUNKS.min(chunks - keys.len())];
            keys.extend(self.namespace.chunk_keys_from_blocks(&blocks, 1)?);
        }
        Ok(keys)
    }

    /// The chunk before each of those that [`Self::next`] gave.
    pub(super) fn parent(keys: &[ChunkKey]) -> impl Fn(usize) -> Option<ChunkKey> {
        move |number| (!number.is_multiple_of(PROMPT_CHUNKS)).then(|| keys[number - 1])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_chunk_comes_twice() {
        let mut prompts = Prompts::new();
        let mut all = HashSet::new();
        for chunks in [1, 64, 130, 5] {
            let keys = prompts.next(chunks).unwrap();
            assert_eq!(keys.len(), chunks);
            assert!(keys.iter().all(|key| all.insert(*key)));
            let parent = Prompts::parent(&keys);
            assert!((0..chunks).all(|at| parent(at) == (at % 64 > 0).then(|| keys[at - 1])));
        }
    }
}
