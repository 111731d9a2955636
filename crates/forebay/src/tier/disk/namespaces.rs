//! The file `namespaces`: whose chunks a directory holds, for people to read. No decision depends on it.

use std::collections::BTreeMap;
use std::fs;
use std::iter;
use std::path::Path;

use super::format_file::replace;
use crate::error::{Error, Result};
use crate::key::{NAMESPACE_ID_BYTES, Namespace};

const NAMESPACES_FILE: &str = "namespaces";
/// It, half written.
pub(super) const NAMESPACES_NEW_FILE: &str = "namespaces.new";
/// Namespaces that are noted at most: it keeps the file within the space that is set aside for small files.
const NAMESPACES_MAX: usize = 64;
/// Bytes of a field that are noted at most.
const FIELD_MAX_BYTES: usize = 128;

/// Names and values of a namespace's fields.
pub type NamespaceFields = BTreeMap<String, String>;

/// The namespaces that were described in a directory, by the hexadecimal id that begins their keys.
pub fn described(directory: &Path) -> BTreeMap<String, NamespaceFields> {
    fs::read(directory.join(NAMESPACES_FILE))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

/// Notes a namespace's fields, but for its salt, which is a secret.
pub(super) fn describe(directory: &Path, namespace: &Namespace) -> Result<()> {
    let mut known = described(directory);
    let id = hex(&namespace.digest()[..NAMESPACE_ID_BYTES]);
    if known.contains_key(&id) || known.len() >= NAMESPACES_MAX {
        return Ok(());
    }
    let fields = namespace.fields().into_iter().filter(|(name, _)| *name != "salt");
    known.insert(id, fields.map(|(name, value)| (name.to_owned(), shorten(value))).collect());
    let path = directory.join(NAMESPACES_FILE);
    let text = serde_json::to_string_pretty(&known).unwrap_or_default();
    replace(&path, text.as_bytes()).map_err(|error| Error::io(format!("writing {}", path.display()), error))
}

/// A field as it is noted. Of a long one the end tells more: it may be the path of a model.
fn shorten(value: String) -> String {
    let (most, count) = (FIELD_MAX_BYTES / 4, value.chars().count());
    if count <= most {
        value
    } else {
        iter::once('…').chain(value.chars().skip(count + 1 - most)).collect()
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_field_the_end_is_noted() {
        assert_eq!(shorten("Qwen/Qwen3-0.6B".into()), "Qwen/Qwen3-0.6B");
        let exact = "x".repeat(32);
        assert_eq!(shorten(exact.clone()), exact);
        let path = "/somewhere/far/below/models/smollm2-135m";
        assert_eq!(shorten(path.into()), "…e/far/below/models/smollm2-135m");
        assert!(shorten("😀".repeat(1000)).len() <= FIELD_MAX_BYTES);
    }
}
