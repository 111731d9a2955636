//! A bounded queue between callers and the threads that serve it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::sync::{Condvar, Mutex};

use crate::crash_points::turn;

/// How long a lone job waits for the thread that serves a queue before a helper takes it.
const LONE_JOB_PATIENCE: Duration = Duration::from_millis(2);

/// First in, first out, never more than `limit`. One thread serves it ([`Self::pop`]); others may help
/// ([`Self::pop_behind`]).
pub(crate) struct JobQueue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    behind: Condvar,
    limit: usize,
}

struct State<T> {
    jobs: VecDeque<T>,
    /// The thread that serves waits for a job.
    served: bool,
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
        let state = State { jobs: VecDeque::new(), served: false, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), behind: Condvar::new(), limit }
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
        if std::mem::take(&mut state.served) {
            self.changed.notify_one();
        } else {
            self.behind.notify_one();
        }
        Ok(())
    }

    /// Waits for a job; `None` when the queue is closed and empty.
    pub(crate) fn pop(&self) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                turn();
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.served = true;
            self.changed.wait(&mut state);
            state.served = false;
        }
    }

    /// A job, if one is there.
    pub(crate) fn try_pop(&self) -> Option<T> {
        self.state.lock().jobs.pop_front()
    }

    /// As [`Self::pop`], for a thread that helps out: takes a job when more than one waits, or one has waited for long
    /// (who serves the queue may be held up in a caller's code).
    pub(crate) fn pop_behind(&self) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if state.jobs.len() > 1 || (state.closed && !state.jobs.is_empty()) {
                let job = state.jobs.pop_front();
                drop(state);
                turn();
                return job;
            }
            if state.closed {
                return None;
            }
            if state.jobs.is_empty() {
                self.behind.wait(&mut state);
                continue;
            }
            let for_long = self.behind.wait_for(&mut state, LONE_JOB_PATIENCE).timed_out();
            if for_long
                && !state.served
                && let Some(job) = state.jobs.pop_front()
            {
                drop(state);
                turn();
                return Some(job);
            }
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
        self.behind.notify_all();
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().jobs.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::thread::spawn;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_helper_takes_what_the_serving_thread_is_held_up_from() {
        let queue = Arc::new(JobQueue::new(10));
        let (tell, told) = channel();
        let (let_go, held) = channel::<()>();
        let (serving, tell_too) = (Arc::clone(&queue), tell.clone());
        let server = spawn(move || {
            while let Some(job) = serving.pop() {
                tell_too.send(job).unwrap();
                if job == 0 {
                    let _ = held.recv_timeout(LONG);
                }
            }
        });
        assert!(queue.push(0).is_ok());
        assert_eq!(told.recv_timeout(LONG), Ok(0));
        // The server is held up: one job alone, and then several.
        let helping = Arc::clone(&queue);
        let helper = spawn(move || {
            while let Some(job) = helping.pop_behind() {
                tell.send(job).unwrap();
            }
        });
        for jobs in [1..2, 2..8] {
            jobs.clone().for_each(|job| assert!(queue.push(job).is_ok()));
            for job in jobs {
                assert_eq!(told.recv_timeout(LONG), Ok(job));
            }
        }
        let_go.send(()).unwrap();
        queue.close();
        server.join().unwrap();
        helper.join().unwrap();
        assert!(matches!(queue.push(9), Err(NotTaken::Closed(9))));
    }

    #[test]
    fn a_closed_queue_is_emptied_by_whoever_is_there() {
        for help in [false, true] {
            let queue = JobQueue::new(3);
            (0..3).for_each(|job| assert!(queue.push(job).is_ok()));
            assert!(matches!(queue.push(3), Err(NotTaken::Full(3))));
            queue.close();
            let jobs = || if help { queue.pop_behind() } else { queue.pop() };
            assert_eq!(std::iter::from_fn(jobs).collect::<Vec<_>>(), [0, 1, 2]);
        }
    }
}
