//! Leaves a store alone that failed too often in a row, and asks again after a rest.
//!
//! Closed, requests go through. After so many failures in a row it opens: everything ends at once with
//! [`Fault::LeftAlone`]. After a rest it is half open: one request goes through, as a probe. If that succeeds it
//! closes, else it opens again, for twice the rest, up to a bound. That there is no such object, or one of another
//! length, is an answer and no failure.
//!
//! Promises: what was begun before a change of state decides nothing after it; a probe that is dropped counts as
//! failed, so there is always a next one. A panic of the inner store is such a drop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::sync::Mutex;
use crate::tier::remote::objects::{Answer, Fault, Objects};

/// What tells the time.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// The layer.
pub struct Breaker {
    inner: Arc<dyn Objects>,
    plan: BreakerPlan,
    clock: Clock,
    state: Mutex<State>,
}

/// When it opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPlan {
    /// Failures in a row after which it opens, one at least.
    pub failures: u32,
    /// The first rest.
    pub rest: Duration,
    /// The longest rest.
    pub longest_rest: Duration,
}

/// What it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerStats {
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// How often it opened, from closed or from half open.
    pub opened: u64,
    /// How often it closed again.
    pub closed: u64,
    /// Requests that were left alone.
    pub left_alone: u64,
}

struct State {
    phase: Phase,
    /// Goes up with every change of phase.
    epoch: u64,
    /// The rest that the next opening takes.
    next_rest: Duration,
    opened: u64,
    closed: u64,
    left_alone: u64,
}

#[derive(Clone, Copy)]
enum Phase {
    Closed { failures: u32 },
    Open { until: Instant },
    Probing,
}

impl Breaker {
    /// Guards `inner`.
    pub fn new(inner: Arc<dyn Objects>, plan: BreakerPlan) -> Self {
        Self::with_clock(inner, plan, Arc::new(Instant::now))
    }

    /// As [`Self::new`], with another clock.
    pub fn with_clock(inner: Arc<dyn Objects>, plan: BreakerPlan, clock: Clock) -> Self {
        let state = State {
            phase: Phase::Closed { failures: 0 },
            epoch: 0,
            next_rest: plan.rest,
            opened: 0,
            closed: 0,
            left_alone: 0,
        };
        Self { inner, plan, clock, state: Mutex::new(state) }
    }

    /// What it did so far.
    pub fn stats(&self) -> BreakerStats {
        let state = self.state.lock();
        let name = match state.phase {
            Phase::Closed { .. } => "closed",
            Phase::Open { until } if (self.clock)() < until => "open",
            Phase::Open { .. } | Phase::Probing => "half_open",
        };
        BreakerStats { state: name, opened: state.opened, closed: state.closed, left_alone: state.left_alone }
    }

    /// Lets a request through, or not.
    fn admit(&self) -> Result<Admitted<'_>, Fault> {
        let mut state = self.state.lock();
        match state.phase {
            Phase::Closed { .. } => {}
            Phase::Open { until } if (self.clock)() >= until => {
                state.phase = Phase::Probing;
                state.epoch += 1;
                return Ok(Admitted { breaker: self, epoch: state.epoch, is_probe: true });
            }
            Phase::Open { .. } | Phase::Probing => {
                state.left_alone += 1;
                return Err(Fault::LeftAlone);
            }
        }
        Ok(Admitted { breaker: self, epoch: state.epoch, is_probe: false })
    }

    fn note(&self, epoch: u64, failed: bool) {
        let mut state = self.state.lock();
        if state.epoch != epoch {
            return;
        }
        match (state.phase, failed) {
            (Phase::Closed { .. }, false) => state.phase = Phase::Closed { failures: 0 },
            (Phase::Closed { failures }, true) if failures + 1 < self.plan.failures => {
                state.phase = Phase::Closed { failures: failures + 1 };
            }
            (Phase::Closed { .. } | Phase::Probing, true) => {
                state.phase = Phase::Open { until: (self.clock)() + state.next_rest };
                state.next_rest =
                    state.next_rest.saturating_mul(2).min(self.plan.longest_rest.max(self.plan.rest));
                state.epoch += 1;
                state.opened += 1;
                tracing::warn!(opened = state.opened, "the remote store is left alone for a while");
            }
            (Phase::Probing, false) => {
                state.phase = Phase::Closed { failures: 0 };
                state.next_rest = self.plan.rest;
                state.epoch += 1;
                state.closed += 1;
                tracing::info!("the remote store answers again");
            }
            (Phase::Open { .. }, _) => {}
        }
    }

    async fn guarded<T>(&self, request: Answer<'_, T>) -> Result<T, Fault> {
        let admitted = self.admit()?;
        let end = request.await;
        admitted.note(end.as_ref().is_err_and(Fault::is_failure));
        end
    }
}

struct Admitted<'a> {
    breaker: &'a Breaker,
    epoch: u64,
    is_probe: bool,
}

impl Admitted<'_> {
    fn note(mut self, failed: bool) {
        self.is_probe = false;
        self.breaker.note(self.epoch, failed);
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.note(self.epoch, true);
        }
    }
}

impl Objects for Breaker {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        Box::pin(self.guarded(self.inner.put(name, bytes)))
    }

    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()> {
        Box::pin(self.guarded(self.inner.get(name, into)))
    }

    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool> {
        Box::pin(self.guarded(self.inner.has(name)))
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(self.guarded(self.inner.remove(name)))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;
    use crate::tier::remote::wrappers::delay::Delay;
    use crate::tier::remote::wrappers::fake::Fake;

    const PLAN: BreakerPlan =
        BreakerPlan { failures: 3, rest: Duration::from_secs(1), longest_rest: Duration::from_secs(3) };
    const NAME: &str = "a/b/0";

    struct Bench {
        fake: Arc<Fake>,
        now: Arc<Mutex<Instant>>,
        breaker: Breaker,
    }

    impl Bench {
        fn new() -> Self {
            let now = Arc::new(Mutex::new(Instant::now()));
            let fake = Arc::new(Fake::default());
            let told = Arc::clone(&now);
            let breaker = Breaker::with_clock(fake.clone(), PLAN, Arc::new(move || *told.lock()));
            Self { fake, now, breaker }
        }

        fn pass(&self, seconds: f64) {
            *self.now.lock() += Duration::from_secs_f64(seconds);
        }

        async fn fail(&self) {
            self.fake.fail_next([Fault::TimedOut]);
            assert_eq!(self.breaker.has(NAME).await, Err(Fault::TimedOut));
        }
    }

    #[tokio::test]
    async fn it_opens_after_failures_in_a_row_rests_longer_each_time_and_closes_after_a_probe() {
        let bench = Bench::new();
        let breaker = &bench.breaker;
        bench.fail().await;
        bench.fail().await;
        assert_eq!(breaker.has(NAME).await, Ok(false), "which ends the row");
        for _ in 0..3 {
            assert_eq!(breaker.stats().state, "closed");
            bench.fail().await;
        }
        assert_eq!((breaker.stats().state, breaker.stats().opened), ("open", 1));
        let asked = bench.fake.stats().has;
        // The rests: 1, 2, and then 3, which is the bound.
        for rest in [1.0, 2.0, 3.0, 3.0] {
            bench.pass(rest - 0.01);
            assert_eq!(breaker.get(NAME, &mut [0]).await, Err(Fault::LeftAlone));
            assert_eq!(breaker.stats().state, "open");
            bench.pass(0.01);
            assert_eq!(breaker.stats().state, "half_open");
            bench.fail().await;
        }
        assert_eq!(bench.fake.stats().has, asked + 4, "only the probes went through");
        bench.pass(3.0);
        assert_eq!(breaker.get(NAME, &mut [0]).await, Err(Fault::NotThere), "an answer, so it closes");
        let stats = BreakerStats { state: "closed", opened: 5, closed: 1, left_alone: 4 };
        assert_eq!(breaker.stats(), stats);
        for _ in 0..3 {
            bench.fail().await;
        }
        bench.pass(1.0);
        assert_eq!(breaker.stats().state, "half_open", "the first rest is short again");
    }

    #[tokio::test]
    async fn what_is_not_there_or_of_another_length_is_no_failure() {
        let bench = Bench::new();
        for _ in 0..10 {
            bench.fake.fail_next([Fault::NotThere, Fault::OtherLength(7)]);
            assert_eq!(bench.breaker.get(NAME, &mut []).await, Err(Fault::NotThere));
            assert_eq!(bench.breaker.get(NAME, &mut []).await, Err(Fault::OtherLength(7)));
        }
        assert_eq!(bench.breaker.stats().opened, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_and_a_dropped_one_counts_as_failed() {
        let now = Arc::new(Mutex::new(Instant::now()));
        let fake = Arc::new(Fake::default());
        let told = Arc::clone(&now);
        let slow = Arc::new(Delay::new(fake.clone(), Duration::from_secs(1)));
        let breaker = Breaker::with_clock(slow, PLAN, Arc::new(move || *told.lock()));
        fake.fail_next([Fault::TimedOut, Fault::TimedOut, Fault::TimedOut]);
        // Begun while it is closed, and still under way when it is open.
        let mut early = breaker.has(NAME);
        assert!(futures_util::poll!(&mut early).is_pending());
        for _ in 0..3 {
            let _ = breaker.has(NAME).await;
        }
        assert_eq!(breaker.stats().state, "open");
        assert_eq!(early.await, Ok(false));
        assert_eq!(breaker.stats().state, "open", "an early answer changes nothing");
        *now.lock() += PLAN.rest;
        let mut probe = breaker.has(NAME);
        assert!(futures_util::poll!(&mut probe).is_pending());
        assert_eq!(futures_util::poll!(breaker.has(NAME)), Poll::Ready(Err(Fault::LeftAlone)));
        drop(probe);
        assert_eq!((breaker.stats().state, breaker.stats().opened), ("open", 2));
        *now.lock() += 2 * PLAN.rest;
        assert_eq!(breaker.has(NAME).await, Ok(false));
        assert_eq!(breaker.stats().state, "closed");
    }
}
