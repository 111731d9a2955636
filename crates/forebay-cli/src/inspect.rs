//! `forebay inspect`: what is in a cache's directories, from checkpoint and journal alone.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use forebay::catalog::{BLOCK_BYTES, ChunkRecord};
use forebay::tier::disk::namespaces::{NamespaceFields, described, hex};
use forebay::{Error, Result};
use serde_json::json;

use crate::directory::{DataFile, Drive, Sight};
use crate::figures::{age, count, size, table};

/// Arguments of `forebay inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = JSON_HELP)]
pub(crate) struct InspectArgs {
    /// The directory, as `local_disk` names it; of several the first
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

const JSON_HELP: &str = "\
Reads only, takes no lock, and works while another process uses the directory: then it shows a snapshot.

With --json, one object (sizes in bytes, times in milliseconds since 1970):
  directory, format, epoch        format version; how often the directory was opened
  in_use, owner_pid               whether a process owns it now, and which (null if not to be told)
  data                            null, or {bytes, allocated_bytes} of the data files
  drives                          each of them: {drive, directory, data, chunks, disk_bytes}; data is null where it is
                                  not there, chunks and disk_bytes where the journal is damaged
  journal                         {damage, interrupted_records}; damage is null or says what is wrong
  chunks, payload_bytes, disk_bytes (with what is left empty behind them), oldest_stored_at_ms, newest_stored_at_ms
                                  of all chunks; null where the journal is damaged or nothing is stored
  namespaces                      the same for each namespace, with {id, fields}; fields is null where not noted

Exit code: 0, or 2 when DIR is no cache directory or cannot be read.";

/// Chunks taken together.
#[derive(Default)]
struct Sum {
    chunks: u64,
    payload_bytes: u64,
    disk_bytes: u64,
    oldest_ms: Option<u64>,
    newest_ms: Option<u64>,
}

impl Sum {
    fn add(&mut self, record: &ChunkRecord) {
        let at = record.stored_at_ms;
        self.chunks += 1;
        self.payload_bytes += u64::from(record.length);
        self.disk_bytes += record.extents.blocks() * BLOCK_BYTES as u64;
        self.oldest_ms = Some(self.oldest_ms.map_or(at, |oldest| oldest.min(at)));
        self.newest_ms = Some(self.newest_ms.map_or(at, |newest| newest.max(at)));
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "chunks": self.chunks,
            "payload_bytes": self.payload_bytes,
            "disk_bytes": self.disk_bytes,
            "oldest_stored_at_ms": self.oldest_ms,
            "newest_stored_at_ms": self.newest_ms,
        })
    }

    fn row(&self, name: &str, now_ms: u64, whose: String) -> [String; 7] {
        let ago = |at: Option<u64>| at.map_or("-".into(), |at| age(now_ms.saturating_sub(at)));
        [
            name.to_owned(),
            self.chunks.to_string(),
            size(self.payload_bytes),
            size(self.disk_bytes),
            ago(self.oldest_ms),
            ago(self.newest_ms),
            whose,
        ]
    }
}

/// Runs the command.
pub(crate) fn run(args: &InspectArgs, out: &mut dyn Write) -> Result<()> {
    let sight = Sight::of(&args.directory)?;
    let fields = described(&args.directory);
    let mut all = Sum::default();
    let mut namespaces: BTreeMap<String, Sum> = BTreeMap::new();
    let usable = sight.found.damage.is_none();
    for record in sight.found.records.iter().filter(|_| usable) {
        all.add(record);
        namespaces.entry(hex(&record.key.namespace_id())).or_default().add(record);
    }
    let written = if args.json {
        let shown = shown(&args.directory, &sight, usable.then_some(&all), &namespaces, &fields);
        writeln!(out, "{shown:#}")
    } else {
        tell(out, &args.directory, &sight)
            .and_then(|()| if usable { list(out, &all, &namespaces, &fields) } else { Ok(()) })
    };
    written.map_err(|error| Error::io("writing what is in the directory", error))
}

fn shown(
    directory: &Path,
    sight: &Sight,
    all: Option<&Sum>,
    namespaces: &BTreeMap<String, Sum>,
    fields: &BTreeMap<String, NamespaceFields>,
) -> serde_json::Value {
    let namespaces: Vec<_> = namespaces
        .iter()
        .map(|(id, sum)| merged(json!({ "id": id, "fields": fields.get(id) }), sum.json()))
        .collect();
    let data_json = |data: Option<DataFile>| {
        data.map(|data| json!({ "bytes": data.bytes, "allocated_bytes": data.allocated_bytes }))
    };
    let drives: Vec<_> = sight
        .drives
        .iter()
        .map(|drive| {
            let sum = all.map(|_| sum_of(sight, drive));
            json!({
                "drive": drive.noted.drive,
                "directory": drive.noted.path,
                "data": data_json(drive.data),
                "chunks": sum.as_ref().map(|sum| sum.chunks),
                "disk_bytes": sum.as_ref().map(|sum| sum.disk_bytes),
            })
        })
        .collect();
    let head = json!({
        "directory": directory.display().to_string(),
        "format": sight.format.as_ref().map(|format| format.forebay_format),
        "epoch": epoch(sight),
        "in_use": sight.owner.is_some(),
        "owner_pid": sight.owner.and_then(|owner| owner.pid),
        "data": data_json(sight.data()),
        "drives": drives,
        "journal": { "damage": sight.found.damage, "interrupted_records": sight.found.interrupted },
        "namespaces": namespaces,
    });
    let unknown = json!({
        "chunks": null, "payload_bytes": null, "disk_bytes": null,
        "oldest_stored_at_ms": null, "newest_stored_at_ms": null,
    });
    merged(head, all.map_or(unknown, Sum::json))
}

/// The chunks on a drive.
fn sum_of(sight: &Sight, drive: &Drive) -> Sum {
    let mut sum = Sum::default();
    sight.found.records.iter().filter(|record| drive.noted.holds(record)).for_each(|record| sum.add(record));
    sum
}

/// Two objects as one.
fn merged(mut one: serde_json::Value, other: serde_json::Value) -> serde_json::Value {
    if let (Some(one), serde_json::Value::Object(other)) = (one.as_object_mut(), other) {
        one.extend(other);
    }
    one
}

fn epoch(sight: &Sight) -> u32 {
    sight.format.as_ref().map_or(0, |format| format.epoch).max(sight.found.epoch)
}

/// Writes the lines above the table.
fn tell(out: &mut dyn Write, directory: &Path, sight: &Sight) -> io::Result<()> {
    let format = sight.format.as_ref().map_or("unknown (FORMAT is missing or damaged)".into(), |format| {
        format!("{}, opened {}", format.forebay_format, count(epoch(sight).into(), "time"))
    });
    let data = |data: Option<DataFile>| match data {
        Some(data) => format!("{} ({} allocated)", size(data.bytes), size(data.allocated_bytes)),
        None => "missing".into(),
    };
    let found = &sight.found;
    let journal = match (&found.damage, found.interrupted) {
        (Some(damage), _) => format!("damaged: {damage}"),
        (None, 0) => "sound".into(),
        // The owner may be writing it at this moment.
        (None, number) if sight.owner.is_some() => {
            format!("sound, {} being written", count(number, "record"))
        }
        (None, number) => format!("sound, {} that death interrupted", count(number, "record")),
    };
    writeln!(out, "{}", directory.display())?;
    if let Some(owner) = &sight.owner {
        writeln!(out, "in use   by {owner}; this is a snapshot")?;
    }
    writeln!(out, "format   {format}\ndata     {}\njournal  {journal}", data(sight.data()))?;
    if sight.drives.len() > 1 {
        let rows: Vec<_> = sight
            .drives
            .iter()
            .map(|drive| {
                let sum = sum_of(sight, drive);
                let figure = |text: String| if found.damage.is_some() { "-".into() } else { text };
                [
                    drive.noted.drive.to_string(),
                    figure(sum.chunks.to_string()),
                    figure(size(sum.disk_bytes)),
                    data(drive.data),
                    drive.noted.path.clone(),
                ]
            })
            .collect();
        write!(out, "\n{}", table(["drive", " chunks", " on disk", "data", "directory"], &rows))?;
    }
    if found.damage.is_some() {
        writeln!(
            out,
            "\nWhich chunks there are cannot be told without reading them: `forebay verify` does, and so does the \
             next start of the cache."
        )?;
    }
    Ok(())
}

/// Writes the table.
fn list(
    out: &mut dyn Write,
    all: &Sum,
    namespaces: &BTreeMap<String, Sum>,
    fields: &BTreeMap<String, NamespaceFields>,
) -> io::Result<()> {
    if all.chunks == 0 {
        return writeln!(out, "\nNo chunk is stored.");
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let now_ms = u64::try_from(now_ms).unwrap_or(u64::MAX);
    let mut sorted: Vec<_> = namespaces.iter().collect();
    sorted.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.disk_bytes));
    let mut rows: Vec<_> =
        sorted.into_iter().map(|(id, sum)| sum.row(id, now_ms, whose(fields.get(id)))).collect();
    if rows.len() > 1 {
        rows.push(all.row("all", now_ms, String::new()));
    }
    let head = ["namespace", " chunks", " payload", " on disk", " oldest", " newest", "whose"];
    write!(out, "\n{}", table(head, &rows))
}

/// A namespace in a few words: `a-model, revision 1, float16, tp 0/2`.
fn whose(fields: Option<&NamespaceFields>) -> String {
    let Some(fields) = fields else { return "(not noted)".into() };
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    let mut words = Vec::new();
    for (name, before) in [("model", ""), ("revision", "revision "), ("kv_dtype", ""), ("layout", "layout ")]
    {
        if !field(name).is_empty() {
            words.push(format!("{before}{}", field(name)));
        }
    }
    for (word, rank, size) in [("tp", "tp_rank", "tp_size"), ("pp", "pp_rank", "pp_size")] {
        if !matches!(field(size), "" | "0" | "1") {
            words.push(format!("{word} {}/{}", field(rank), field(size)));
        }
    }
    // The file is anybody's text, and this goes to a terminal.
    words.join(", ").replace(char::is_control, "?")
}
