//! The middle and the far end of a set of measurements.

use std::time::Duration;

/// The value that `percent` of 100 do not exceed (nearest rank); zero of nothing.
pub(crate) fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

/// The middle one of some figures, or of an even number the mean of the two; zero of nothing.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// Least and most of some figures; zeros of nothing.
pub(crate) fn range(figures: &[f64]) -> [f64; 2] {
    let least = figures.iter().copied().min_by(f64::total_cmp).unwrap_or(0.0);
    [least, figures.iter().copied().max_by(f64::total_cmp).unwrap_or(0.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "exact in binary")]
    fn middle_and_ends() {
        let mut times: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut times, 50).as_millis(), 50);
        assert_eq!(percentile(&mut times, 99).as_millis(), 99);
        assert_eq!(percentile(&mut times[..1], 99).as_millis(), 1);
        assert_eq!(percentile(&mut [], 50), Duration::ZERO);
        assert_eq!([median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0]), median(&[])], [2.0, 2.5, 0.0]);
        assert_eq!((range(&[2.0, 0.5, 1.0]), range(&[])), ([0.5, 2.0], [0.0, 0.0]));
    }
}
