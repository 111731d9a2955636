//! What a remote store is asked for, and how a request can fail.
//!
//! Promises: a [`Fault`] holds no credentials. Assumes: names are made of `[0-9a-z/._-]`, without `.` and `..` as
//! parts; an object is of a few MiB at most.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

/// What a request gives, some time later. Dropped, the request is given up, and writes nowhere afterwards.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 'a>>;

/// A store of named bytes. An object is a part of a chunk (at most a few MiB).
pub trait Objects: Send + Sync {
    /// Puts an object, whole or not at all, in place of what had the name. `bytes` may be a slot of the staging buffer:
    /// whoever keeps them copies them.
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()>;

    /// Fills `into` with the object, which must be exactly as long: [`Fault::OtherLength`] otherwise.
    /// [`Fault::NotThere`] if there is none. After a fault `into` may hold anything.
    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()>;

    /// Whether there is an object of that name.
    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool>;

    /// Removes an object; no error if there is none.
    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()>;
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// There is no object of that name.
    NotThere,
    /// The object is of another length, this one.
    OtherLength(u64),
    /// There was no answer in time.
    TimedOut,
    /// The store failed too often of late and was not asked.
    LeftAlone,
    /// It has no room for what was put, for the moment.
    NoRoom,
    /// Refused for good (credentials, permission, a bad request): retrying is of no use.
    Refused(String),
    /// May succeed when tried again.
    Unavailable(String),
}

impl Fault {
    /// A stable short name.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotThere => "not_there",
            Self::OtherLength(_) => "other_length",
            Self::TimedOut => "timed_out",
            Self::LeftAlone => "left_alone",
            Self::NoRoom => "no_room",
            Self::Refused(_) => "refused",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// Whether the same request may succeed a moment later.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Unavailable(_))
    }

    /// Whether it says that something is wrong with the store, and not merely what is in it, or how much.
    pub const fn is_failure(&self) -> bool {
        !matches!(self, Self::NotThere | Self::OtherLength(_) | Self::NoRoom)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThere => f.write_str("the remote store has no such object"),
            Self::OtherLength(bytes) => {
                write!(f, "the remote store's object is of another length: {bytes} bytes")
            }
            Self::TimedOut => f.write_str("the remote store did not answer in time"),
            Self::LeftAlone => f.write_str("the remote store failed too often of late and was not asked"),
            Self::NoRoom => f.write_str("the remote store has no room before it is trimmed"),
            Self::Refused(why) => write!(f, "the remote store refused: {why}"),
            Self::Unavailable(why) => write!(f, "the remote store is not available: {why}"),
        }
    }
}

impl std::error::Error for Fault {}

/// What others said went wrong, on one line and not longer than a line: a broken server may answer with anything.
pub(super) fn one_line(text: &str) -> String {
    const MOST: usize = 240;
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST + 1).collect();
    if line.chars().count() > MOST {
        line.pop();
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_a_failure_and_what_is_merely_missing_is_not() {
        let all = [
            (Fault::NotThere, "not_there", false, false),
            (Fault::OtherLength(3), "other_length", false, false),
            (Fault::TimedOut, "timed_out", true, true),
            (Fault::LeftAlone, "left_alone", false, true),
            (Fault::NoRoom, "no_room", false, false),
            (Fault::Refused("no".to_owned()), "refused", false, true),
            (Fault::Unavailable("gone".to_owned()), "unavailable", true, true),
        ];
        for (fault, code, may_pass, is_failure) in all {
            assert_eq!((fault.code(), fault.may_pass(), fault.is_failure()), (code, may_pass, is_failure));
        }
    }

    #[test]
    fn a_long_and_broken_text_becomes_one_short_line() {
        assert_eq!(one_line("a\r\nb\u{7}"), "a  b ");
        assert_eq!(one_line(&"ä".repeat(1000)).chars().count(), 241);
        assert_eq!(one_line(&"x".repeat(240)), "x".repeat(240));
    }
}
