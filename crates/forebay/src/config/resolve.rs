//! From what was given to a configuration: every key read, and the rules between keys.
//!
//! This is where this version's limits are stated: what is accepted, so that a file need not change when the limit is
//! gone, and what runs instead.

use std::collections::BTreeMap;

use super::extra;
use super::keys::KEYS;
use super::read::{Field, field};
use super::source::{Given, Origin};
use super::{Config, Resolved};
use crate::error::{Error, ErrorKind, Result};

/// The configuration that `given` amounts to.
pub(super) fn resolve(mut given: Given) -> Result<Resolved> {
    extra::apply(&mut given)?;
    let mut warnings = std::mem::take(&mut given.warnings);
    let get = |name| field(&given, name);
    let mut origins: BTreeMap<&'static str, Origin> =
        KEYS.iter().map(|key| (key.name, get(key.name).origin)).collect();

    let use_only_staging_buffer = get("use_only_staging_buffer").switch()?;
    let local_cpu = get("local_cpu");
    if let Some(why) = no_memory_tier(&local_cpu, &get("use_only_staging_buffer"), &mut warnings)? {
        origins.insert("local_cpu", Origin::Implied(why));
    }
    let (cache_policy, warning) = get("cache_policy").policy()?;
    warnings.extend(warning);
    let local_disk = get("local_disk").directories()?;
    let remote_url = get("remote_url").url()?;

    let config = Config {
        chunk_size_tokens: get("chunk_size").whole()?,
        local_cpu: false,
        use_only_staging_buffer,
        max_local_cpu_bytes: bytes(&get("max_local_cpu_size"))?,
        max_local_disk_bytes: disk_bytes(&get("max_local_disk_size"), !local_disk.is_empty())?,
        local_disk,
        remote_url,
        cache_policy,
        disk_sync: get("disk_sync").sync()?,
        disk_min_free_bytes: bytes(&get("disk_min_free_size"))?,
        disk_direct_io: get("disk_direct_io").direct_io()?,
        disk_io_engine: get("disk_io_engine").io_engine()?,
        disk_io_threads: get("disk_io_threads").whole()?,
        load_timeout: get("load_timeout_s").wait()?,
        store_timeout: get("store_timeout_s").wait()?,
        max_queued_chunks: get("max_queued_chunks").whole()?,
        salt: get("cache_salt").secret()?,
        save_decode_cache: get("save_decode_cache").switch()?,
    };
    tiers(&config, &origins, &mut warnings)?;
    Ok(Resolved { config, origins, warnings })
}

/// Why there is no memory tier though `local_cpu` is true; `None` when it is false anyway.
fn no_memory_tier(
    local_cpu: &Field,
    staging_only: &Field,
    warnings: &mut Vec<String>,
) -> Result<Option<&'static str>> {
    if !local_cpu.switch()? {
        return Ok(None);
    }
    if staging_only.switch()? {
        if local_cpu.is_default() {
            return Ok(Some("use_only_staging_buffer"));
        }
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "`local_cpu` is true ({}) and `use_only_staging_buffer` is true ({}): the one asks for a cache in CPU \
                 memory, the other for none. Set local_cpu to false, or leave it out",
                local_cpu.origin, staging_only.origin
            ),
        ));
    }
    warnings.push(format!(
        "`local_cpu` is true ({}): this version has no memory tier and runs as if it were false; CPU memory only stages \
         chunks",
        local_cpu.origin
    ));
    Ok(Some("this version has no memory tier"))
}

/// A size that has a default.
fn bytes(field: &Field) -> Result<u64> {
    field.bytes()?.ok_or_else(|| field.refused("a size is needed"))
}

/// `max_local_disk_size`, which may be 0 or absent only where there is no disk tier.
fn disk_bytes(field: &Field, has_disk: bool) -> Result<u64> {
    if field.is_default() && has_disk {
        return Err(Error::new(
            ErrorKind::Config,
            "`local_disk` is set and `max_local_disk_size` is not: the disk tier needs a bound. Set max_local_disk_size \
             to the disk space in GiB that the cache may use, for example 100",
        ));
    }
    Ok(field.bytes()?.unwrap_or(0))
}

/// At least one tier, and what to know about those that are not built yet.
fn tiers(
    config: &Config,
    origins: &BTreeMap<&'static str, Origin>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let remedy =
        "Set local_disk to a directory on a local drive and max_local_disk_size to the GiB it may use";
    match (config.local_disk.is_empty(), &config.remote_url) {
        (true, None) => Err(Error::new(
            ErrorKind::Config,
            format!(
                "neither `local_disk` nor `remote_url` is set: there is no tier to keep chunks in. {remedy}"
            ),
        )),
        (true, Some(_)) => Err(Error::new(
            ErrorKind::Config,
            format!(
                "`remote_url` is set ({}) and `local_disk` is not: this version has no remote tier yet. {remedy}",
                origins["remote_url"]
            ),
        )),
        (false, Some(_)) => {
            warnings.push(format!(
                "`remote_url` ({}) is ignored: this version has no remote tier yet; chunks go to local_disk",
                origins["remote_url"]
            ));
            Ok(())
        }
        (false, None) => Ok(()),
    }
}
