//! `LMCache`'s `extra_config`: a map of settings that have no key of their own.
//!
//! Four entries mean something here and become our keys, unless that key is set itself. The rest is ignored with a
//! warning. Values are never shown: credentials are kept in this map.

use super::file;
use super::keys::{self, Kind};
use super::peers::EXTRA_CONFIG;
use super::source::{Given, Origin};
use super::value::Value;
use crate::error::{Error, ErrorKind, Result};

/// Entries that are keys of ours: theirs, ours, and the schemes of the stores that they are about; none: about all.
const READ: [(&str, &str, &[&str]); 4] = [
    ("use_odirect", "disk_direct_io", &[]),
    ("disk_io_threads", "disk_io_threads", &[]),
    ("s3_max_inflight_reqs", "remote_max_requests", &["s3"]),
    ("request_timeout", "remote_timeout_s", &["valkey", "valkeys"]),
];

/// What to do with credentials in a file.
const CREDENTIALS: &str = "credentials come from the environment or a profile; take them out of the file";

/// What to do with the credentials of a server.
const CREDENTIALS_OF_URL: &str = "user and password stand in remote_url, best set as the variable FOREBAY_REMOTE_URL; take them out of the file";

const CONNECTIONS: &str = "remote_max_requests bounds what is under way at the remote store";
const DIRECTORY: &str = "a file:// remote has no such setting";
const CLIENT: &str = "the client has no such setting";
const TLS: &str = "the scheme of remote_url says whether there is TLS: rediss:// and valkeys:// have it";

/// Why entries that begin so have no meaning here. The first that fits is taken.
const IGNORED: &[(&str, &str)] = &[
    ("aws_", CREDENTIALS),
    ("username", CREDENTIALS),
    ("password", CREDENTIALS),
    ("valkey_username", CREDENTIALS_OF_URL),
    ("valkey_password", CREDENTIALS_OF_URL),
    ("redis_username", CREDENTIALS_OF_URL),
    ("redis_password", CREDENTIALS_OF_URL),
    ("s3_max_inflight_reqs", "remote_url names no S3 store"),
    ("s3_max_io_concurrency", CONNECTIONS),
    ("s3_num_io_threads", CONNECTIONS),
    ("s3_file_prefix", "the prefix stands in remote_url: s3://bucket/prefix"),
    ("s3_region", "the region stands in remote_url (?region=…), or comes from the environment or a profile"),
    ("s3_part_size", "a chunk is one object, whatever its length"),
    ("s3_", CLIENT),
    ("disable_tls", "the endpoint says whether there is TLS: remote_url with ?endpoint=http://… has none"),
    ("tls_enable", TLS),
    ("request_timeout", "remote_url names no Valkey server; remote_timeout_s bounds a request"),
    ("connection_timeout", "to connect is part of a request, which remote_timeout_s bounds"),
    ("valkey_num_workers", CONNECTIONS),
    ("valkey_sync_num_workers", CONNECTIONS),
    ("valkey_database", "the number of the database stands in remote_url: valkey://host:6379/1"),
    ("valkey_mode", "a cluster is several hosts in remote_url, or ?cluster=true behind one"),
    ("valkey_enable_ttl", "chunks are stored without an end; the server evicts by its own policy"),
    ("valkey_ttl_sec", "chunks are stored without an end; the server evicts by its own policy"),
    ("valkey_", CLIENT),
    ("redis_", CLIENT),
    ("fs_", DIRECTORY),
    ("remote_enable_mla_worker_id_as0", "each rank stores its own part in this version"),
    ("remote_storage_plugin", "foreign code is not loaded"),
    ("remote_", "it has no equal here; the keys that begin with remote_ tune the remote tier"),
    ("mooncake_", "Mooncake is not spoken"),
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
    let scheme = scheme_of(given);
    for (name, value) in entries(value, &origin)? {
        if value == Value::Null {
            continue;
        }
        if let Some((entry, ours)) = READ.into_iter().find_map(|(theirs, ours, schemes)| {
            let is_about_ours = schemes.is_empty() || schemes.contains(&scheme.as_str());
            (theirs == name && is_about_ours).then_some((theirs, ours))
        }) {
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

/// The scheme of the `remote_url`, in lower case; empty where there is none.
fn scheme_of(given: &Given) -> String {
    match given.keys.get("remote_url") {
        Some((Value::Text(url), _)) => {
            url.trim().split_once("://").map_or(String::new(), |(scheme, _)| scheme.to_ascii_lowercase())
        }
        _ => String::new(),
    }
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
