//! Prompts as a server sees them, as chains of keys: of many lengths, a part of them with a beginning in common.
//! Nothing is kept of a prompt but its number, so that there can be millions of chunks.

use forebay::ChunkKey;
use forebay::catalog::{BLOCK_BYTES, CachePolicy, Catalog, Limits, LookupDecision, StoreDecision};

/// Payload bytes of the chunks: two blocks each with their trailer.
const LENGTH: u32 = 4096;
const _: () = assert!(LENGTH as usize == BLOCK_BYTES);

/// Random numbers that are the same each time (`SplitMix64`).
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Beginnings that prompts have in common.
const BEGINNINGS: u64 = 16;

/// The chunks of a prompt: every fourth begins with one of the common beginnings.
fn key(prompt: u64, index: u64) -> ChunkKey {
    let mut about = Random(prompt);
    let is_common = about.below(4) == 0 && index < 16 + about.below(48);
    let of = if is_common { u64::MAX - prompt % BEGINNINGS } else { prompt };
    let mut random = Random(of.wrapping_mul(0x0001_0000_0001).wrapping_add(index << 40));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(b"namespac");
    bytes[8..].chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&random.next().to_le_bytes()));
    ChunkKey::new(bytes)
}

/// Fills `keys` with the first chunks of a prompt.
pub(crate) fn fill(keys: &mut [ChunkKey], prompt: u64) {
    (0..).zip(keys).for_each(|(index, place)| *place = key(prompt, index));
}

/// A catalog with room for so many chunks, and no others than these.
pub(crate) fn catalog_of(chunks: u32, policy: CachePolicy) -> Catalog {
    let limits = Limits { blocks: (2 * chunks).into(), chunks_max: chunks, tickets_max: 1 << 20 };
    Catalog::new(limits, policy, 1)
}

/// Stores chunks `from..to` of a prompt.
pub(crate) fn store(catalog: &mut Catalog, prompt: u64, from: u64, to: u64) {
    let chunks: Vec<(ChunkKey, u32)> = (from..to).map(|index| (key(prompt, index), LENGTH)).collect();
    let parent = from.checked_sub(1).map(|before| key(prompt, before));
    for decision in catalog.plan_store(&chunks, parent, 0, &mut Vec::new()) {
        if let StoreDecision::Write(plan) = decision {
            assert!(catalog.commit(plan.ticket));
        }
    }
}

/// Looks a prompt up and lets it go again; gives the number of chunks that were there.
pub(crate) fn look_up(catalog: &mut Catalog, keys: &[ChunkKey]) -> usize {
    match catalog.lookup(keys) {
        LookupDecision::Hit { chunks, ticket } => {
            assert!(catalog.release(ticket));
            chunks
        }
        _ => 0,
    }
}

/// What happens on a server: up to eight prompts at a time are stored piece by piece, while others are looked up.
/// Ends when `chunks` chunks were stored; gives the number of the next prompt.
pub(crate) fn serve(catalog: &mut Catalog, chunks: u64, first_prompt: u64) -> u64 {
    let mut random = Random(first_prompt);
    let (mut next, mut stored) = (first_prompt, 0);
    let mut active: Vec<(u64, u64, u64)> = Vec::new();
    let mut keys = vec![ChunkKey::NONE; 400];
    while stored < chunks {
        if active.len() < 8 {
            active.push((next, 0, 16 + random.below(384)));
            next += 1;
            if next > 64 && random.below(2) == 0 {
                let prompt = next - 1 - random.below((next - 1).min(2000));
                fill(&mut keys, prompt);
                look_up(catalog, &keys);
            }
        }
        let at = usize::try_from(random.below(active.len() as u64)).expect("few are active");
        let (prompt, from, len) = active[at];
        let to = len.min(from + 8 + random.below(25));
        store(catalog, prompt, from, to);
        stored += to - from;
        if to == len {
            active.swap_remove(at);
        } else {
            active[at].1 = to;
        }
    }
    next
}
