//! `forebay clear`: takes all chunks out of a cache, or those of a namespace; of one that runs, over HTTP, or of a
//! directory that is not in use.

use std::io::Write;
use std::path::PathBuf;

use forebay::catalog::NamespaceId;
use forebay::tier::disk::lock::owner;
use forebay::tier::disk::namespaces::hex;
use forebay::tier::disk::upkeep::Unused;
use forebay::{Error, ErrorKind, Result};
use serde_json::json;

use crate::change::change;
use crate::figures::count;
use crate::http::Address;

/// Take all chunks out of a cache, or those of a namespace
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct ClearArgs {
    /// The directory of a cache that is not in use, as `local_disk` names it; of several the first
    #[arg(value_name = "DIR", required_unless_present = "at", conflicts_with = "at")]
    directory: Option<PathBuf>,

    /// Of a cache that runs: where it shows itself, as its key `http_listen` says
    #[arg(long, value_name = "ADDRESS")]
    at: Option<Address>,

    /// Only the chunks of this namespace: 16 digits, as `forebay inspect` and the page show them
    #[arg(long, value_name = "DIGITS", value_parser = namespace)]
    namespace: Option<NamespaceId>,

    /// Print JSON, for programs: `{"cleared": N}`
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
With --at, the token that http_token names is taken from the variable FOREBAY_HTTP_TOKEN. Memory and disk are cleared; loads
that are under way end as they would have, and a remote store is left alone, since others use it.

Of a directory, no data file is written to or made shorter: the bytes stay until others are written over them.

Exit code: 0, or 2 if it could not be done.";

/// The namespace that digits name.
pub(crate) fn namespace(text: &str) -> Result<NamespaceId, String> {
    let is_one = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = Some(text).filter(|_| is_one).and_then(|text| u64::from_str_radix(text, 16).ok());
    number
        .map(u64::to_be_bytes)
        .ok_or_else(|| "16 hexadecimal digits, as `forebay inspect` shows them".into())
}

/// Runs the command.
pub(crate) fn run(args: &ClearArgs, out: &mut dyn Write) -> Result<()> {
    let cleared = match (&args.at, &args.directory) {
        (Some(address), _) => at(address, args.namespace)?,
        (None, Some(directory)) => {
            if let Some(owner) = owner(directory) {
                let message = format!(
                    "{} is in use by {owner}; clear it there: forebay clear --at ADDRESS, what its http_listen says",
                    directory.display()
                );
                return Err(Error::new(ErrorKind::Locked, message));
            }
            Unused::lock(directory)?.clear(args.namespace)?
        }
        (None, None) => return Err(Error::new(ErrorKind::Argument, "name a directory, or --at ADDRESS")),
    };
    let written = if args.json {
        writeln!(out, "{}", json!({ "cleared": cleared }))
    } else {
        writeln!(out, "{} cleared", count(cleared, "chunk"))
    };
    written.map_err(|error| Error::io("writing the result", error))
}

fn at(address: &Address, namespace: Option<NamespaceId>) -> Result<u64> {
    let path = match namespace {
        Some(id) => format!("/api/clear?namespace={}", hex(&id)),
        None => "/api/clear".to_owned(),
    };
    change(address, &path)?.number("cleared")
}
