//! A cache directory with known chunks in it, and the program run on it.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output};

use forebay::catalog::ChunkRecord;
use forebay::tier::disk::directory::data_path;
use forebay::tier::disk::lock::owner;
use forebay::tier::disk::recovery::read_journal;
use forebay::{Cache, ChunkKey, Config, Namespace, StoreStatus, Value};

/// No multiple of a block: the last one is padded.
pub(crate) const CHUNK_BYTES: u32 = 100_000;
/// Chunks stored by [`fill`].
pub(crate) const CHUNKS: u64 = 6;

/// Opens a cache of 8 MiB in `directory`.
pub(crate) fn open(directory: &Path) -> Cache {
    open_all(&[directory])
}

/// Opens a cache of 8 MiB in each of these directories.
pub(crate) fn open_all(directories: &[&Path]) -> Cache {
    let paths = directories.iter().map(|path| Value::from(path.to_str().unwrap())).collect();
    let count = u32::try_from(directories.len()).unwrap();
    let config = Config::from_values([
        ("local_disk", Value::List(paths)),
        ("max_local_disk_size", Value::from(0.007_812_5 * f64::from(count))),
        ("disk_min_free_size", Value::from(0.0)),
        ("local_cpu", Value::from(false)),
        ("use_only_staging_buffer", Value::from(true)),
        ("max_local_cpu_size", Value::from(0.001)),
    ]);
    Cache::open(&config.unwrap(), u64::from(CHUNK_BYTES), Some(&namespace())).unwrap()
}

/// The namespace of the chunks.
pub(crate) fn namespace() -> Namespace {
    Namespace { kv_dtype: "float16".into(), salt: "hunter2".into(), ..Namespace::of_model("a-model") }
}

/// Stores chunks of different bytes, as far as they are not there.
pub(crate) fn fill(cache: &Cache) -> Vec<ChunkKey> {
    let keys = namespace().chunk_keys(&vec![7; 16 * usize::try_from(CHUNKS).unwrap()], 16, &[]).unwrap();
    let bytes = |index: usize| -> Vec<u8> {
        (0..CHUNK_BYTES as usize).map(|at| u8::try_from((at * 31 + index) % 251).unwrap()).collect()
    };
    let chunks = keys.iter().enumerate().map(|(index, key)| (*key, Box::new(bytes(index)) as _)).collect();
    let outcomes = cache.store(chunks, None, None).unwrap().wait(None);
    let is_there = |status| matches!(status, StoreStatus::Stored | StoreStatus::Present);
    assert!(outcomes.is_some_and(|all| all.iter().all(|outcome| is_there(outcome.status))));
    keys
}

/// A directory that was filled and closed.
pub(crate) fn closed() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    fill(&cache);
    close(cache, directory.path());
    directory
}

/// Closes a cache and waits until nobody owns its directory: a child that another test is just starting has a copy of
/// the lock until it becomes another program.
pub(crate) fn close(cache: Cache, directory: &Path) {
    drop(cache);
    while owner(directory).is_some() {
        std::thread::yield_now();
    }
}

/// What the journal says.
pub(crate) fn records(directory: &Path) -> Vec<ChunkRecord> {
    let found = read_journal(directory).unwrap();
    assert_eq!(found.damage, None);
    found.records
}

/// Flips one bit of a file.
pub(crate) fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// Flips one bit of a chunk on disk, `at` bytes behind its begin.
pub(crate) fn flip_in_chunk(directory: &Path, record: &ChunkRecord, at: u64) {
    flip(&data_path(directory), record.extents.as_slice()[0].byte_start() + at);
}

/// The program, with no configuration from around it.
pub(crate) fn forebay(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("FOREBAY_") || name.starts_with("LMCACHE_")) {
            command.env_remove(name);
        }
    }
    command.args(arguments).output().unwrap()
}

/// The program on a directory.
pub(crate) fn on(command: &str, directory: &Path, more: &[&str]) -> Output {
    forebay(&[&[command, directory.to_str().unwrap()], more].concat())
}

/// What it printed, given that it ended with `code` and said nothing on standard error.
#[track_caller]
pub(crate) fn printed(output: &Output, code: i32) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*errors), (Some(code), ""));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The JSON it printed, under the same conditions.
#[track_caller]
pub(crate) fn json(output: &Output, code: i32) -> serde_json::Value {
    serde_json::from_str(&printed(output, code)).unwrap()
}

/// The one line of its error, given that it could not do what it was asked for.
#[track_caller]
pub(crate) fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2));
    let line = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(line.starts_with("forebay: ") && line.ends_with('\n') && line.lines().count() == 1, "{line:?}");
    line
}

/// All that can be seen of a directory: names, lengths, times of change, bytes.
pub(crate) fn everything(directory: &Path) -> BTreeMap<String, (u64, i64, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let seen = (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), fs::read(entry.path()).unwrap());
        all.insert(entry.file_name().into_string().unwrap(), seen);
    }
    all
}
