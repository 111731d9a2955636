//! So many bytes a second each way, as over a narrow line that all requests share.
//!
//! A request's bytes take their place on the line when it is made, so what was given up has used the line all the same.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use crate::sync::Mutex;
use crate::tier::remote::objects::{Answer, Objects};

/// A store at the end of a narrow line.
pub struct Throttle {
    inner: Arc<dyn Objects>,
    there: Line,
    back: Line,
}

struct Line {
    bytes_per_s: u64,
    free_at: Mutex<Option<Instant>>,
}

impl Line {
    async fn pass(&self, bytes: usize) {
        let nanoseconds = u128::try_from(bytes).unwrap_or(u128::MAX).saturating_mul(1_000_000_000);
        let takes = nanoseconds / u128::from(self.bytes_per_s.max(1));
        let takes = Duration::from_nanos(u64::try_from(takes).unwrap_or(u64::MAX));
        let until = {
            let mut free_at = self.free_at.lock();
            let now = Instant::now();
            let until = free_at.map_or(now, |at| at.max(now)) + takes;
            *free_at = Some(until);
            until
        };
        sleep_until(until).await;
    }
}

impl Throttle {
    /// Lets at most `bytes_per_s` each way to `inner` and back.
    pub fn new(inner: Arc<dyn Objects>, bytes_per_s: u64) -> Self {
        let line = || Line { bytes_per_s, free_at: Mutex::new(None) };
        Self { inner, there: line(), back: line() }
    }
}

impl Objects for Throttle {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            self.there.pass(bytes.len()).await;
            self.inner.put(name, bytes).await
        })
    }

    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()> {
        Box::pin(async move {
            self.inner.get(name, &mut *into).await?;
            self.back.pass(into.len()).await;
            Ok(())
        })
    }

    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool> {
        self.inner.has(name)
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.inner.remove(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::remote::wrappers::fake::Fake;

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time_each_way_and_share_the_line() {
        let throttle = Throttle::new(Arc::new(Fake::default()), 1000);
        let began = Instant::now();
        let puts = ["a/b/0", "a/b/1", "a/b/2"].map(|name| throttle.put(name, Bytes::from(vec![0; 1000])));
        futures_util::future::try_join_all(puts).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 3);
        let (mut one, mut other) = ([0; 1000], [0; 1000]);
        let (got, put) = futures_util::future::join(
            throttle.get("a/b/0", &mut one),
            throttle.put("a/b/3", Bytes::from(vec![0; 1000])),
        )
        .await;
        assert_eq!(
            (got, put, began.elapsed().as_secs()),
            (Ok(()), Ok(()), 4),
            "each way has a line of its own"
        );
        tokio::time::sleep(Duration::from_secs(10)).await;
        throttle.get("a/b/1", &mut other).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 15, "a line that was idle has saved nothing up");
    }
}
