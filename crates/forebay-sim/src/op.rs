//! Operations: a history is a list of them, drawn from a seed before anything happens.
//!
//! Each carries a number that everything about it follows from, so that a history of which some are left out means the
//! same by those that are left.

use std::fmt;
use std::str::FromStr;

use fastrand::Rng;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The engine stores a piece of a prompt.
    Store,
    /// It looks a prompt up, and keeps the hit.
    Lookup,
    /// It lets a hit go.
    LetGo,
    /// It loads the front of a prompt.
    Load,
    /// The mover takes up stores.
    TakeStore,
    /// The mover takes up loads.
    TakeLoad,
    /// The device answers.
    Device,
    /// The control plane hears answers of the mover.
    Deliver,
    /// It is told what it was told before, or what it never asked.
    AnswerAgain,
    /// The engine cancels what it has asked for.
    Cancel,
    /// All loads have taken too long.
    GiveUp,
    /// The keeper has a turn.
    Keep,
    /// A bit on a drive flips.
    Rot,
    /// A sector of a drive is an older copy of itself.
    Stale,
    /// A bit of checkpoint or journal flips.
    RotHome,
    /// The process dies.
    Kill,
    /// The process dies in one of its next calls for a file.
    KillSoon,
    /// The power goes.
    PowerLoss,
    /// Everything comes to its end.
    Settle,
}

impl Kind {
    /// All kinds, each with its name and how often it comes.
    const ALL: [(Self, &'static str, u32); 19] = [
        (Self::Store, "store", 120),
        (Self::Lookup, "lookup", 60),
        (Self::LetGo, "let-go", 70),
        (Self::Load, "load", 100),
        (Self::TakeStore, "take-store", 160),
        (Self::TakeLoad, "take-load", 160),
        (Self::Device, "device", 500),
        (Self::Deliver, "deliver", 300),
        (Self::AnswerAgain, "answer-again", 20),
        (Self::Cancel, "cancel", 8),
        (Self::GiveUp, "give-up", 4),
        (Self::Keep, "keep", 25),
        (Self::Rot, "rot", 4),
        (Self::Stale, "stale", 4),
        (Self::RotHome, "rot-home", 3),
        (Self::Kill, "kill", 6),
        (Self::KillSoon, "kill-soon", 5),
        (Self::PowerLoss, "power-loss", 4),
        (Self::Settle, "settle", 8),
    ];

    fn draw(rng: &mut Rng) -> Self {
        let mut dice = rng.u32(..Self::ALL.iter().map(|(_, _, weight)| *weight).sum::<u32>());
        for (kind, _, weight) in Self::ALL {
            match dice.checked_sub(weight) {
                Some(rest) => dice = rest,
                None => return kind,
            }
        }
        Self::Settle
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or("?", |(_, name, _)| name)
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// What happens.
    pub kind: Kind,
    /// What everything else about it follows from.
    pub dice: u64,
}

/// The history of a seed.
pub fn history(seed: u64, steps: usize) -> Vec<Op> {
    let mut rng = Rng::with_seed(seed ^ 0x6f70_7300);
    (0..steps).map(|_| Op { kind: Kind::draw(&mut rng), dice: rng.u64(..) }).collect()
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:x}", self.kind.name(), self.dice)
    }
}

impl FromStr for Op {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let wrong = || format!("`{line}` is no operation");
        let (name, dice) = line.trim().split_once(' ').ok_or_else(wrong)?;
        let (kind, ..) = Kind::ALL.into_iter().find(|(_, other, _)| *other == name).ok_or_else(wrong)?;
        Ok(Self { kind, dice: u64::from_str_radix(dice, 16).map_err(|_| wrong())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_read_back_as_it_was_written_and_has_all_kinds() {
        let history = history(7, 5000);
        for op in &history {
            assert_eq!(op.to_string().parse(), Ok(*op));
        }
        for (kind, ..) in Kind::ALL {
            assert!(history.iter().any(|op| op.kind == kind), "{kind:?}");
        }
        assert!("lookup".parse::<Op>().is_err() && "look 1".parse::<Op>().is_err());
    }
}
