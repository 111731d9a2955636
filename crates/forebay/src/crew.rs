//! Named threads with an owner, and an end that is waited for only so long.
//!
//! A thread that hangs in the kernel on a dead device, or in a caller's code, cannot be ended from outside; whoever
//! shuts down must not hang with it. [`Crew::join`] waits until a deadline and leaves such a thread behind, said in
//! the log. A thread that dies of a panic is known by name from then on ([`Crew::dead`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::prompt::ask_for_short_turns;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex};

/// The threads of one owner.
pub(crate) struct Crew {
    threads: Mutex<Vec<JoinHandle<()>>>,
    working: Arc<Working>,
    /// In which they are: a forked child has its owner, but not them.
    process: u32,
}

impl Default for Crew {
    fn default() -> Self {
        Self { threads: Mutex::default(), working: Arc::default(), process: std::process::id() }
    }
}

#[derive(Default)]
struct Working {
    count: Mutex<usize>,
    changed: Condvar,
    /// Threads that died of a panic.
    dead: Mutex<Vec<String>>,
}

/// Signs its thread off, also when that panics.
struct SignOff {
    working: Arc<Working>,
    name: String,
}

impl Drop for SignOff {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                name = self.name,
                "a background thread died of a panic; what it did is not done any more"
            );
            self.working.dead.lock().push(std::mem::take(&mut self.name));
        }
        *self.working.count.lock() -= 1;
        self.working.changed.notify_all();
    }
}

impl Crew {
    /// Starts a thread that works briefly and often, and is to be let in at once.
    pub(crate) fn spawn_prompt(&self, name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
        self.spawn(name, || {
            ask_for_short_turns();
            work();
        })
    }

    /// Starts a thread.
    pub(crate) fn spawn(&self, name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
        *self.working.count.lock() += 1;
        let sign_off = SignOff { working: Arc::clone(&self.working), name: name.clone() };
        let doing = format!("starting the thread {name}");
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || {
                let _sign_off = sign_off;
                work();
            })
            .map_err(|error| Error::io(doing, error))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// The threads that died of a panic.
    pub(crate) fn dead(&self) -> Vec<String> {
        self.working.dead.lock().clone()
    }

    /// Waits for all threads to end, at most until `deadline`; gives whether they did. Their owner has told them to.
    pub(crate) fn join(&self, deadline: Instant) -> bool {
        if self.process != std::process::id() {
            return false;
        }
        // Called from one of them (a callback that closes the cache), it does not wait for itself.
        let me = thread::current().id();
        let mine = usize::from(self.threads.lock().iter().any(|thread| thread.thread().id() == me));
        let mut count = self.working.count.lock();
        while *count > mine {
            if self.working.changed.wait_until(&mut count, deadline).timed_out() {
                break;
            }
        }
        let ended = *count <= mine;
        drop(count);
        let threads: Vec<JoinHandle<()>> = self.threads.lock().drain(..).collect();
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != me) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if !ended && !thread.is_finished() {
                tracing::error!(name, "a thread did not end in time and was left behind");
            } else {
                // That it panicked was said when it did.
                let _ = thread.join();
            }
        }
        ended
    }
}

/// How long a shutdown waits for threads that have nothing left to do but end.
pub(crate) const JOIN_PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_dies_of_a_panic_is_known_by_name_and_who_just_ends_is_not() {
        let crew = Crew::default();
        crew.spawn("ends".into(), || ()).unwrap();
        crew.spawn("dies".into(), || panic!("on purpose")).unwrap();
        assert!(crew.join(Instant::now() + Duration::from_mins(1)));
        assert_eq!(crew.dead(), ["dies"]);
    }
}
