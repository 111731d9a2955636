//! Which stores a `remote_url` may name.

use std::path::Path;

use super::suggest;

/// Schemes of stores that are spoken.
pub(super) const SPOKEN: [&str; 6] = ["s3", "redis", "rediss", "valkey", "valkeys", "file"];

/// [`SPOKEN`], as a message shows them.
pub(super) const SPOKEN_TEXT: &str = "s3, redis, rediss, valkey, valkeys or file";

/// Schemes of `LMCache` that are not spoken, and what to write instead where there is such a thing.
const THEIRS: [(&str, Option<&str>); 16] = [
    ("lm", None),
    ("fs", Some("file:// and the path is the same store")),
    ("redis-sentinel", Some("sentinels are not asked; name the server itself as redis://host:6379")),
    ("unix", Some("sockets are not spoken; name the server as redis://host:6379")),
    ("mooncakestore", None),
    ("infinistore", None),
    ("hf3fs", Some("where it is mounted, file:// and the path will do")),
    ("eic", None),
    ("sagemaker-hyperpod", None),
    ("azure", None),
    ("gs", None),
    ("audit", None),
    ("blackhole", None),
    ("external", None),
    ("plugin", None),
    ("mock", None),
];

/// The path that a `file://` URL names.
pub(super) fn file_path(url: &str) -> Option<&Path> {
    url.strip_prefix("file://").map(Path::new)
}

/// `url`, of which the caller knows that it is `scheme://rest`, with its scheme in lower case; or why it names no store
/// that is spoken.
pub(super) fn checked(url: &str) -> Result<String, String> {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let scheme = scheme.to_ascii_lowercase();
    if !SPOKEN.contains(&scheme.as_str()) {
        return Err(why_not(&scheme));
    }
    if scheme == "file" {
        if !rest.starts_with('/') {
            return Err("after file:// comes an absolute path, so three slashes".into());
        }
        if rest.trim_matches('/').is_empty() {
            return Err("the path names no directory of its own".into());
        }
    } else if rest.starts_with(['/', '?', '#']) {
        let what = if scheme == "s3" { "bucket" } else { "host" };
        return Err(format!("after {scheme}:// comes the {what}, and there is none"));
    }
    Ok(format!("{scheme}://{rest}"))
}

/// Why a store with another scheme cannot be used.
fn why_not(scheme: &str) -> String {
    if let Some((_, instead)) = THEIRS.iter().find(|(theirs, _)| *theirs == scheme) {
        let instead = instead.map_or(String::new(), |instead| format!("; {instead}"));
        return format!(
            "{scheme}:// is spoken by LMCache and not by Forebay, which speaks {SPOKEN_TEXT}{instead}"
        );
    }
    match suggest::nearest(scheme, SPOKEN.into_iter()) {
        Some((_, near)) => format!("no such store; did you mean {near}://? Forebay speaks {SPOKEN_TEXT}"),
        None => format!("no such store; Forebay speaks {SPOKEN_TEXT}"),
    }
}
