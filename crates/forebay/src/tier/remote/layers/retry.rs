//! Tries again what may pass, a few times, after rests that grow and are cut short at random, within a bound in time.
//!
//! The randomness keeps clients that failed together from coming back together.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};

use crate::tier::remote::objects::{Answer, Fault, Objects};

/// The layer.
pub struct Retry {
    inner: Arc<dyn Objects>,
    plan: RetryPlan,
    random: RandomState,
    drawn: AtomicU64,
    retries: AtomicU64,
    helped: AtomicU64,
    exhausted: AtomicU64,
}

/// How it tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPlan {
    /// How often in all, once at least.
    pub tries: u32,
    /// The longest rest before the second try; each further one is twice as long.
    pub first_rest: Duration,
    /// The longest rest of all.
    pub longest_rest: Duration,
    /// How long all tries and rests may take together.
    pub whole: Duration,
}

/// What it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryStats {
    /// Tries after the first of a request.
    pub retries: u64,
    /// Requests that succeeded, or found that there is nothing, after the first try.
    pub helped: u64,
    /// Requests that failed with what might have passed.
    pub exhausted: u64,
}

impl Retry {
    /// Tries again over `inner`.
    pub fn new(inner: Arc<dyn Objects>, plan: RetryPlan) -> Self {
        let (drawn, retries, helped, exhausted) = Default::default();
        Self { inner, plan, random: RandomState::new(), drawn, retries, helped, exhausted }
    }

    /// What it did so far.
    pub fn stats(&self) -> RetryStats {
        RetryStats {
            retries: self.retries.load(Ordering::Relaxed),
            helped: self.helped.load(Ordering::Relaxed),
            exhausted: self.exhausted.load(Ordering::Relaxed),
        }
    }

    /// A rest of random length before try number `next` (the second is 2).
    fn rest(&self, next: u32) -> Duration {
        let longest = self
            .plan
            .first_rest
            .saturating_mul(2_u32.saturating_pow(next.saturating_sub(2)))
            .min(self.plan.longest_rest);
        let random = self.random.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed)) >> 40;
        longest.saturating_mul(u32::try_from(random).unwrap_or(0)) / (1 << 24)
    }

    /// What to do after try number `tried` failed with `fault`: rests and says that it may be tried again.
    async fn again(&self, tried: u32, fault: &Fault, deadline: Instant) -> bool {
        if !fault.may_pass() {
            return false;
        }
        if tried < self.plan.tries {
            let rest = self.rest(tried + 1);
            if Instant::now() + rest < deadline {
                sleep(rest).await;
                self.retries.fetch_add(1, Ordering::Relaxed);
                return true;
            }
        }
        self.exhausted.fetch_add(1, Ordering::Relaxed);
        false
    }

    fn note_end<T>(&self, tried: u32, end: &Result<T, Fault>) {
        if tried > 1 && end.as_ref().err().is_none_or(|fault| !fault.is_failure()) {
            self.helped.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn try_often<'a, T>(&'a self, request: impl Fn() -> Answer<'a, T>) -> Result<T, Fault> {
        let deadline = Instant::now() + self.plan.whole;
        let mut tried = 1;
        loop {
            let end = timeout_at(deadline, request()).await.unwrap_or(Err(Fault::TimedOut));
            match &end {
                Err(fault) if self.again(tried, fault, deadline).await => tried += 1,
                _ => {
                    self.note_end(tried, &end);
                    return end;
                }
            }
        }
    }
}

impl Objects for Retry {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        Box::pin(self.try_often(move || self.inner.put(name, bytes.clone())))
    }

    // Not `try_often`: each try borrows `into` anew, which a closure cannot lend out.
    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()> {
        Box::pin(async move {
            let deadline = Instant::now() + self.plan.whole;
            let mut tried = 1;
            loop {
                let request = self.inner.get(name, &mut *into);
                let end = timeout_at(deadline, request).await.unwrap_or(Err(Fault::TimedOut));
                match &end {
                    Err(fault) if self.again(tried, fault, deadline).await => tried += 1,
                    _ => {
                        self.note_end(tried, &end);
                        return end;
                    }
                }
            }
        })
    }

    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool> {
        Box::pin(self.try_often(move || self.inner.has(name)))
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(self.try_often(move || self.inner.remove(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::remote::wrappers::delay::Delay;
    use crate::tier::remote::wrappers::fake::Fake;

    const PLAN: RetryPlan = RetryPlan {
        tries: 3,
        first_rest: Duration::from_secs(1),
        longest_rest: Duration::from_secs(3),
        whole: Duration::from_mins(1),
    };

    fn gone() -> Fault {
        Fault::Unavailable("gone".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_again_and_what_may_not_is_not() {
        let fake = Arc::new(Fake::default());
        let retry = Retry::new(fake.clone(), PLAN);
        fake.fail_next([gone(), Fault::TimedOut]);
        assert_eq!(retry.put("a/b/0", Bytes::from_static(b"12")).await, Ok(()));
        fake.fail_next([gone(), gone()]);
        let mut into = [0; 2];
        assert_eq!(retry.get("a/b/0", &mut into).await, Ok(()));
        assert_eq!(&into, b"12");
        assert_eq!(retry.stats(), RetryStats { retries: 4, helped: 2, exhausted: 0 });
        let refused = Fault::Refused("no".to_owned());
        for fault in [refused, Fault::NotThere, Fault::OtherLength(1), Fault::LeftAlone] {
            fake.fail_next([fault.clone()]);
            assert_eq!(retry.has("a/b/0").await, Err(fault));
        }
        assert_eq!(retry.stats().retries, 4);
        fake.fail_next([gone(), gone(), gone()]);
        assert_eq!(retry.remove("a/b/0").await, Err(gone()));
        assert_eq!(retry.stats(), RetryStats { retries: 6, helped: 2, exhausted: 1 });
    }

    #[test]
    fn rests_grow_up_to_a_bound_and_are_cut_short_at_random() {
        let retry = Retry::new(Arc::new(Fake::default()), PLAN);
        for (next, longest) in [(2, 1), (3, 2), (4, 3), (5, 3), (u32::MAX, 3)] {
            let rests: Vec<Duration> = (0..200).map(|_| retry.rest(next)).collect();
            let longest = Duration::from_secs(longest);
            assert!(rests.iter().all(|rest| *rest <= longest));
            assert!(
                rests.iter().any(|rest| *rest < longest / 2) && rests.iter().any(|rest| *rest > longest / 2)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_tries_together_take_no_longer_than_the_whole() {
        let fake = Arc::new(Fake::default());
        let slow = Arc::new(Delay::new(fake.clone(), Duration::from_secs(10)));
        let retry = Retry::new(slow, RetryPlan { tries: 100, whole: Duration::from_secs(25), ..PLAN });
        fake.fail_always(Some(gone()));
        let began = Instant::now();
        assert!(retry.has("a/b/0").await.is_err_and(|fault| fault.may_pass()));
        assert!(began.elapsed() <= Duration::from_secs(25));
        let mut into = [0];
        assert!(retry.get("a/b/0", &mut into).await.is_err_and(|fault| fault.may_pass()));
        assert!(began.elapsed() <= Duration::from_secs(50));
    }
}
