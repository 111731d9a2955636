//! The crate's own threads under a checker that tries one order of them after another.
//!
//! A model is a function that is run again and again, each time with another order of all that its threads do to one
//! another. It states what holds in each of them. Beside the ones here there are those of the mover, of events, of the
//! remote tier and of a whole cache, which stand beside their code.
//!
//! Half of the orders are chosen at random at each step; the other half gives each thread a rank, and lets the highest
//! that can go on do so, but for a few points at which ranks change: that finds what needs one thread to be held up for
//! long. The orders are the same in each run, unless `FOREBAY_MODELS_SEED` says otherwise; `FOREBAY_MODELS_TIMES` makes
//! them as many times more. A model that fails says in which of them, and prints it for `shuttle::replay`.

mod queue;
mod staging;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shuttle::Runner;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};

pub use crate::cache::models as cache;
pub use crate::events::models as events;
pub use crate::mover::models as mover;
pub use crate::sync::modelled::Time;
pub use crate::tier::remote::models as remote;
pub use queue::*;
pub use staging::*;

/// Points at which a thread's rank changes, and one.
const DEPTH: usize = 3;
/// What a thread's stack may take.
const STACK_BYTES: usize = 256 << 10;
/// A run that takes more steps than this goes in circles.
const STEPS_MAX: usize = 200_000;

/// Runs `model` so many times, in as many orders.
///
/// # Panics
/// When the model does, in any of them, or its threads all wait.
pub(crate) fn check(orders: usize, time: Time, model: impl Fn() + Send + Sync + 'static) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let orders = orders
        * number("FOREBAY_MODELS_TIMES").map_or(1, |times: u64| usize::try_from(times).expect("fewer"));
    let seed = number("FOREBAY_MODELS_SEED").unwrap_or(1);
    let model = Arc::new(model);
    run("at random", RandomScheduler::new_from_seed(seed, orders / 2), time, Arc::clone(&model));
    run("by rank", PctScheduler::new_from_seed(seed, DEPTH, orders / 2), time, model);
}

fn run(
    how: &str,
    scheduler: impl Scheduler + 'static,
    time: Time,
    model: Arc<impl Fn() + Send + Sync + 'static>,
) {
    let mut config = shuttle::Config::new();
    config.stack_size = STACK_BYTES;
    config.max_steps = shuttle::MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    // Requests have deadlines by its clock, which nobody waits for.
    let clock = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a clock");
    let _entered = clock.enter();
    let begun = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&begun);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        Runner::new(scheduler, config).run(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            crate::sync::modelled::begin(time);
            model();
        })
    }));
    if let Err(panic) = outcome {
        eprintln!("the model failed in order {}, chosen {how}", begun.load(Ordering::Relaxed));
        resume_unwind(panic);
    }
}
