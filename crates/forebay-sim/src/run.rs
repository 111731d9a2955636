//! A run: a history in a world, up to its end or to the first step at which something is not as it must be.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::op::Op;
use crate::setup::Setup;
use crate::tally::Tally;
use crate::world::World;

thread_local! {
    /// What the last panic of this thread said, and where.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Something was not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// At which operation of the history; its length, if at the end.
    pub step: usize,
    /// What.
    pub message: String,
}

/// Has panics noted instead of printed. A panic that the cache catches is a violation too: it comes from an assertion.
pub fn note_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANIC.with(|panic| {
            panic.borrow_mut().get_or_insert_with(|| info.to_string().replace('\n', " ")).len()
        });
    }));
}

/// Runs a history, and says what has happened in it.
///
/// # Errors
/// The violation.
pub fn run(setup: &Setup, history: &[Op]) -> Result<Tally, Violation> {
    PANIC.take();
    let mut world = World::new(setup);
    for step in 0..=history.len() {
        let ended = catch_unwind(AssertUnwindSafe(|| match history.get(step) {
            Some(&op) => world.apply(op),
            None => world.finish(),
        }));
        let message = PANIC.take();
        if ended.is_err() || message.is_some() {
            let message = message.unwrap_or_else(|| "a panic without words".into());
            // In whatever state it is: its end is nobody's concern.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(world)));
            return Err(Violation { step, message });
        }
    }
    Ok(world.tally)
}
