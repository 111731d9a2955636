//! A store that fails and lies, the same way for the same seed.
//!
//! What happens to a request follows from the seed, the kind of request, the name, and how often that was asked
//! before; so it does not depend on which of several threads came first. Each object's count is kept, so this is for
//! tests of bounded length.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::sync::Mutex;
use crate::tier::dice::{Dice, mix};
use crate::tier::remote::objects::{Answer, Fault, Objects};

/// How likely each mischief is, from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ChaosOdds {
    /// The request fails with [`Fault::Unavailable`]; half of the time after it was carried out.
    pub error: f64,
    /// The request never ends.
    pub stall: f64,
    /// A front part of the object is stored, and reported as stored.
    pub torn_put: f64,
    /// A read gives the object with a bit flipped.
    pub flipped_bit: f64,
    /// A read gives the bytes of another object of that length, when one is known.
    pub other_object: f64,
    /// A read says that the object is of another length.
    pub wrong_length: f64,
    /// An object is said to be there, whether it is or not.
    pub false_there: f64,
    /// An object is said not to be there, whether it is or not; by reads too.
    pub false_not_there: f64,
}

/// What it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChaosStats {
    /// Requests that failed.
    pub errors: u64,
    /// Requests that never end.
    pub stalls: u64,
    /// Objects cut short.
    pub torn_puts: u64,
    /// Reads with a bit flipped.
    pub flipped_bits: u64,
    /// Reads that gave another object.
    pub other_objects: u64,
    /// Reads that told a wrong length.
    pub wrong_lengths: u64,
    /// Objects falsely said to be there.
    pub false_there: u64,
    /// Objects falsely said not to be there.
    pub false_not_there: u64,
}

/// A store that fails and lies.
pub struct Chaos {
    inner: Arc<dyn Objects>,
    seed: u64,
    odds: Mutex<ChaosOdds>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asked: HashMap<(Kind, String), u64>,
    /// Some names that were put, with their lengths.
    known: Vec<(String, usize)>,
    stats: ChaosStats,
}

const KNOWN_MOST: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Put,
    Get,
    Has,
    Remove,
}

impl Chaos {
    /// Lies about `inner`, by `seed`.
    pub fn new(inner: Arc<dyn Objects>, seed: u64, odds: ChaosOdds) -> Self {
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

    fn dice(&self, kind: Kind, name: &str) -> (Dice, ChaosOdds) {
        let mut state = self.state.lock();
        let times = state.asked.entry((kind, name.to_owned())).or_insert(0);
        *times += 1;
        let mut mixed = mix(self.seed ^ mix(*times)) ^ kind as u64;
        for byte in name.bytes() {
            mixed = mix(mixed ^ u64::from(byte));
        }
        (Dice::of(mixed), *self.odds.lock())
    }

    fn count(&self, counter: impl Fn(&mut ChaosStats) -> &mut u64) {
        *counter(&mut self.state.lock().stats) += 1;
    }

    /// What may happen to any request before it is carried out; gives whether it fails afterwards.
    async fn before(&self, dice: &mut Dice, odds: &ChaosOdds) -> Result<bool, Fault> {
        if dice.roll(odds.stall) {
            self.count(|stats| &mut stats.stalls);
            std::future::pending::<()>().await;
        }
        if dice.roll(odds.error) {
            self.count(|stats| &mut stats.errors);
            if dice.roll(0.5) {
                return Err(failed());
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn other_than(&self, name: &str, len: usize, dice: &mut Dice) -> Option<String> {
        let state = self.state.lock();
        let others: Vec<&String> =
            state.known.iter().filter(|(n, l)| n != name && *l == len).map(|(n, _)| n).collect();
        (!others.is_empty()).then(|| others[dice.below(others.len())].clone())
    }
}

fn failed() -> Fault {
    Fault::Unavailable("chaos".to_owned())
}

fn fail_if<T>(fails: bool, end: T) -> Result<T, Fault> {
    if fails { Err(failed()) } else { Ok(end) }
}

impl Objects for Chaos {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            let (mut dice, odds) = self.dice(Kind::Put, name);
            let fails = self.before(&mut dice, &odds).await?;
            let mut bytes = bytes;
            if !bytes.is_empty() && dice.roll(odds.torn_put) {
                self.count(|stats| &mut stats.torn_puts);
                bytes.truncate(dice.below(bytes.len()));
            }
            let len = bytes.len();
            self.inner.put(name, bytes).await?;
            let known = &mut self.state.lock().known;
            if known.len() < KNOWN_MOST && !known.iter().any(|(n, _)| n == name) {
                known.push((name.to_owned(), len));
            }
            fail_if(fails, ())
        })
    }

    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()> {
        Box::pin(async move {
            let (mut dice, odds) = self.dice(Kind::Get, name);
            let fails = self.before(&mut dice, &odds).await?;
            if dice.roll(odds.false_not_there) {
                self.count(|stats| &mut stats.false_not_there);
                return Err(Fault::NotThere);
            }
            if dice.roll(odds.wrong_length) {
                self.count(|stats| &mut stats.wrong_lengths);
                return Err(Fault::OtherLength(into.len() as u64 + 1));
            }
            if dice.roll(odds.other_object)
                && let Some(other) = self.other_than(name, into.len(), &mut dice)
                && self.inner.get(&other, &mut *into).await.is_ok()
            {
                self.count(|stats| &mut stats.other_objects);
                return fail_if(fails, ());
            }
            self.inner.get(name, &mut *into).await?;
            if !into.is_empty() && dice.roll(odds.flipped_bit) {
                self.count(|stats| &mut stats.flipped_bits);
                let at = dice.below(into.len());
                into[at] ^= 1 << dice.below(8);
            }
            fail_if(fails, ())
        })
    }

    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool> {
        Box::pin(async move {
            let (mut dice, odds) = self.dice(Kind::Has, name);
            let fails = self.before(&mut dice, &odds).await?;
            let is_there = self.inner.has(name).await?;
            let told = if !is_there && dice.roll(odds.false_there) {
                self.count(|stats| &mut stats.false_there);
                true
            } else if is_there && dice.roll(odds.false_not_there) {
                self.count(|stats| &mut stats.false_not_there);
                false
            } else {
                is_there
            };
            fail_if(fails, told)
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let (mut dice, odds) = self.dice(Kind::Remove, name);
            let fails = self.before(&mut dice, &odds).await?;
            self.inner.remove(name).await?;
            fail_if(fails, ())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::remote::wrappers::fake::Fake;

    async fn history(seed: u64, odds: ChaosOdds) -> (Vec<String>, ChaosStats) {
        let chaos = Chaos::new(Arc::new(Fake::default()), seed, odds);
        let mut told = Vec::new();
        for round in 0..3_u8 {
            for number in 0..40_u8 {
                let name = format!("a/{number}/0");
                let mut into = [0; 8];
                told.push(format!("{:?}", chaos.put(&name, Bytes::from(vec![number ^ round; 8])).await));
                told.push(format!("{:?}", chaos.has(&name).await));
                told.push(format!("{:?}", chaos.get(&name, &mut into).await));
                told.push(format!("{into:?}"));
                told.push(format!("{:?}", chaos.has(&format!("b/{number}/0")).await));
                told.push(format!("{:?}", chaos.get(&name, &mut into).await));
                if number % 4 == 0 {
                    told.push(format!("{:?}", chaos.remove(&name).await));
                }
            }
        }
        (told, chaos.stats())
    }

    #[tokio::test]
    async fn the_same_seed_does_the_same_and_another_one_another() {
        let all = ChaosOdds {
            error: 0.1,
            stall: 0.0,
            torn_put: 0.1,
            flipped_bit: 0.1,
            other_object: 0.1,
            wrong_length: 0.1,
            false_there: 0.1,
            false_not_there: 0.1,
        };
        let (once, stats) = history(1, all).await;
        assert_eq!(history(1, all).await, (once.clone(), stats));
        assert_ne!(history(2, all).await.0, once);
        let ChaosStats { errors, stalls, torn_puts, flipped_bits, other_objects, wrong_lengths, .. } = stats;
        let done = [errors, torn_puts, flipped_bits, other_objects, wrong_lengths, stats.false_there];
        assert!(done.iter().all(|count| *count > 0) && stats.false_not_there > 0, "{stats:?}");
        assert_eq!(stalls, 0);
    }

    #[tokio::test]
    async fn without_odds_nothing_happens_and_with_certainty_it_always_does() {
        assert_eq!(history(3, ChaosOdds::default()).await.1, ChaosStats::default());
        let fake = Arc::new(Fake::default());
        let chaos = Chaos::new(fake.clone(), 4, ChaosOdds { torn_put: 1.0, ..ChaosOdds::default() });
        for number in 0..20 {
            let name = format!("a/{number}/0");
            chaos.put(&name, Bytes::from_static(b"12345678")).await.unwrap();
            assert!(fake.bytes_of(&name).is_some_and(|bytes| bytes.len() < 8));
        }
        chaos.set_odds(ChaosOdds { stall: 1.0, ..ChaosOdds::default() });
        assert!(futures_util::poll!(chaos.has("a/0/0")).is_pending());
        assert_eq!((chaos.stats().torn_puts, chaos.stats().stalls), (20, 1));
    }
}
