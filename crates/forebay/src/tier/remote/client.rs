//! A remote store with its threads: what the rest of the crate holds.
//!
//! Promises: opening asks nothing of the store. Every request through [`Client::objects`] ends within twice the timeout,
//! however often it is tried, if it is polled. Neither dropping a client nor [`Client::shutdown`] waits for a store.
//!
//! Assumes: requests are polled by this client's threads ([`Client::spawn`]), since connections live there.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};

use super::layers::bounded::{Bounded, BoundedStats};
use super::layers::breaker::{Breaker, BreakerPlan, BreakerStats};
use super::layers::counted::{Counted, CountedStats};
use super::layers::retry::{Retry, RetryPlan, RetryStats};
use super::layers::timeout::{Timeout, TimeoutStats};
use super::library::Library;
use super::objects::{Fault, Objects};
use super::redis::Redis;
use super::shared_directory::Kept;
use super::url::Place;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Condvar, JoinHandle, Mutex, spawn_on};

const NAME: &str = "forebay-remote";
const WORKERS: usize = 2;
/// Files of a shared directory are read and written by these, and names of hosts looked up.
const BLOCKING_MOST: usize = 8;
const FIRST_REST: Duration = Duration::from_millis(50);
/// The breaker's rest doubles up to so many times the first.
const REST_GROWTH_MOST: u32 = 16;

/// After so many failures in a row a store is left alone, for so long at first.
const BREAKER_FAILURES: u32 = 5;
const BREAKER_REST: Duration = Duration::from_secs(1);

/// What a client is to be.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the store is (see [`url`](super::url)).
    pub url: String,
    /// How long one try of a request may take, its wait for a turn included. All tries together may take twice that.
    pub timeout: Duration,
    /// How many requests may be under way.
    pub requests_max: usize,
    /// How often what failed is tried again.
    pub retries: u32,
    /// After how many failures in a row the store is left alone.
    pub breaker_failures: u32,
    /// For how long at first.
    pub breaker_rest: Duration,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Settings");
        match Place::parse(&self.url) {
            Ok(place) => out.field("url", &place),
            Err(_) => out.field("url", &"***"),
        };
        out.field("timeout", &self.timeout)
            .field("requests_max", &self.requests_max)
            .field("retries", &self.retries)
            .field("breaker_failures", &self.breaker_failures)
            .field("breaker_rest", &self.breaker_rest)
            .finish()
    }
}

/// A remote store with its threads.
pub struct Client {
    objects: Arc<dyn Objects>,
    bare: Arc<dyn Objects>,
    counted: Arc<Counted>,
    breaker: Arc<Breaker>,
    retry: Arc<Retry>,
    timeout: Arc<Timeout>,
    bounded: Arc<Bounded>,
    place: String,
    handle: Handle,
    runtime: Mutex<Option<Runtime>>,
    tasks: Arc<Tasks>,
    /// The shared directory that this keeps below a capacity, if that is what the store is.
    kept: Option<Arc<Kept>>,
}

/// What a client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientStats {
    /// Requests, how they ended, what they moved.
    pub requests: CountedStats,
    /// The state of the breaker, and how often it opened.
    pub breaker: BreakerStats,
    /// Tries after the first.
    pub retry: RetryStats,
    /// Tries that took too long.
    pub timeout: TimeoutStats,
    /// Tries under way.
    pub bounded: BoundedStats,
}

/// The tasks that were spawned and have not ended.
#[derive(Default)]
struct Tasks {
    count: Mutex<usize>,
    changed: Condvar,
}

/// One of them, or what is to become one.
pub(crate) struct Task(Arc<Tasks>);

impl Task {
    fn begin(tasks: &Arc<Tasks>) -> Self {
        *tasks.count.lock() += 1;
        Self(Arc::clone(tasks))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        *self.0.count.lock() -= 1;
        self.0.changed.notify_all();
    }
}

impl Client {
    /// A client of the configuration's remote store, if it has one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(config: &Config) -> Result<Option<Arc<Self>>> {
        let settings = config.remote_url.clone().map(|url| Settings {
            url,
            timeout: config.remote_timeout,
            requests_max: config.remote_max_requests as usize,
            retries: config.remote_retries,
            breaker_failures: BREAKER_FAILURES,
            breaker_rest: BREAKER_REST,
        });
        let open = |settings| Self::open_within(&settings, config.max_remote_bytes);
        Ok(settings.map(open).transpose()?.map(Arc::new))
    }

    /// A client of the store at `settings.url`. Nothing is asked of it yet; a shared directory must be mounted.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a URL or settings that cannot be used, [`ErrorKind::Io`] when threads cannot be
    /// started or a shared directory refuses.
    pub fn open(settings: &Settings) -> Result<Self> {
        Self::open_within(settings, None)
    }

    /// As [`Self::open`]; a shared directory is kept below `capacity_bytes`, by a thread of this client's.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_within(settings: &Settings, capacity_bytes: Option<u64>) -> Result<Self> {
        let place = Place::parse(&settings.url)?;
        let objects = Self::objects_of(settings)?;
        let Some((capacity_bytes, Place::Directory(root))) = capacity_bytes.zip(Some(&place)) else {
            return Self::layered(objects, settings, place.to_string(), None);
        };
        Self::layered(objects, settings, place.to_string(), Some((root.clone(), capacity_bytes)))
    }

    /// The store at `settings.url` without any layer: what [`Self::over`] is given when something stands between.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn objects_of(settings: &Settings) -> Result<Arc<dyn Objects>> {
        // Whoever embeds this crate may have chosen another one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(match Place::parse(&settings.url)? {
            Place::Bucket(bucket) => {
                Arc::new(Library::bucket(&bucket, settings.requests_max, settings.timeout)?)
            }
            Place::Server(server) => Arc::new(Redis::new(&server, settings.requests_max, settings.timeout)?),
            Place::Directory(root) => Arc::new(Library::directory(&root)?),
        })
    }

    /// A client of `inner`, with all layers over it; `settings.url` is not looked at.
    ///
    /// # Errors
    /// As [`Self::open`], but for the URL.
    pub fn over(inner: Arc<dyn Objects>, settings: &Settings) -> Result<Self> {
        Self::layered(inner, settings, "a store of the caller's".to_owned(), None)
    }

    fn layered(
        inner: Arc<dyn Objects>,
        settings: &Settings,
        place: String,
        bound: Option<(PathBuf, u64)>,
    ) -> Result<Self> {
        for (is_zero, what) in [
            (settings.timeout.is_zero(), "a timeout"),
            (settings.requests_max == 0, "a number of requests"),
            (settings.breaker_failures == 0, "a number of failures"),
            (settings.breaker_rest.is_zero(), "a rest"),
        ] {
            if is_zero {
                let message =
                    format!("the remote store's client was given {what} of zero. Give it a positive one.");
                return Err(Error::new(ErrorKind::Config, message));
            }
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING_MOST)
            .thread_name(NAME)
            .enable_all()
            .build()
            .map_err(|error| Error::io(format!("starting the threads {NAME}"), error))?;
        let bounded = Arc::new(Bounded::new(Arc::clone(&inner), settings.requests_max));
        let timeout = Arc::new(Timeout::new(bounded.clone(), settings.timeout));
        let plan = RetryPlan {
            tries: settings.retries.saturating_add(1),
            first_rest: FIRST_REST.min(settings.timeout),
            longest_rest: settings.timeout,
            whole: settings.timeout.saturating_mul(2),
        };
        let retry = Arc::new(Retry::new(timeout.clone(), plan));
        let plan = BreakerPlan {
            failures: settings.breaker_failures,
            rest: settings.breaker_rest,
            longest_rest: settings.breaker_rest.saturating_mul(REST_GROWTH_MOST),
        };
        let breaker = Arc::new(Breaker::new(retry.clone(), plan));
        // Whoever waits for room has no request under way, and says nothing of the store.
        let below =
            |(root, capacity_bytes)| Kept::below(capacity_bytes, root, breaker.clone(), settings.timeout / 2);
        let kept = bound.map(below).transpose()?.map(Arc::new);
        let counted = Arc::new(Counted::new(match &kept {
            Some(kept) => kept.clone(),
            None => breaker.clone(),
        }));
        Ok(Self {
            objects: counted.clone(),
            bare: inner,
            counted,
            breaker,
            retry,
            timeout,
            bounded,
            place,
            handle: runtime.handle().clone(),
            runtime: Mutex::new(Some(runtime)),
            tasks: Arc::default(),
            kept,
        })
    }

    /// The store, with all layers.
    pub fn objects(&self) -> &Arc<dyn Objects> {
        &self.objects
    }

    /// The store without any layer: for who measures what it gives. Nothing bounds how long a request takes.
    pub fn bare(&self) -> &Arc<dyn Objects> {
        &self.bare
    }

    /// Where the store is, without credentials.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Runs `future` on this client's threads. After a shutdown it is not run, and waiting for it says so.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let task = Task::begin(&self.tasks);
        spawn_on(&self.handle, async move {
            let _task = task;
            future.await
        })
    }

    /// What keeps [`Self::shutdown`] waiting as a request does: for who will spawn one when another has ended.
    pub(crate) fn to_come(&self) -> Task {
        Task::begin(&self.tasks)
    }

    /// Runs `request` on this client's threads and waits for its end. Not to be called by one of them.
    ///
    /// # Errors
    /// The request's; [`Fault::Unavailable`] when the client was shut down.
    pub fn wait_for<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<T, Fault> {
        let (tell, told) = channel();
        self.spawn(async move {
            let _ = tell.send(request.await);
        });
        told.recv().unwrap_or_else(|_| Err(Fault::Unavailable("the request was given up".into())))
    }

    /// What it did so far.
    pub fn stats(&self) -> ClientStats {
        ClientStats {
            requests: self.counted.stats(),
            breaker: self.breaker.stats(),
            retry: self.retry.stats(),
            timeout: self.timeout.stats(),
            bounded: self.bounded.stats(),
        }
    }

    /// Its threads that died of a panic.
    pub fn dead_threads(&self) -> Vec<String> {
        self.kept.as_ref().map(|kept| kept.dead_threads()).unwrap_or_default()
    }

    /// Lets what was spawned, and what is to come after it, end until `deadline`, then gives up the rest. A second call does nothing.
    pub fn shutdown(&self, deadline: Instant) {
        let Some(runtime) = self.runtime.lock().take() else { return };
        let mut count = self.tasks.count.lock();
        while *count > 0 {
            if self.tasks.changed.wait_until(&mut count, deadline).timed_out() {
                tracing::warn!(
                    tasks = *count,
                    place = self.place,
                    "requests to the remote store were given up"
                );
                break;
            }
        }
        drop(count);
        // Does not wait: a thread may be in the kernel, on a mount that is gone.
        runtime.shutdown_background();
        if let Some(kept) = &self.kept {
            kept.shutdown(deadline);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.get_mut().take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::tier::remote::wrappers::chaos::{Chaos, ChaosOdds};
    use crate::tier::remote::wrappers::fake::Fake;

    fn settings(url: &str) -> Settings {
        Settings {
            url: url.to_owned(),
            timeout: Duration::from_millis(100),
            requests_max: 4,
            retries: 2,
            breaker_failures: 3,
            breaker_rest: Duration::from_mins(1),
        }
    }

    fn stalled() -> Client {
        let odds = ChaosOdds { stall: 1.0, ..ChaosOdds::default() };
        let slow = Settings { timeout: Duration::from_mins(10), ..settings("") };
        Client::over(Arc::new(Chaos::new(Arc::new(Fake::default()), 1, odds)), &slow).unwrap()
    }

    fn ask(client: &Client) -> JoinHandle<Result<bool, Fault>> {
        let objects = Arc::clone(client.objects());
        client.spawn(async move { objects.has("a/b/0").await })
    }

    fn wait<T>(handle: JoinHandle<T>) -> Result<T, tokio::task::JoinError> {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(handle)
    }

    #[test]
    fn all_layers_are_there_and_counted() {
        let fake = Arc::new(Fake::default());
        let client = Client::over(fake.clone(), &settings("")).unwrap();
        fake.fail_next([Fault::TimedOut]);
        let objects = Arc::clone(client.objects());
        let done = client.spawn(async move {
            objects.put("a/b/0", Bytes::from_static(b"123")).await?;
            objects.get("a/b/0", &mut [0; 3]).await
        });
        assert_eq!(wait(done).unwrap(), Ok(()));
        fake.fail_always(Some(Fault::Refused("no".to_owned())));
        for _ in 0..3 {
            assert_eq!(wait(ask(&client)).unwrap(), Err(Fault::Refused("no".to_owned())));
        }
        assert_eq!(wait(ask(&client)).unwrap(), Err(Fault::LeftAlone));
        let stats = client.stats();
        assert_eq!((stats.requests.requests, stats.requests.ok, stats.requests.in_flight), (6, 2, 0));
        assert_eq!((stats.requests.refused, stats.requests.left_alone), (3, 1));
        assert_eq!((stats.requests.bytes_put, stats.requests.bytes_got), (3, 3));
        assert_eq!((stats.retry.retries, stats.breaker.state, stats.breaker.opened), (1, "open", 1));
    }

    #[test]
    fn a_shutdown_waits_for_what_ends_and_gives_up_what_does_not() {
        let client = stalled();
        let hanging = ask(&client);
        let began = Instant::now();
        client.shutdown(began + Duration::from_millis(50));
        assert!(began.elapsed() >= Duration::from_millis(50) && began.elapsed() < Duration::from_mins(1));
        assert!(wait(hanging).is_err_and(|error| error.is_cancelled()));
        assert!(wait(ask(&client)).is_err_and(|error| error.is_cancelled()), "nothing is run any more");
        client.shutdown(Instant::now() + Duration::from_mins(10));

        let client = Client::over(Arc::new(Fake::default()), &settings("")).unwrap();
        let ending = client.spawn(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            7
        });
        let began = Instant::now();
        client.shutdown(began + Duration::from_mins(10));
        assert!(began.elapsed() < Duration::from_mins(1), "it does not wait longer than it has to");
        assert_eq!(wait(ending).unwrap(), 7);
    }

    #[tokio::test]
    async fn it_can_be_dropped_and_shut_down_in_an_asynchronous_context() {
        let client = stalled();
        let hanging = ask(&client);
        client.shutdown(Instant::now());
        drop(client);
        assert!(hanging.await.is_err());
        let client = stalled();
        let hanging = ask(&client);
        drop(client);
        assert!(hanging.await.is_err());
        // The last one to hold it may be one of its own tasks.
        let client = Arc::new(stalled());
        let (held, weak) = (Arc::clone(&client), Arc::downgrade(&client));
        let dropping = client.spawn(async move {
            while Arc::strong_count(&held) > 1 {
                tokio::task::yield_now().await;
            }
            drop(held);
        });
        drop(client);
        let _ = dropping.await;
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn what_cannot_be_used_is_refused_at_once_and_shows_no_secret() {
        let right = settings("redis://u:sesame@127.0.0.1:1/0");
        assert!(!format!("{right:?}").contains("sesame"));
        assert!(!format!("{:?}", settings("redis://u:ses/ame@127.0.0.1")).contains("ame@"));
        assert_eq!(Client::open(&right).unwrap().place(), "redis://127.0.0.1:1/0");
        for url in
            ["rediss://127.0.0.1:1", "redis://127.0.0.1:1,127.0.0.1:2", "rediss://127.0.0.1:1,127.0.0.1:2"]
        {
            Client::open(&settings(url)).unwrap_or_else(|error| panic!("{url}: {error}"));
        }
        for endpoint in ["http", "https"] {
            let url = format!("s3://bucket/prefix?region=x&endpoint={endpoint}://127.0.0.1:1");
            Client::open(&settings(&url)).unwrap_or_else(|error| panic!("{url}: {error}"));
        }
        for wrong in [
            settings("file:///there/is/no/such/directory"),
            settings("nonsense"),
            Settings { timeout: Duration::ZERO, ..right.clone() },
            Settings { requests_max: 0, ..right.clone() },
            Settings { breaker_failures: 0, ..right.clone() },
            Settings { breaker_rest: Duration::ZERO, ..right.clone() },
        ] {
            let error = Client::open(&wrong).err().expect("refused");
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(!error.to_string().contains("sesame"));
        }
    }
}
