//! `forebay.Events`: what comes onto a tier and leaves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use forebay::events::{self, Change, News};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::error::{argument, raise};
use crate::exit::at_exit;
use crate::handle::{interruptible, log_callback_error, seconds};

/// One chunk has come onto a tier, or has left it.
#[pyclass(module = "forebay", frozen)]
pub(crate) struct Event(events::Event);

#[pymethods]
impl Event {
    #[getter]
    fn tier(&self) -> &'static str {
        self.0.tier.name()
    }

    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.key.as_bytes())
    }

    #[getter]
    fn change(&self) -> &'static str {
        match self.0.change {
            Change::Stored => "stored",
            Change::Removed(_) => "removed",
        }
    }

    #[getter]
    fn reason(&self) -> &'static str {
        match self.0.change {
            Change::Stored => "",
            Change::Removed(cause) => cause.name(),
        }
    }

    fn __repr__(&self) -> String {
        format!("Event({}, {}, {} {})", self.0.key, self.tier(), self.change(), self.reason())
    }
}

/// A subscription.
#[pyclass(module = "forebay", frozen)]
pub(crate) struct Events {
    /// None once somebody listens.
    source: Mutex<Option<Arc<events::Events>>>,
    lost: AtomicU64,
    closed: AtomicBool,
}

impl From<events::Events> for Events {
    fn from(events: events::Events) -> Self {
        Self {
            source: Mutex::new(Some(Arc::new(events))),
            lost: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }
}

#[pymethods]
impl Events {
    /// What has happened since the last call; waits for something to happen for at most `timeout` seconds.
    #[pyo3(signature = (timeout=0.0))]
    fn take(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Vec<Event>> {
        let timeout = seconds(py, timeout)?;
        let events = self.source.lock().clone();
        let events = events.ok_or_else(|| argument(py, "a callback listens to these events"))?;
        let attempt = |slice| {
            let news = events.wait(slice);
            (!news.events.is_empty() || news.is_last).then_some(news)
        };
        let Some(news) = interruptible(py, timeout, attempt)? else { return Ok(Vec::new()) };
        self.lost.fetch_add(news.lost, Ordering::Relaxed);
        self.closed.fetch_or(news.is_last, Ordering::Relaxed);
        Ok(news.events.into_iter().map(Event).collect())
    }

    /// How many were lost so far, since they were not taken in time.
    #[getter]
    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether the cache is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Has `callback` called with a list of events and how many were lost before them, on a thread of its own.
    fn listen(&self, py: Python<'_>, callback: Py<PyAny>) -> PyResult<Listener> {
        let events = self.source.lock().take();
        let events = events
            .and_then(Arc::into_inner)
            .ok_or_else(|| argument(py, "somebody takes these events, or listens to them"))?;
        let hear = move |news: News| {
            // Without an interpreter there is nobody left to tell.
            Python::try_attach(|py| {
                if let Err(error) = call(py, &callback, news) {
                    log_callback_error(
                        py,
                        &error,
                        "an events callback raised; it is called again with the next",
                    );
                }
            });
        };
        let listener = events.listen(hear).map_err(|error| raise(py, &error))?;
        let listener = Arc::new(Mutex::new(Some(listener)));
        at_exit(Arc::downgrade(&listener), end);
        Ok(Listener(listener))
    }
}

fn call(py: Python<'_>, callback: &Py<PyAny>, news: News) -> PyResult<()> {
    if news.events.is_empty() {
        return Ok(());
    }
    let events: Vec<Py<Event>> =
        news.events.into_iter().map(|event| Py::new(py, Event(event))).collect::<PyResult<_>>()?;
    callback.call1(py, (PyList::new(py, events)?, news.lost))?;
    Ok(())
}

fn end(listener: &Mutex<Option<events::Listener>>, patience: Duration) {
    let listener = listener.lock().take();
    if let Some(listener) = listener {
        listener.end(patience);
    }
}

/// Who hears events, until it is closed or goes.
#[pyclass(module = "forebay", frozen)]
pub(crate) struct Listener(Arc<Mutex<Option<events::Listener>>>);

#[pymethods]
impl Listener {
    /// Ends it, and waits for its last call for at most `timeout` seconds.
    #[pyo3(signature = (timeout=10.0))]
    fn close(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        let timeout = seconds(py, Some(timeout))?.unwrap_or(Duration::MAX / 4);
        py.detach(|| end(&self.0, timeout));
        Ok(())
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.close(py, 10.0)
    }
}
