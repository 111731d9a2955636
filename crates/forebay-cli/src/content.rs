//! What the chunks of a measurement hold: bytes that follow from the chunk's key, so that a load can be checked
//! without keeping what was stored.
//!
//! A buffer is laid out once; after that a chunk is made in it by one word at each 64 KiB (its stamp), which costs next
//! to nothing: with one at each 4 KiB it took a twentieth of the drive's speed on a small machine. Stamps differ between
//! any two chunks, so bytes of another chunk and a part in the wrong place are seen; [`first_wrong`] looks at every byte
//! besides.

use forebay::ChunkKey;

/// A stamp stands at every so many bytes.
const STRIDE: usize = 64 << 10;
const WORD: usize = 8;

/// Spreads a number over all 64 bits: the last step of `SplitMix64`.
pub(crate) fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// What all chunks hold where there is no stamp.
fn ground(word: usize) -> [u8; WORD] {
    mix(word as u64 + 1).to_le_bytes()
}

/// The stamp of each stretch of a chunk.
fn stamps(key: &ChunkKey) -> impl Fn(usize) -> [u8; WORD] {
    let seed = key.as_bytes().chunks_exact(WORD).fold(0, |seed, part| {
        let mut word = [0; WORD];
        word.copy_from_slice(part);
        mix(seed ^ u64::from_le_bytes(word))
    });
    move |stretch| seed.wrapping_add(mix(stretch as u64)).to_le_bytes()
}

/// Lays out a buffer.
pub(crate) fn lay(memory: &mut [u8]) {
    for (number, word) in memory.chunks_mut(WORD).enumerate() {
        word.copy_from_slice(&ground(number)[..word.len()]);
    }
}

/// Makes a buffer that was laid out the chunk of this key.
pub(crate) fn stamp(key: &ChunkKey, memory: &mut [u8]) {
    let stamp = stamps(key);
    for (stretch, bytes) in memory.chunks_mut(STRIDE).enumerate() {
        let len = bytes.len().min(WORD);
        bytes[..len].copy_from_slice(&stamp(stretch)[..len]);
    }
}

/// Whether every stamp is that of this key.
pub(crate) fn is_stamped(key: &ChunkKey, memory: &[u8]) -> bool {
    let stamp = stamps(key);
    memory.chunks(STRIDE).enumerate().all(|(stretch, bytes)| {
        let len = bytes.len().min(WORD);
        bytes[..len] == stamp(stretch)[..len]
    })
}

/// Where the first word stands that is not the chunk's, if any.
pub(crate) fn first_wrong(key: &ChunkKey, memory: &[u8]) -> Option<usize> {
    let stamp = stamps(key);
    memory
        .chunks(WORD)
        .enumerate()
        .position(|(number, word)| {
            let at = number * WORD;
            let right = if at.is_multiple_of(STRIDE) { stamp(at / STRIDE) } else { ground(number) };
            *word != right[..word.len()]
        })
        .map(|number| number * WORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_known_by_its_key_and_every_byte_counts() {
        let (one, two) = (ChunkKey::new([1; 32]), ChunkKey::new([2; 32]));
        let mut memory = vec![0; 3 * STRIDE + 5];
        lay(&mut memory);
        assert_eq!(first_wrong(&one, &memory), Some(0), "nothing is stamped yet");
        stamp(&one, &mut memory);
        assert!(is_stamped(&one, &memory) && !is_stamped(&two, &memory));
        assert_eq!((first_wrong(&one, &memory), first_wrong(&two, &memory)), (None, Some(0)));
        for at in 0..memory.len() {
            memory[at] ^= 1;
            assert_eq!(first_wrong(&one, &memory), Some(at / WORD * WORD));
            assert_eq!(is_stamped(&one, &memory), at % STRIDE >= WORD);
            memory[at] ^= 1;
        }
        let before = memory.clone();
        memory[..STRIDE].copy_from_slice(&before[STRIDE..2 * STRIDE]);
        assert!(!is_stamped(&one, &memory), "a stretch in the wrong place");
    }
}
