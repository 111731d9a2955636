//! Stores that are slow, far away, broken or made of memory: for tests, and to see what a tier is worth before there
//! is one. Each is a store over a store, but for the last. None is in the way of a configured store.

pub mod chaos;
pub mod delay;
pub mod fake;
pub mod throttle;
