//! The one error type of this crate.
//!
//! An [`Error`] says what was being done, to what, and what to change. Its [`ErrorKind`] can be matched, and
//! [`Error::can_retry`] tells whether the same call may succeed later without anybody changing anything.
//! Outcomes of single chunks (a miss, a refusal) are not errors: they are values of their own types.

use std::fmt;
use std::io;

/// What went wrong, for a program to match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration cannot be used; the message names the key and the remedy.
    Config,
    /// An argument of a call cannot be used (a chunk larger than `chunk_bytes`, a key of the wrong length).
    Argument,
    /// Another process owns the directory.
    Locked,
    /// The directory holds a format that this version does not read.
    Format,
    /// The operating system refused something.
    Io,
    /// There is no room: memory, disk space or the stated limits.
    NoSpace,
    /// The cache was closed.
    Closed,
}

impl ErrorKind {
    /// A stable short name, the same in every language this is called from.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Argument => "argument",
            Self::Locked => "locked",
            Self::Format => "format",
            Self::Io => "io",
            Self::NoSpace => "no_space",
            Self::Closed => "closed",
        }
    }
}

/// An error of this crate.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<io::Error>,
}

/// What calls of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; `message` says what was being done and what to change.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An operating system's refusal of what `doing` describes (for example "writing /kv/journal.3").
    pub fn io(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Self { kind, message: doing.into(), source: Some(source) }
    }

    /// What went wrong, for a program to match on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later though nobody changed anything.
    pub fn can_retry(&self) -> bool {
        match self.kind {
            ErrorKind::Locked | ErrorKind::NoSpace => true,
            ErrorKind::Io => self.source.as_ref().is_some_and(|e| {
                matches!(
                    e.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                )
            }),
            ErrorKind::Config | ErrorKind::Argument | ErrorKind::Format | ErrorKind::Closed => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: {source}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}
