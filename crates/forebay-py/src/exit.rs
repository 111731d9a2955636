//! The end of the interpreter: threads that call into it must have ended before.

use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;

/// What is closed at exit may work on for so long.
const PATIENCE: Duration = Duration::from_secs(10);

type Close = Box<dyn Fn(Duration) + Send>;

/// With the process that each is of: what a forked child ends with is its parent's.
static CLOSES: Mutex<Vec<(u32, Close)>> = Mutex::new(Vec::new());

/// Has `close` called when the interpreter ends. It must hold what it closes weakly.
pub(crate) fn at_exit(close: impl Fn(Duration) + Send + 'static) {
    CLOSES.lock().push((std::process::id(), Box::new(close)));
}

/// Closes what is still open. Registered with `atexit` by the package.
#[pyfunction]
pub(crate) fn close_all(py: Python<'_>) {
    let closes = std::mem::take(&mut *CLOSES.lock());
    let ours = closes.into_iter().filter(|(process, _)| *process == std::process::id());
    py.detach(move || ours.for_each(|(_, close)| close(PATIENCE)));
}
