//! Where the remote store is: what `remote_url` says.
//!
//! ```text
//! s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=us-east-1
//! redis://[user:password@]host:6379/0     rediss:// with TLS; valkey:// and valkeys:// are the same
//! redis://host1:6379,host2:6379           a cluster, as is ?cluster=true
//! file:///shared/mount
//! ```
//!
//! Promises: a password of the URL is in no error, no `Debug` and no `Display`; what is shown of a place is scheme,
//! host and path. A bucket's credentials are never taken from the URL, but from where AWS's own tools find them.

use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};

/// A place where a remote store is.
#[derive(Clone, PartialEq, Eq)]
pub enum Place {
    /// A bucket of S3, or of what speaks like it.
    Bucket(Bucket),
    /// A server, or a cluster, of Redis or Valkey.
    Server(Server),
    /// A directory that several machines have mounted.
    Directory(PathBuf),
}

/// A bucket, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The bucket's name.
    pub name: String,
    /// What stands before every name; empty, or without `/` at its ends.
    pub prefix: String,
    /// The server, if it is not to be found the way AWS's tools find it.
    pub endpoint: Option<String>,
    /// The region, if it is not to be found so either.
    pub region: Option<String>,
}

/// A server, or a cluster, of Redis or Valkey.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// Whether to speak TLS.
    pub tls: bool,
    /// Host and port of each server named.
    pub hosts: Vec<(String, u16)>,
    /// Whether they are a cluster.
    pub cluster: bool,
    /// The user to log in as.
    pub user: Option<String>,
    /// The password to log in with.
    pub password: Option<String>,
    /// Which of the server's databases.
    pub database: i64,
}

const DEFAULT_PORT: u16 = 6379;

impl Place {
    /// Reads `remote_url`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], saying what is wrong and what to write. The URL is not quoted: it may hold a password.
    pub fn parse(url: &str) -> Result<Self> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(wrong("it has no scheme", SCHEMES));
        };
        if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(wrong(
                "it has a space or a control character in it",
                "Write it percent-encoded (%20).",
            ));
        }
        if rest.contains('#') {
            return Err(wrong("it has a `#` in it", "Write it percent-encoded (%23)."));
        }
        let (before, query) =
            rest.split_once('?').map_or((rest, None), |(before, query)| (before, Some(query)));
        let (authority, path) = before.split_once('/').map_or((before, None), |(a, path)| (a, Some(path)));
        if rest.matches('@').count() > usize::from(authority.contains('@')) {
            return Err(wrong(
                "it has an `@` that belongs to no user",
                "Write `@`, `/`, `?` and `:` of a password percent-encoded (%40, %2F, %3F, %3A).",
            ));
        }
        let parts = Parts { authority, path, query };
        match scheme {
            "s3" => bucket(&parts).map(Self::Bucket),
            "redis" | "valkey" => server(&parts, false).map(Self::Server),
            "rediss" | "valkeys" => server(&parts, true).map(Self::Server),
            "file" => directory(&parts).map(Self::Directory),
            _ => Err(wrong("its scheme is none of those known", SCHEMES)),
        }
    }
}

struct Parts<'a> {
    authority: &'a str,
    path: Option<&'a str>,
    query: Option<&'a str>,
}

const SCHEMES: &str = "Begin it with s3://, redis://, rediss://, valkey://, valkeys:// or file:///.";

fn wrong(what: &str, what_to_do: &str) -> Error {
    Error::new(ErrorKind::Config, format!("`remote_url` cannot be used: {what}. {what_to_do}"))
}

fn bucket(parts: &Parts<'_>) -> Result<Bucket> {
    let name = parts.authority;
    if name.contains('@') {
        return Err(wrong("it has credentials in it", CREDENTIALS));
    }
    if name.len() < 3
        || name.len() > 63
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    {
        return Err(wrong("what follows s3:// is not a bucket's name", "Write s3://BUCKET/PREFIX."));
    }
    let path = parts.path.unwrap_or_default();
    let prefix = path.strip_suffix('/').unwrap_or(path);
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._=-".contains(c))
    };
    if !prefix.is_empty() && !prefix.split('/').all(plain) {
        return Err(wrong(
            "the prefix in the bucket is not a plain one",
            "Use letters, digits, `.`, `_`, `=` and `-`, separated by single `/`.",
        ));
    }
    let mut bucket =
        Bucket { name: name.to_owned(), prefix: prefix.to_owned(), endpoint: None, region: None };
    for (key, value) in parameters(parts.query)? {
        match key.as_str() {
            "endpoint" => bucket.endpoint = Some(endpoint(&value)?),
            "region" => bucket.region = Some(region(value)?),
            _ if ["key", "secret", "token", "password", "credential"]
                .iter()
                .any(|part| key.contains(part)) =>
            {
                return Err(wrong("it has credentials in it", CREDENTIALS));
            }
            _ => {
                return Err(wrong(
                    "it has an unknown parameter",
                    "For s3:// there are `endpoint` and `region`.",
                ));
            }
        }
    }
    Ok(bucket)
}

const CREDENTIALS: &str =
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or have a profile in ~/.aws.";

fn region(value: String) -> Result<String> {
    if value.is_empty() || !value.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(wrong("`region` is not a region's name", "Write one like `region=us-east-1`."));
    }
    Ok(value)
}

fn endpoint(value: &str) -> Result<String> {
    let remedy = "Write one like `endpoint=http://127.0.0.1:9000`.";
    let rest = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
    let Some(host) = rest.map(|rest| rest.trim_end_matches('/')) else {
        return Err(wrong("`endpoint` begins with neither http:// nor https://", remedy));
    };
    if host_and_port(host, 443).is_none() {
        return Err(wrong("`endpoint` is not a host with a port", remedy));
    }
    Ok(value.trim_end_matches('/').to_owned())
}

fn server(parts: &Parts<'_>, tls: bool) -> Result<Server> {
    let (login, hosts) =
        parts.authority.rsplit_once('@').map_or((None, parts.authority), |(l, h)| (Some(l), h));
    let mut server =
        Server { tls, hosts: Vec::new(), cluster: false, user: None, password: None, database: 0 };
    if let Some(login) = login {
        let remedy = "Write `user:password@`, `:password@` or `user@`, percent-encoded.";
        let (user, password) = login.split_once(':').map_or((login, None), |(user, p)| (user, Some(p)));
        let decoded =
            |text: &str| decode(text).ok_or_else(|| wrong("user or password are not well encoded", remedy));
        server.user = Some(decoded(user)?).filter(|user| !user.is_empty());
        server.password = password.map(decoded).transpose()?.filter(|password| !password.is_empty());
        if server.user.is_some() && server.password.is_none() {
            return Err(wrong("it has a user without a password", "Write `user:password@`."));
        }
    }
    for host in hosts.split(',') {
        let host = host_and_port(host, DEFAULT_PORT).ok_or_else(|| {
            wrong("a host in it is none", "Write redis://HOST:PORT, or several hosts, with commas.")
        })?;
        server.hosts.push(host);
    }
    server.cluster = server.hosts.len() > 1;
    let database = parts.path.unwrap_or_default().trim_end_matches('/');
    if !database.is_empty() {
        let number: Option<u16> = Some(database)
            .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|text| text.parse().ok());
        server.database = i64::from(
            number
                .ok_or_else(|| wrong("the database in it is not a number", "Write redis://HOST:PORT/0."))?,
        );
    }
    for (key, value) in parameters(parts.query)? {
        match (key.as_str(), value.as_str()) {
            ("cluster", "true") => server.cluster = true,
            ("cluster", "false") if server.hosts.len() == 1 => server.cluster = false,
            ("cluster", "false") => {
                return Err(wrong("it names several hosts that are no cluster", "Name one host."));
            }
            ("cluster", _) => {
                return Err(wrong("`cluster` is neither true nor false", "Write `cluster=true`."));
            }
            _ => return Err(wrong("it has an unknown parameter", "For redis:// there is `cluster`.")),
        }
    }
    if server.cluster && server.database != 0 {
        return Err(wrong(
            "it names a database of a cluster",
            "A cluster has one only: leave the number out.",
        ));
    }
    Ok(server)
}

fn directory(parts: &Parts<'_>) -> Result<PathBuf> {
    let remedy = "Write file:///PATH, with the absolute path of a directory.";
    if !matches!(parts.authority, "" | "localhost") {
        return Err(wrong("it names a host", remedy));
    }
    if parts.query.is_some() {
        return Err(wrong("it has parameters", remedy));
    }
    let path = decode(parts.path.unwrap_or_default())
        .ok_or_else(|| wrong("its path is not well encoded", remedy))?;
    let path = path.trim_matches('/');
    if path.is_empty() || path.contains('\0') {
        return Err(wrong("it names no directory", remedy));
    }
    if path.split('/').any(|part| part == ".." || part == ".") {
        return Err(wrong("its path has `.` or `..` in it", remedy));
    }
    Ok(PathBuf::from(format!("/{path}")))
}

/// Host and port of `text`; the host of an address of version 6 keeps its brackets off.
fn host_and_port(text: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest.split_once(']')?;
        address.parse::<std::net::Ipv6Addr>().ok()?;
        (address, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
    } else {
        text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
    if host.is_empty() || host.len() > 253 || !host.chars().all(plain) {
        return None;
    }
    let port = match port {
        None => default_port,
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            port.parse().ok().filter(|port| *port != 0)?
        }
        Some(_) => return None,
    };
    Some((host.to_owned(), port))
}

fn parameters(query: Option<&str>) -> Result<Vec<(String, String)>> {
    let remedy = "Write `?name=value&name=value`.";
    let mut found: Vec<(String, String)> = Vec::new();
    for parameter in query.unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty()) {
        let pair = parameter.split_once('=').and_then(|(key, value)| Some((decode(key)?, decode(value)?)));
        let (key, value) = pair.ok_or_else(|| wrong("a parameter in it is not well written", remedy))?;
        if found.iter().any(|(other, _)| *other == key) {
            return Err(wrong("it has a parameter twice", remedy));
        }
        found.push((key, value));
    }
    Ok(found)
}

/// `text` without its percent-encoding; `None` if that is broken.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// What may be shown: scheme, host and path.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket(bucket) => {
                write!(f, "s3://{}", bucket.name)?;
                if !bucket.prefix.is_empty() {
                    write!(f, "/{}", bucket.prefix)?;
                }
                bucket.endpoint.as_ref().map_or(Ok(()), |endpoint| write!(f, " at {endpoint}"))
            }
            Self::Server(server) => server.fmt(f),
            Self::Directory(path) => write!(f, "file://{}", path.display()),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({self})")
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "rediss://" } else { "redis://" })?;
        for (index, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if host.contains(':') {
                write!(f, "{comma}[{host}]:{port}")?;
            } else {
                write!(f, "{comma}{host}:{port}")?;
            }
        }
        if self.cluster { f.write_str(" (cluster)") } else { write!(f, "/{}", self.database) }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_are_read_and_shown_without_what_is_secret() {
        for (url, shown) in [
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/a/b=1/", "s3://bucket/a/b=1"),
            (
                "s3://bucket/p?endpoint=http://127.0.0.1:9000&region=us-east-1",
                "s3://bucket/p at http://127.0.0.1:9000",
            ),
            ("s3://bucket?endpoint=https%3A%2F%2Fstore.example%2F", "s3://bucket at https://store.example"),
            ("redis://cache", "redis://cache:6379/0"),
            ("redis://cache:7000/3", "redis://cache:7000/3"),
            ("redis://:pw@cache:6379/0", "redis://cache:6379/0"),
            ("valkey://u:p%40w@cache", "redis://cache:6379/0"),
            ("valkeys://cache", "rediss://cache:6379/0"),
            ("rediss://[::1]:7000", "rediss://[::1]:7000/0"),
            ("redis://a:1,b:2,c", "redis://a:1,b:2,c:6379 (cluster)"),
            ("redis://u:pw@a:1,b:2", "redis://a:1,b:2 (cluster)"),
            ("redis://a?cluster=true", "redis://a:6379 (cluster)"),
            ("redis://a?cluster=false", "redis://a:6379/0"),
            ("file:///shared/mount/", "file:///shared/mount"),
            ("file://localhost/shared%20mount", "file:///shared mount"),
        ] {
            let place = Place::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(place.to_string(), shown, "of {url}");
        }
        let Ok(Place::Server(server)) = Place::parse("redis://us%2Fer:p%40%3Aw@cache") else {
            panic!("a server")
        };
        assert_eq!((server.user.as_deref(), server.password.as_deref()), (Some("us/er"), Some("p@:w")));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_a_remedy_and_without_a_quotation() {
        for url in [
            "",
            "bucket",
            "s3:/bucket",
            "S3://bucket",
            "http://bucket",
            "ftp://sesame@bucket",
            "s3://",
            "s3://ab",
            "s3://bu cket",
            "s3://sesame:sesame@bucket",
            "s3://bucket/../x",
            "s3://bucket//x",
            "s3://bucket/x//",
            "s3://bucket/a b",
            "s3://bucket/a%20b",
            "s3://bucket#x",
            "s3://bucket?access_key_id=sesame",
            "s3://bucket?secret_access_key=sesame",
            "s3://bucket?session_token=sesame",
            "s3://bucket?sesame=1",
            "s3://bucket?region",
            "s3://bucket?region=",
            "s3://bucket?region=a&region=b",
            "s3://bucket?region=%zz",
            "s3://bucket?endpoint=",
            "s3://bucket?endpoint=127.0.0.1:9000",
            "s3://bucket?endpoint=http://",
            "s3://bucket?endpoint=http://u:sesame@host",
            "s3://bucket?endpoint=http://host/path",
            "s3://bucket?endpoint=http://host:0",
            "redis://",
            "redis://:6379",
            "redis://host:",
            "redis://host:port",
            "redis://host:70000",
            "redis://host:+1",
            "redis://host/x",
            "redis://host/-1",
            "redis://host/99999",
            "redis://host/0/1",
            "redis://a,,b",
            "redis://a,b/1",
            "redis://a,b?cluster=false",
            "redis://a?cluster=yes",
            "redis://a?password=sesame",
            "redis://user@host",
            "redis://:ses/ame@host",
            "redis://:ses?ame@host",
            "redis://:ses#ame@host",
            "redis://:ses@ame@host",
            "redis://:sesame%2@host",
            "redis://:%ff@host",
            "redis://[::1",
            "redis://[::g]",
            "redis://[::1]x",
            "file://",
            "file:///",
            "file://host/path",
            "file:///a/../b",
            "file:///a/./b",
            "file:///a?x=1",
            "file:///a%00b",
            "file:///a%",
        ] {
            let error = Place::parse(url).expect_err(url);
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(
                text.starts_with("`remote_url` cannot be used: ") && text.ends_with('.'),
                "{url}: {text}"
            );
            assert!(!text.contains("sesame") && !text.contains("ses"), "{url}: {text}");
        }
    }

    fn all_that_is_shown(url: &str) -> String {
        match Place::parse(url) {
            Ok(place) => format!("{place} {place:?} {place:#?}"),
            Err(error) => format!("{error} {error:?}"),
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(url in "\\PC*", scheme in "(s3|redis|rediss|valkey|file)://") {
            let _ = all_that_is_shown(&url);
            let _ = all_that_is_shown(&format!("{scheme}{url}"));
        }

        #[test]
        fn a_secret_is_never_shown(
            secret in "[A-Z]{6}[/?#@:%=,]?[A-Z]{6}",
            scheme in "(s3|redis|rediss|valkeys|file|http)",
            before in "(user)?:",
            after in "@(host|host:1|a:1,b:2|\\[::1\\])?(/0|/x)?(\\?cluster=true)?",
            parameter in "(password|token|secret_access_key|cluster|x)",
        ) {
            for url in [
                format!("{scheme}://{before}{secret}{after}"),
                format!("{scheme}://host?{parameter}={secret}"),
            ] {
                let shown = all_that_is_shown(&url);
                prop_assert!(!shown.contains(&secret[..6]) && !shown.contains(&secret[secret.len() - 6..]), "{shown}");
            }
        }
    }
}
