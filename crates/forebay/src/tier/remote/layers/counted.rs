//! Counts requests, how they end, and the bytes they move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::tier::remote::objects::{Answer, Fault, Objects};

/// The layer.
pub struct Counted {
    inner: Arc<dyn Objects>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    ok: AtomicU64,
    not_there: AtomicU64,
    other_length: AtomicU64,
    timed_out: AtomicU64,
    left_alone: AtomicU64,
    no_room: AtomicU64,
    refused: AtomicU64,
    unavailable: AtomicU64,
    dropped: AtomicU64,
    bytes_put: AtomicU64,
    bytes_got: AtomicU64,
    in_flight: AtomicU64,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CountedStats {
    /// Requests begun.
    pub requests: u64,
    /// Those that succeeded; that an object is not there is a success of asking for that.
    pub ok: u64,
    /// Reads of objects that are not there.
    pub not_there: u64,
    /// Reads of objects of another length.
    pub other_length: u64,
    /// Those without an answer in time.
    pub timed_out: u64,
    /// Those that the breaker held back.
    pub left_alone: u64,
    /// Objects that a full shared directory turned away.
    pub no_room: u64,
    /// Those refused for good.
    pub refused: u64,
    /// Those that failed otherwise.
    pub unavailable: u64,
    /// Those that whoever asked gave up.
    pub dropped: u64,
    /// Bytes of objects that were put.
    pub bytes_put: u64,
    /// Bytes of objects that were read.
    pub bytes_got: u64,
    /// Requests begun and not ended yet.
    pub in_flight: u64,
}

impl Counted {
    /// Counts over `inner`.
    pub fn new(inner: Arc<dyn Objects>) -> Self {
        Self { inner, counts: Counts::default() }
    }

    /// What was counted so far.
    pub fn stats(&self) -> CountedStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.counts;
        CountedStats {
            requests: read(&counts.requests),
            ok: read(&counts.ok),
            not_there: read(&counts.not_there),
            other_length: read(&counts.other_length),
            timed_out: read(&counts.timed_out),
            left_alone: read(&counts.left_alone),
            no_room: read(&counts.no_room),
            refused: read(&counts.refused),
            unavailable: read(&counts.unavailable),
            dropped: read(&counts.dropped),
            bytes_put: read(&counts.bytes_put),
            bytes_got: read(&counts.bytes_got),
            in_flight: read(&counts.in_flight),
        }
    }

    async fn count<T>(&self, request: Answer<'_, T>, moved: &AtomicU64, bytes: usize) -> Result<T, Fault> {
        let counts = &self.counts;
        let add = |counter: &AtomicU64, by: u64| counter.fetch_add(by, Ordering::Relaxed);
        add(&counts.requests, 1);
        add(&counts.in_flight, 1);
        let mut under_way = UnderWay { counts, ended: false };
        let end = request.await;
        under_way.ended = true;
        match &end {
            Ok(_) => {
                add(moved, bytes as u64);
                add(&counts.ok, 1)
            }
            Err(Fault::NotThere) => add(&counts.not_there, 1),
            Err(Fault::OtherLength(_)) => add(&counts.other_length, 1),
            Err(Fault::TimedOut) => add(&counts.timed_out, 1),
            Err(Fault::LeftAlone) => add(&counts.left_alone, 1),
            Err(Fault::NoRoom) => add(&counts.no_room, 1),
            Err(Fault::Refused(_)) => add(&counts.refused, 1),
            Err(Fault::Unavailable(_)) => add(&counts.unavailable, 1),
        };
        end
    }
}

struct UnderWay<'a> {
    counts: &'a Counts,
    ended: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.counts.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.ended {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Objects for Counted {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        let len = bytes.len();
        Box::pin(self.count(self.inner.put(name, bytes), &self.counts.bytes_put, len))
    }

    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()> {
        let len = into.len();
        Box::pin(self.count(self.inner.get(name, into), &self.counts.bytes_got, len))
    }

    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool> {
        Box::pin(self.count(self.inner.has(name), &self.counts.bytes_got, 0))
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(self.count(self.inner.remove(name), &self.counts.bytes_got, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::remote::wrappers::fake::Fake;

    #[tokio::test]
    async fn every_request_is_counted_once_however_it_ends() {
        let fake = Arc::new(Fake::default());
        let counted = Counted::new(fake.clone());
        counted.put("a/b/0", Bytes::from_static(b"123")).await.unwrap();
        counted.get("a/b/0", &mut [0; 3]).await.unwrap();
        assert_eq!(counted.has("a/b/1").await, Ok(false));
        assert_eq!(counted.get("a/b/1", &mut []).await, Err(Fault::NotThere));
        assert_eq!(counted.get("a/b/0", &mut [0; 4]).await, Err(Fault::OtherLength(3)));
        for fault in [
            Fault::TimedOut,
            Fault::LeftAlone,
            Fault::NoRoom,
            Fault::Refused(String::new()),
            Fault::Unavailable(String::new()),
        ] {
            fake.fail_next([fault]);
            assert!(counted.remove("a/b/0").await.is_err());
        }
        fake.fail_always(None);
        let stats = CountedStats {
            requests: 10,
            ok: 3,
            not_there: 1,
            other_length: 1,
            timed_out: 1,
            left_alone: 1,
            no_room: 1,
            refused: 1,
            unavailable: 1,
            dropped: 0,
            bytes_put: 3,
            bytes_got: 3,
            in_flight: 0,
        };
        assert_eq!(counted.stats(), stats);
    }
}
