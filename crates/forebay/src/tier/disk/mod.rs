//! The disk tier: a directory for each drive, one owner, data files addressed by extents.
//!
//! * [`directory`] opens a cache's directories: which of them is which drive (`members`), each with its [`lock`], its
//!   format ([`format_file`]) and its space (`capacity`), of which there may be more or less later (`resize`).
//! * [`journal`] keeps what is committed, in files of a [`home`]; [`recovery`] reads it back, or rebuilds it from the
//!   trailers; [`stock`] makes a catalog of that. [`upkeep`] does so where nobody uses the cache, to put it in order.
//! * [`trailer`] proves each chunk; [`block_file`] is a data file, [`data_files`] are those of all drives; [`engine`]
//!   moves chunks, by [`uring`] or by [`threads`], both in the order of `schedule`, or [`stepped`] by a
//!   simulator.
//! * [`wrappers`] are data files that are slow, far away or broken, for tests.
//!
//! `docs/FORMAT.md` draws every byte of it.

pub mod block_file;
mod capacity;
pub mod data_files;
pub mod directory;
pub mod engine;
pub mod format_file;
pub mod home;
pub mod journal;
pub mod lock;
mod members;
pub mod namespaces;
pub mod recovery;
pub(crate) mod resize;
mod schedule;
pub mod stepped;
pub mod stock;
pub mod threads;
pub mod trailer;
pub mod upkeep;
pub mod uring;
pub mod wrappers;
