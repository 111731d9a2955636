//! Every request takes so much longer, as if the store were far away. Requests do not wait for each other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use crate::tier::remote::objects::{Answer, Objects};

/// A store that is far away.
pub struct Delay {
    inner: Arc<dyn Objects>,
    latency: Duration,
}

impl Delay {
    /// Puts `latency` before every answer of `inner`.
    pub fn new(inner: Arc<dyn Objects>, latency: Duration) -> Self {
        Self { inner, latency }
    }
}

impl Objects for Delay {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            sleep(self.latency).await;
            self.inner.put(name, bytes).await
        })
    }

    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()> {
        Box::pin(async move {
            sleep(self.latency).await;
            self.inner.get(name, into).await
        })
    }

    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool> {
        Box::pin(async move {
            sleep(self.latency).await;
            self.inner.has(name).await
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            sleep(self.latency).await;
            self.inner.remove(name).await
        })
    }
}
