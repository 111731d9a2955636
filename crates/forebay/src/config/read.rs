//! From a value to the type its key asks for.
//!
//! Each function reads one key: what was given, or else its default. Where the value cannot be used the error names the
//! key, the value, where it came from, what was expected and what to do.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::keys::{self, GIB, Key, Kind};
use super::schemes;
use super::secret;
use super::source::{Given, Origin};
use super::suggest;
use super::value::Value;
use super::{CachePolicy, DirectIo, DiskSync, IoEngineChoice, OnBusy, StoreTo};
use crate::catalog::DRIVES_MAX;
use crate::error::{Error, ErrorKind, Result};

/// Longest path, in bytes, the end marker that the system adds included.
const PATH_BYTES_MAX: usize = 4096;

/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 4096;

/// Policies of `LMCache` that this version replaces by LRU.
const OTHER_POLICIES: [&str; 2] = ["MRU", "COST-AWARE"];

/// A value with its key and its origin.
pub(super) struct Field {
    key: &'static Key,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// What `given` or else the default says about the key `name`, which is in the table.
pub(super) fn field(given: &Given, name: &'static str) -> Field {
    let key = keys::find(name).expect("only called with names of the table, which a test holds");
    let (value, origin) = given.keys.get(name).cloned().unwrap_or_else(|| {
        (key.default.map_or(Value::Null, |text| Value::Text(text.to_owned())), Origin::Default)
    });
    Field { key, value, origin }
}

impl Field {
    /// An error about this field: `why` follows "`key` is value (origin)".
    pub(super) fn refused(&self, why: &str) -> Error {
        let shown = match (self.key.kind, &self.value) {
            (Kind::Url, Value::Text(url)) => Value::Text(secret::without_credentials(url)).shown(),
            (Kind::Secret { .. } | Kind::Url, _) => "given".into(),
            (_, value) => value.shown(),
        };
        Error::new(
            ErrorKind::Config,
            format!("`{}` is {shown} ({}): {why}. {}", self.key.name, self.origin, self.key.remedy),
        )
    }

    fn expected(&self) -> Error {
        self.refused(&format!("expected {}", self.key.kind))
    }

    /// Whether nobody set the key.
    pub(super) fn is_default(&self) -> bool {
        self.origin == Origin::Default
    }

    pub(super) fn switch(&self) -> Result<bool> {
        match &self.value {
            Value::Bool(it) => Ok(*it),
            Value::Int(0) => Ok(false),
            Value::Int(1) => Ok(true),
            Value::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(true),
                "false" | "0" | "no" | "off" => Ok(false),
                _ => Err(self.expected()),
            },
            _ => Err(self.expected()),
        }
    }

    pub(super) fn whole(&self) -> Result<u32> {
        let Kind::Whole { min, max, .. } = self.key.kind else { return Err(self.expected()) };
        let number = self.number()?;
        if number.fract() != 0.0 || number < f64::from(min) || number > f64::from(max) {
            return Err(self.expected());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole, and within 32 bits"
        )]
        Ok(number as u32)
    }

    /// A size in bytes; `None` where there is neither a value nor a default.
    pub(super) fn bytes(&self) -> Result<Option<u64>> {
        let Kind::Size { min_bytes, max_bytes } = self.key.kind else { return Err(self.expected()) };
        if self.value == Value::Null {
            return Ok(None);
        }
        let number = self.number()?;
        #[expect(clippy::cast_precision_loss, reason = "limits and GiB are powers of two")]
        let (gib, max) = (GIB as f64, max_bytes as f64);
        let bytes = (number * gib).round();
        let sign_is_wrong = if min_bytes == 0 { number < 0.0 } else { number <= 0.0 };
        if sign_is_wrong || bytes > max {
            return Err(self.expected());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole, from 0 to max_bytes"
        )]
        let bytes = bytes as u64;
        if bytes < min_bytes {
            return Err(self.refused(&format!("that is {bytes} bytes, and the least is {min_bytes}")));
        }
        Ok(Some(bytes))
    }

    pub(super) fn wait(&self) -> Result<Duration> {
        let (Kind::Seconds { max } | Kind::Sync { max }) = self.key.kind else { return Err(self.expected()) };
        let number = self.number()?;
        if number <= 0.0 || number > f64::from(max) {
            return Err(self.expected());
        }
        match Duration::try_from_secs_f64(number) {
            Ok(wait) if wait >= Duration::from_millis(1) => Ok(wait),
            _ => Err(self.refused("the least is 0.001")),
        }
    }

    /// A wait that may be none.
    pub(super) fn wait_or_none(&self) -> Result<Duration> {
        let Kind::SecondsOrZero { max } = self.key.kind else { return Err(self.expected()) };
        let number = self.number()?;
        if number < 0.0 || number > f64::from(max) {
            return Err(self.expected());
        }
        Duration::try_from_secs_f64(number).map_err(|_| self.expected())
    }

    /// Whether a number was given, and it is 0.
    pub(super) fn is_zero(&self) -> bool {
        self.number().is_ok_and(|number| number == 0.0)
    }

    /// The directories, in their order; none where nothing is set.
    pub(super) fn directories<'a>(&'a self) -> Result<Vec<PathBuf>> {
        let texts: Vec<&str> = match &self.value {
            Value::Null => return Ok(Vec::new()),
            Value::Text(text) => paths_in(text.trim()).map_err(|why| self.refused(why))?,
            Value::List(items) => {
                let text = |item: &'a Value| match item {
                    Value::Text(text) => Ok(text.trim()),
                    _ => Err(self.expected()),
                };
                items.iter().map(text).collect::<Result<_>>()?
            }
            _ => return Err(self.expected()),
        };
        if texts.is_empty() {
            return Err(self.refused("the list is empty"));
        }
        if texts.len() > DRIVES_MAX {
            return Err(
                self.refused(&format!("it has {} directories, and the most is {DRIVES_MAX}", texts.len()))
            );
        }
        let mut directories = Vec::with_capacity(texts.len());
        for text in &texts {
            let directory = directory(text).map_err(|why| match texts.len() {
                1 => self.refused(why),
                _ => self.refused(&format!("{}: {why}", Value::from(*text).shown())),
            })?;
            if directories.contains(&directory) {
                return Err(self
                    .refused(&format!("{} is named twice; name each directory once", directory.display())));
            }
            directories.push(directory);
        }
        Ok(directories)
    }

    pub(super) fn url(&self) -> Result<Option<String>> {
        let text = match &self.value {
            Value::Null => return Ok(None),
            Value::Text(text) => text.trim(),
            _ => return Err(self.expected()),
        };
        let is_url = text.split_once("://").is_some_and(|(scheme, rest)| {
            !rest.is_empty()
                && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c))
        });
        if !is_url || text.len() > URL_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(self.expected());
        }
        schemes::checked(text).map(Some).map_err(|why| self.refused(&why))
    }

    /// The tiers that are named; `None`: all.
    pub(super) fn tiers<'a>(&'a self) -> Result<Option<StoreTo>> {
        let names: Vec<&str> = match &self.value {
            Value::Text(text) => text.split(',').collect(),
            Value::List(items) => {
                let name = |item: &'a Value| {
                    if let Value::Text(text) = item { Ok(text.as_str()) } else { Err(self.expected()) }
                };
                items.iter().map(name).collect::<Result<_>>()?
            }
            _ => return Err(self.expected()),
        };
        if names.iter().all(|name| name.trim().is_empty()) {
            return Err(self.refused("no tier is named"));
        }
        let names: Vec<String> = names.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
        if names == ["all"] {
            return Ok(None);
        }
        let mut tiers = StoreTo { memory: false, disk: false, remote: false };
        for name in &names {
            match name.as_str() {
                "memory" => tiers.memory = true,
                "disk" => tiers.disk = true,
                "remote" => tiers.remote = true,
                "all" => return Err(self.refused("all stands alone, for it names every tier")),
                other => {
                    return Err(
                        match suggest::nearest(other, ["all", "memory", "disk", "remote"].into_iter()) {
                            Some((_, near)) => self.refused(&format!("no such tier; did you mean {near}?")),
                            None => self.expected(),
                        },
                    );
                }
            }
        }
        Ok(Some(tiers))
    }

    pub(super) fn on_busy(&self) -> Result<OnBusy> {
        let Value::Text(text) = &self.value else { return Err(self.expected()) };
        match text.trim().to_ascii_lowercase().as_str() {
            "wait" => Ok(OnBusy::Wait),
            "drop" => Ok(OnBusy::Drop),
            _ => Err(self.expected()),
        }
    }

    pub(super) fn secret(&self) -> Result<String> {
        match (&self.value, self.key.kind) {
            (Value::Text(text), Kind::Secret { max_bytes }) if text.len() <= max_bytes => Ok(text.clone()),
            _ => Err(self.expected()),
        }
    }

    /// The policy, and a warning if another one was asked for.
    pub(super) fn policy(&self) -> Result<(CachePolicy, Option<String>)> {
        let Value::Text(text) = &self.value else { return Err(self.expected()) };
        let asked = text.trim().to_ascii_uppercase().replace('_', "-");
        if let Some(policy) = CachePolicy::named(&asked) {
            return Ok((policy, None));
        }
        if OTHER_POLICIES.contains(&asked.as_str()) {
            let warning = format!(
                "`{}` is {asked} ({}): this version has none such and uses LRU",
                self.key.name, self.origin
            );
            return Ok((CachePolicy::Lru, Some(warning)));
        }
        let known = CachePolicy::ALL.map(CachePolicy::name).into_iter().chain(OTHER_POLICIES);
        Err(match suggest::nearest(&asked, known) {
            Some((_, near)) => self.refused(&format!("no such policy; did you mean {near}?")),
            None => self.expected(),
        })
    }

    pub(super) fn sync(&self) -> Result<DiskSync> {
        if let Value::Text(text) = &self.value {
            match text.trim().to_ascii_lowercase().as_str() {
                "none" => return Ok(DiskSync::None),
                "always" => return Ok(DiskSync::Always),
                _ => {}
            }
        }
        self.wait().map(DiskSync::Interval)
    }

    pub(super) fn direct_io(&self) -> Result<DirectIo> {
        match &self.value {
            // `off` and `on` are truth values in YAML.
            Value::Bool(true) => Ok(DirectIo::Auto),
            Value::Bool(false) => Ok(DirectIo::Off),
            Value::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
                "auto" | "on" | "true" => Ok(DirectIo::Auto),
                "off" | "false" => Ok(DirectIo::Off),
                _ => Err(self.expected()),
            },
            _ => Err(self.expected()),
        }
    }

    pub(super) fn io_engine(&self) -> Result<IoEngineChoice> {
        let Value::Text(text) = &self.value else { return Err(self.expected()) };
        match text.trim().to_ascii_lowercase().as_str() {
            "auto" => Ok(IoEngineChoice::Auto),
            "io_uring" => Ok(IoEngineChoice::Uring),
            "threads" => Ok(IoEngineChoice::Threads),
            _ => Err(self.expected()),
        }
    }

    /// A port alone is one of the loopback address.
    pub(super) fn listen(&self) -> Result<Option<SocketAddr>> {
        let port = |number: Option<u16>| number.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let address = match &self.value {
            Value::Null => return Ok(None),
            Value::Int(number) => port(u16::try_from(*number).ok()),
            Value::Text(text) => {
                let text = text.trim();
                port(text.parse().ok()).or_else(|| text.parse().ok())
            }
            _ => None,
        };
        address.map(Some).ok_or_else(|| self.expected())
    }

    /// A finite number, whatever its sign.
    fn number(&self) -> Result<f64> {
        #[expect(clippy::cast_precision_loss, reason = "numbers beyond 2^53 are beyond every limit too")]
        let number = match &self.value {
            Value::Int(it) => *it as f64,
            Value::Float(it) => *it,
            Value::Text(text) => text.trim().parse().map_err(|_| self.expected())?,
            _ => return Err(self.expected()),
        };
        if number.is_finite() { Ok(number) } else { Err(self.expected()) }
    }
}

/// The paths in a text: several, if there are commas and each part is a whole path, which begins with `/` or `file://`;
/// one, that may have commas in it, if only its beginning does.
fn paths_in(text: &str) -> std::result::Result<Vec<&str>, &'static str> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let paths = parts.iter().filter(|part| part.starts_with('/') || part.starts_with("file://")).count();
    if paths == parts.len() {
        Ok(parts)
    } else if paths > 1 || parts.len() > 1 && parts.iter().any(|part| part.is_empty()) {
        Err("between commas stand several whole paths, and something that is none; write a list")
    } else {
        Ok(vec![text])
    }
}

/// The directory that a text names, or why it names none.
fn directory(text: &str) -> std::result::Result<PathBuf, &'static str> {
    let path = text.strip_prefix("file://").unwrap_or(text).trim();
    if path.is_empty() {
        Err("the path is empty")
    } else if path.contains("://") {
        Err("that is a URL, which is for remote_url")
    } else if path == "~" || path.starts_with("~/") {
        Err("`~` is not expanded; write the whole path")
    } else if path.contains('\0') {
        Err("a path cannot hold a NUL byte")
    } else if path.len() >= PATH_BYTES_MAX {
        Err("the path is too long")
    } else {
        Ok(PathBuf::from(path))
    }
}
