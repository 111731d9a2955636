//! The end of the interpreter: threads that call into it must have ended before.

use std::sync::Weak;
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;

/// What is closed at exit may work on for so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something that may still be open.
trait Close: Send {
    fn is_gone(&self) -> bool;
    fn close(&self, patience: Duration);
}

struct Open<T> {
    what: Weak<T>,
    close: fn(&T, Duration),
}

impl<T: Send + Sync> Close for Open<T> {
    fn is_gone(&self) -> bool {
        self.what.strong_count() == 0
    }

    fn close(&self, patience: Duration) {
        if let Some(what) = self.what.upgrade() {
            (self.close)(&what, patience);
        }
    }
}

/// With the process that each is of: what a forked child ends with is its parent's.
static CLOSES: Mutex<Vec<(u32, Box<dyn Close>)>> = Mutex::new(Vec::new());

/// Has `close` called when the interpreter ends, if there still is something to be closed.
pub(crate) fn at_exit<T: Send + Sync + 'static>(what: Weak<T>, close: fn(&T, Duration)) {
    let mut closes = CLOSES.lock();
    // A program that opens and closes caches all day keeps nothing of those that are closed.
    closes.retain(|(_, open)| !open.is_gone());
    closes.push((std::process::id(), Box::new(Open { what, close })));
}

/// Closes what is still open. Registered with `atexit` by the package.
#[pyfunction]
pub(crate) fn close_all(py: Python<'_>) {
    let closes = std::mem::take(&mut *CLOSES.lock());
    let ours = closes.into_iter().filter(|(process, _)| *process == std::process::id());
    py.detach(move || {
        ours.for_each(|(_, open)| open.close(PATIENCE));
        forebay_cli::end_log();
    });
}
