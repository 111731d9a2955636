//! From what was given to a configuration: every key read, and the rules between keys.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::extra;
use super::keys::KEYS;
use super::peers::STORE_LOCATION;
use super::read::{Field, field};
use super::schemes;
use super::source::{Given, Origin};
use super::value::Value;
use super::{Config, Resolved, StoreTo};
use crate::error::{Error, ErrorKind, Result};

/// The configuration that `given` amounts to.
pub(super) fn resolve(mut given: Given) -> Result<Resolved> {
    extra::apply(&mut given)?;
    store_location(&mut given);
    let mut warnings = std::mem::take(&mut given.warnings);
    let get = |name| field(&given, name);
    let mut origins: BTreeMap<&'static str, Origin> =
        KEYS.iter().map(|key| (key.name, get(key.name).origin)).collect();

    let use_only_staging_buffer = get("use_only_staging_buffer").switch()?;
    let local_cpu = memory_tier(&get("local_cpu"), &get("use_only_staging_buffer"))?;
    if use_only_staging_buffer && get("local_cpu").is_default() {
        origins.insert("local_cpu", Origin::Implied("use_only_staging_buffer"));
    }
    let (cache_policy, warning) = get("cache_policy").policy()?;
    warnings.extend(warning);
    let local_disk = get("local_disk").directories()?;
    let remote_url = remote_url(&get("remote_url"), &local_disk)?;
    let configured =
        StoreTo { memory: local_cpu, disk: !local_disk.is_empty(), remote: remote_url.is_some() };
    some_tier(configured)?;

    let config = Config {
        chunk_size_tokens: get("chunk_size").whole()?,
        local_cpu,
        use_only_staging_buffer,
        max_local_cpu_bytes: bytes(&get("max_local_cpu_size"))?,
        max_local_disk_bytes: disk_bytes(&get("max_local_disk_size"), configured.disk, &mut warnings)?,
        local_disk,
        max_remote_bytes: remote_bytes(&get("max_remote_size"), remote_url.as_deref(), &mut warnings)?,
        remote_url,
        remote_timeout: get("remote_timeout_s").wait()?,
        remote_max_requests: get("remote_max_requests").whole()?,
        remote_retries: get("remote_retries").whole()?,
        remote_remember: get("remote_remember_s").wait()?,
        store_to: store_to(&get("store_to"), configured, &mut origins, &mut warnings)?,
        store_after: get("store_after").whole()?,
        on_busy: get("on_busy").on_busy()?,
        lookup_wait: get("lookup_wait_s").wait_or_none()?,
        cache_policy,
        disk_sync: get("disk_sync").sync()?,
        disk_min_free_bytes: bytes(&get("disk_min_free_size"))?,
        disk_direct_io: get("disk_direct_io").direct_io()?,
        disk_io_engine: get("disk_io_engine").io_engine()?,
        disk_io_threads: get("disk_io_threads").whole()?,
        load_timeout: get("load_timeout_s").wait()?,
        store_timeout: get("store_timeout_s").wait()?,
        max_queued_chunks: get("max_queued_chunks").whole()?,
        http_listen: get("http_listen").listen()?,
        http_token: get("http_token").secret()?,
        salt: get("cache_salt").secret()?,
        save_decode_cache: get("save_decode_cache").switch()?,
    };
    Ok(Resolved { config, origins, warnings })
}

/// Whether there is a memory tier.
fn memory_tier(local_cpu: &Field, staging_only: &Field) -> Result<bool> {
    match (local_cpu.switch()?, staging_only.switch()?) {
        (asked, false) => Ok(asked),
        (true, true) if !local_cpu.is_default() => Err(Error::new(
            ErrorKind::Config,
            format!(
                "`local_cpu` is true ({}) and `use_only_staging_buffer` is true ({}): the one asks for a cache in CPU \
                 memory, the other for none. Set local_cpu to false, or leave it out",
                local_cpu.origin, staging_only.origin
            ),
        )),
        (_, true) => Ok(false),
    }
}

/// The store of the remote tier. A directory cannot be both of the disk and of the remote tier.
fn remote_url(field: &Field, local_disk: &[PathBuf]) -> Result<Option<String>> {
    let url = field.url()?;
    match url.as_deref().and_then(schemes::file_path) {
        Some(path) if local_disk.iter().any(|directory| directory == path) => {
            Err(field.refused("local_disk names that directory too, and each needs its own"))
        }
        _ => Ok(url),
    }
}

/// There has to be a tier besides memory.
fn some_tier(configured: StoreTo) -> Result<()> {
    if configured.disk || configured.remote {
        return Ok(());
    }
    let why = if configured.memory {
        "memory alone does not make a cache, for it forgets all when the process ends"
    } else {
        "there is no tier to keep chunks in"
    };
    Err(Error::new(
        ErrorKind::Config,
        format!(
            "neither `local_disk` nor `remote_url` is set: {why}. Set local_disk to a directory on a local drive and \
             max_local_disk_size to the GiB it may use, or remote_url to a store such as redis://host:6379"
        ),
    ))
}

/// Turns `LMCache`'s `store_location` into our `store_to`, unless that is set itself.
fn store_location(given: &mut Given) {
    let Some((value, origin)) = given.store_location.take() else { return };
    let named = if let Value::Text(text) = &value { text.trim() } else { "" };
    let tier = match named {
        "LocalCPUBackend" => "memory",
        "LocalDiskBackend" => "disk",
        "RemoteBackend" => "remote",
        _ => {
            given.warnings.push(format!(
                "`{STORE_LOCATION}` ({origin}) is ignored: it names neither LocalCPUBackend nor LocalDiskBackend nor \
                 RemoteBackend; name tiers in store_to"
            ));
            return;
        }
    };
    let origin = Origin::Peer { key: STORE_LOCATION, origin: Box::new(origin) };
    given.keys.entry("store_to").or_insert((tier.into(), origin));
}

/// The tiers to store to, of those that are configured.
fn store_to(
    field: &Field,
    configured: StoreTo,
    origins: &mut BTreeMap<&'static str, Origin>,
    warnings: &mut Vec<String>,
) -> Result<StoreTo> {
    let Some(named) = field.tiers()? else { return Ok(configured) };
    let missing = [
        (named.memory && !configured.memory, "there is no memory tier, for local_cpu is false"),
        (named.disk && !configured.disk, "there is no disk tier, for local_disk is not set"),
        (named.remote && !configured.remote, "there is no remote tier, for remote_url is not set"),
    ];
    match missing.into_iter().find(|(is_missing, _)| *is_missing) {
        // Their files are accepted.
        Some((_, why)) if matches!(field.origin, Origin::Peer { .. }) => {
            warnings.push(format!("`{STORE_LOCATION}` ({}) is ignored: {why}", field.origin));
            origins.insert("store_to", Origin::Default);
            Ok(configured)
        }
        Some((_, why)) => Err(field.refused(why)),
        None => Ok(named),
    }
}

/// A size that has a default.
fn bytes(field: &Field) -> Result<u64> {
    field.bytes()?.ok_or_else(|| field.refused("a size is needed"))
}

/// `max_local_disk_size`, which may be 0 or absent only where there is no disk tier.
fn disk_bytes(field: &Field, has_disk: bool, warnings: &mut Vec<String>) -> Result<u64> {
    if has_disk {
        if field.is_default() {
            return Err(Error::new(
                ErrorKind::Config,
                "`local_disk` is set and `max_local_disk_size` is not: the disk tier needs a bound. Set \
                 max_local_disk_size to the disk space in GiB that the cache may use, for example 100",
            ));
        }
        return bytes(field);
    }
    if !field.is_default() && !field.is_zero() {
        field.bytes()?;
        warnings.push(format!(
            "`max_local_disk_size` ({}) has no effect: local_disk is not set, so there is no disk tier",
            field.origin
        ));
    }
    Ok(0)
}

/// `max_remote_size`, which a directory needs and other stores do without.
fn remote_bytes(field: &Field, url: Option<&str>, warnings: &mut Vec<String>) -> Result<Option<u64>> {
    let bytes = field.bytes()?;
    let why = match url {
        Some(url) if schemes::file_path(url).is_some() => {
            return match bytes {
                Some(bytes) => Ok(Some(bytes)),
                None => Err(Error::new(
                    ErrorKind::Config,
                    "`remote_url` is a directory and `max_remote_size` is not set: a directory does not bound itself. \
                     Set max_remote_size to the space in GiB that the remote tier may use, for example 1000",
                )),
            };
        }
        Some(_) => "the store of remote_url bounds itself",
        None => "remote_url is not set, so there is no remote tier",
    };
    if !field.is_default() {
        warnings.push(format!("`max_remote_size` ({}) has no effect: {why}", field.origin));
    }
    Ok(None)
}
