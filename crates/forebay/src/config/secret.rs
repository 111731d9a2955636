//! What may be shown of a value that can hold a secret.
//!
//! Hiding too much is fine, showing too little of a password is not: where a URL is ambiguous, more of it is hidden.

/// What stands in the place of something hidden.
pub(super) const HIDDEN: &str = "***";

/// `url` without what may be a credential: user and password, everything after `?` or `#`.
pub(super) fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // A password may hold `/`, `?` or `#` that should have been encoded. So once there is a sign of one, everything up
    // to the last `@` goes.
    let (hidden, shown) = match rest.rsplit_once('@') {
        Some((_, host)) if scheme.is_empty() || authority.contains([':', '@']) => (true, host),
        _ => (false, rest),
    };
    let mut out = String::new();
    if !scheme.is_empty() {
        out.push_str(scheme);
        out.push_str("://");
    }
    if hidden {
        out.push_str(HIDDEN);
        out.push('@');
    }
    match shown.find(['?', '#']) {
        Some(at) => {
            out.push_str(&shown[..=at]);
            out.push_str(HIDDEN);
        }
        None => out.push_str(shown),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::without_credentials;

    #[test]
    fn credentials_are_hidden_and_the_rest_is_kept() {
        for (url, shown) in [
            ("redis://cache:6379/0", "redis://cache:6379/0"),
            ("s3://bucket/prefix@v1", "s3://bucket/prefix@v1"),
            ("redis://user:pw@cache:6379", "redis://***@cache:6379"),
            ("redis://:pw@cache", "redis://***@cache"),
            ("redis://user@cache", "redis://***@cache"),
            ("redis://:p/w@cache", "redis://***@cache"),
            ("redis://u:p@w/x@cache/1", "redis://***@cache/1"),
            ("redis://h1:1,u:pw@h2:2", "redis://***@h2:2"),
            ("s3://bucket/p?secret=pw", "s3://bucket/p?***"),
            ("s3://bucket/p#pw", "s3://bucket/p#***"),
            ("user:pw@cache", "***@cache"),
            ("", ""),
        ] {
            assert_eq!(without_credentials(url), shown, "of {url}");
        }
    }
}
