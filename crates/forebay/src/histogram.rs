//! How long things took: counts by bucket, taken without a lock.
//!
//! One set of buckets for all, from a lookup in memory to a remote store that hardly answers: 1, 2.5 and 5 of each
//! power of ten, from a microsecond to a hundred seconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The upper bound of each bucket but the last, which has none, in nanoseconds.
pub const BOUNDS_NS: [u64; 25] = bounds();

/// Buckets, the one without a bound among them.
const BUCKETS: usize = BOUNDS_NS.len() + 1;

const fn bounds() -> [u64; 25] {
    let mut bounds = [0; 25];
    let (mut index, mut decade) = (0, 1_000);
    while index < bounds.len() {
        bounds[index] = match index % 3 {
            0 => decade,
            1 => decade * 5 / 2,
            _ => decade * 5,
        };
        index += 1;
        if index % 3 == 0 {
            decade *= 10;
        }
    }
    bounds
}

/// Times as they are taken.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

/// Times as they were taken so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// How many fell in each bucket of [`BOUNDS_NS`], and beyond the last bound.
    pub counts: Vec<u64>,
    /// Their sum, in nanoseconds.
    pub sum_ns: u64,
}

impl Histogram {
    /// Notes one.
    pub fn note(&self, time: Duration) {
        let time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NS.partition_point(|&bound_ns| bound_ns < time_ns);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(time_ns, Ordering::Relaxed);
    }

    /// What was noted so far.
    pub fn times(&self) -> Times {
        Times {
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
        }
    }
}

impl Times {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// These and others.
    pub fn add(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_that_holds_it() {
        assert_eq!(BOUNDS_NS[..4], [1_000, 2_500, 5_000, 10_000]);
        assert_eq!(BOUNDS_NS[24], 100_000_000_000);
        assert!(BOUNDS_NS.is_sorted());
        let histogram = Histogram::default();
        for time_ns in [0, 1_000, 1_001, 5_000, 100_000_000_000, 100_000_000_001, u64::MAX / 2] {
            histogram.note(Duration::from_nanos(time_ns));
        }
        let times = histogram.times();
        let taken: Vec<(usize, u64)> =
            times.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
        assert_eq!(taken, [(0, 2), (1, 1), (2, 1), (24, 1), (25, 2)]);
        assert_eq!(times.count(), 7);
    }

    #[test]
    fn times_of_two_add_up() {
        let one = Histogram::default();
        one.note(Duration::from_millis(3));
        let mut sum = Times::default();
        sum.add(&one.times());
        sum.add(&one.times());
        assert_eq!((sum.count(), sum.sum_ns), (2, 6_000_000));
    }
}
