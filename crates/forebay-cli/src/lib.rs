//! The command `forebay`: looks into a cache directory, checks it, watches a cache that runs, explains a configuration,
//! replays a trace, measures a drive, examines a machine; clears a cache, and puts one in order that nobody uses.
//!
//! Promises: [`run`] never ends the process, never writes to a cache directory that it did not make, but for `clear` and
//! `gc`, and gives an exit code that tells: 0 all right, 1 what was checked is not sound, 2 it could not be done (one
//! line on standard error says why). What a command has to say stands on standard output, as a table for people or with
//! `--json` for programs; progress and log lines go to standard error.
//!
//! One file or folder a command: `inspect`, `verify`, `top`, `clear`, `gc`, `pin` (with `unpin`), `capacity`, `config`,
//! `replay`, `bench`, `doctor`; `help` has `completions` and `man`. The first two look at a directory through `directory`;
//! `top` asks a cache that runs through `http`, and what changes one goes through `change`; `replay`, `bench` and `doctor`
//! work in a place of their own, made by `scratch`, and the first two drive chunks through a cache by `stream`. `figures`
//! writes sizes and ages the way people read them; `log` is where log lines and traces go.

mod bench;
mod capacity;
mod change;
mod clear;
mod config;
mod content;
mod directory;
mod doctor;
mod figures;
mod gc;
mod generate;
mod help;
mod http;
mod inspect;
mod log;
mod pin;
mod process;
mod quantiles;
mod replay;
mod scratch;
mod sizes;
mod stream;
mod top;
mod trace;
mod verify;

use std::io::{self, Write};

use clap::{CommandFactory, Parser};
pub use log::{end_log, log_to_stderr};

/// What was asked for was done, and all is right.
const RIGHT: u8 = 0;
/// It was done, and what was checked is not sound.
const UNSOUND: u8 = 1;
/// It could not be done.
const NOT_DONE: u8 = 2;

/// Look into, check, watch and tend a cache of Forebay
#[derive(Debug, Parser)]
#[command(name = "forebay", bin_name = "forebay", version)]
#[command(after_help = "Exit code: 0 all right, 1 what was checked is not sound, 2 it could not be done.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say what is in a cache directory, also while it is in use
    Inspect(inspect::InspectArgs),
    /// Read and check every chunk of a cache directory that is not in use
    Verify(verify::VerifyArgs),
    /// Show what a running cache does, live
    Top(top::TopArgs),
    /// Take all chunks out of a cache, or those of a namespace
    Clear(clear::ClearArgs),
    /// Put a cache directory that is not in use in order, or trim a shared one
    Gc(gc::GcArgs),
    /// Keep the chunks of a namespace from being evicted in a running cache
    Pin(pin::PinArgs),
    /// Let the chunks of a running cache, or of a namespace of it, be evicted again
    Unpin(pin::UnpinArgs),
    /// Make the disk of a running cache larger or smaller
    Capacity(capacity::CapacityArgs),
    /// Say which configuration is in force and where each value came from
    Config(config::ConfigArgs),
    /// Replay a recorded trace, through the catalog alone or on a real directory, or make one up
    Replay(replay::ReplayArgs),
    /// Measure stores and loads on a drive beside what it gives a plain program
    Bench(bench::BenchArgs),
    /// Examine a machine and a directory, and advise a configuration
    Doctor(doctor::DoctorArgs),
    /// Print completions for a shell
    Completions(help::CompletionsArgs),
    /// Print the manual page, or write those of all commands to a directory
    Man(help::ManArgs),
}

/// Runs the program with these arguments, the first of which is its own name; gives its exit code.
pub fn run(arguments: Vec<String>) -> u8 {
    let command = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments.command,
        Err(error) => {
            // A request for help is such an error too. Where it cannot be printed, nothing can.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(NOT_DONE);
        }
    };
    let mut out = Vec::new();
    let ended = match &command {
        Command::Inspect(args) => inspect::run(args, &mut out).map(|()| RIGHT),
        Command::Verify(args) => verify::run(args, &mut out).map(|sound| if sound { RIGHT } else { UNSOUND }),
        Command::Top(args) => top::run(args, &mut out).map(|()| RIGHT),
        Command::Clear(args) => clear::run(args, &mut out).map(|()| RIGHT),
        Command::Gc(args) => gc::run(args, &mut out).map(|()| RIGHT),
        Command::Pin(args) => pin::pin(args, &mut out).map(|()| RIGHT),
        Command::Unpin(args) => pin::unpin(args, &mut out).map(|()| RIGHT),
        Command::Capacity(args) => capacity::run(args, &mut out).map(|()| RIGHT),
        Command::Config(args) => config::run(args, &mut out).map(|()| RIGHT),
        Command::Replay(args) => replay::run(args, &mut out).map(|right| if right { RIGHT } else { UNSOUND }),
        Command::Bench(args) => bench::run(args, &mut out).map(|right| if right { RIGHT } else { UNSOUND }),
        Command::Doctor(args) => doctor::run(args, &mut out).map(|good| if good { RIGHT } else { UNSOUND }),
        Command::Completions(args) => {
            help::completions(args, &mut Arguments::command(), &mut out);
            Ok(RIGHT)
        }
        Command::Man(args) => help::man(args, Arguments::command(), &mut out).map(|()| RIGHT),
    };
    let ended = match print(&out) {
        Ok(()) => ended.map_err(|error| error.to_string()),
        Err(error) => Err(format!("writing to standard output: {error}")),
    };
    ended.unwrap_or_else(|message| {
        let line: Vec<&str> = message.split_whitespace().collect();
        let _ = writeln!(io::stderr(), "forebay: {}", line.join(" "));
        NOT_DONE
    })
}

/// A reader that has seen enough (`| head`) does not change how the command ended.
fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => ended,
    }
}
