//! What Python gives as several: gone through one by one, since a length that an object states is only its word, and
//! memory that is asked for by a wrong one ends the process.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyString};

/// The items of any iterable but a text.
pub(crate) struct Items<T>(pub(crate) Vec<T>);

impl<'py, T> FromPyObject<'_, 'py> for Items<T>
where
    T: for<'a> FromPyObject<'a, 'py>,
{
    type Error = PyErr;

    fn extract(items: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if items.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err("a text is no sequence of items"));
        }
        let convert = |item: PyResult<Bound<'py, PyAny>>| item?.extract().map_err(Into::into);
        items.try_iter()?.map(convert).collect::<PyResult<_>>().map(Self)
    }
}

/// A bytes object or a bytearray.
pub(crate) struct Octets(pub(crate) Vec<u8>);

impl AsRef<[u8]> for Octets {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl FromPyObject<'_, '_> for Octets {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(Self(bytes.as_bytes().to_vec()));
        }
        match object.cast::<PyByteArray>() {
            Ok(bytes) => Ok(Self(bytes.to_vec())),
            Err(_) => {
                Err(PyTypeError::new_err(format!("bytes are asked for, not {}", object.get_type().name()?)))
            }
        }
    }
}
