//! Makes a history that fails shorter, as long as it fails in the same place.

use crate::op::Op;
use crate::run::{Violation, run};
use crate::setup::Setup;

/// Runs that shrinking may take.
const RUNS_MAX: usize = 3000;

/// The shortest history found that ends in the violation's assertion, and how it ends.
pub fn shrink(setup: &Setup, history: &[Op], violation: Violation) -> (Vec<Op>, Violation) {
    let mut runs = 0;
    let place = place(&violation).to_owned();
    let mut fails = |history: &[Op]| {
        runs += 1;
        let ended = if runs > RUNS_MAX { None } else { run(setup, history).err() };
        ended.filter(|other| self::place(other) == place)
    };
    let mut least = (history[..history.len().min(violation.step + 1)].to_vec(), violation);
    let mut piece = (least.0.len() / 2).max(1);
    loop {
        let mut at = 0;
        let mut shorter = false;
        while at < least.0.len() {
            let end = (at + piece).min(least.0.len());
            let without = [&least.0[..at], &least.0[end..]].concat();
            if let Some(violation) = fails(&without) {
                let len = without.len().min(violation.step + 1);
                least = (without[..len].to_vec(), violation);
                shorter = true;
            } else {
                at = end;
            }
        }
        if piece == 1 && !shorter {
            return least;
        }
        piece = (piece / 2).max(1);
    }
}

/// Where the assertion stands: the message has it in front.
fn place(violation: &Violation) -> &str {
    let message = violation.message.as_str();
    message.find(".rs:").map_or(message, |at| &message[..(at + 8).min(message.len())])
}
