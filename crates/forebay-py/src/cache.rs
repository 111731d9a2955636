//! `forebay.Cache` and `forebay.Lookup`.

use std::sync::{Arc, Weak};
use std::time::Duration;

use forebay::cache::{OnLoaded, OnStored};
use forebay::mover::{Sink, Source};
use forebay_watch::Server;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::config::Config;
use crate::error::{argument, closed, raise};
use crate::events::Events;
use crate::exit::at_exit;
use crate::handle::{Handle, LoadOutcome, StoreOutcome, log_callback_error, seconds};
use crate::keys::{Namespace, Which, from_bytes, one};
use crate::memory::{buffer_sink, buffer_source};
use crate::stats;

/// The answer to a lookup; its chunks stay pinned until it is released.
#[pyclass(module = "forebay", frozen)]
pub(crate) struct Lookup {
    #[pyo3(get)]
    chunks: usize,
    #[pyo3(get)]
    status: &'static str,
    answer: Mutex<Option<forebay::Lookup>>,
}

impl From<forebay::Lookup> for Lookup {
    fn from(lookup: forebay::Lookup) -> Self {
        Self { chunks: lookup.chunks(), status: lookup.name(), answer: Mutex::new(Some(lookup)) }
    }
}

#[pymethods]
impl Lookup {
    /// Lets the chunks be evicted again. Once is enough; more does no harm.
    fn release(&self) {
        self.answer.lock().take();
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __exit__(&self, _kind: &Bound<'_, PyAny>, _error: &Bound<'_, PyAny>, _trace: &Bound<'_, PyAny>) {
        self.release();
    }

    fn __repr__(&self) -> String {
        format!("Lookup({:?}, chunks={})", self.status, self.chunks)
    }
}

/// Catalog and mover in one process.
#[pyclass(module = "forebay", frozen)]
pub(crate) struct Cache {
    cache: Mutex<Option<Arc<forebay::Cache>>>,
    server: Mutex<Option<Server>>,
}

impl Cache {
    fn open_cache(&self, py: Python<'_>) -> PyResult<Arc<forebay::Cache>> {
        // Made without the lock: making an exception lets go of the GIL, which whoever wants the lock may then hold.
        let cache = self.cache.lock().clone();
        cache.ok_or_else(|| closed(py))
    }
}

#[pymethods]
impl Cache {
    #[new]
    #[pyo3(signature = (config, chunk_bytes, namespace=None))]
    fn new(
        py: Python<'_>,
        config: &Config,
        chunk_bytes: u64,
        namespace: Option<&Namespace>,
    ) -> PyResult<Self> {
        let config = &config.resolved.config;
        let namespace = namespace.map(|namespace| &namespace.0);
        let cache = py.detach(|| forebay::Cache::open(config, chunk_bytes, namespace));
        let cache = Arc::new(cache.map_err(|error| raise(py, &error))?);
        let weak = Arc::downgrade(&cache);
        let server = py.detach(|| Server::start_as_configured(config, Arc::new(Weak::clone(&weak))));
        at_exit(weak, forebay::Cache::close);
        Ok(Self { cache: Mutex::new(Some(cache)), server: Mutex::new(server) })
    }

    /// Stores chunks from any contiguous readable buffers; returns at once. Leave the buffers alone until it is done.
    #[pyo3(signature = (keys, buffers, on_complete=None, parent=None))]
    fn store(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        buffers: &Bound<'_, PyAny>,
        on_complete: Option<Py<PyAny>>,
        parent: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Handle> {
        let cache = self.open_cache(py)?;
        let keys = from_bytes(keys)?;
        let sources: Vec<Box<dyn Source>> =
            buffers.try_iter()?.map(|buffer| buffer_source(&buffer?)).collect::<PyResult<_>>()?;
        same_count(py, keys.len(), sources.len())?;
        let parent = parent.map(one).transpose()?;
        let told = on_complete.map(|callback| -> OnStored {
            Arc::new(move |outcome| tell(&callback, outcome.key.as_bytes(), StoreOutcome(outcome.clone())))
        });
        let chunks = keys.into_iter().zip(sources).collect();
        let batch = py.detach(|| cache.store(chunks, parent, told)).map_err(|error| raise(py, &error))?;
        Ok(Handle::store(&cache, batch))
    }

    /// How much of this prompt is there.
    fn lookup(&self, py: Python<'_>, keys: &Bound<'_, PyAny>) -> PyResult<Lookup> {
        Ok(self.open_cache(py)?.lookup(&from_bytes(keys)?).into())
    }

    /// Loads chunks into writable buffers; returns at once. A chunk that is not "loaded" leaves its buffer unusable.
    #[pyo3(signature = (keys, buffers, on_complete=None))]
    fn load(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        buffers: &Bound<'_, PyAny>,
        on_complete: Option<Py<PyAny>>,
    ) -> PyResult<Handle> {
        let cache = self.open_cache(py)?;
        let keys = from_bytes(keys)?;
        let sinks: Vec<Box<dyn Sink>> =
            buffers.try_iter()?.map(|buffer| buffer_sink(&buffer?)).collect::<PyResult<_>>()?;
        same_count(py, keys.len(), sinks.len())?;
        let told = on_complete.map(|callback| -> OnLoaded {
            Arc::new(move |outcome| tell(&callback, outcome.key.as_bytes(), LoadOutcome(outcome.clone())))
        });
        let chunks = keys.into_iter().zip(sinks).collect();
        let batch = py.detach(|| cache.load(chunks, told));
        Ok(Handle::load(&cache, batch))
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let figures = self.open_cache(py)?.stats();
        let out = PyDict::new(py);
        stats::control(&out, &figures.control)?;
        stats::mover(&out, &figures.mover)?;
        out.set_item("busy", figures.control.busy + figures.mover.busy)?;
        Ok(out)
    }

    /// Takes all chunks out of memory and disk, or those of a namespace; says how many copies that were.
    #[pyo3(signature = (namespace=None))]
    fn clear(&self, py: Python<'_>, namespace: Option<&Namespace>) -> PyResult<u64> {
        let cache = self.open_cache(py)?;
        let namespace = namespace.map(|namespace| namespace.0.id());
        Ok(py.detach(|| cache.clear(namespace)))
    }

    /// What comes onto a tier and what leaves it from now on.
    fn events(&self, py: Python<'_>) -> PyResult<Events> {
        Ok(self.open_cache(py)?.events().into())
    }

    /// Keeps chunks on disk from being evicted until they are unpinned: these, those of a namespace, or all. Says how many
    /// of them are pinned, and how many were left out.
    #[pyo3(signature = (keys=None, namespace=None))]
    fn pin(
        &self,
        py: Python<'_>,
        keys: Option<&Bound<'_, PyAny>>,
        namespace: Option<&Namespace>,
    ) -> PyResult<(u64, u64)> {
        let cache = self.open_cache(py)?;
        let which = Which::of(py, keys, namespace)?;
        let pinned = py.detach(|| cache.pin(which.pinning())).map_err(|error| raise(py, &error))?;
        Ok((pinned.chunks, pinned.left_out))
    }

    /// Lets chunks be evicted again: these, or those of a namespace, or all. Says how many were pinned.
    #[pyo3(signature = (keys=None, namespace=None))]
    fn unpin(
        &self,
        py: Python<'_>,
        keys: Option<&Bound<'_, PyAny>>,
        namespace: Option<&Namespace>,
    ) -> PyResult<u64> {
        let cache = self.open_cache(py)?;
        let which = Which::of(py, keys, namespace)?;
        py.detach(|| cache.unpin(which.pinning())).map_err(|error| raise(py, &error))
    }

    /// Gives the disk so many bytes, all files together, until the next start; says how many of them chunks may take.
    fn set_disk_capacity(&self, py: Python<'_>, capacity_bytes: u64) -> PyResult<u64> {
        let cache = self.open_cache(py)?;
        py.detach(|| cache.set_disk_capacity(capacity_bytes)).map_err(|error| raise(py, &error))
    }

    /// Where metrics, health and the page are shown (`http_listen`); None where they are not.
    #[getter]
    fn http_address(&self) -> Option<String> {
        self.server.lock().as_ref().map(|server| server.address().to_string())
    }

    /// Finishes what is under way for at most `timeout` seconds, ends the rest, and closes. Once is enough.
    #[pyo3(signature = (timeout=10.0))]
    fn close(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        let timeout = seconds(py, Some(timeout))?.unwrap_or(Duration::MAX / 4);
        let cache = self.cache.lock().take();
        let server = self.server.lock().take();
        py.detach(|| {
            drop(server);
            if let Some(cache) = cache {
                cache.close(timeout);
            }
        });
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

impl Drop for Cache {
    fn drop(&mut self) {
        // A thread of the cache may want the GIL to finish a callback: do not wait for it while holding it.
        let (cache, server) = (self.cache.lock().take(), self.server.lock().take());
        if cache.is_some() || server.is_some() {
            Python::try_attach(|py| py.detach(|| drop((server, cache))));
        }
    }
}

fn same_count(py: Python<'_>, keys: usize, buffers: usize) -> PyResult<()> {
    if keys == buffers { Ok(()) } else { Err(argument(py, format!("{keys} keys but {buffers} buffers"))) }
}

/// Said when `on_complete` raises.
pub(crate) const CALLBACK_RAISED: &str = "an on_complete callback raised; the chunk's outcome stands";

fn tell<T: for<'py> IntoPyObject<'py>>(callback: &Py<PyAny>, key: &[u8], outcome: T) {
    // Without an interpreter there is nobody left to tell.
    Python::try_attach(|py| {
        let key = pyo3::types::PyBytes::new(py, key);
        if let Err(error) = callback.call1(py, (key, outcome)) {
            log_callback_error(py, &error, CALLBACK_RAISED);
        }
    });
}
