//! `forebay.Handle` and the outcomes it gives.

use std::sync::{Arc, Weak};
use std::time::Duration;

use forebay::mover::Batch;
use pyo3::BoundObject;
use pyo3::exceptions::PyTimeoutError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::error::argument;

/// What became of one chunk of a store.
#[pyclass(module = "forebay", frozen)]
#[derive(Clone)]
pub(crate) struct StoreOutcome(pub(crate) forebay::StoreOutcome);

/// What became of one chunk of a load.
#[pyclass(module = "forebay", frozen)]
#[derive(Clone)]
pub(crate) struct LoadOutcome(pub(crate) forebay::LoadOutcome);

fn reason_text(reason: Option<&forebay::Reason>) -> String {
    reason.map(ToString::to_string).unwrap_or_default()
}

#[pymethods]
impl StoreOutcome {
    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.key.as_bytes())
    }

    #[getter]
    fn status(&self) -> &'static str {
        self.0.status.name()
    }

    #[getter]
    fn reason(&self) -> String {
        reason_text(self.0.reason.as_ref())
    }

    #[getter]
    fn tiers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let tiers = PyDict::new(py);
        for end in &self.0.tiers {
            tiers.set_item(end.tier.name(), end.status.name())?;
        }
        Ok(tiers)
    }

    fn __repr__(&self) -> String {
        format!("StoreOutcome({}, {:?}, {:?})", self.0.key, self.status(), self.reason())
    }
}

#[pymethods]
impl LoadOutcome {
    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.key.as_bytes())
    }

    #[getter]
    fn status(&self) -> &'static str {
        self.0.status.name()
    }

    #[getter]
    fn reason(&self) -> String {
        reason_text(self.0.reason.as_ref())
    }

    #[getter]
    fn tier(&self) -> Option<&'static str> {
        self.0.tier.map(forebay::outcome::Tier::name)
    }

    fn __repr__(&self) -> String {
        format!("LoadOutcome({}, {:?}, {:?})", self.0.key, self.status(), self.reason())
    }
}

/// Either kind of batch.
enum Either {
    Store(Arc<Batch<forebay::StoreOutcome>>),
    Load(Arc<Batch<forebay::LoadOutcome>>),
}

/// A batch under way.
#[pyclass(module = "forebay", frozen)]
pub(crate) struct Handle {
    batch: Either,
    /// Weak, so that a handle that is kept does not keep the cache.
    cache: Weak<forebay::Cache>,
}

impl Handle {
    pub(crate) fn store(cache: &Arc<forebay::Cache>, batch: Arc<Batch<forebay::StoreOutcome>>) -> Self {
        Self { batch: Either::Store(batch), cache: Arc::downgrade(cache) }
    }

    pub(crate) fn load(cache: &Arc<forebay::Cache>, batch: Arc<Batch<forebay::LoadOutcome>>) -> Self {
        Self { batch: Either::Load(batch), cache: Arc::downgrade(cache) }
    }
}

#[pymethods]
impl Handle {
    fn done(&self) -> bool {
        match &self.batch {
            Either::Store(batch) => batch.is_done(),
            Either::Load(batch) => batch.is_done(),
        }
    }

    /// Waits for all chunks; gives one outcome a chunk, in the order of the keys.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Vec<Py<PyAny>>> {
        let timeout = seconds(py, timeout)?;
        match &self.batch {
            Either::Store(batch) => {
                finished(py, interruptible(py, timeout, |slice| batch.wait(Some(slice)))?, StoreOutcome)
            }
            Either::Load(batch) => {
                finished(py, interruptible(py, timeout, |slice| batch.wait(Some(slice)))?, LoadOutcome)
            }
        }
    }

    fn cancel(&self, py: Python<'_>) {
        py.detach(|| match (&self.batch, self.cache.upgrade()) {
            (Either::Store(batch), Some(cache)) => cache.cancel(batch),
            (Either::Load(batch), Some(cache)) => cache.cancel(batch),
            (_, None) => {} // closed, so everything has ended
        });
    }

    /// Calls `then()` on a thread of forebay's when all chunks have ended; at once if they have.
    fn _on_done(&self, py: Python<'_>, then: Py<PyAny>) {
        let then = move || {
            Python::try_attach(|py| {
                if let Err(error) = then.call0(py) {
                    error.write_unraisable(py, None);
                }
            });
        };
        py.detach(|| match &self.batch {
            Either::Store(batch) => batch.on_done(then),
            Either::Load(batch) => batch.on_done(then),
        });
    }

    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let wait_for = slf.py().import("forebay._await")?.getattr("wait_for")?;
        wait_for.call1((slf,))?.call_method0("__await__")
    }
}

fn finished<T, C: for<'py> IntoPyObject<'py>>(
    py: Python<'_>,
    outcomes: Option<Vec<T>>,
    class: fn(T) -> C,
) -> PyResult<Vec<Py<PyAny>>> {
    let outcomes = outcomes.ok_or_else(|| PyTimeoutError::new_err("chunks are still under way"))?;
    outcomes
        .into_iter()
        .map(|outcome| {
            class(outcome).into_pyobject(py).map(|object| object.into_any().unbind()).map_err(Into::into)
        })
        .collect()
}

/// A timeout in seconds, as a duration; `None` and what is beyond all time wait without end.
pub(crate) fn seconds(py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Duration>> {
    match timeout {
        Some(timeout) if timeout.is_nan() || timeout < 0.0 => Err(argument(py, "a timeout is not negative")),
        Some(timeout) => Ok(Duration::try_from_secs_f64(timeout).ok()),
        None => Ok(None),
    }
}

/// Waits in slices without the GIL, so that Ctrl-C ends a wait. `attempt` gives `None` when its slice ran out.
pub(crate) fn interruptible<T: Send>(
    py: Python<'_>,
    timeout: Option<Duration>,
    attempt: impl Fn(Duration) -> Option<T> + Sync,
) -> PyResult<Option<T>> {
    const SLICE: Duration = Duration::from_millis(200);
    let mut left = timeout;
    loop {
        let slice = left.map_or(SLICE, |left| left.min(SLICE));
        if let Some(value) = py.detach(|| attempt(slice)) {
            return Ok(Some(value));
        }
        py.check_signals()?;
        left = left.map(|left| left.saturating_sub(slice));
        if left == Some(Duration::ZERO) {
            return Ok(None);
        }
    }
}

/// Says that a callback raised, by the logger `forebay`.
pub(crate) fn log_callback_error(py: Python<'_>, error: &PyErr, what: &str) {
    let log = || -> PyResult<()> {
        let arguments = PyDict::new(py);
        arguments.set_item("exc_info", error.value(py))?;
        let logger = py.import("logging")?.call_method1("getLogger", ("forebay",))?;
        logger.call_method("error", (what,), Some(&arguments))?;
        Ok(())
    };
    if let Err(error) = log() {
        error.write_unraisable(py, None);
    }
}
