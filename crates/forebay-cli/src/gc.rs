//! `forebay gc`: puts the directories of a cache that is not in use in order, or trims a shared directory.
//!
//! Promises: what it says is what was done, or with `--dry-run` what would be; what is not Forebay's is not touched.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use forebay::tier::disk::lock::owner;
use forebay::tier::disk::upkeep::{Collected, Unused};
use forebay::tier::remote::shared_directory::{Trimmed, trim, trim_dry};
use forebay::tier::remote::url::Place;
use forebay::{Error, ErrorKind, Result};
use serde_json::json;

use crate::figures::{count, size, table};
use crate::sizes;

/// Put a cache directory that is not in use in order, or trim a shared one
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct GcArgs {
    /// The directory, as `local_disk` names it, of several the first; or `file:///PATH`, as `remote_url` names it
    #[arg(value_name = "DIR")]
    place: String,

    /// Of a shared directory: what is to be left at most, the oldest chunks go first
    #[arg(long, value_name = "SIZE", value_parser = sizes::parse)]
    capacity: Option<u64>,

    /// Change nothing, and say what would be done
    #[arg(long)]
    dry_run: bool,

    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Of a cache directory, it does what a start does, and more: chunks of which another one was written over, whose drive is lost, or
that lie past the end of a data file are dropped; so are those whose trailer cannot be read or is not theirs (`verify`
reads payloads too). The journal becomes a checkpoint, and files that a death left half written are deleted. No data file
is made shorter: what a dropped chunk took is free for others there. Run it as the user that the cache runs as.

Of a shared directory (file:///PATH) it removes the oldest chunks above --capacity, also while others use it, and what is
left over of writes that were interrupted an hour ago or more.

With --json, one object (sizes in bytes):
  directory, dry_run
  kept_chunks, kept_bytes         what stays
  dropped                         how many chunks go, by reason: drive lost, written over, past the end, too many,
                                  trailer, other chunk, generation, truncated, unreadable
  dropped_bytes                   what they took of the data files
  rebuilt, interrupted_records    why the chunks had to be found by their trailers, or null; what was passed over in the journal
  files, files_bytes              files that go, and what they take
or of a shared directory
  directory, dry_run
  bytes_before, bytes_after, chunks, objects, left_over

Exit code: 0, or 2 if it could not be done.";

/// Runs the command.
pub(crate) fn run(args: &GcArgs, out: &mut dyn Write) -> Result<()> {
    let wrong = |message: &str| Err(Error::new(ErrorKind::Argument, message));
    let written = if args.place.contains("://") {
        let Place::Directory(root) = Place::parse(&args.place)? else {
            return wrong(
                "only a shared directory can be trimmed (file:///PATH); other stores bound themselves",
            );
        };
        let Some(capacity) = args.capacity else {
            return wrong(
                "--capacity SIZE says how much of a shared directory is to be left, such as 100GiB",
            );
        };
        let trimmed = if args.dry_run { trim_dry(&root, capacity)? } else { trim(&root, capacity)? };
        if args.json {
            writeln!(out, "{:#}", shared_json(&trimmed, &root, args.dry_run))
        } else {
            tell_shared(&trimmed, &root, args.dry_run, out)
        }
    } else {
        if args.capacity.is_some() {
            return wrong(
                "--capacity is for a shared directory (file:///PATH); that of a cache is max_local_disk_size",
            );
        }
        let directory = PathBuf::from(&args.place);
        if let Some(owner) = owner(&directory) {
            let message = format!("{} is in use by {owner}; stop it and try again", directory.display());
            return Err(Error::new(ErrorKind::Locked, message));
        }
        let collected = Unused::lock(&directory)?.collect(args.dry_run)?;
        if args.json {
            writeln!(out, "{:#}", json(&collected, &directory, args.dry_run))
        } else {
            tell(&collected, &directory, args.dry_run, out)
        }
    };
    written.map_err(|error| Error::io("writing the result", error))
}

fn json(collected: &Collected, directory: &Path, dry_run: bool) -> serde_json::Value {
    let files = collected.files.iter().map(|file| file.display().to_string());
    json!({
        "directory": directory.display().to_string(),
        "dry_run": dry_run,
        "kept_chunks": collected.kept_chunks,
        "kept_bytes": collected.kept_bytes,
        "dropped": collected.dropped,
        "dropped_bytes": collected.dropped_bytes,
        "rebuilt": collected.rebuilt,
        "interrupted_records": collected.interrupted,
        "files": files.collect::<Vec<_>>(),
        "files_bytes": collected.files_bytes,
    })
}

fn tell(collected: &Collected, directory: &Path, dry_run: bool, out: &mut dyn Write) -> io::Result<()> {
    let (stay, go) = if dry_run { ("would stay", "would go") } else { ("stay", "went") };
    writeln!(
        out,
        "{}: {} {stay}, {}",
        directory.display(),
        count(collected.kept_chunks, "chunk"),
        size(collected.kept_bytes)
    )?;
    if let Some(damage) = &collected.rebuilt {
        writeln!(out, "The journal is damaged ({damage}); the chunks were found by their trailers.")?;
    }
    if collected.interrupted > 0 {
        let records = count(collected.interrupted, "record");
        writeln!(
            out,
            "The journal has {records} that a death interrupted; of those nothing was ever promised."
        )?;
    }
    let rows: Vec<_> =
        collected.dropped.iter().map(|(why, chunks)| [(*why).to_owned(), chunks.to_string()]).collect();
    if rows.is_empty() {
        writeln!(out, "No chunk {go}.")?;
    } else {
        write!(out, "\n{}\n", table([&format!("chunks that {go}"), " number"], &rows))?;
        writeln!(out, "{} of the data files are free again.", size(collected.dropped_bytes))?;
    }
    for file in &collected.files {
        writeln!(out, "{go}: {}", file.display())?;
    }
    if !collected.files.is_empty() {
        writeln!(out, "{} of files {go}.", size(collected.files_bytes))?;
    }
    Ok(())
}

fn shared_json(trimmed: &Trimmed, root: &Path, dry_run: bool) -> serde_json::Value {
    json!({
        "directory": root.display().to_string(),
        "dry_run": dry_run,
        "bytes_before": trimmed.bytes_before,
        "bytes_after": trimmed.bytes_after,
        "chunks": trimmed.chunks,
        "objects": trimmed.objects,
        "left_over": trimmed.left_over,
    })
}

fn tell_shared(trimmed: &Trimmed, root: &Path, dry_run: bool, out: &mut dyn Write) -> io::Result<()> {
    let go = if dry_run { "would go" } else { "went" };
    writeln!(
        out,
        "{}: {} {go}, the oldest; {} before, {} after",
        root.display(),
        count(trimmed.chunks, "chunk"),
        size(trimmed.bytes_before),
        size(trimmed.bytes_after),
    )?;
    match trimmed.left_over {
        0 => Ok(()),
        number => writeln!(out, "{} of interrupted writes {go}", count(number, "file")),
    }
}
