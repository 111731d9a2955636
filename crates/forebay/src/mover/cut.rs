//! How a chunk is cut into parts that a slot holds.

use std::ops::Range;

use crate::catalog::BLOCK_BYTES;

/// Runs of blocks of about equal length, at most `most` each, that are `blocks` together.
pub(super) fn runs(blocks: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> {
    let len = blocks.end.saturating_sub(blocks.start);
    let each = len.div_ceil(len.div_ceil(most).max(1)).max(1);
    let step = usize::try_from(each).unwrap_or(usize::MAX);
    blocks.clone().step_by(step).map(move |first| first..(first + each).min(blocks.end))
}

/// The bytes in some blocks.
pub(super) fn bytes(blocks: u64) -> usize {
    usize::try_from(blocks).map_or(usize::MAX, |blocks| blocks.saturating_mul(BLOCK_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_whole_and_of_about_equal_length() {
        for first in [0, 1] {
            for last in 0..60 {
                for most in 1..20 {
                    let runs: Vec<_> = runs(first..last, most).collect();
                    let all: Vec<u64> = runs.iter().cloned().flatten().collect();
                    assert_eq!(all, (first..last).collect::<Vec<u64>>());
                    assert!(runs.iter().all(|run| run.end - run.start <= most));
                    assert!(
                        runs.len() as u64 <= last.saturating_sub(first).div_ceil(most),
                        "no more than needed"
                    );
                }
            }
        }
    }
}
