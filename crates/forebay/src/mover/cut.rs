//! How a chunk is cut into parts that a slot holds.

use std::ops::Range;

use crate::catalog::{BLOCK_BYTES, grain_blocks};

/// The parts of a chunk of `blocks` blocks, its trailer the last of them: at most `slot_blocks` each, of about equal
/// length, with their borders where the file likes them. Each of them has payload.
pub(crate) fn parts(blocks: u64, slot_blocks: u64) -> impl Iterator<Item = Range<u64>> {
    let (payload, most) = (blocks.saturating_sub(1), slot_blocks.saturating_sub(1).max(1));
    let equal = payload.div_ceil(payload.div_ceil(most).max(1)).max(1);
    let each = equal.next_multiple_of(grain_blocks(blocks)).min(most);
    let count = payload.div_ceil(each).max(1);
    (0..count).map(move |part| part * each..if part + 1 == count { blocks } else { (part + 1) * each })
}

/// The bytes in some blocks.
pub(super) fn bytes(blocks: u64) -> usize {
    usize::try_from(blocks).map_or(usize::MAX, |blocks| blocks.saturating_mul(BLOCK_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_whole_and_fit_their_slots() {
        for blocks in (2..60).chain(500..2100) {
            for slot_blocks in (2..20).chain([256, 257, 512, 513, 769]) {
                let parts: Vec<_> = parts(blocks, slot_blocks).collect();
                let all: Vec<u64> = parts.iter().cloned().flatten().collect();
                assert_eq!(all, (0..blocks).collect::<Vec<u64>>());
                assert!(parts.iter().all(|part| !part.is_empty() && part.end - part.start <= slot_blocks));
                let fewest = (blocks - 1).div_ceil(slot_blocks - 1);
                assert!(parts.len() as u64 <= fewest, "no more than needed");
            }
        }
    }

    #[test]
    fn parts_of_large_chunks_begin_where_the_file_likes_it() {
        let starts =
            |blocks, slot_blocks| -> Vec<u64> { parts(blocks, slot_blocks).map(|part| part.start).collect() };
        assert_eq!(starts(2049, 513), [0, 512, 1024, 1536], "8 MiB");
        // 11.3 MiB are 2883 blocks and the trailer.
        assert_eq!(starts(2884, 497), [0, 496, 992, 1488, 1984, 2480]);
    }
}
