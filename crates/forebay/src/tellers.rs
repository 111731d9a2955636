//! The threads that tell how transfers ended, so that those who serve a device or the network need not: two for a queue, of
//! which the second helps out.
//!
//! Promises: each end is told once; one that panics costs nobody else anything. When no thread of it is left, however that
//! went, what waits has been told, and what comes is told by whoever hands it over.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::crew::Crew;
use crate::error::Result;
use crate::queue::JobQueue;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// What is to be called.
pub(crate) type End = Box<dyn FnOnce() + Send>;

/// What such a thread waits for.
type Next = fn(&JobQueue<End>) -> Option<End>;

/// See the module's documentation. Its clones are the same.
#[derive(Clone)]
pub(crate) struct Tellers {
    queue: Arc<JobQueue<End>>,
}

impl Tellers {
    /// With room for so many ends that wait.
    pub(crate) fn new(waiting_max: usize) -> Self {
        Self { queue: Arc::new(JobQueue::new(waiting_max)) }
    }

    /// Starts their threads.
    ///
    /// # Errors
    /// When the system gives no more.
    pub(crate) fn start(&self, crew: &Crew, name: &str) -> Result<()> {
        let living = Arc::new(AtomicUsize::new(2));
        let both: [(String, Next); 2] =
            [(name.to_owned(), JobQueue::pop), (format!("{name}-too"), JobQueue::pop_behind)];
        for (name, next) in both {
            let teller = Teller { queue: Arc::clone(&self.queue), living: Arc::clone(&living) };
            crew.spawn(name, move || {
                while let Some(end) = next(&teller.queue) {
                    caught(end);
                }
            })?;
        }
        Ok(())
    }

    /// Hands an end over, or tells it here where they are closed, dead, or far behind.
    pub(crate) fn tell(&self, end: End) {
        if let Err(not_taken) = self.queue.push(end) {
            caught(not_taken.into_inner());
        }
    }

    /// Has the threads end once all that waits is told.
    pub(crate) fn close(&self) {
        self.queue.close();
    }
}

/// One of the threads.
struct Teller {
    queue: Arc<JobQueue<End>>,
    living: Arc<AtomicUsize>,
}

impl Drop for Teller {
    fn drop(&mut self) {
        if self.living.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.queue.close();
            for end in self.queue.sweep(|_| true) {
                caught(end);
            }
        }
    }
}

/// A panic at the end of a transfer costs that transfer only.
pub(crate) fn caught<T>(end: impl FnOnce() -> T) -> Option<T> {
    let called = catch_unwind(AssertUnwindSafe(end));
    if called.is_err() {
        tracing::error!("the end of a chunk's transfer panicked; the chunk was given up");
    }
    called.ok()
}
