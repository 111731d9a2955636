//! At most so many requests are under way; the others wait, in the order in which they came.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::tier::remote::objects::{Answer, Fault, Objects};

/// The layer.
pub struct Bounded {
    inner: Arc<dyn Objects>,
    turns: Semaphore,
    waited: AtomicU64,
    under_way: AtomicU64,
    most_under_way: AtomicU64,
}

/// What it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BoundedStats {
    /// Requests that had to wait for a turn.
    pub waited: u64,
    /// Requests under way now.
    pub under_way: u64,
    /// The most that ever were.
    pub most_under_way: u64,
}

impl Bounded {
    /// At most `requests_max` of `inner` at a time, and one at least.
    pub fn new(inner: Arc<dyn Objects>, requests_max: usize) -> Self {
        let turns = Semaphore::new(requests_max.clamp(1, Semaphore::MAX_PERMITS));
        let (waited, under_way, most_under_way) = Default::default();
        Self { inner, turns, waited, under_way, most_under_way }
    }

    /// What it did so far.
    pub fn stats(&self) -> BoundedStats {
        BoundedStats {
            waited: self.waited.load(Ordering::Relaxed),
            under_way: self.under_way.load(Ordering::Relaxed),
            most_under_way: self.most_under_way.load(Ordering::Relaxed),
        }
    }

    async fn in_turn<T>(&self, request: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let turn = if let Ok(turn) = self.turns.try_acquire() {
            turn
        } else {
            self.waited.fetch_add(1, Ordering::Relaxed);
            self.turns.acquire().await.map_err(|_| Fault::LeftAlone)?
        };
        let now = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_under_way.fetch_max(now, Ordering::Relaxed);
        // The count goes down before the turn is given back, also when the request is dropped.
        let _turn = (UnderWay(&self.under_way), turn);
        request.await
    }
}

struct UnderWay<'a>(&'a AtomicU64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Objects for Bounded {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        Box::pin(self.in_turn(self.inner.put(name, bytes)))
    }

    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()> {
        Box::pin(self.in_turn(self.inner.get(name, into)))
    }

    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool> {
        Box::pin(self.in_turn(self.inner.has(name)))
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(self.in_turn(self.inner.remove(name)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tier::remote::wrappers::delay::Delay;
    use crate::tier::remote::wrappers::fake::Fake;

    #[tokio::test(start_paused = true)]
    async fn no_more_than_so_many_are_under_way_and_all_have_their_turn() {
        let delayed = Delay::new(Arc::new(Fake::default()), Duration::from_secs(1));
        let bounded = Bounded::new(Arc::new(delayed), 3);
        let began = tokio::time::Instant::now();
        let all = (0..10).map(|_| bounded.has("a/b/0"));
        assert_eq!(futures_util::future::try_join_all(all).await, Ok(vec![false; 10]));
        assert_eq!(began.elapsed().as_secs(), 4, "ten in threes");
        assert_eq!(bounded.stats(), BoundedStats { waited: 7, under_way: 0, most_under_way: 3 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_given_up_gives_its_turn_back() {
        let delayed = Delay::new(Arc::new(Fake::default()), Duration::from_secs(1));
        let bounded = Bounded::new(Arc::new(delayed), 1);
        for _ in 0..3 {
            let given_up = tokio::time::timeout(Duration::from_millis(1), bounded.has("a/b/0")).await;
            assert!(given_up.is_err());
            assert_eq!(bounded.stats().under_way, 0);
        }
        assert_eq!(bounded.has("a/b/0").await, Ok(false));
    }
}
