//! Tiers: the places where chunks live: memory, the local disk, and a remote store behind them.

pub(crate) mod dice;
pub mod disk;
pub(crate) mod memory;
pub mod remote;
