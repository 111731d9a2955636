//! What a chunk holds: length and bytes follow from its key, so that every engine knows what is right without having
//! kept it.
//!
//! Most chunks are small and of many lengths, whole blocks or not; one in 48 is so large that it crosses the staging buffer
//! in two parts.

use forebay::ChunkKey;

/// Bytes of a large chunk.
pub(crate) const LARGE_BYTES: usize = 6 << 20;
/// The most bytes of a small one.
pub(crate) const SMALL_BYTES_MAX: usize = 80 << 10;

const BLOCK: usize = 4096;
const WORD: usize = 8;

fn word_of(key: &ChunkKey, at: usize) -> u64 {
    let mut word = [0; WORD];
    word.copy_from_slice(&key.as_bytes()[at..at + WORD]);
    u64::from_le_bytes(word)
}

/// Whether it is a large one.
pub(crate) fn is_large(key: &ChunkKey) -> bool {
    word_of(key, 8).is_multiple_of(48)
}

/// Bytes of the chunk.
pub(crate) fn length_of(key: &ChunkKey) -> usize {
    if is_large(key) {
        return LARGE_BYTES;
    }
    let number = usize::from(key.as_bytes()[16]) + 256 * usize::from(key.as_bytes()[17]);
    let blocks = 1 + number % (SMALL_BYTES_MAX / BLOCK);
    // Half of them fill their last block.
    blocks * BLOCK - if number.is_multiple_of(2) { 0 } else { number % BLOCK }
}

/// The words of the chunk, in order: no two chunks have the same, and none stands twice in one.
fn words(key: &ChunkKey) -> impl Iterator<Item = [u8; WORD]> {
    let seed = word_of(key, 8) ^ word_of(key, 16).rotate_left(21) ^ word_of(key, 24).rotate_left(42);
    (0_u64..).map(move |number| {
        let word = seed.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (word ^ (word >> 32)).to_le_bytes()
    })
}

/// Computes the chunk.
pub(crate) fn lay(key: &ChunkKey, memory: &mut [u8]) {
    for (to, word) in memory.chunks_mut(WORD).zip(words(key)) {
        to.copy_from_slice(&word[..to.len()]);
    }
}

/// Where the first word stands that is not the chunk's, if any.
pub(crate) fn first_wrong(key: &ChunkKey, memory: &[u8]) -> Option<usize> {
    let is_wrong = |(found, right): (&[u8], [u8; WORD])| *found != right[..found.len()];
    memory.chunks(WORD).zip(words(key)).position(is_wrong).map(|number| number * WORD)
}

#[cfg(test)]
mod tests {
    use forebay::Namespace;

    use super::*;

    #[test]
    fn every_byte_counts_and_lengths_are_of_all_kinds() {
        let tokens: Vec<u32> = (0..2000).collect();
        let keys = Namespace::of_model("a test").chunk_keys(&tokens, 1, &[]).unwrap();
        let large = keys.iter().filter(|key| is_large(key)).count();
        let whole = keys.iter().filter(|key| length_of(key).is_multiple_of(BLOCK)).count();
        assert!((20..80).contains(&large) && (800..1200).contains(&whole), "{large} large, {whole} whole");
        for pair in keys.windows(2).filter(|pair| !is_large(&pair[0])).take(20) {
            let mut memory = vec![0; length_of(&pair[0])];
            assert!((1..=SMALL_BYTES_MAX).contains(&memory.len()));
            lay(&pair[0], &mut memory);
            assert_eq!((first_wrong(&pair[0], &memory), first_wrong(&pair[1], &memory)), (None, Some(0)));
            let at = memory.len() - 1;
            memory[at] ^= 1;
            assert_eq!(first_wrong(&pair[0], &memory), Some(at / WORD * WORD));
        }
    }
}
