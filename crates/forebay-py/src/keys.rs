//! `forebay.Namespace`, `chunk_keys` and `chunk_keys_from_blocks`.

use forebay::ChunkKey;
use forebay::catalog::NamespaceId;
use forebay::control::Pinning;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::{argument, raise};
use crate::items::{Items, Octets};

/// Whose bytes a chunk holds.
#[pyclass(module = "forebay", frozen, from_py_object)]
#[derive(Clone)]
pub(crate) struct Namespace(pub(crate) forebay::Namespace);

#[pymethods]
impl Namespace {
    #[new]
    #[pyo3(signature = (model, revision="", kv_dtype="", layout="", tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, salt=""))]
    #[expect(clippy::too_many_arguments, reason = "one keyword argument a field")]
    fn new(
        model: &str,
        revision: &str,
        kv_dtype: &str,
        layout: &str,
        tp_rank: u32,
        tp_size: u32,
        pp_rank: u32,
        pp_size: u32,
        salt: &str,
    ) -> Self {
        Self(forebay::Namespace {
            model: model.into(),
            revision: revision.into(),
            kv_dtype: kv_dtype.into(),
            layout: layout.into(),
            tp: (tp_rank, tp_size),
            pp: (pp_rank, pp_size),
            salt: salt.into(),
        })
    }

    #[getter]
    fn digest<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.digest())
    }

    fn __repr__(&self) -> String {
        let fields = self.0.fields().into_iter().filter(|(name, _)| *name != "salt");
        let fields: Vec<String> = fields.map(|(name, value)| format!("{name}={value:?}")).collect();
        format!("Namespace({})", fields.join(", "))
    }
}

/// Which chunks a call is about: some, or those of a namespace, or all.
pub(crate) enum Which {
    Keys(Vec<ChunkKey>),
    Namespace(NamespaceId),
    All,
}

impl Which {
    pub(crate) fn of(
        py: Python<'_>,
        keys: Option<&Bound<'_, PyAny>>,
        namespace: Option<&Namespace>,
    ) -> PyResult<Self> {
        match (keys, namespace) {
            (Some(_), Some(_)) => Err(argument(py, "give keys or a namespace, not both")),
            (Some(keys), None) => from_bytes(keys).map(Self::Keys),
            (None, Some(namespace)) => Ok(Self::Namespace(namespace.0.id())),
            (None, None) => Ok(Self::All),
        }
    }

    pub(crate) fn pinning(&self) -> Pinning<'_> {
        match self {
            Self::Keys(keys) => Pinning::Keys(keys),
            Self::Namespace(id) => Pinning::Namespace(*id),
            Self::All => Pinning::All,
        }
    }
}

/// Keys of the whole chunks of a prompt, in order. A trailing part of a chunk has no key.
#[pyfunction]
#[pyo3(signature = (tokens, chunk_size=256, namespace=None, extra=None))]
pub(crate) fn chunk_keys<'py>(
    py: Python<'py>,
    tokens: &Bound<'py, PyAny>,
    chunk_size: usize,
    namespace: Option<&Namespace>,
    extra: Option<Items<Octets>>,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let tokens = token_ids(tokens)?;
    let namespace =
        namespace.map_or_else(|| forebay::Namespace::of_model(""), |namespace| namespace.0.clone());
    let extra = extra.map_or_else(Vec::new, |extra| extra.0);
    let extra: Vec<&[u8]> = extra.iter().map(AsRef::as_ref).collect();
    let keys = py.detach(|| namespace.chunk_keys(&tokens, chunk_size, &extra));
    Ok(to_bytes(py, &keys.map_err(|error| raise(py, &error))?))
}

/// Keys from an engine's own chained block hashes, `blocks_per_chunk` of them to a chunk.
#[pyfunction]
pub(crate) fn chunk_keys_from_blocks<'py>(
    py: Python<'py>,
    block_hashes: Items<Octets>,
    blocks_per_chunk: usize,
    namespace: &Namespace,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let keys = namespace.0.chunk_keys_from_blocks(&block_hashes.0, blocks_per_chunk);
    Ok(to_bytes(py, &keys.map_err(|error| raise(py, &error))?))
}

/// Token ids from a buffer of integers (numpy, array) or any sequence of them.
fn token_ids(tokens: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    let py = tokens.py();
    let out_of_range = || argument(py, "a token id is an integer from 0 to 4294967295");
    let native = |buffer: &PyUntypedBuffer| !matches!(buffer.format().to_bytes().first(), Some(b'>' | b'!'));
    if let Ok(buffer) = PyUntypedBuffer::get(tokens)
        && native(&buffer)
    {
        if buffer.dimensions() > 1 {
            return Err(argument(py, "tokens are one row of token ids, not an array of several dimensions"));
        }
        if let Ok(typed) = buffer.as_typed::<u32>() {
            return typed.to_vec(py);
        }
        if let Ok(typed) = buffer.as_typed::<i64>() {
            return typed
                .to_vec(py)?
                .into_iter()
                .map(|id| u32::try_from(id).map_err(|_| out_of_range()))
                .collect();
        }
        if let Ok(typed) = buffer.as_typed::<i32>() {
            return typed
                .to_vec(py)?
                .into_iter()
                .map(|id| u32::try_from(id).map_err(|_| out_of_range()))
                .collect();
        }
    }
    tokens
        .try_iter()
        .map_err(|_| argument(py, "tokens are a sequence of token ids"))?
        .map(|id| id?.extract::<u32>().map_err(|_| out_of_range()))
        .collect()
}

/// Keys as Python sees them.
fn to_bytes<'py>(py: Python<'py>, keys: &[ChunkKey]) -> Vec<Bound<'py, PyBytes>> {
    keys.iter().map(|key| PyBytes::new(py, key.as_bytes())).collect()
}

/// Keys as Python gives them.
pub(crate) fn from_bytes(keys: &Bound<'_, PyAny>) -> PyResult<Vec<ChunkKey>> {
    keys.try_iter()?.map(|key| one(&key?)).collect()
}

/// A key as Python gives it.
pub(crate) fn one(key: &Bound<'_, PyAny>) -> PyResult<ChunkKey> {
    let py = key.py();
    let bytes: &[u8] =
        key.extract().map_err(|_| argument(py, "a chunk key is a bytes object of 32 bytes"))?;
    ChunkKey::from_slice(bytes).map_err(|error| raise(py, &error))
}
