//! A data file that fails and lies, the same way for the same seed.
//!
//! What happens to a transfer follows from the seed, its direction, its offset, and how often that was asked before; so it
//! does not depend on which of several threads came first. Each offset's count is kept, so this is for tests of bounded
//! length.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use crate::catalog::BLOCK_BYTES;
use crate::sync::Mutex;
use crate::tier::dice::{Dice, mix};
use crate::tier::disk::block_file::BlockFile;

const EIO: i32 = 5;

/// How likely each mischief is, from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ChaosOdds {
    /// The transfer fails; half of the time after it was carried out.
    pub error: f64,
    /// It takes [`Self::stall_time`] longer.
    pub stall: f64,
    /// How long that is.
    pub stall_time: Duration,
    /// It stops short, after some whole blocks.
    pub short: f64,
    /// A front part is written, and reported as all of it.
    pub torn_write: f64,
    /// A read gives the bytes with a bit flipped.
    pub flipped_bit: f64,
}

/// What it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChaosStats {
    /// Transfers that failed.
    pub errors: u64,
    /// Transfers that took longer.
    pub stalls: u64,
    /// Transfers that stopped short.
    pub short: u64,
    /// Writes cut short that were reported as whole.
    pub torn_writes: u64,
    /// Reads with a bit flipped.
    pub flipped_bits: u64,
}

/// A file that fails and lies.
pub struct Chaos {
    inner: Arc<dyn BlockFile>,
    seed: u64,
    odds: Mutex<ChaosOdds>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asked: HashMap<(bool, u64), u64>,
    stats: ChaosStats,
}

/// What happens to one transfer.
struct Fate {
    dice: Dice,
    odds: ChaosOdds,
    /// So many of its bytes are transferred, and reported.
    bytes: usize,
    fails_afterwards: bool,
}

impl Chaos {
    /// Lies about `inner`, by `seed`.
    pub fn new(inner: Arc<dyn BlockFile>, seed: u64, odds: ChaosOdds) -> Self {
        Self { inner, seed, odds: Mutex::new(odds), state: Mutex::default() }
    }

    /// Other odds from now on.
    pub fn set_odds(&self, odds: ChaosOdds) {
        *self.odds.lock() = odds;
    }

    /// What it did so far.
    pub fn stats(&self) -> ChaosStats {
        self.state.lock().stats
    }

    fn count(&self, counter: impl Fn(&mut ChaosStats) -> &mut u64) {
        *counter(&mut self.state.lock().stats) += 1;
    }

    fn begin(&self, is_write: bool, offset: u64, len: usize) -> io::Result<Fate> {
        let odds = *self.odds.lock();
        let mut dice = {
            let mut state = self.state.lock();
            let times = state.asked.entry((is_write, offset)).or_insert(0);
            *times += 1;
            Dice::of(mix(mix(self.seed ^ mix(*times)) ^ mix(offset ^ u64::from(is_write))))
        };
        if dice.roll(odds.stall) {
            self.count(|stats| &mut stats.stalls);
            sleep(odds.stall_time);
        }
        let mut fails_afterwards = false;
        if dice.roll(odds.error) {
            self.count(|stats| &mut stats.errors);
            fails_afterwards = dice.roll(0.5);
            if !fails_afterwards {
                return Err(failed());
            }
        }
        let mut bytes = len;
        if len > BLOCK_BYTES && dice.roll(odds.short) {
            self.count(|stats| &mut stats.short);
            bytes = BLOCK_BYTES * (1 + dice.below(len / BLOCK_BYTES - 1));
        }
        Ok(Fate { dice, odds, bytes, fails_afterwards })
    }
}

impl BlockFile for Chaos {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let Fate { mut dice, odds, bytes, fails_afterwards } = self.begin(false, offset, buffer.len())?;
        let read = self.inner.read_at(&mut buffer[..bytes], offset)?;
        if read > 0 && dice.roll(odds.flipped_bit) {
            self.count(|stats| &mut stats.flipped_bits);
            let at = dice.below(read);
            buffer[at] ^= 1 << dice.below(8);
        }
        if fails_afterwards { Err(failed()) } else { Ok(read) }
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        let Fate { mut dice, odds, bytes, fails_afterwards } = self.begin(true, offset, buffer.len())?;
        let written = if dice.roll(odds.torn_write) {
            self.count(|stats| &mut stats.torn_writes);
            let front = BLOCK_BYTES * dice.below(bytes / BLOCK_BYTES);
            if front > 0 {
                self.inner.write_at(&buffer[..front], offset)?;
            }
            bytes
        } else {
            self.inner.write_at(&buffer[..bytes], offset)?
        };
        if fails_afterwards { Err(failed()) } else { Ok(written) }
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn is_direct(&self) -> bool {
        self.inner.is_direct()
    }
}

fn failed() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in memory.
    struct Memory(Mutex<Vec<u8>>);

    impl BlockFile for Memory {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let at = usize::try_from(offset).unwrap();
            buffer.copy_from_slice(&self.0.lock()[at..at + buffer.len()]);
            Ok(buffer.len())
        }

        fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
            let at = usize::try_from(offset).unwrap();
            self.0.lock()[at..at + buffer.len()].copy_from_slice(buffer);
            Ok(buffer.len())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }

        fn is_direct(&self) -> bool {
            true
        }
    }

    const TRANSFER: usize = 4 * BLOCK_BYTES;

    fn history(seed: u64, odds: ChaosOdds) -> (Vec<String>, ChaosStats) {
        let chaos = Chaos::new(Arc::new(Memory(Mutex::new(vec![0; 64 * TRANSFER]))), seed, odds);
        let mut told = Vec::new();
        for round in 0..3_u8 {
            for number in 0..64_u8 {
                let offset = u64::from(number) * TRANSFER as u64;
                let mut buffer = vec![number ^ round; TRANSFER];
                told.push(format!("{:?}", chaos.write_at(&buffer, offset)));
                told.push(format!("{:?}", chaos.read_at(&mut buffer, offset)));
                told.push(buffer.iter().map(|byte| u64::from(*byte)).sum::<u64>().to_string());
            }
        }
        (told, chaos.stats())
    }

    #[test]
    fn the_same_seed_does_the_same_and_another_one_another() {
        let stall_time = Duration::from_micros(1);
        let odds =
            ChaosOdds { error: 0.1, stall: 0.1, stall_time, short: 0.1, torn_write: 0.1, flipped_bit: 0.1 };
        let (once, stats) = history(1, odds);
        assert!(history(1, odds) == (once.clone(), stats));
        assert!(history(2, odds).0 != once);
        let ChaosStats { errors, stalls, short, torn_writes, flipped_bits } = stats;
        assert!(
            [errors, stalls, short, torn_writes, flipped_bits].iter().all(|count| *count > 0),
            "{stats:?}"
        );
        assert_eq!(history(3, ChaosOdds::default()).1, ChaosStats::default());
    }
}
