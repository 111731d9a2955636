//! What becomes of each line of an `LMCache` file.

use std::path::Path;

use super::file;
use super::keys;
use super::peers::{self, Verdict};
use super::suggest;
use super::value::Value;
use super::{Resolved, resolve, source};
use crate::error::Result;

/// One key of a file and what becomes of it. Its value is not kept: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The key as it stands in the file.
    pub key: String,
    /// What becomes of it; `None`: it is unknown, and the file would be refused for it.
    pub verdict: Option<Verdict>,
    /// How it differs, why it has no meaning here, or which key was perhaps meant.
    pub note: String,
}

/// What becomes of each key of the file at `path`, in its order, and the configuration that the file alone gives.
///
/// # Errors
///
/// The file cannot be read or is no YAML map. That the file would be refused for its content is no error of this
/// function: it is the second part of what it returns.
pub fn explain(path: &Path) -> Result<(Vec<Explained>, Result<Resolved>)> {
    let entries = file::read(path)?;
    let explained = entries.iter().map(|(key, value)| explain_one(key, value)).collect();
    let mut given = source::Given::default();
    let resolved = given.add_file(path, entries).and_then(|()| resolve::resolve(given));
    Ok((explained, resolved))
}

fn explain_one(key: &str, value: &Value) -> Explained {
    let (verdict, note) = match (peers::find(key), keys::find(key)) {
        (Some(peer), _) if *value == Value::Null => {
            (Some(peer.verdict), "null: as if it were not there".into())
        }
        (Some(peer), _) => (Some(peer.verdict), peer.note.to_owned()),
        (None, Some(ours)) => {
            (Some(Verdict::Same), format!("a key of Forebay, not of LMCache. {}", ours.meaning))
        }
        (None, None) => (None, format!("unknown key: {}", suggest::remedy(key))),
    };
    Explained { key: key.to_owned(), verdict, note }
}
