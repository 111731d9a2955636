//! The end of the interpreter: threads that call into it must have ended before.

use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;

/// What is closed at exit may work on for so long.
const PATIENCE: Duration = Duration::from_secs(10);

type Close = Box<dyn Fn(Duration) + Send>;

static CLOSES: Mutex<Vec<Close>> = Mutex::new(Vec::new());

/// Has `close` called when the interpreter ends. It must hold what it closes weakly.
pub(crate) fn at_exit(close: impl Fn(Duration) + Send + 'static) {
    CLOSES.lock().push(Box::new(close));
}

/// Closes what is still open. Registered with `atexit` by the package.
#[pyfunction]
pub(crate) fn close_all(py: Python<'_>) {
    let closes = std::mem::take(&mut *CLOSES.lock());
    py.detach(move || closes.into_iter().for_each(|close| close(PATIENCE)));
}
