//! `forebay inspect`: what it says of directories in every state, and that it changes none.

mod filled;

use std::fs;

use filled::{
    CHUNK_BYTES, CHUNKS, close, closed, everything, fill, flip, json, on, open, open_all, printed, refused,
};
use forebay::tier::disk::journal::CHECKPOINT_FILE;
use forebay::tier::disk::namespaces::hex;

/// A chunk of [`CHUNK_BYTES`] on disk: 25 blocks and a trailer.
const CHUNK_DISK_BYTES: u64 = 26 * 4096;

#[test]
fn a_filled_directory() {
    let directory = closed();
    let before = everything(directory.path());
    let text = printed(&on("inspect", directory.path(), &[]), 0);
    for part in ["format   3, opened 1 time\n", "journal  sound\n", "a-model, float16", "585.94 KiB"] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(!text.contains("in use") && !text.contains("hunter2"), "{text}");

    let seen = json(&on("inspect", directory.path(), &["--json"]), 0);
    assert_eq!(seen["chunks"], CHUNKS);
    assert_eq!(seen["payload_bytes"], CHUNKS * u64::from(CHUNK_BYTES));
    assert_eq!(seen["disk_bytes"], CHUNKS * CHUNK_DISK_BYTES);
    assert_eq!((&seen["format"], &seen["epoch"]), (&3.into(), &1.into()));
    assert_eq!((&seen["in_use"], &seen["owner_pid"]), (&false.into(), &serde_json::Value::Null));
    assert!(seen["data"]["bytes"].as_u64().unwrap() > 7_000_000);
    assert!(seen["data"]["allocated_bytes"].is_u64());
    assert_eq!(seen["journal"]["damage"], serde_json::Value::Null);
    let namespace = &seen["namespaces"][0];
    assert_eq!(namespace["id"], hex(&filled::namespace().digest()[..8]));
    assert_eq!(namespace["fields"]["model"], "a-model");
    assert_eq!(namespace["chunks"], CHUNKS);
    let (oldest, newest) = (&namespace["oldest_stored_at_ms"], &namespace["newest_stored_at_ms"]);
    assert!(1_700_000_000_000 < oldest.as_u64().unwrap() && oldest.as_u64() <= newest.as_u64());
    assert_eq!(before, everything(directory.path()), "inspect changes nothing");
}

#[test]
fn a_directory_that_nothing_was_stored_in() {
    let directory = tempfile::tempdir().unwrap();
    close(open(directory.path()), directory.path());
    assert!(printed(&on("inspect", directory.path(), &[]), 0).ends_with("\nNo chunk is stored.\n"));
    let seen = json(&on("inspect", directory.path(), &["--json"]), 0);
    assert_eq!((&seen["chunks"], &seen["newest_stored_at_ms"]), (&0.into(), &serde_json::Value::Null));
}

#[test]
fn what_is_no_cache_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("data"), "somebody's").unwrap();
    let line = refused(&on("inspect", directory.path(), &[]));
    assert!(line.contains("no cache directory of Forebay") && line.contains("local_disk"), "{line}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing was put there");
    assert!(refused(&on("inspect", &directory.path().join("nowhere"), &[])).contains("no such directory"));
    assert!(refused(&on("inspect", &directory.path().join("data"), &[])).contains("forebay: "));
}

#[test]
fn a_directory_of_another_format_is_refused() {
    let directory = closed();
    fs::write(directory.path().join("FORMAT"), r#"{"forebay_format":4,"epoch":7}"#).unwrap();
    let line = refused(&on("inspect", directory.path(), &[]));
    assert!(line.contains("format 4") && line.contains("format 3"), "{line}");
}

#[test]
fn a_directory_in_use_is_shown_as_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    fill(&cache);
    let pid = std::process::id();
    let text = printed(&on("inspect", directory.path(), &[]), 0);
    assert!(text.contains(&format!("in use   by process {pid}; this is a snapshot\n")), "{text}");
    let seen = json(&on("inspect", directory.path(), &["--json"]), 0);
    assert_eq!((&seen["in_use"], &seen["owner_pid"]), (&true.into(), &pid.into()));
    assert_eq!(seen["chunks"], CHUNKS);
}

#[test]
fn a_damaged_journal_is_said_and_not_believed() {
    let directory = closed();
    flip(&directory.path().join(CHECKPOINT_FILE), 200);
    let text = printed(&on("inspect", directory.path(), &[]), 0);
    assert!(text.contains("journal  damaged: ") && text.contains("forebay verify"), "{text}");
    let seen = json(&on("inspect", directory.path(), &["--json"]), 0);
    assert!(seen["journal"]["damage"].is_string());
    assert_eq!((&seen["chunks"], &seen["namespaces"]), (&serde_json::Value::Null, &serde_json::json!([])));
}

#[test]
fn an_interrupted_record_is_counted() {
    let directory = closed();
    let segments = forebay::tier::disk::journal::segments(directory.path()).unwrap();
    let segment = directory.path().join(format!("journal.{}", segments.last().unwrap()));
    let mut bytes = fs::read(&segment).unwrap();
    bytes.extend([1; 100]);
    fs::write(&segment, bytes).unwrap();
    let seen = json(&on("inspect", directory.path(), &["--json"]), 0);
    assert_eq!(seen["journal"], serde_json::json!({ "damage": null, "interrupted_records": 1 }));
    assert_eq!(seen["chunks"], CHUNKS);
    let text = printed(&on("inspect", directory.path(), &[]), 0);
    assert!(text.contains("sound, 1 record that death interrupted"), "{text}");
}

#[test]
fn several_directories_are_one_cache() {
    let places = tempfile::tempdir().unwrap();
    let (home, other) = (places.path().join("home"), places.path().join("other"));
    let cache = open_all(&[&home, &other]);
    fill(&cache);
    close(cache, &home);
    let seen = json(&on("inspect", &home, &["--json"]), 0);
    assert_eq!(seen["chunks"], CHUNKS);
    let drives = seen["drives"].as_array().unwrap();
    let numbers: Vec<_> = drives.iter().map(|drive| drive["drive"].as_u64().unwrap()).collect();
    let chunks: Vec<_> = drives.iter().map(|drive| drive["chunks"].as_u64().unwrap()).collect();
    assert_eq!((numbers, chunks.iter().sum::<u64>()), (vec![0, 1], CHUNKS));
    assert!(chunks.iter().all(|count| (2..=4).contains(count)), "{chunks:?}");
    assert_eq!(seen["drives"][1]["disk_bytes"], chunks[1] * CHUNK_DISK_BYTES);
    let bytes = |data: &serde_json::Value| data["bytes"].as_u64().unwrap();
    assert_eq!(bytes(&seen["data"]), bytes(&drives[0]["data"]) + bytes(&drives[1]["data"]));
    let text = printed(&on("inspect", &home, &[]), 0);
    let line = text.lines().find(|line| line.ends_with("/other")).expect("a line for the other one");
    assert!(line.split_whitespace().take(2).eq(["1", &chunks[1].to_string()]), "{line:?}");

    let line = refused(&on("inspect", &other, &[]));
    assert!(line.contains("drive 1 of the cache whose home is") && line.contains("/home"), "{line}");
    fs::remove_dir_all(&other).unwrap();
    let text = printed(&on("inspect", &home, &[]), 0);
    assert!(text.lines().any(|line| line.contains("missing") && line.ends_with("/other")), "{text}");
    let seen = json(&on("inspect", &home, &["--json"]), 0);
    assert_eq!(seen["drives"][1]["data"], serde_json::Value::Null);
}
