//! `forebay-sim`: runs seed after seed, and shows the shortest history that breaks a promise.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use forebay_sim::op::{Op, history};
use forebay_sim::run::{Violation, note_panics, run};
use forebay_sim::setup::Setup;
use forebay_sim::shrink::shrink;
use forebay_sim::tally::Tally;

/// Simulates Forebay on machines that fail.
#[derive(Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Seeds to run, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Operations of each.
    #[arg(long, default_value_t = 1000)]
    steps: usize,
    /// Goes on for so many minutes instead of so many seeds.
    #[arg(long)]
    minutes: Option<u64>,
    /// Runs the history in this file, one operation a line, instead of the seed's own.
    #[arg(long)]
    history: Option<PathBuf>,
    /// Shows a history that fails as it is.
    #[arg(long)]
    no_shrink: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    note_panics();
    let started = Instant::now();
    let until = arguments.minutes.map(|minutes| started + Duration::from_secs(60 * minutes));
    let mut steps = 0;
    let mut tally = Tally::default();
    let mut seed = arguments.seed;
    loop {
        let setup = Setup::of(seed);
        let history = match arguments.history.as_ref().map(read) {
            None => history(seed, arguments.steps),
            Some(Ok(history)) => history,
            Some(Err(message)) => {
                eprintln!("{message}");
                return ExitCode::from(2);
            }
        };
        match run(&setup, &history) {
            Ok(happened) => tally += happened,
            Err(violation) => {
                show(seed, &setup, &history, violation, arguments.no_shrink);
                return ExitCode::FAILURE;
            }
        }
        steps += history.len();
        seed += 1;
        if until.map_or(seed - arguments.seed >= arguments.seeds, |until| Instant::now() >= until) {
            break;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = steps as f64 / seconds;
    println!(
        "{} seeds, {steps} steps in {seconds:.1} s: {rate:.0} steps/s, no violation",
        seed - arguments.seed
    );
    println!("{tally}");
    ExitCode::SUCCESS
}

fn read(path: &PathBuf) -> Result<Vec<Op>, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("reading {}: {error}", path.display()))?;
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::parse)
        .collect()
}

fn show(seed: u64, setup: &Setup, history: &[Op], violation: Violation, as_it_is: bool) {
    println!("# seed {seed}, step {}: {}", violation.step, violation.message);
    let (least, violation) =
        if as_it_is { (history.to_vec(), violation) } else { shrink(setup, history, violation) };
    println!("# {setup:?}");
    println!("# {} operations are left, and end with: {}", least.len(), violation.message);
    println!("# to run them again: forebay-sim --seed {seed} --history FILE");
    least.iter().for_each(|op| println!("{op}"));
}
