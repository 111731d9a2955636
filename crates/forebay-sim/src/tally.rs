//! What has happened in a run: so that nobody takes a run in which nothing happens for one in which nothing went wrong.

use std::fmt;
use std::ops::AddAssign;

/// See the module's documentation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Chunks reported stored.
    pub stored: u64,
    /// Chunks evicted.
    pub evicted: u64,
    /// Chunks loaded, and compared byte for byte.
    pub loaded: u64,
    /// Loads that found a chunk damaged.
    pub damaged: u64,
    /// Chunks that ended otherwise: busy, cancelled, failed, timed out.
    pub unsuccessful: u64,
    /// Calls for files that failed.
    pub failed_calls: u64,
    /// Processes that died.
    pub deaths: u64,
    /// Of them, in the middle of a call for a file.
    pub midway: u64,
    /// Of them, with the power.
    pub power_losses: u64,
    /// Starts that read the trailers.
    pub rebuilds: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// What all steps have led to, as a number: the same for the same history.
    pub digest: u64,
}

impl Tally {
    /// Takes a number into the digest.
    pub fn note(&mut self, number: u64) {
        self.digest = (self.digest.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Names and figures, but for the digest.
    pub fn figures(&self) -> [(&'static str, u64); 11] {
        [
            ("stored", self.stored),
            ("evicted", self.evicted),
            ("loaded", self.loaded),
            ("found damaged", self.damaged),
            ("unsuccessful", self.unsuccessful),
            ("failed calls", self.failed_calls),
            ("deaths", self.deaths),
            ("in a call", self.midway),
            ("with the power", self.power_losses),
            ("rebuilds", self.rebuilds),
            ("checkpoints", self.checkpoints),
        ]
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.stored += other.stored;
        self.evicted += other.evicted;
        self.loaded += other.loaded;
        self.damaged += other.damaged;
        self.unsuccessful += other.unsuccessful;
        self.failed_calls += other.failed_calls;
        self.deaths += other.deaths;
        self.midway += other.midway;
        self.power_losses += other.power_losses;
        self.rebuilds += other.rebuilds;
        self.checkpoints += other.checkpoints;
        self.note(other.digest);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = self.figures().map(|(name, figure)| format!("{name} {figure}"));
        f.write_str(&figures.join(", "))
    }
}
