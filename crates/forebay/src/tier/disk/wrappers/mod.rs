//! Data files that are slow, far away or broken: for tests, and to see what a drive is worth before there is one. Each is a
//! file around a file, to be put there with [`Cache::open_with`](crate::Cache::open_with).

pub mod chaos;
pub mod delay;
pub mod throttle;
