//! A remote store, as the rest of the crate sees it: named bytes that several machines share.
//!
//! [`Objects`](objects::Objects) is the seam. What answers it is a bucket or a directory ([`library`]), a Redis or
//! Valkey server ([`redis`]), or memory ([`wrappers::fake`]). [`layers`] make any of them safe to wait for, and
//! [`client::Client`] puts all of it together, on threads of its own.
//!
//! Promises: every request ends, within a bound; what it ends as is a value ([`objects::Fault`]), never a panic.
//! Assumes nothing of what comes back: a store may lie, and whoever reads checks the bytes.

pub mod client;
pub(crate) mod engine;
pub mod layers;
pub mod library;
#[cfg(models)]
pub mod models;
pub mod names;
pub mod objects;
pub mod presence;
pub mod redis;
pub mod shared_directory;
mod turns;
pub mod url;
pub mod wrappers;
