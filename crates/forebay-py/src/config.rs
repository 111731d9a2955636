//! `forebay.Config`.

use std::path::PathBuf;

use forebay::Value;
use forebay::config::{KEYS, Resolved, environment};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};

use crate::error::{argument, raise};

/// How deep a value may lie in others, where no setting goes deeper than three.
const DEPTH_MAX: usize = 16;

/// Settings, resolved and checked.
#[pyclass(module = "forebay", frozen)]
pub(crate) struct Config {
    pub(crate) resolved: Resolved,
}

#[pymethods]
impl Config {
    #[new]
    #[pyo3(signature = (**keys))]
    fn new(py: Python<'_>, keys: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let resolved = forebay::Config::from_values(values(keys)?).map_err(|error| raise(py, &error))?;
        Ok(Self { resolved })
    }

    #[staticmethod]
    #[pyo3(signature = (path=None, **keys))]
    fn load(py: Python<'_>, path: Option<PathBuf>, keys: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let keys = values(keys)?;
        let resolved = environment()
            .and_then(|environment| forebay::Config::load(path.as_deref(), environment, keys))
            .map_err(|error| raise(py, &error))?;
        Ok(Self { resolved })
    }

    /// Every key with its value in force; secrets are hidden.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(py);
        for key in KEYS {
            out.set_item(key.name, object(py, self.resolved.config.value(key.name))?)?;
        }
        Ok(out)
    }

    /// The secret itself, for who makes namespaces of it.
    #[getter]
    fn cache_salt(&self) -> &str {
        &self.resolved.config.salt
    }

    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.resolved.warnings.clone()
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.resolved.config)
    }
}

/// A value as Python has it.
fn object(py: Python<'_>, value: Option<Value>) -> PyResult<Bound<'_, PyAny>> {
    match value {
        Some(Value::Bool(value)) => value.into_bound_py_any(py),
        Some(Value::Int(value)) => value.into_bound_py_any(py),
        Some(Value::Float(value)) => value.into_bound_py_any(py),
        Some(Value::Text(value)) => value.into_bound_py_any(py),
        Some(Value::List(items)) => {
            let items = items.into_iter().map(|item| object(py, Some(item)));
            items.collect::<PyResult<Vec<_>>>()?.into_bound_py_any(py)
        }
        Some(Value::Null | Value::Map(_)) | None => Ok(py.None().into_bound(py)),
    }
}

fn values(keys: Option<&Bound<'_, PyDict>>) -> PyResult<Vec<(String, Value)>> {
    let mut values = Vec::new();
    for (name, value) in keys.into_iter().flatten() {
        let name: String = name.extract()?;
        let value = value_of(&name, &value, 0)?;
        values.push((name, value));
    }
    Ok(values)
}

fn value_of(name: &str, value: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
    if depth > DEPTH_MAX {
        return Err(argument(value.py(), format!("`{name}` has values in values without end")));
    }
    if value.is_none() {
        return Ok(Value::Null);
    }
    if value.is_instance_of::<PyBool>() {
        return Ok(value.extract::<bool>()?.into());
    }
    if value.is_instance_of::<PyInt>() {
        return match value.extract::<i64>() {
            Ok(number) => Ok(number.into()),
            Err(_) => {
                Err(argument(value.py(), format!("`{name}` is a number beyond 64 bits; make it smaller")))
            }
        };
    }
    if value.is_instance_of::<PyFloat>() {
        return Ok(value.extract::<f64>()?.into());
    }
    if value.is_instance_of::<PyString>() {
        return Ok(value.extract::<String>()?.into());
    }
    if let Ok(map) = value.cast::<PyDict>() {
        let mut entries = std::collections::BTreeMap::new();
        for (name, value) in map {
            let name: String = name.extract()?;
            let value = value_of(&name, &value, depth + 1)?;
            entries.insert(name, value);
        }
        return Ok(Value::Map(entries.into_iter().collect()));
    }
    if let Ok(path) = value.extract::<PathBuf>() {
        return Ok(path.to_string_lossy().into_owned().into());
    }
    if let Ok(list) = value.try_iter() {
        return list
            .map(|item| value_of(name, &item?, depth + 1))
            .collect::<PyResult<Vec<_>>>()
            .map(Value::List);
    }
    let kind = value.get_type().name()?;
    Err(argument(value.py(), format!("`{name}` is a {kind}; give a bool, number, text or path")))
}
