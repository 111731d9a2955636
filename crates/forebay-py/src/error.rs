//! `forebay.Error`, and how this crate's errors become it.

use forebay::ErrorKind;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

pyo3::create_exception!(
    forebay,
    Error,
    PyException,
    "Base of every exception this package raises; `kind` is a stable short name."
);

/// The Python exception of an error.
pub(crate) fn raise(py: Python<'_>, error: &forebay::Error) -> PyErr {
    new(py, error.kind(), error.to_string())
}

/// The exception for an argument that cannot be used.
pub(crate) fn argument(py: Python<'_>, message: impl Into<String>) -> PyErr {
    new(py, ErrorKind::Argument, message.into())
}

/// The exception for a call on something that was closed.
pub(crate) fn closed(py: Python<'_>) -> PyErr {
    new(py, ErrorKind::Closed, "it is closed".into())
}

fn new(py: Python<'_>, kind: ErrorKind, message: String) -> PyErr {
    let error = Error::new_err(message);
    match error.value(py).setattr("kind", kind.name()) {
        Ok(()) => error,
        Err(error) => error,
    }
}
