//! Tiers: the places where chunks live. There is one so far, the local disk.

pub mod disk;
