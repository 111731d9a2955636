//! What a Forebay cache does, seen over HTTP: metrics for Prometheus, health, and a page to look at.
//!
//! Promises: whoever asks sees one moment's figures, counted the same way on each path; nothing that is asked changes anything,
//! but that who says the token may clear the cache, pin chunks, and make the disk larger or smaller; a client that is slow,
//! or sends anything at all, costs nobody but itself, and the cache nothing.
//!
//! Assumes that whoever is asked for [`Figures`] answers at once, and that a server is ended before what it shows.
//!
//! [`figures`] is what is seen, [`health`] what it means, [`metrics`] and [`now`] are its two forms, [`server`] says
//! them.

pub mod figures;
pub mod health;
pub mod metrics;
pub mod now;
pub mod server;

pub use figures::{Figures, Watched, Worker};
pub use server::Server;

/// What `docs/RUST.md` shows is compiled. Here, since it shows this crate too.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/RUST.md")]
struct Shown;
