//! A batch of chunks under way, and how its caller learns of their ends.
//!
//! Promises: every chunk of a batch ends exactly once; the batch is done after its last chunk's end was made known;
//! waiting for it takes no longer than asked. A caller that loses interest may drop it: the chunks go on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, now};

/// Chunks under way; `T` is what the end of one is told with.
pub struct Batch<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    cancelled: AtomicBool,
}

struct State<T> {
    ends: Vec<Option<T>>,
    /// Ended, in this order; `polled` of them were handed out by [`Batch::poll`].
    order: Vec<usize>,
    polled: usize,
    /// Chunks that may still touch engine memory.
    touching: usize,
    /// Called once each, when all have ended.
    then: Vec<Box<dyn FnOnce() + Send>>,
}

/// While this lives, its chunk may touch engine memory.
pub struct Touch<T>(Arc<Batch<T>>);

impl<T> Drop for Touch<T> {
    fn drop(&mut self) {
        self.0.state.lock().touching -= 1;
        self.0.changed.notify_all();
    }
}

impl<T: Clone> Batch<T> {
    /// A batch of `chunks` chunks.
    pub fn new(chunks: usize) -> Arc<Self> {
        let ends = std::iter::repeat_with(|| None).take(chunks).collect();
        let state =
            State { ends, order: Vec::with_capacity(chunks), polled: 0, touching: 0, then: Vec::new() };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            cancelled: AtomicBool::new(false),
        })
    }

    /// Whether all chunks have ended.
    pub fn is_done(&self) -> bool {
        self.state.lock().is_done()
    }

    /// Waits until all chunks have ended, at most for `timeout`; gives the ends in the order of the chunks, or
    /// `None` when some are still under way.
    ///
    /// # Panics
    /// Never: a batch that is done has all ends.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Vec<T>> {
        let mut state = self.wait_until(timeout, State::is_done)?;
        Some(state.ends.iter_mut().map(|end| end.clone().expect("all chunks have ended")).collect())
    }

    /// The ends that no call of this method has given yet.
    pub fn poll(&self) -> Vec<T> {
        let mut state = self.state.lock();
        let new = state.order[state.polled..].to_vec();
        state.polled = state.order.len();
        new.into_iter().filter_map(|chunk| state.ends[chunk].clone()).collect()
    }

    /// Calls `then` when all chunks have ended; at once if they have.
    pub fn on_done(&self, then: impl FnOnce() + Send + 'static) {
        let mut state = self.state.lock();
        if state.is_done() {
            drop(state);
            call(Box::new(then));
        } else {
            state.then.push(Box::new(then));
        }
    }

    /// Ends a chunk.
    ///
    /// # Panics
    /// When it has ended before.
    pub fn end(&self, chunk: usize, end: T) {
        let mut state = self.state.lock();
        let before = state.ends[chunk].replace(end);
        assert!(before.is_none(), "a chunk ends once");
        state.order.push(chunk);
        let then = if state.is_done() { std::mem::take(&mut state.then) } else { Vec::new() };
        drop(state);
        self.changed.notify_all();
        then.into_iter().for_each(call);
    }
}

impl<T> Batch<T> {
    /// Whether no chunk touches engine memory any more.
    pub fn is_released(&self) -> bool {
        self.state.lock().touching == 0
    }

    /// Waits until no chunk touches engine memory any more, at most for `timeout`; whether that is so.
    pub fn wait_released(&self, timeout: Duration) -> bool {
        self.wait_until(Some(timeout), |state| state.touching == 0).is_some()
    }

    /// Says that what has not begun is not wanted any more. [`super::Mover::cancel`] makes it so at once.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether [`Self::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Notes that a chunk may touch engine memory until the guard is dropped.
    pub(crate) fn touch(self: &Arc<Self>) -> Touch<T> {
        self.state.lock().touching += 1;
        Touch(Arc::clone(self))
    }

    fn wait_until(
        &self,
        timeout: Option<Duration>,
        ready: impl Fn(&State<T>) -> bool,
    ) -> Option<MutexGuard<'_, State<T>>> {
        let deadline = timeout.and_then(|timeout| now().checked_add(timeout));
        let mut state = self.state.lock();
        while !ready(&state) {
            match deadline {
                Some(deadline) => {
                    if self.changed.wait_until(&mut state, deadline).timed_out() && !ready(&state) {
                        return None;
                    }
                }
                None => self.changed.wait(&mut state),
            }
        }
        Some(state)
    }
}

/// Calls what may panic: that is its author's, and no reason to stop on the way.
fn call(then: Box<dyn FnOnce() + Send>) {
    if catch_unwind(AssertUnwindSafe(then)).is_err() {
        tracing::error!("what was to be called at the end of a batch panicked");
    }
}

impl<T> State<T> {
    fn is_done(&self) -> bool {
        self.order.len() == self.ends.len()
    }
}
