//! Everything that forebay reads from outside, each as a function that takes any bytes and panics if a promise is broken.
//!
//! Two things call them: `fuzz/`, where libFuzzer looks for bytes that reach new code (`make fuzz`), and the test
//! `short`, which runs in CI: the kept corpus, and some mutations of it.
//!
//! Most of what forebay reads carries checksums, which no mutation would ever meet. So a target *seals* what it is given
//! first: what is tried is what stands behind the checksum.

mod config;
mod directory;
mod keys;
mod objects;
mod records;

use std::hash::Hasher;

use twox_hash::XxHash3_64;

/// What is fed.
pub struct Target {
    /// Its name, which its corpus has too.
    pub name: &'static str,
    /// Panics if something does not hold.
    pub feed: fn(&[u8]),
    /// Inputs that are sound.
    pub sound: fn() -> Vec<Vec<u8>>,
    /// How many of its inputs a test can afford, in thousands.
    pub thousands: u32,
}

/// All of them.
pub const TARGETS: [Target; 9] = [
    Target { name: "entry", feed: records::entry, sound: records::sound_entries, thousands: 100 },
    Target { name: "trailer", feed: records::trailer, sound: records::sound_trailers, thousands: 20 },
    Target { name: "plan", feed: records::plan, sound: records::sound_plans, thousands: 100 },
    Target { name: "journal", feed: directory::journal, sound: directory::sound_journals, thousands: 1 },
    Target { name: "format", feed: directory::format, sound: directory::sound_formats, thousands: 2 },
    Target { name: "config", feed: config::file, sound: config::sound_files, thousands: 5 },
    Target { name: "url", feed: config::url, sound: config::sound_urls, thousands: 50 },
    Target { name: "keys", feed: keys::namespaces, sound: keys::sound_namespaces, thousands: 20 },
    Target { name: "object", feed: objects::object, sound: objects::sound_objects, thousands: 1 },
];

/// The target of this name.
///
/// # Panics
/// If there is none.
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a target's name")
}

/// Puts the sum of all that is before it into the last eight bytes.
fn seal(bytes: &mut [u8]) {
    if let Some(at) = bytes.len().checked_sub(8) {
        let mut hasher = XxHash3_64::new();
        hasher.write(&bytes[..at]);
        bytes[at..].copy_from_slice(&hasher.finish().to_le_bytes());
    }
}

/// These bytes, cut off or filled up with zeros.
fn fit<const LEN: usize>(bytes: &[u8]) -> [u8; LEN] {
    let mut out = [0; LEN];
    let len = bytes.len().min(LEN);
    out[..len].copy_from_slice(&bytes[..len]);
    out
}
