//! `forebay capacity`: gives the disk of a cache that runs more room or less, over HTTP.

use std::io::Write;

use forebay::{Error, Result};
use serde_json::json;

use crate::change::change;
use crate::figures::size;
use crate::http::Address;
use crate::sizes;

/// Make the disk of a running cache larger or smaller
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct CapacityArgs {
    /// What all files of all directories together may take, such as 100GiB
    #[arg(value_name = "SIZE", value_parser = sizes::parse)]
    bytes: u64,

    /// Where the cache shows itself, as its key `http_listen` says
    #[arg(long, value_name = "ADDRESS")]
    at: Address,

    /// Print JSON, for programs: `{"capacity_bytes": N}`, what chunks may take
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
The token that http_token names is taken from the variable FOREBAY_HTTP_TOKEN. It holds until the next start: put it into the
configuration too (max_local_disk_size). What does not fit any more is evicted, never what is in use; what is in use for
now makes it fail, and it says how far it came. What takes longer than 20 seconds goes on by itself, with exit code 2; the
cache's log says what came of it.

Exit code: 0, or 2 if it could not be done.";

/// Runs the command.
pub(crate) fn run(args: &CapacityArgs, out: &mut dyn Write) -> Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
    let gib = args.bytes as f64 / f64::from(1 << 30);
    let bytes = change(&args.at, &format!("/api/capacity?disk_gib={gib}"))?.number("capacity_bytes")?;
    let written = if args.json {
        writeln!(out, "{}", json!({ "capacity_bytes": bytes }))
    } else {
        writeln!(out, "{} of disk, of which chunks may take {}", size(args.bytes), size(bytes))
    };
    written.map_err(|error| Error::io("writing the result", error))
}
