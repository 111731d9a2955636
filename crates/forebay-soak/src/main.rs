//! Soak: two engines that use the cache as vLLM does, and the replay of a trace, through memory, disk and a real Redis server,
//! with something going wrong each second. At the end nothing is wrong and nothing has leaked.
//!
//! Promises: exit code 0 if every check held, 1 if one did not, 2 if it could not be run; each failure is said when it is
//! found, with what and where. The same seed makes the same requests and faults, but threads meet as they like.
//!
//! `soak` is the whole and `rest` what is checked in it; `client` and `requests` are an engine, `engine` its memory, `prompts`
//! what it is asked and `content` what a chunk holds; `instance` is a cache, `server` Redis, `faults` what goes wrong;
//! `ledger` counts, and `heap` sees to it that resident memory means something.

mod client;
mod content;
mod engine;
mod faults;
mod heap;
mod instance;
mod ledger;
mod prompts;
mod requests;
mod rest;
mod server;
mod soak;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;

use crate::engine::Ordered;
use crate::ledger::Ledger;
use crate::soak::{Plan, Soak};

/// Two engines and a trace over all tiers, under a fault each second
#[derive(Debug, Parser)]
#[command(name = "forebay-soak", version)]
#[command(after_help = "Exit code: 0 all checks held, 1 one did not, 2 it could not be run.")]
struct Arguments {
    /// For how long
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,

    /// From one rest, at which everything is checked, to the next
    #[arg(long, default_value_t = 60.0)]
    rest_every_s: f64,

    /// What happens; by default another one each time
    #[arg(long)]
    seed: Option<u64>,

    /// A directory for the caches' directories, on the file system that is to be tried; by default a temporary one
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    heap::prepare();
    let arguments = Arguments::parse();
    match run(&arguments) {
        // A thread that hangs is no reason not to end.
        Ok(true) => std::process::exit(0),
        Ok(false) => std::process::exit(1),
        Err(error) => {
            eprintln!("forebay-soak: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, String> {
    let time = |number: f64, what: &str| {
        Duration::try_from_secs_f64(number).map_err(|error| format!("{what}: {error}"))
    };
    let plan = Plan {
        time: time(arguments.minutes * 60.0, "--minutes")?,
        between_rests: time(arguments.rest_every_s, "--rest-every-s")?,
        seed: arguments.seed.unwrap_or_else(|| fastrand::u64(..)),
    };
    let directory = match &arguments.dir {
        Some(within) => tempfile::tempdir_in(within),
        None => tempfile::tempdir(),
    };
    let directory = directory.map_err(|error| format!("a directory for the caches: {error}"))?;
    println!("seed {}, {:?} in {}", plan.seed, plan.time, directory.path().display());

    let ledger = Arc::new(Ledger::new());
    let noted = Arc::clone(&ledger);
    let before = std::panic::take_hook();
    // A panic that was not ordered is a defect, wherever it is caught.
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.payload().is::<Ordered>() {
            noted.fail(format!("a panic: {panic}"));
            before(panic);
        }
    }));
    let right = Soak::run(&plan, directory.path(), &ledger)?;
    let (count, failures) = ledger.failures();
    if count > 0 {
        println!("{count} failures with seed {}:", plan.seed);
        failures.iter().for_each(|failure| println!("  {failure}"));
    }
    Ok(right && count == 0)
}
