//! The checker's side of [`super`]: `shuttle`'s threads and locks behind the names that the crate uses.
//!
//! Threads are coroutines of one thread, and one of them runs at a time; each lock, unlock, wait, notification and atomic
//! access is a point at which another may go on, before it and after an unlock: so also between a look at something and
//! the wait for it, and between giving a lock back and whatever comes next. If all of them wait, that is a deadlock and the
//! model fails.
//!
//! What time is: a clock that stands, unless a wait's time runs out. Whether that happens is the model's to say
//! ([`Time`]). Where it never does, a wait that nobody ends is a deadlock, so that a lost wake-up is found; where it may,
//! it does at any point that the schedule chooses, before or after a notification, and the clock then stands at the
//! deadline. So a wait may take longer than it was meant to, as on a machine that is busy, and never less.
//!
//! A notification wakes any of those who wait, not the first. Nobody is woken without one, as `parking_lot` promises.
//! What an atomic's order leaves open is not tried: each access is as if it were `SeqCst`. `make miri` is for
//! that.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shuttle::rand::Rng;

pub(crate) use shuttle::sync::atomic;

/// What becomes of waits that have a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// It never comes.
    Stands,
    /// It comes whenever the schedule says so.
    Flies,
}

std::thread_local! {
    /// Of the model that this thread runs.
    static TIME: Cell<Time> = const { Cell::new(Time::Stands) };
    static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Begins a run of a model: the clock is set back.
pub(crate) fn begin(time: Time) {
    TIME.set(time);
    PASSED.set(Duration::ZERO);
}

/// What time it is.
pub(crate) fn now() -> Instant {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    *BEGAN.get_or_init(Instant::now) + PASSED.get()
}

/// Sets the clock to `at`, unless it is later.
fn passes(at: Instant) {
    PASSED.set(PASSED.get() + at.saturating_duration_since(now()));
}

/// A coin: whether something that may happen now does.
fn happens() -> bool {
    shuttle::rand::thread_rng().gen_bool(0.25)
}

/// A point at which another thread may go on.
fn step() {
    // The checker unwinds what is left over when a model has failed; nobody goes on then.
    if !std::thread::panicking() {
        // To the checker that is all that a sleep is.
        shuttle::thread::sleep(Duration::ZERO);
    }
}

/// As `parking_lot`'s: what panics while it holds the lock leaves it usable.
#[derive(Default)]
pub(crate) struct Mutex<T: ?Sized>(shuttle::sync::Mutex<T>);

/// As `parking_lot`'s.
pub(crate) struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    /// Nothing while it is given up for a moment.
    inner: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<T: ?Sized> Mutex<T> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, inner: Some(self.take()) }
    }

    /// Waits as [`Self::lock`] does, and may give up where time flies.
    pub(crate) fn try_lock_for(&self, timeout: Duration) -> Option<MutexGuard<'_, T>> {
        if TIME.get() == Time::Flies && happens() {
            passes(now() + timeout);
            return None;
        }
        Some(self.lock())
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn take(&self) -> shuttle::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<T: ?Sized> std::fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mutex")
    }
}

impl<T: ?Sized + std::fmt::Debug> std::fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized> MutexGuard<'_, T> {
    /// Gives the lock up while `work` runs.
    pub(crate) fn unlocked<R>(guard: &mut Self, work: impl FnOnce() -> R) -> R {
        guard.give_up();
        let result = work();
        guard.inner = Some(guard.mutex.take());
        result
    }

    /// The checker lets others go on before the lock is free, and here also after it is.
    fn give_up(&mut self) {
        if let Some(inner) = self.inner.take() {
            drop(inner);
            step();
        }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl<T: ?Sized> std::ops::Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner.as_ref().expect("the lock is held")
    }
}

impl<T: ?Sized> std::ops::DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("the lock is held")
    }
}

/// As `parking_lot`'s.
#[derive(Default)]
pub(crate) struct Condvar {
    /// Held for no longer than it takes to look: no other thread of the model runs meanwhile.
    waiters: std::sync::Mutex<Vec<Arc<Waiter>>>,
}

struct Waiter {
    thread: shuttle::thread::Thread,
    woken: AtomicBool,
}

/// Whether a wait's time ran out.
pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}

impl std::fmt::Debug for Condvar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Condvar")
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        step();
        let mut waiters = self.waiters();
        if !waiters.is_empty() {
            let any = shuttle::rand::thread_rng().gen_range(0..waiters.len());
            let waiter = waiters.swap_remove(any);
            drop(waiters);
            waiter.wake();
        }
    }

    pub(crate) fn notify_all(&self) {
        step();
        let waiters = std::mem::take(&mut *self.waiters());
        waiters.iter().for_each(|waiter| waiter.wake());
    }

    pub(crate) fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) {
        self.wait_for_wake(guard, None);
    }

    pub(crate) fn wait_for<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        timeout: Duration,
    ) -> WaitTimeoutResult {
        self.wait_for_wake(guard, now().checked_add(timeout))
    }

    pub(crate) fn wait_until<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Instant,
    ) -> WaitTimeoutResult {
        self.wait_for_wake(guard, Some(deadline))
    }

    pub(crate) fn wait_while_for<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        timeout: Duration,
    ) -> WaitTimeoutResult {
        let deadline = now().checked_add(timeout);
        let mut timed_out = false;
        while condition(guard) && !timed_out {
            timed_out = self.wait_for_wake(guard, deadline).timed_out();
        }
        WaitTimeoutResult(timed_out)
    }

    fn wait_for_wake<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Option<Instant>,
    ) -> WaitTimeoutResult {
        // Whoever notifies without the lock may do so after this one has looked and before it waits.
        step();
        if deadline.is_some_and(|at| at <= now()) {
            MutexGuard::unlocked(guard, || ());
            return WaitTimeoutResult(true);
        }
        let me = Arc::new(Waiter { thread: shuttle::thread::current(), woken: AtomicBool::new(false) });
        self.waiters().push(Arc::clone(&me));
        let timed_out = MutexGuard::unlocked(guard, || {
            let deadline = deadline.filter(|_| TIME.get() == Time::Flies);
            loop {
                if me.woken.load(Ordering::Relaxed) {
                    break false;
                }
                let Some(deadline) = deadline else {
                    shuttle::thread::park();
                    continue;
                };
                if happens() {
                    self.waiters().retain(|waiter| !Arc::ptr_eq(waiter, &me));
                    passes(deadline);
                    break true;
                }
                shuttle::thread::yield_now();
            }
        });
        WaitTimeoutResult(timed_out)
    }

    fn waiters(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Waiter>>> {
        self.waiters.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Waiter {
    fn wake(&self) {
        self.woken.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

/// Runs `future` as a thread of the model; the runtime's own threads have no part in it.
pub(crate) fn spawn_on<F>(
    _runtime: &tokio::runtime::Handle,
    future: F,
) -> shuttle::future::JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    shuttle::future::spawn(future)
}

/// As the standard library's, as far as it is used.
pub(crate) mod thread {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    pub(crate) use shuttle::thread::{Thread, current};

    #[derive(Default)]
    pub(crate) struct Builder(shuttle::thread::Builder);

    pub(crate) struct JoinHandle<T> {
        inner: shuttle::thread::JoinHandle<T>,
        is_finished: Arc<AtomicBool>,
    }

    impl Builder {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn name(self, name: String) -> Self {
            Self(self.0.name(name))
        }

        pub(crate) fn spawn<T: Send + 'static>(
            self,
            work: impl FnOnce() -> T + Send + 'static,
        ) -> std::io::Result<JoinHandle<T>> {
            let is_finished = Arc::new(AtomicBool::new(false));
            let finished = Arc::clone(&is_finished);
            let inner = self.0.spawn(move || {
                let result = work();
                finished.store(true, Ordering::Relaxed);
                result
            })?;
            Ok(JoinHandle { inner, is_finished })
        }
    }

    impl<T> JoinHandle<T> {
        pub(crate) fn join(self) -> std::thread::Result<T> {
            self.inner.join()
        }

        pub(crate) fn thread(&self) -> &Thread {
            self.inner.thread()
        }

        pub(crate) fn is_finished(&self) -> bool {
            self.is_finished.load(Ordering::Relaxed)
        }
    }
}
