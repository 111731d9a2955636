//! Tiers: the places where chunks live: the local disk, and a remote store behind it.

pub mod disk;
pub mod remote;
