//! `forebay verify`: what it finds, what its exit code says, and that it changes nothing.

mod filled;

use std::fs;

use filled::{
    CHUNKS, close, closed, everything, fill, flip, flip_in_chunk, json, on, open, open_all, printed, records,
    refused,
};
use forebay::tier::disk::directory::data_path;
use forebay::tier::disk::journal::{CHECKPOINT_FILE, segments};
use serde_json::Value;

#[test]
fn all_right_and_nothing_changed() {
    let directory = closed();
    let before = everything(directory.path());
    let text = printed(&on("verify", directory.path(), &[]), 0);
    assert!(
        text.contains("6 chunks, 624.00 KiB read") && text.ends_with("All of them are right.\n"),
        "{text}"
    );
    let report = json(&on("verify", directory.path(), &["--json"]), 0);
    assert_eq!(report["sound"], true);
    assert_eq!(
        (&report["chunks"], &report["bad_chunks"], &report["disk_bytes"]),
        (&CHUNKS.into(), &0.into(), &(CHUNKS * 26 * 4096).into())
    );
    assert!(report["seconds"].as_f64().unwrap() > 0.0 && report["gb_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(before, everything(directory.path()));
}

#[test]
fn one_flipped_bit_is_found_wherever_it_is() {
    let directory = closed();
    let records = records(directory.path());
    // First and last byte of the payload, of the padding behind it, and of the trailer.
    let payload = [0, 99_999, 100_000, 102_399].map(|at| (at, "payload"));
    for (at, kind) in payload.into_iter().chain([(102_400, "trailer"), (106_495, "trailer")]) {
        flip_in_chunk(directory.path(), &records[2], at);
        let report = json(&on("verify", directory.path(), &["--json"]), 1);
        assert_eq!((&report["sound"], &report["bad_chunks"]), (&false.into(), &1.into()), "byte {at}");
        let bad = &report["bad"][0];
        assert_eq!((&bad["key"], &bad["kind"]), (&records[2].key.to_string().into(), &kind.into()));
        assert_eq!(bad["offset_bytes"], records[2].extents.as_slice()[0].byte_start());
        let text = printed(&on("verify", directory.path(), &[]), 1);
        assert!(text.contains(&format!("1 of them BAD ({kind} 1)")), "{text}");
        assert!(text.contains(&records[2].key.to_string()), "{text}");
        flip_in_chunk(directory.path(), &records[2], at);
    }
    printed(&on("verify", directory.path(), &[]), 0);
}

#[test]
fn a_chunk_in_anothers_place_is_found() {
    let directory = closed();
    let records = records(directory.path());
    let mut data = fs::read(data_path(directory.path())).unwrap();
    let place = |index: usize| {
        let start = usize::try_from(records[index].extents.as_slice()[0].byte_start()).unwrap();
        start..start + 26 * 4096
    };
    let (first, second) = (data[place(0)].to_vec(), data[place(1)].to_vec());
    data[place(0)].copy_from_slice(&second);
    data[place(1)].copy_from_slice(&first);
    fs::write(data_path(directory.path()), data).unwrap();
    let report = json(&on("verify", directory.path(), &["--json"]), 1);
    let kinds: Vec<_> = report["bad"].as_array().unwrap().iter().map(|bad| &bad["kind"]).collect();
    assert_eq!(kinds, ["other chunk", "other chunk"]);
}

#[test]
fn a_truncated_data_file_is_found_and_not_made_longer() {
    let directory = closed();
    let records = records(directory.path());
    let mut starts: Vec<u64> =
        records.iter().map(|record| record.extents.as_slice()[0].byte_start()).collect();
    starts.sort_unstable();
    // In the middle of a block of the fourth chunk: that one and the two behind it end too soon.
    let length = starts[3] + 5 * 4096 + 17;
    let data = fs::OpenOptions::new().write(true).open(data_path(directory.path())).unwrap();
    data.set_len(length).unwrap();
    let report = json(&on("verify", directory.path(), &["--json"]), 1);
    let kinds: Vec<_> = report["bad"].as_array().unwrap().iter().map(|bad| &bad["kind"]).collect();
    assert_eq!(kinds, ["truncated"; 3]);
    assert_eq!(data.metadata().unwrap().len(), length);
}

#[test]
fn a_damaged_journal_is_said_and_the_trailers_are_read() {
    let directory = closed();
    let records = records(directory.path());
    flip(&directory.path().join(CHECKPOINT_FILE), 200);
    let before = everything(directory.path());
    let report = json(&on("verify", directory.path(), &["--json"]), 1);
    assert_eq!((&report["sound"], &report["chunks"]), (&false.into(), &CHUNKS.into()));
    assert!(report["journal"]["damage"].is_string());
    assert_eq!(before, everything(directory.path()));

    flip_in_chunk(directory.path(), &records[0], 5000);
    let text = printed(&on("verify", directory.path(), &[]), 1);
    assert!(text.contains("5 chunks") && text.contains("journal is DAMAGED"), "{text}");
}

#[test]
fn a_missing_journal_is_damage() {
    let directory = closed();
    fs::remove_file(directory.path().join(CHECKPOINT_FILE)).unwrap();
    for segment in segments(directory.path()).unwrap() {
        fs::remove_file(directory.path().join(format!("journal.{segment}"))).unwrap();
    }
    let report = json(&on("verify", directory.path(), &["--json"]), 1);
    assert_eq!(
        (&report["journal"]["damage"], &report["chunks"]),
        (&"checkpoint and journal are missing".into(), &CHUNKS.into())
    );
}

#[test]
fn a_directory_in_use_is_refused_by_the_pid_that_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    fill(&cache);
    let line = refused(&on("verify", directory.path(), &["--json"]));
    assert!(line.contains(&format!("in use by process {}; stop it", std::process::id())), "{line}");
    close(cache, directory.path());
    printed(&on("verify", directory.path(), &[]), 0);
}

#[test]
fn what_is_no_cache_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert!(refused(&on("verify", directory.path(), &[])).contains("no cache directory of Forebay"));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was put there");
}

#[test]
fn the_directory_is_as_usable_after_verify_as_before() {
    let directory = closed();
    json(&on("verify", directory.path(), &["--json"]), 0);
    let cache = open(directory.path());
    assert_eq!(cache.stats().control.disk.chunks, CHUNKS);
    let seen: Value = json(&on("inspect", directory.path(), &["--json"]), 0);
    assert_eq!((&seen["epoch"], &seen["in_use"]), (&2.into(), &true.into()));
}

#[test]
fn all_drives_are_read() {
    let places = tempfile::tempdir().unwrap();
    let (home, other) = (places.path().join("home"), places.path().join("other"));
    let cache = open_all(&[&home, &other]);
    fill(&cache);
    let line = refused(&on("verify", &home, &[]));
    assert!(line.contains("in use by process"), "{line}");
    close(cache, &home);
    printed(&on("verify", &home, &[]), 0);
    let there: Vec<_> = records(&home).into_iter().filter(|record| record.drive == 1).collect();

    flip_in_chunk(&other, &there[1], 5000);
    let report = json(&on("verify", &home, &["--json"]), 1);
    assert_eq!((&report["chunks"], &report["bad_chunks"]), (&CHUNKS.into(), &1.into()));
    let bad = &report["bad"][0];
    assert_eq!((&bad["drive"], &bad["key"]), (&1.into(), &there[1].key.to_string().into()));

    // Found by their trailers, without the one that is not right.
    flip(&home.join(CHECKPOINT_FILE), 200);
    let report = json(&on("verify", &home, &["--json"]), 1);
    assert_eq!(report["chunks"], CHUNKS - 1);
    flip(&home.join(CHECKPOINT_FILE), 200);

    fs::remove_file(data_path(&other)).unwrap();
    let report = json(&on("verify", &home, &["--json"]), 1);
    assert_eq!((&report["chunks"], &report["bad_chunks"]), (&CHUNKS.into(), &there.len().into()));
    let bad = report["bad"].as_array().unwrap();
    assert!(bad.iter().all(|bad| bad["kind"] == "unreadable" && bad["drive"] == 1), "{bad:?}");
    assert!(bad[0]["reason"].as_str().unwrap().contains("/other"));
}
