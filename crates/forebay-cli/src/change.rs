//! Asks a cache that runs for a change, over HTTP.
//!
//! Promises: the token that it asks for comes from the environment, never from the command line, where others see it, and
//! is not shown.

use std::env;
use std::time::Duration;

use forebay::{Error, ErrorKind, Result};
use serde_json::Value;

use crate::http::Address;

/// The variable that has the token, which is that of the key `http_token`.
const TOKEN_VARIABLE: &str = "FOREBAY_HTTP_TOKEN";
/// A server answers before.
const PATIENCE: Duration = Duration::from_secs(40);

/// What a cache says that it has changed.
pub(crate) struct Changed {
    address: Address,
    /// As it was said.
    pub(crate) said: Value,
}

impl Changed {
    /// A number of this name.
    pub(crate) fn number(&self, name: &str) -> Result<u64> {
        self.said[name].as_u64().ok_or_else(|| {
            let message = format!("what answers at {} is no cache of Forebay (http_listen)", self.address);
            Error::new(ErrorKind::Format, message)
        })
    }
}

/// Asks a cache that runs for a change, with the token; gives what it answers.
pub(crate) fn change(address: &Address, path: &str) -> Result<Changed> {
    let token = env::var(TOKEN_VARIABLE).unwrap_or_default();
    // Anything else a server could not be told.
    if token.is_empty() || !token.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        let what = if token.is_empty() { "is not set" } else { "has more in it than plain characters" };
        let message =
            format!("{TOKEN_VARIABLE} {what}; set it to the token that the cache has as http_token");
        return Err(Error::new(ErrorKind::Argument, message));
    }
    let answer = address.post(path, &token, PATIENCE)?;
    if answer.status == 202 {
        let message = format!(
            "{address} has begun, and goes on by itself; `forebay top {address}` shows how far it is, and the cache's log what \
             came of it"
        );
        return Err(Error::new(ErrorKind::Io, message));
    }
    if answer.status != 200 {
        return Err(Error::new(ErrorKind::Argument, format!("{address} refuses: {}", answer.said())));
    }
    let said = serde_json::from_str(&answer.body).unwrap_or_default();
    Ok(Changed { address: address.clone(), said })
}
