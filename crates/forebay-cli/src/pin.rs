//! `forebay pin` and `forebay unpin`: keep the chunks of a namespace from eviction in a cache that runs, over HTTP.

use std::io::Write;

use forebay::catalog::NamespaceId;
use forebay::tier::disk::namespaces::hex;
use forebay::{Error, Result};

use crate::change::change;
use crate::clear::namespace;
use crate::figures::count;
use crate::http::Address;

/// Keep the chunks of a namespace from being evicted in a running cache
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct PinArgs {
    /// Which: 16 digits, as `forebay inspect` and the page show them
    #[arg(long, value_name = "DIGITS", value_parser = namespace)]
    namespace: NamespaceId,

    /// Where the cache shows itself, as its key `http_listen` says
    #[arg(long, value_name = "ADDRESS")]
    at: Address,

    /// Print JSON, for programs: `{"pinned": N, "left_out": N}`
    #[arg(long)]
    json: bool,
}

/// Let the chunks of a running cache, or of a namespace of it, be evicted again
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct UnpinArgs {
    /// Only the chunks of this namespace
    #[arg(long, value_name = "DIGITS", value_parser = namespace)]
    namespace: Option<NamespaceId>,

    /// Where the cache shows itself, as its key `http_listen` says
    #[arg(long, value_name = "ADDRESS")]
    at: Address,

    /// Print JSON, for programs: `{"unpinned": N}`
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
The token that http_token names is taken from the variable FOREBAY_HTTP_TOKEN. Pinned is what is on disk at that moment, half of the
capacity at most; what has no room in that is left out. A restart knows of no pins.

Exit code: 0, or 2 if it could not be done.";

/// Runs `forebay pin`.
pub(crate) fn pin(args: &PinArgs, out: &mut dyn Write) -> Result<()> {
    let done = change(&args.at, &format!("/api/pin?namespace={}", hex(&args.namespace)))?;
    let (pinned, left_out) = (done.number("pinned")?, done.number("left_out")?);
    let words = match left_out {
        0 => format!("{} pinned", count(pinned, "chunk")),
        _ => {
            format!(
                "{} pinned, {left_out} left out, for which half of the capacity has no room, or which continue what is \
                 being stored",
                count(pinned, "chunk")
            )
        }
    };
    say(out, args.json, &done.said, &words)
}

/// Runs `forebay unpin`.
pub(crate) fn unpin(args: &UnpinArgs, out: &mut dyn Write) -> Result<()> {
    let which = args.namespace.map_or_else(String::new, |id| format!("?namespace={}", hex(&id)));
    let done = change(&args.at, &format!("/api/unpin{which}"))?;
    let words = format!("{} unpinned", count(done.number("unpinned")?, "chunk"));
    say(out, args.json, &done.said, &words)
}

fn say(out: &mut dyn Write, json: bool, done: &serde_json::Value, words: &str) -> Result<()> {
    let written = if json { writeln!(out, "{done}") } else { writeln!(out, "{words}") };
    written.map_err(|error| Error::io("writing the result", error))
}
