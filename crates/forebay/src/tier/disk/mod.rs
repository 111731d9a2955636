//! The disk tier: one directory, one owner, one data file addressed by extents.
//!
//! * [`directory`] opens a directory, with its [`lock`], its format ([`format_file`]) and its space (`capacity`).
//! * [`journal`] keeps what is committed; [`recovery`] reads it back, or rebuilds it from the headers.
//! * [`header`] proves each chunk; [`block_file`] is the data file; [`engine`] moves chunks, by [`uring`] or
//!   by [`threads`], both in the order of `schedule`.
//!
//! `docs/FORMAT.md` draws every byte of it.

pub mod block_file;
mod capacity;
pub mod directory;
pub mod engine;
pub mod format_file;
pub mod header;
pub mod journal;
pub mod lock;
pub mod namespaces;
pub mod recovery;
mod schedule;
pub mod threads;
pub mod uring;
