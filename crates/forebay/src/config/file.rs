//! Reading a configuration file.
//!
//! Promises: a bounded amount of work for any file, no panic, and an error that names the file and, where there is one,
//! the line. A key that stands twice is an error. The content is never quoted in an error, since it may hold secrets.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::value::Value;
use crate::error::{Error, ErrorKind, Result};

/// Longest configuration file, in bytes. Real ones have a few hundred.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Deepest nesting of maps and lists.
const DEPTH_MAX: usize = 32;

/// Most keys and values of a file, those that aliases repeat included.
const NODES_MAX: usize = 100_000;

/// The entries of the YAML file at `path`, in their order. An empty file has none.
pub(super) fn read(path: &Path) -> Result<Vec<(String, Value)>> {
    let refused = |why: String| {
        Error::new(ErrorKind::Config, format!("the configuration file {} {why}", path.display()))
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| refused(format!("cannot be read: {error}. Check the path and its permissions")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(refused(format!("is longer than {FILE_BYTES_MAX} bytes. Is it the right file?")));
    }
    let text =
        String::from_utf8(bytes).map_err(|_| refused("is not UTF-8 text. Is it the right file?".into()))?;
    match parse(&text).map_err(|why| refused(format!("is not valid YAML: {why}")))? {
        Value::Null => Ok(Vec::new()),
        Value::Map(entries) => Ok(entries),
        other => Err(refused(format!("holds {}, not `key: value` lines", other.shown()))),
    }
}

/// The value that `text` holds as one YAML document.
pub(super) fn parse(text: &str) -> std::result::Result<Value, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX, max_nodes: NODES_MAX, max_documents: 1 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: NODES_MAX },
        // The key's own check refuses these, and names the key.
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}
