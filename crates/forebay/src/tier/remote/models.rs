//! Models of the way to a remote store: turns, and the parts of an upload. See [`crate::models`].
//!
//! The network's threads are the checker's, and the store is memory. All layers are there; their clocks are the runtime's
//! and stand, as far as a model goes.

#![expect(clippy::missing_panics_doc, reason = "that is how a model fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use shuttle::{future, thread};

use super::client::{Client, Settings};
use super::engine::RemoteEngine;
use super::names::Names;
use super::objects::{Answer, Fault, Objects};
use super::turns::Turns;
use super::wrappers::fake::Fake;
use crate::catalog::BLOCK_BYTES;
use crate::key::ChunkKey;
use crate::models::{Time, check};
use crate::staging::{Class, Staging};
use crate::sync::{Mutex, now};

/// Stores wait behind loads, and none of them for ever; beside a load no store begins that is not alone.
pub fn turns_let_everybody_go() {
    check(6_000, Time::Stands, || {
        let turns = Arc::new(Turns::new(2));
        let stores = Arc::new(AtomicUsize::new(0));
        let tasks = (0..5_u32).map(|number| {
            let (turns, stores) = (Arc::clone(&turns), Arc::clone(&stores));
            future::spawn(async move {
                let load = (number % 2 == 0).then(|| turns.load());
                let store = turns.store().await;
                let under_way = stores.fetch_add(1, Ordering::Relaxed) + 1;
                assert!(under_way <= if load.is_some() { 1 } else { 2 }, "{under_way} stores are under way");
                future::yield_now().await;
                stores.fetch_sub(1, Ordering::Relaxed);
                drop(store);
                future::yield_now().await;
                drop(load);
            })
        });
        let tasks: Vec<_> = tasks.collect();
        for task in tasks {
            future::block_on(task).unwrap();
        }
    });
}

/// What is called with an object's name.
type Seen<T> = Box<dyn Fn(&str) -> T + Send + Sync>;

/// A store in memory that shows what is put, before and after; what is refused before is not put.
pub(crate) struct Shown {
    pub(crate) fake: Arc<Fake>,
    pub(crate) before: Seen<Result<(), Fault>>,
    pub(crate) after: Seen<()>,
}

impl Objects for Shown {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            future::yield_now().await;
            (self.before)(name)?;
            self.fake.put(name, bytes).await?;
            (self.after)(name);
            Ok(())
        })
    }

    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()> {
        self.fake.get(name, into)
    }

    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool> {
        self.fake.has(name)
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.fake.remove(name)
    }
}

/// What a client is in a model: nothing is tried again, since it would wait by the runtime's clock.
pub(crate) fn settings() -> Settings {
    Settings {
        url: String::new(),
        timeout: Duration::from_hours(1),
        requests_max: 32,
        retries: 0,
        breaker_failures: 1_000,
        breaker_rest: Duration::from_hours(1),
    }
}

/// The last part of a chunk goes after all others are there, once, and not if one of them is not; each is told once, and
/// every slot has come back.
pub fn upload_puts_the_last_part_last() {
    const PARTS: usize = 2;
    for refused in [None, Some(0), Some(PARTS - 1)] {
        check(3_000, Time::Stands, move || {
            let (key, names) = (ChunkKey::NONE, Names::of(BLOCK_BYTES));
            let refused = refused.map(|part| names.part(&key, part));
            let fails = refused.is_some();
            let put = Arc::new(Mutex::new(Vec::new()));
            let order = Arc::clone(&put);
            let refuse = move |name: &str| {
                let is_refused = refused.as_deref() == Some(name);
                if is_refused { Err(Fault::Refused("not this one".into())) } else { Ok(()) }
            };
            let store = Shown {
                fake: Arc::default(),
                before: Box::new(refuse),
                after: Box::new(move |name| order.lock().push(name.to_owned())),
            };
            let client = Arc::new(Client::over(Arc::new(store), &settings()).unwrap());
            let staging = Staging::new(3, BLOCK_BYTES).unwrap();
            let engine = RemoteEngine::start(client, names, 3).unwrap();
            let told = Arc::new([const { AtomicUsize::new(0) }; PARTS + 1]);
            let failed = Arc::new(AtomicUsize::new(0));
            let on_put = |part: usize| {
                let (told, failed) = (Arc::clone(&told), Arc::clone(&failed));
                Box::new(move |outcome: Result<(), Fault>| {
                    told[part].fetch_add(1, Ordering::Relaxed);
                    failed.fetch_add(usize::from(outcome.is_err()), Ordering::Relaxed);
                })
            };
            let upload = engine.upload(key);
            for part in 0..PARTS {
                let lease = staging.acquire(Class::Store, Duration::MAX).unwrap();
                upload.part(part, lease, 1, on_put(part));
            }
            let lease = staging.acquire(Class::Store, Duration::MAX).unwrap();
            upload.end(lease, 1, on_put(PARTS));
            drop(upload);
            engine.shutdown(now() + Duration::from_secs(1));
            assert!(told.iter().all(|told| told.load(Ordering::Relaxed) == 1), "each is told once");
            assert_eq!(failed.load(Ordering::Relaxed), if fails { 2 } else { 0 }, "a part, and the last one");
            let (put, end) = (put.lock(), names.end(&key));
            let at = put.iter().position(|name| *name == end);
            assert_eq!(at, (!fails).then_some(PARTS), "{put:?}");
            assert_eq!(staging.usage().in_use, 0, "every slot came back");
            thread::yield_now();
        });
    }
}
