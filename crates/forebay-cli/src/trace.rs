//! A recorded trace: JSON lines, one request a line, in the form of Mooncake's release.
//!
//! `hash_ids` names the blocks of a prompt (of 512 tokens there): the same id is the same reusable block, so two
//! requests share the front part of their lists that is equal. Reading promises an error that names the line for
//! whatever is no such request; fields it does not know are passed over, and so are empty lines.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use forebay::{ChunkKey, Error, ErrorKind, Namespace, Result};
use serde::{Deserialize, Serialize};

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// When it came, in milliseconds since the trace began.
    pub(crate) timestamp: u64,
    /// Tokens of its prompt.
    pub(crate) input_length: u64,
    /// Tokens of its answer.
    pub(crate) output_length: u64,
    /// The blocks of its prompt.
    pub(crate) hash_ids: Vec<u64>,
}

/// Reads a trace, at most `limit` requests of it.
pub(crate) fn read(path: &Path, limit: Option<usize>) -> Result<Vec<Request>> {
    let reading = |error| Error::io(format!("reading the trace {}", path.display()), error);
    let file = File::open(path).map_err(reading)?;
    let mut requests = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(file).split(b'\n')) {
        if limit.is_some_and(|limit| requests.len() >= limit) {
            break;
        }
        let line = line.map_err(reading)?;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        requests.push(parse(&line).map_err(|what| {
            let message = format!(
                "{}, line {number}: {what}; a request is a JSON object with timestamp, input_length, output_length and \
                 hash_ids",
                path.display()
            );
            Error::new(ErrorKind::Argument, message)
        })?);
    }
    if requests.is_empty() {
        let message = format!("{} holds no request", path.display());
        return Err(Error::new(ErrorKind::Argument, message));
    }
    Ok(requests)
}

fn parse(line: &[u8]) -> Result<Request, String> {
    serde_json::from_slice(line).map_err(|error| {
        // Each line is a text of its own to the parser: its line number would mislead.
        let whole = error.to_string();
        let what = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(what, _)| what);
        format!("{what} (column {})", error.column())
    })
}

/// Writes a trace.
pub(crate) fn write(out: &mut dyn Write, requests: &[Request]) -> std::io::Result<()> {
    for request in requests {
        serde_json::to_writer(&mut *out, request)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Names of blocks: the digest of an id, the same in every run.
pub(crate) struct Keys {
    namespace: Namespace,
    known: HashMap<u64, ChunkKey>,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self { namespace: Namespace::of_model("a replayed trace"), known: HashMap::new() }
    }

    /// The keys of a prompt's blocks.
    pub(crate) fn of(&mut self, ids: &[u64]) -> Result<Vec<ChunkKey>> {
        ids.iter()
            .map(|id| {
                if let Some(key) = self.known.get(id) {
                    return Ok(*key);
                }
                let keys = self.namespace.chunk_keys_from_blocks(&[id.to_le_bytes()], 1)?;
                self.known.insert(*id, keys[0]);
                Ok(keys[0])
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str, limit: Option<usize>) -> Result<Vec<Request>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace.jsonl");
        std::fs::write(&path, text).unwrap();
        read(&path, limit)
    }

    const LINE: &str =
        r#"{"timestamp": 5, "input_length": 600, "output_length": 7, "hash_ids": [3, 4], "more": 1}"#;

    #[test]
    fn requests_are_read_line_by_line() {
        let request = Request { timestamp: 5, input_length: 600, output_length: 7, hash_ids: vec![3, 4] };
        let twice = format!("{LINE}\n\n{LINE}\r\n");
        assert_eq!(read_text(&twice, None).unwrap(), [request.clone(), request.clone()]);
        assert_eq!(read_text(&twice, Some(1)).unwrap(), [request]);
    }

    #[test]
    fn what_is_no_request_is_named_by_its_line() {
        for (bad, what) in [
            ("{\"timestamp\": 5", "line 2: EOF while parsing"),
            (
                r#"{"timestamp": 5, "input_length": 600, "output_length": 7}"#,
                "line 2: missing field `hash_ids`",
            ),
            (
                r#"{"timestamp":5,"input_length":6,"output_length":7,"hash_ids":[-1]}"#,
                "line 2: invalid value",
            ),
            ("[1, 2]", "line 2: "),
        ] {
            let error = read_text(&format!("{LINE}\n{bad}\n{LINE}\n"), None).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("trace.jsonl"), "{error}");
            assert!(!error.contains("at line 1"), "{error}");
        }
        assert!(read_text("\n", None).unwrap_err().to_string().contains("holds no request"));
        assert!(read(Path::new("/nowhere.jsonl"), None).unwrap_err().to_string().contains("/nowhere.jsonl"));
    }

    #[test]
    fn a_block_has_one_name() {
        let mut keys = Keys::new();
        let first = keys.of(&[1, 2, 1]).unwrap();
        assert_eq!((first[0], first[0] == first[1]), (first[2], false));
        assert_eq!(Keys::new().of(&[2]).unwrap(), [first[1]], "the same in every run");
    }
}
