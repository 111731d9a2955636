//! Each request takes at most so long. One that is given up is dropped, so it writes nowhere afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::tier::remote::objects::{Answer, Fault, Objects};

/// The layer.
pub struct Timeout {
    inner: Arc<dyn Objects>,
    limit: Duration,
    given_up: AtomicU64,
}

/// What it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeoutStats {
    /// Requests given up.
    pub given_up: u64,
}

impl Timeout {
    /// Gives up what takes `inner` longer than `limit`.
    pub fn new(inner: Arc<dyn Objects>, limit: Duration) -> Self {
        Self { inner, limit, given_up: AtomicU64::new(0) }
    }

    /// What it did so far.
    pub fn stats(&self) -> TimeoutStats {
        TimeoutStats { given_up: self.given_up.load(Ordering::Relaxed) }
    }

    async fn in_time<T>(&self, request: Answer<'_, T>) -> Result<T, Fault> {
        tokio::time::timeout(self.limit, request).await.unwrap_or_else(|_| {
            self.given_up.fetch_add(1, Ordering::Relaxed);
            Err(Fault::TimedOut)
        })
    }
}

impl Objects for Timeout {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        Box::pin(self.in_time(self.inner.put(name, bytes)))
    }

    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()> {
        Box::pin(self.in_time(self.inner.get(name, into)))
    }

    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool> {
        Box::pin(self.in_time(self.inner.has(name)))
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(self.in_time(self.inner.remove(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::remote::layers::bounded::Bounded;
    use crate::tier::remote::wrappers::delay::Delay;
    use crate::tier::remote::wrappers::fake::Fake;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_given_up_and_writes_nothing_afterwards() {
        let fake = Arc::new(Fake::default());
        fake.put("a/b/0", Bytes::from_static(b"12")).await.unwrap();
        let slow = Timeout::new(Arc::new(Delay::new(fake.clone(), 2 * SECOND)), SECOND);
        let mut into = [0; 2];
        assert_eq!(slow.get("a/b/0", &mut into).await, Err(Fault::TimedOut));
        tokio::time::sleep(3 * SECOND).await;
        assert_eq!(into, [0; 2]);
        assert_eq!(slow.has("a/b/0").await, Err(Fault::TimedOut));
        assert_eq!(slow.stats().given_up, 2);
        let quick = Timeout::new(fake, SECOND);
        assert_eq!(quick.get("a/b/0", &mut into).await, Ok(()));
        assert_eq!((&into, quick.stats().given_up), (b"12", 0));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_turn_is_waiting() {
        let delayed = Delay::new(Arc::new(Fake::default()), SECOND);
        let layered = Timeout::new(Arc::new(Bounded::new(Arc::new(delayed), 1)), SECOND * 5 / 2);
        let all = futures_util::future::join_all((0..4).map(|_| layered.has("a/b/0"))).await;
        assert_eq!(all, [Ok(false), Ok(false), Err(Fault::TimedOut), Err(Fault::TimedOut)]);
    }
}
