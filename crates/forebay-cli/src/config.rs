//! `forebay config`: what is in force and where each value came from, and what becomes of an `LMCache` file.
//!
//! Shows no secret: values come from [`Config::value`], which hides them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use forebay::config::{self, Config, Explained, KEYS, Kind, Resolved, Value};
use forebay::{Error, Result};
use serde_json::{Map, json};

/// Arguments of `forebay config`.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    #[arg(long, value_name = "PATH")]
    #[arg(
        help = "The configuration file [default: what FOREBAY_CONFIG_FILE or else LMCACHE_CONFIG_FILE names]"
    )]
    file: Option<PathBuf>,

    #[arg(long, value_name = "LMCACHE_YAML", conflicts_with = "file")]
    #[arg(help = "Say what becomes of each key of an LMCache file; nothing else is read")]
    explain: Option<PathBuf>,

    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Runs the command. An error is a configuration that cannot be used; with `--explain` the table comes first.
pub(crate) fn run(args: &ConfigArgs, out: &mut dyn Write) -> Result<()> {
    match &args.explain {
        Some(path) => explain(path, args.json, out),
        None => show(args.file.as_deref(), config::environment()?, args.json, out),
    }
}

fn show(
    file: Option<&Path>,
    environment: Vec<(String, String)>,
    json: bool,
    out: &mut dyn Write,
) -> Result<()> {
    let overrides: [(&str, Value); 0] = [];
    let resolved = Config::load(file, environment, overrides)?;
    let written = if json { write_json(out, &shown(&resolved)) } else { show_table(&resolved, out) };
    written.map_err(|error| Error::io("writing the configuration", error))
}

fn explain(path: &Path, json: bool, out: &mut dyn Write) -> Result<()> {
    let (explained, resolved) = config::explain(path)?;
    let written = if json {
        let keys: Vec<_> = explained
            .iter()
            .map(|it| {
                let verdict = it.verdict.map(|verdict| verdict.to_string());
                json!({ "key": it.key, "verdict": verdict.as_deref().unwrap_or("unknown"), "note": it.note })
            })
            .collect();
        let error = resolved.as_ref().err().map(ToString::to_string);
        let in_force = resolved.as_ref().ok().map(shown);
        write_json(
            out,
            &json!({ "keys": keys, "accepted": error.is_none(), "error": error, "in_force": in_force }),
        )
    } else {
        explain_table(&explained, &resolved, out)
    };
    written.map_err(|error| Error::io("writing the explanation", error))?;
    resolved.map(drop)
}

/// What is in force, as JSON.
fn shown(resolved: &Resolved) -> serde_json::Value {
    let keys: Map<String, serde_json::Value> = KEYS
        .iter()
        .map(|key| {
            let value = resolved.config.value(key.name);
            (
                key.name.to_owned(),
                json!({ "value": value, "unit": unit(key.kind), "origin": origin(resolved, key.name) }),
            )
        })
        .collect();
    json!({ "keys": keys, "warnings": resolved.warnings })
}

fn write_json(out: &mut dyn Write, value: &serde_json::Value) -> io::Result<()> {
    writeln!(out, "{value:#}")
}

fn show_table(resolved: &Resolved, out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<[String; 3]> = KEYS
        .iter()
        .map(|key| {
            let value = resolved.config.value(key.name).unwrap_or(Value::Null);
            let value = match (unit(key.kind), &value) {
                (Some(unit), Value::Int(_) | Value::Float(_)) => format!("{value} {unit}"),
                _ => value.to_string(),
            };
            [key.name.to_owned(), value, origin(resolved, key.name)]
        })
        .collect();
    write_table(out, ["key", "value", "from"], &rows)?;
    write_warnings(resolved, out)
}

fn explain_table(
    explained: &[Explained],
    resolved: &Result<Resolved>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let rows: Vec<[String; 3]> = explained
        .iter()
        .map(|it| {
            let verdict = it.verdict.map_or("unknown".to_owned(), |verdict| verdict.to_string());
            [it.key.clone(), verdict, it.note.clone()]
        })
        .collect();
    write_table(out, ["key", "here", "how, or why not"], &rows)?;
    if let Ok(resolved) = resolved {
        write_warnings(resolved, out)?;
        writeln!(out, "\nThe file is accepted as it is.")?;
    }
    Ok(())
}

fn write_warnings(resolved: &Resolved, out: &mut dyn Write) -> io::Result<()> {
    if !resolved.warnings.is_empty() {
        writeln!(out)?;
    }
    resolved.warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))
}

/// Columns as wide as their widest cell.
fn write_table(out: &mut dyn Write, head: [&str; 3], rows: &[[String; 3]]) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let (first, second) = (width(0), width(1));
    writeln!(out, "{:first$}  {:second$}  {}", head[0], head[1], head[2])?;
    rows.iter().try_for_each(|[a, b, c]| writeln!(out, "{a:first$}  {b:second$}  {c}"))
}

fn origin(resolved: &Resolved, key: &str) -> String {
    resolved.origins.get(key).map_or_else(String::new, ToString::to_string)
}

/// What the number of such a key counts.
fn unit(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Whole { unit, .. } => Some(unit).filter(|unit| !unit.is_empty()),
        Kind::Size { .. } => Some("GiB"),
        Kind::Seconds { .. } | Kind::SecondsOrZero { .. } | Kind::Sync { .. } => Some("s"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEIRS: &str = "local_disk: file:///kv\nmax_local_disk_size: 10\nlocal_cpu: true\nchunk_size: 256\n\
                          enable_p2p: false\nremote_url: redis://user:hunter2@host:6379\n";

    /// What the command writes for a file with this text, and how it ends.
    fn output(text: &str, explains: bool, json: bool) -> (String, Result<()>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("theirs.yaml");
        std::fs::write(&path, text).unwrap();
        let mut out = Vec::new();
        let variables = vec![("FOREBAY_CHUNK_SIZE".to_owned(), "16".to_owned())];
        let end = if explains {
            explain(&path, json, &mut out)
        } else {
            show(Some(&path), variables, json, &mut out)
        };
        (String::from_utf8(out).unwrap(), end)
    }

    #[test]
    fn what_is_in_force_and_from_where() {
        let (table, end) = output(THEIRS, false, false);
        end.unwrap();
        let line = |key: &str| table.lines().find(|line| line.starts_with(key)).unwrap();
        assert!(
            line("chunk_size").contains("16 tokens")
                && line("chunk_size").ends_with("env FOREBAY_CHUNK_SIZE")
        );
        assert!(
            line("max_local_disk_size").contains("10 GiB")
                && line("max_local_disk_size").contains("theirs.yaml")
        );
        assert!(line("disk_sync").ends_with("default"));
        assert!(line("store_to").contains("memory, disk, remote"), "{table}");
        assert!(line("lookup_wait_s").contains(" 1 s "), "{table}");
        assert!(line("remote_max_requests").contains("32 requests"), "{table}");
        assert!(table.contains("\nwarning: `enable_p2p`"), "{table}");
        assert!(!table.contains("hunter2"));

        let (text, end) = output(THEIRS, false, true);
        end.unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            parsed["keys"]["chunk_size"],
            json!({"value": 16, "unit": "tokens", "origin": "env FOREBAY_CHUNK_SIZE"})
        );
        assert_eq!(parsed["keys"]["remote_url"]["value"], "redis://***@host:6379");
        assert_eq!(parsed["warnings"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn what_becomes_of_their_file() {
        let (table, end) = output(THEIRS, true, false);
        end.unwrap();
        for (key, verdict) in
            [("chunk_size", " same "), ("remote_url", " different "), ("enable_p2p", " not applicable ")]
        {
            assert!(
                table.lines().any(|line| line.starts_with(key) && line.contains(verdict)),
                "{key} in {table}"
            );
        }
        assert!(
            !table.contains("warning: `remote_url`") && !table.contains("warning: `local_cpu`"),
            "{table}"
        );
        assert!(table.ends_with("The file is accepted as it is.\n") && !table.contains("hunter2"), "{table}");
        let (text, _) = output(THEIRS, true, true);
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["accepted"], true);
        assert_eq!(parsed["keys"][0]["verdict"], "different");
        assert_eq!(parsed["in_force"]["keys"]["chunk_size"]["value"], 256, "the environment is not read");
    }

    #[test]
    fn a_refused_file_is_an_error_after_its_explanation() {
        let (table, end) = output("chunk_sise: 1\n", true, false);
        assert!(table.contains("unknown key: did you mean `chunk_size`?"), "{table}");
        assert!(end.unwrap_err().to_string().contains("`chunk_sise`"));
        let (text, _) = output("chunk_sise: 1\n", true, true);
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["accepted"], false);
        assert!(output("", false, false).1.is_err());
    }
}
