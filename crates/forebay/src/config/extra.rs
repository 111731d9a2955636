//! `LMCache`'s `extra_config`: a map of settings that have no key of their own.
//!
//! Two entries mean something here and become our keys, unless that key is set itself. The rest is ignored with a
//! warning. Values are never shown: credentials are kept in this map.

use super::file;
use super::keys::{self, Kind};
use super::peers::EXTRA_CONFIG;
use super::source::{Given, Origin};
use super::value::Value;
use crate::error::{Error, ErrorKind, Result};

/// Entries that are keys of ours: theirs, ours.
const READ: [(&str, &str); 2] = [("use_odirect", "disk_direct_io"), ("disk_io_threads", "disk_io_threads")];

/// What to do with credentials in a file.
const CREDENTIALS: &str = "credentials come from the environment or a profile; take them out of the file";

/// Why entries that begin so have no meaning here.
const IGNORED: &[(&str, &str)] = &[
    ("aws_", CREDENTIALS),
    ("username", CREDENTIALS),
    ("password", CREDENTIALS),
    ("valkey_username", CREDENTIALS),
    ("valkey_password", CREDENTIALS),
    ("s3_", "this version has no remote tier"),
    ("disable_tls", "this version has no remote tier"),
    ("valkey_", "this version has no remote tier"),
    ("fs_", "this version has no remote tier"),
    ("redis_", "this version has no remote tier"),
    ("remote_", "this version has no remote tier"),
    ("mooncake_", "this version has no remote tier"),
    ("save_chunk_meta", "a chunk always carries its description"),
    ("save_only_first_rank", "each rank stores its own part in this version"),
    ("histogram_bucket_", "histograms are not configurable"),
    ("nixl_", "NIXL is not used"),
    ("enable_nixl_storage", "NIXL is not used"),
    ("gds_", "GPUDirect Storage is not used"),
    ("p2p_", "instances do not talk to each other"),
    ("gpu_to_numa_mapping", "memory is placed by the system"),
    ("audit_", "there is no audit backend"),
];

/// Turns the `extra_config` of `given` into keys and warnings.
pub(super) fn apply(given: &mut Given) -> Result<()> {
    let Some((value, origin)) = given.extra.take() else { return Ok(()) };
    for (name, value) in entries(value, &origin)? {
        if value == Value::Null {
            continue;
        }
        if let Some((entry, ours)) = READ.into_iter().find(|(theirs, _)| *theirs == name) {
            let origin = Origin::Extra { entry, origin: Box::new(origin.clone()) };
            let value = within_limits(entry, ours, value, &origin, &mut given.warnings);
            given.keys.entry(ours).or_insert((value, origin));
        } else {
            let why = IGNORED
                .iter()
                .find(|(start, _)| name.starts_with(start))
                .map_or("it has no meaning here", |(_, why)| why);
            let name: String = name.chars().take(64).collect();
            given.warnings.push(format!("`{EXTRA_CONFIG}.{name}` ({origin}) is ignored: {why}"));
        }
    }
    Ok(())
}

/// A whole number that was fine for `LMCache`, brought within the limits of our key `ours`.
fn within_limits(
    entry: &str,
    ours: &str,
    value: Value,
    origin: &Origin,
    warnings: &mut Vec<String>,
) -> Value {
    let (Value::Int(asked), Some(Kind::Whole { min, max, .. })) =
        (&value, keys::find(ours).map(|key| key.kind))
    else {
        return value;
    };
    let used = (*asked).clamp(min.into(), max.into());
    if *asked > 0 && used != *asked {
        warnings.push(format!("`{EXTRA_CONFIG}.{entry}` is {asked} ({origin}): {used} is used"));
        return Value::Int(used);
    }
    value
}

/// The entries of an `extra_config`, which the environment holds as JSON text.
fn entries(value: Value, origin: &Origin) -> Result<Vec<(String, Value)>> {
    let value = match value {
        // JSON is YAML.
        Value::Text(text) => file::parse(&text).unwrap_or(Value::Text(text)),
        other => other,
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Map(entries) => Ok(entries),
        _ => Err(Error::new(
            ErrorKind::Config,
            format!(
                "`{EXTRA_CONFIG}` ({origin}) has to be a map of names and values; in the environment, JSON"
            ),
        )),
    }
}
