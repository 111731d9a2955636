//! A bounded queue between callers and the threads that serve it.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

/// First in, first out, never more than `limit`.
pub(crate) struct JobQueue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    limit: usize,
}

struct State<T> {
    jobs: VecDeque<T>,
    closed: bool,
}

/// Why a job was not taken; gives it back.
pub(crate) enum NotTaken<T> {
    Full(T),
    Closed(T),
}

impl<T> NotTaken<T> {
    pub(crate) fn into_inner(self) -> T {
        match self {
            Self::Full(job) | Self::Closed(job) => job,
        }
    }
}

impl<T> JobQueue<T> {
    pub(crate) fn new(limit: usize) -> Self {
        let state = State { jobs: VecDeque::new(), closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), limit }
    }

    pub(crate) fn push(&self, job: T) -> Result<(), NotTaken<T>> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(NotTaken::Closed(job));
        }
        if state.jobs.len() >= self.limit {
            return Err(NotTaken::Full(job));
        }
        state.jobs.push_back(job);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for a job; `None` when the queue is closed and empty.
    pub(crate) fn pop(&self) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Takes out the jobs that `unwanted` says.
    pub(crate) fn sweep(&self, unwanted: impl Fn(&T) -> bool) -> Vec<T> {
        let mut state = self.state.lock();
        let (out, keep): (Vec<T>, Vec<T>) = std::mem::take(&mut state.jobs).into_iter().partition(unwanted);
        state.jobs = keep.into();
        out
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().jobs.len()
    }
}
