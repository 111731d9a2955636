//! `forebay gc`: what it keeps, what goes and why, and that it says what it does.

mod filled;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use filled::{
    CHUNKS, close, closed, everything, fill, flip, flip_in_chunk, json, on, open, open_all, printed, records,
    refused,
};
use forebay::tier::disk::directory::data_path;
use forebay::tier::disk::journal::{CHECKPOINT_FILE, segments};
use serde_json::{Value, json};

/// What it says it would do, given that it changes nothing; and then what it says it did.
#[track_caller]
fn gc(home: &Path, directories: &[&Path]) -> Value {
    let before: Vec<_> = directories.iter().map(|directory| everything(directory)).collect();
    let mut dry = json(&on("gc", home, &["--json", "--dry-run"]), 0);
    let after: Vec<_> = directories.iter().map(|directory| everything(directory)).collect();
    assert!(before == after, "a dry run changes nothing");
    let done = json(&on("gc", home, &["--json"]), 0);
    assert_eq!(dry["dry_run"], true);
    dry["dry_run"] = false.into();
    assert_eq!(dry, done, "what would be done was done");
    for file in done["files"].as_array().unwrap() {
        assert!(!Path::new(file.as_str().unwrap()).exists(), "{file} is gone");
    }
    done
}

#[test]
fn a_directory_in_order_stays_as_it_is_with_its_journal_written_out() {
    let directory = closed();
    let before = records(directory.path());
    let done = gc(directory.path(), &[directory.path()]);
    assert_eq!((&done["kept_chunks"], &done["dropped"]), (&CHUNKS.into(), &json!({})));
    assert_eq!(done["kept_bytes"], CHUNKS * 26 * 4096);
    assert_eq!(done["files"].as_array().unwrap().len(), 1, "the segment of before: {done}");
    // The same chunks, in the same order, from the checkpoint alone.
    assert_eq!(records(directory.path()), before);
    assert_eq!(segments(directory.path()).unwrap().len(), 1);
    assert_eq!(fs::metadata(directory.path().join(CHECKPOINT_FILE)).unwrap().len(), (CHUNKS + 1) * 128);
    let text = printed(&on("gc", directory.path(), &[]), 0);
    assert!(text.contains("6 chunks stay, 624.00 KiB\nNo chunk went."), "{text}");
    assert!(text.contains("went: ") && text.contains("/journal."), "{text}");
    let cache = open(directory.path());
    assert_eq!(cache.stats().control.disk.chunks, CHUNKS);
    assert_eq!(cache.lookup(&fill(&cache)).chunks() as u64, CHUNKS);
}

#[test]
fn chunks_that_are_not_there_any_more_go_and_it_says_why() {
    let directory = closed();
    let mut all = records(directory.path());
    all.sort_by_key(|record| record.extents.as_slice()[0].start);
    // A trailer that is damaged; a payload, which it does not read; and a file that ends before the last chunk does.
    flip_in_chunk(directory.path(), &all[1], 102_400);
    flip_in_chunk(directory.path(), &all[2], 5000);
    let data = fs::OpenOptions::new().write(true).open(data_path(directory.path())).unwrap();
    let length = all[5].extents.as_slice()[0].byte_start() + 4096;
    data.set_len(length).unwrap();
    let done = gc(directory.path(), &[directory.path()]);
    assert_eq!(done["dropped"], json!({ "trailer": 1, "past the end": 1 }));
    assert_eq!((&done["kept_chunks"], &done["dropped_bytes"]), (&4.into(), &(26 * 4096).into()));
    assert_eq!(data.metadata().unwrap().len(), length);
    let left: Vec<_> = records(directory.path()).iter().map(|record| record.key).collect();
    assert!(left.len() == 4 && !left.contains(&all[1].key) && !left.contains(&all[5].key));
    let cache = open(directory.path());
    assert_eq!(cache.stats().control.disk.chunks, 4);
    fill(&cache);
    assert_eq!(cache.stats().control.disk.chunks, CHUNKS, "their room is others' again");
}

#[test]
fn what_a_death_left_half_written_goes_and_what_is_not_ours_stays() {
    let directory = closed();
    let left = ["checkpoint.new", "FORMAT.new", "namespaces.new"];
    let others = ["notes.txt", "data.new", "journal.x", "checkpoint.old", "LOCK.new"];
    for name in left.iter().chain(&others) {
        fs::write(directory.path().join(name), "half of it").unwrap();
    }
    // A record that was torn off.
    let segment = segments(directory.path()).unwrap()[0];
    let segment = directory.path().join(format!("journal.{segment}"));
    fs::write(&segment, [fs::read(&segment).unwrap(), vec![1; 50]].concat()).unwrap();
    let taken = |path: &Path| fs::metadata(path).unwrap().blocks() * 512;
    let all_taken =
        left.iter().map(|name| taken(&directory.path().join(name))).sum::<u64>() + taken(&segment);
    let done = gc(directory.path(), &[directory.path()]);
    assert_eq!((&done["kept_chunks"], &done["interrupted_records"]), (&CHUNKS.into(), &1.into()));
    let files: Vec<_> = done["files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect();
    assert_eq!(files.len(), 4, "{files:?}");
    assert!(left.iter().all(|name| files.contains(&&*directory.path().join(name).display().to_string())));
    assert_eq!(done["files_bytes"], all_taken);
    for name in others {
        assert_eq!(fs::read(directory.path().join(name)).unwrap(), b"half of it", "{name}");
    }
}

#[test]
fn where_the_journal_is_damaged_the_trailers_are_believed() {
    let directory = closed();
    let first = records(directory.path())[0];
    flip(&directory.path().join(CHECKPOINT_FILE), 200);
    flip_in_chunk(directory.path(), &first, 5000);
    let before = everything(directory.path());
    for arguments in [["--json", "--dry-run"].as_slice(), &["--json"]] {
        assert!(everything(directory.path()) == before);
        let output = on("gc", directory.path(), arguments);
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot use the journal"), "{output:?}");
        let done: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&done["kept_chunks"], &done["dropped"]), (&(CHUNKS - 1).into(), &json!({})));
        assert!(done["rebuilt"].as_str().unwrap().contains("not sound"));
    }
    let found = records(directory.path());
    assert_eq!(found.len() as u64, CHUNKS - 1, "and a start need not look for them again");
}

#[test]
fn all_drives_are_seen_to_and_one_that_is_not_there_is_no_loss() {
    let places = tempfile::tempdir().unwrap();
    let (home, other) = (places.path().join("home"), places.path().join("other"));
    let cache = open_all(&[&home, &other]);
    fill(&cache);
    for directory in [&home, &other] {
        assert!(refused(&on("gc", directory, &[])).contains("in use by"));
    }
    close(cache, &home);
    assert!(refused(&on("gc", &other, &[])).contains("is drive 1 of the cache whose home is"));
    let there: Vec<_> = records(&home).into_iter().filter(|record| record.drive == 1).collect();
    flip_in_chunk(&other, &there[0], 102_400);
    fs::write(other.join("FORMAT.new"), "half").unwrap();
    let away = places.path().join("away");
    fs::rename(&other, &away).unwrap();
    let before = everything(&home);
    for command in ["gc", "clear"] {
        let line = refused(&on(command, &home, &[]));
        assert!(line.contains("was drive 1 of this cache, and is not there"), "{line}");
    }
    assert!(everything(&home) == before && !other.exists(), "nothing was given up, and nothing made");
    fs::rename(&away, &other).unwrap();
    let done = gc(&home, &[&home, &other]);
    assert_eq!((&done["kept_chunks"], &done["dropped"]), (&(CHUNKS - 1).into(), &json!({ "trailer": 1 })));
    let cache = open_all(&[&home, &other]);
    assert_eq!(cache.stats().control.disk.chunks, CHUNKS - 1);
}

#[test]
fn a_shared_directory_is_trimmed_to_what_is_asked_for() {
    let shared = tempfile::tempdir().unwrap();
    let path = |number: u64| shared.path().join("0123456789abcdef").join(format!("{number:064x}/2048-end"));
    for number in 0..10 {
        fs::create_dir_all(path(number).parent().unwrap()).unwrap();
        let file = File::create(path(number)).unwrap();
        file.set_len(1 << 20).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + number)).unwrap();
    }
    fs::write(shared.path().join("notes.txt"), "somebody's").unwrap();
    let url = format!("file://{}", shared.path().display());
    let there = || (0..10).filter(|number| path(*number).exists()).collect::<Vec<_>>();
    assert!(refused(&filled::forebay(&["gc", &url])).contains("--capacity"));
    let text = printed(&filled::forebay(&["gc", &url, "--capacity", "3MiB", "--dry-run"]), 0);
    assert!(text.contains("7 chunks would go, the oldest; 10.00 MiB before, 3.00 MiB after"), "{text}");
    assert_eq!(there().len(), 10, "nothing went");
    let done = json(&filled::forebay(&["gc", &url, "--capacity", "3MiB", "--json"]), 0);
    assert_eq!((&done["chunks"], &done["bytes_after"]), (&7.into(), &(3 << 20).into()));
    assert_eq!(there(), [7, 8, 9]);
    assert!(shared.path().join("notes.txt").exists());
    assert!(
        refused(&filled::forebay(&["gc", "s3://bucket/a", "--capacity", "1GiB"])).contains("file:///PATH")
    );
    let local = closed();
    assert!(refused(&on("gc", local.path(), &["--capacity", "1GiB"])).contains("max_local_disk_size"));
}
