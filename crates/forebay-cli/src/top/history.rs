//! The readings of the last minute, and what follows from two of them: rates, and how long things took.
//!
//! As the page counts: a rate is over three seconds, or what there is; times are of a minute, interpolated in their
//! bucket. A cache that was started anew has no past.

use std::collections::VecDeque;

use super::reading::{Reading, Times};

/// A rate is over so many seconds.
const RATE_S: f64 = 3.0;
/// Times and hit rates are of so many.
const MINUTE_S: f64 = 60.0;
/// A reading that came that much too early still belongs to them.
const SLACK_S: f64 = 0.5;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct History {
    /// Oldest first, and one at least.
    readings: VecDeque<Reading>,
    /// Times are of all since the cache was started.
    since_start: bool,
}

/// How long things took that half, and 99 of 100, were faster than.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quantiles {
    pub(super) half: Bound,
    pub(super) most: Bound,
}

/// A time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bound {
    About(f64),
    /// Longer than the last bound there is.
    Over(f64),
}

impl History {
    pub(super) fn new(first: Reading, since_start: bool) -> Self {
        Self { readings: VecDeque::from([first]), since_start }
    }

    /// Whether times are of all since the cache was started, and not of the last minute.
    pub(super) fn is_since_start(&self) -> bool {
        self.since_start
    }

    /// The last reading.
    pub(super) fn last(&self) -> &Reading {
        &self.readings[self.readings.len() - 1]
    }

    /// Takes a reading in.
    #[expect(clippy::float_cmp, reason = "the same number as it was said before")]
    pub(super) fn note(&mut self, now: Reading) {
        let last = self.last();
        if last.started_unix_s != now.started_unix_s || last.now_unix_s > now.now_unix_s {
            self.readings.clear();
        }
        let from = now.now_unix_s - MINUTE_S - SLACK_S;
        self.readings.retain(|reading| reading.now_unix_s >= from);
        self.readings.push_back(now);
    }

    /// The oldest reading of so many seconds before the last.
    fn before(&self, seconds: f64) -> Option<&Reading> {
        let from = self.last().now_unix_s - seconds - SLACK_S;
        let past = self.readings.len() - 1;
        self.readings.iter().take(past).find(|reading| reading.now_unix_s >= from)
    }

    /// How much a counter grows in a second.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub(super) fn rate(&self, read: impl Fn(&Reading) -> Option<u64>) -> Option<f64> {
        let base = self.before(RATE_S)?;
        let grown = read(self.last())?.checked_sub(read(base)?)?;
        let seconds = self.last().now_unix_s - base.now_unix_s;
        (seconds > 0.0).then(|| grown as f64 / seconds)
    }

    /// What share of the growth of `whole` is that of `part`, in the last minute.
    pub(super) fn share(
        &self,
        part: impl Fn(&Reading) -> u64,
        whole: impl Fn(&Reading) -> u64,
    ) -> Option<f64> {
        let base = self.before(MINUTE_S)?;
        let grown = |read: &dyn Fn(&Reading) -> u64| read(self.last()).checked_sub(read(base));
        ratio(grown(&part)?, grown(&whole)?)
    }

    /// How long things took.
    pub(super) fn times(&self, read: impl Fn(&Reading) -> Option<&Times>) -> Option<Quantiles> {
        let last = read(self.last())?;
        let none = Times::default();
        let base = if self.since_start { &none } else { read(self.before(MINUTE_S)?)? };
        Some(Quantiles { half: quantile(last, base, 0.5)?, most: quantile(last, base, 0.99)? })
    }
}

/// What part is of the whole, if that is something.
#[expect(clippy::cast_precision_loss, reason = "a share for people")]
pub(super) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Which time a share `q` of what happened between two readings was faster than.
#[expect(clippy::cast_precision_loss, reason = "a time for people")]
fn quantile(last: &Times, base: &Times, q: f64) -> Option<Bound> {
    let total = last.count.checked_sub(base.count).filter(|&total| total > 0)? as f64;
    let is_same = last.buckets.len() == base.buckets.len();
    let (mut lower, mut below) = (0.0, 0.0);
    for (at, &(upper, count)) in last.buckets.iter().enumerate() {
        let Some(upper) = upper else { break };
        let before = if is_same { base.buckets[at].1 } else { 0 };
        let through = count.saturating_sub(before) as f64;
        if through >= q * total && through > below {
            return Some(Bound::About(lower + (upper - lower) * (q * total - below) / (through - below)));
        }
        (lower, below) = (upper, through);
    }
    Some(Bound::Over(lower))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: f64, hits: u64) -> Reading {
        let mut now = Reading { started_unix_s: 1.0, now_unix_s: second, ..Reading::default() };
        now.lookups.hit = hits;
        now.lookups.chunks = 2 * hits;
        now
    }

    #[test]
    fn a_rate_is_of_the_last_seconds_and_a_new_start_has_none() {
        let hits = |now: &Reading| Some(now.lookups.hit);
        let mut history = History::new(at(100.0, 0), false);
        assert_eq!(history.rate(hits), None, "of one reading nothing follows");
        for second in 1..=100_u32 {
            // All of it happens in the last ten seconds.
            history.note(at(100.0 + f64::from(second), u64::from(second.saturating_sub(90)) * 6));
        }
        assert_eq!(history.rate(hits), Some(6.0));
        assert_eq!(history.share(|now| now.lookups.hit, |now| now.lookups.chunks), Some(0.5));
        assert!(history.readings.len() <= 62, "a minute is kept");
        history.note(Reading { started_unix_s: 150.0, ..at(201.0, 5) });
        assert_eq!(history.rate(hits), None);
        history.note(Reading { started_unix_s: 150.0, ..at(202.0, 4) });
        assert_eq!(history.rate(hits), None, "what falls is no counter");
    }

    #[test]
    fn times_are_interpolated_and_those_since_the_start_are_all() {
        let times = |counts: [u64; 3]| {
            let bounds = [Some(1.0), Some(2.0), None];
            Times { count: counts[2], buckets: bounds.into_iter().zip(counts).collect() }
        };
        let with = |second: f64, counts| {
            let mut now = at(second, 0);
            now.lookups.seconds = times(counts);
            now
        };
        let read = |history: &History| history.times(|now| Some(&now.lookups.seconds));
        let mut history = History::new(with(1.0, [10, 10, 10]), false);
        assert_eq!(read(&history), None);
        history.note(with(2.0, [10, 110, 110]));
        let found = read(&history).unwrap();
        assert_eq!((found.half, found.most), (Bound::About(1.5), Bound::About(1.99)));
        history.note(with(3.0, [10, 110, 1110]));
        assert_eq!(read(&history).unwrap().most, Bound::Over(2.0));
        let mut one = History::new(with(2.0, [100, 100, 100]), true);
        assert_eq!(read(&one).unwrap().half, Bound::About(0.5));
        one.note(with(3.0, [100, 100, 100]));
        assert_eq!(read(&one).unwrap().half, Bound::About(0.5), "also when nothing more happened");
    }
}
