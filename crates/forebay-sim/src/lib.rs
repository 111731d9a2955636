//! A simulator that breaks everything around Forebay's state machines, and looks whether they keep their promises.
//!
//! One thread, one seed, the same every time. What runs is the real thing: control plane, catalog and eviction, journal,
//! checkpoint and recovery, trailers and checksums, the mover's way of a chunk through the staging buffer, the order at
//! the device. What is simulated is what they stand on: `sectors` that lose what was not synced, a `home` whose calls
//! fail, a `device` that stops short and lies, an `engine` that dies, and a `process` whose threads' turns are
//! taken for them. [`op`] draws what happens, `world` does it, `model` says what must be true after every step, and
//! [`shrink`] makes a history that fails short.
//!
//! `docs/SIMULATION.md` says what is simulated, what is not, and which mistakes it has been seen to find.

mod device;
mod engine;
mod home;
mod machine;
mod model;
pub mod op;
mod process;
mod recover;
mod requests;
pub mod run;
mod sectors;
pub mod setup;
pub mod shrink;
pub mod tally;
mod trouble;
mod world;
