//! Where values come from, and which of two wins.
//!
//! Sources are laid over each other from the weakest to the strongest: file, `LMCACHE_` variables, `FOREBAY_` variables,
//! arguments. A stronger source replaces a key, and `null` in it takes the key back to its default. A name that nobody
//! knows is an error here; what a value has to be is not this module's business.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::keys;
use super::peers;
use super::suggest;
use super::value::Value;
use crate::error::{Error, ErrorKind, Result};

/// Where a value in force came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// This file.
    File(PathBuf),
    /// The environment variable of this name.
    Environment(String),
    /// An argument of the program.
    Argument,
    /// An entry of `LMCache`'s `extra_config`, which itself came from `origin`.
    Extra {
        /// The name of the entry.
        entry: &'static str,
        /// Where `extra_config` came from.
        origin: Box<Origin>,
    },
    /// A key of `LMCache`'s, which itself came from `origin`.
    Peer {
        /// The name of the key.
        key: &'static str,
        /// Where it came from.
        origin: Box<Origin>,
    },
    /// Another key, or a limit of this version, decides it; the text says which.
    Implied(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "env {name}"),
            Self::Argument => f.write_str("argument"),
            Self::Extra { entry, origin } => write!(f, "{origin}, extra_config.{entry}"),
            Self::Peer { key, origin } => write!(f, "{origin}, {key}"),
            Self::Implied(why) => write!(f, "implied: {why}"),
        }
    }
}

/// What was given, all sources laid over each other.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// Our keys that somebody set.
    pub(super) keys: BTreeMap<&'static str, (Value, Origin)>,
    /// `LMCache`'s map of further settings.
    pub(super) extra: Option<(Value, Origin)>,
    /// `LMCache`'s one place to store to.
    pub(super) store_location: Option<(Value, Origin)>,
    /// What has no effect here, and why.
    pub(super) warnings: Vec<String>,
}

impl Given {
    /// Lays `value` for the key `name` over what is there.
    pub(super) fn add(&mut self, name: &str, value: Value, origin: Origin) -> Result<()> {
        if let Some(key) = keys::find(name) {
            match value {
                Value::Null => self.keys.remove(key.name),
                _ => self.keys.insert(key.name, (value, origin)),
            };
        } else if name == peers::EXTRA_CONFIG {
            self.extra = (value != Value::Null).then_some((value, origin));
        } else if name == peers::STORE_LOCATION {
            self.store_location = (value != Value::Null).then_some((value, origin));
        } else if let Some(peer) = peers::find(name) {
            if value != Value::Null {
                self.warnings.push(format!("`{name}` ({origin}) is ignored: {}", peer.note));
            }
        } else {
            let remedy = suggest::remedy(name);
            let message = match origin {
                Origin::Environment(variable) => format!("unknown variable {variable}: {remedy}"),
                origin => format!("unknown key `{}` ({origin}): {remedy}", shortened(name)),
            };
            return Err(Error::new(ErrorKind::Config, message));
        }
        Ok(())
    }

    /// Lays the entries of a file over what is there.
    pub(super) fn add_file(&mut self, path: &Path, entries: Vec<(String, Value)>) -> Result<()> {
        for (name, value) in entries {
            self.add(&name, value, Origin::File(path.to_owned()))?;
        }
        Ok(())
    }

    /// Lays arguments over what is there.
    pub(super) fn add_arguments(&mut self, entries: impl Iterator<Item = (String, Value)>) -> Result<()> {
        for (name, value) in entries {
            self.add(&name, value, Origin::Argument)?;
        }
        Ok(())
    }

    /// Lays the environment over what is there: first `LMCache`'s variables, then ours.
    pub(super) fn add_environment(&mut self, variables: &BTreeMap<String, String>) -> Result<()> {
        for (variable, text) in variables {
            if let Some(name) = variable.strip_prefix("LMCACHE_") {
                self.add_theirs(variable, &name.to_lowercase(), text)?;
            }
        }
        for (variable, text) in variables {
            if let Some(name) = variable.strip_prefix("FOREBAY_")
                && !is_no_setting(variable)
            {
                // A name in lower case stays unknown, as it would be to every other program.
                let name = if name.bytes().any(|b| b.is_ascii_lowercase()) {
                    variable.clone()
                } else {
                    name.to_lowercase()
                };
                self.add(&name, text_of(text), Origin::Environment(variable.clone()))?;
            }
        }
        Ok(())
    }

    /// A variable of `LMCache`'s. Only what the two have in common is read; of the rest nothing is an error.
    fn add_theirs(&mut self, variable: &str, name: &str, text: &str) -> Result<()> {
        let origin = Origin::Environment(variable.to_owned());
        match keys::find(name) {
            Some(key) if key.shared => self.add(name, text_of(text), origin),
            Some(_) => {
                let ours = name.to_uppercase();
                self.warnings.push(format!(
                    "{variable} is ignored: `{name}` is not a key of LMCache. Set FOREBAY_{ours} instead"
                ));
                Ok(())
            }
            None if name == peers::EXTRA_CONFIG || peers::find(name).is_some() => {
                self.add(name, text_of(text), origin)
            }
            None => Ok(()),
        }
    }
}

/// The variables of `environment` that can concern us. One that is empty counts as not set.
pub(super) fn variables(environment: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    environment
        .filter(|(name, text)| {
            (name.starts_with("FOREBAY_") || name.starts_with("LMCACHE_")) && !text.trim().is_empty()
        })
        .collect()
}

/// The text of a variable, without the quotes that some tools leave around it.
fn text_of(text: &str) -> Value {
    let text = text.trim();
    let bare = ['"', '\'']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)));
    bare.unwrap_or(text).into()
}

/// Whether a `FOREBAY_` variable is no key: ours for other purposes, or what Kubernetes sets for a service whose name
/// begins with `forebay`.
fn is_no_setting(variable: &str) -> bool {
    matches!(variable, "FOREBAY_CONFIG_FILE" | "FOREBAY_LOG")
        || variable.ends_with("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || variable.ends_with("_PORT")
        || variable
            .split_once("_PORT_")
            .is_some_and(|(_, port)| port.starts_with(|c: char| c.is_ascii_digit()))
}

/// `name`, cut to what a message can carry.
fn shortened(name: &str) -> String {
    if name.chars().count() > 64 { name.chars().take(64).chain(['…']).collect() } else { name.to_owned() }
}
