//! The hash of a chunk's payload: XXH3, which can ask for memory before it comes to it.
//!
//! A processor guesses by itself what is read next, but not past the end of a page, and not far enough ahead for a hash
//! that takes a quarter of what memory takes. Asked for in time, memory that is not in the cache is hashed in three
//! quarters of the processor time (`docs/BENCHMARKS.md`).

use std::hash::Hasher;

use twox_hash::XxHash3_64;

/// How far ahead: further changes nothing, up to 16 KiB at least; at 1 KiB a tenth of the gain is lost.
const AHEAD_BYTES: usize = 4 << 10;
/// What is hashed between one asking and the next: a block of XXH3, so that nothing is put aside.
const STRETCH_BYTES: usize = 1 << 10;

/// A hash of bytes that come piece by piece. Where they are cut makes no difference.
#[derive(Clone, Default)]
pub struct PayloadHasher(XxHash3_64);

impl PayloadHasher {
    /// As [`Hasher::write`], of memory that is not in the processor's cache. What is there it would hash more slowly.
    pub fn write_cold(&mut self, bytes: &[u8]) {
        for (index, stretch) in bytes.chunks(STRETCH_BYTES).enumerate() {
            let ahead = index * STRETCH_BYTES + AHEAD_BYTES;
            ask_for(bytes.get(ahead..ahead + STRETCH_BYTES).unwrap_or_default());
            self.0.write(stretch);
        }
    }
}

impl Hasher for PayloadHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// Has the processor bring these bytes into its cache, without waiting for them.
fn ask_for(bytes: &[u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: nothing is read as far as the language knows; and these bytes may be.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
    }
    // There is no stable way to ask other processors.
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_xxh3_wherever_the_bytes_are_cut() {
        let bytes: Vec<u8> =
            (0..200_000_u32).map(|index| index.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
        for len in [0, 1, 240, 241, 1023, 1024, 1025, 4096, 5119, 5120, 5121, 131_072, 200_000] {
            let expected = XxHash3_64::oneshot(&bytes[..len]);
            for piece in [1, 7, 1000, 1024, 4096, 6000, 131_072] {
                let mut hasher = PayloadHasher::default();
                bytes[..len].chunks(piece).for_each(|piece| hasher.write_cold(piece));
                assert_eq!(hasher.finish(), expected, "{len} bytes in pieces of {piece}");
            }
        }
    }
}
