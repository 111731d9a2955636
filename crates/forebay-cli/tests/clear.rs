//! `forebay clear`: of a cache that runs, and of a directory that is not in use.

mod filled;
mod running;

use std::fs;
use std::process::{Command, Output};

use filled::{CHUNKS, close, closed, everything, fill, json, namespace, on, open, printed, records, refused};
use forebay::Lookup;
use forebay::tier::disk::directory::data_path;
use forebay::tier::disk::namespaces::hex;
use running::Running;

const TOKEN: &str = "a-token-of-tests";

/// The id of the chunks' namespace.
fn id() -> String {
    hex(&namespace().chunk_keys(&[7; 16], 16, &[]).unwrap()[0].namespace_id())
}

fn forebay_with(token: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    match token {
        Some(token) => command.env("FOREBAY_HTTP_TOKEN", token),
        None => command.env_remove("FOREBAY_HTTP_TOKEN"),
    };
    command.args(arguments).output().unwrap()
}

#[test]
fn a_cache_that_runs_is_cleared_with_its_token_and_without_it_not() {
    let running = Running::start(TOKEN);
    let keys = fill(&running.cache);
    let address = running.address();
    let chunks = || running.cache.stats().control.disk.chunks;
    for (token, what) in [
        (None, "FOREBAY_HTTP_TOKEN is not set"),
        (Some(""), "FOREBAY_HTTP_TOKEN is not set"),
        (Some("wrong"), "that is not the token"),
        (Some("a\r\nX-More: b"), "more in it than plain characters"),
    ] {
        let line = refused(&forebay_with(token, &["clear", "--at", &address]));
        assert!(line.contains(what), "{line}");
        assert_eq!(chunks(), CHUNKS, "{what}");
    }
    let cleared = |more: &[&str]| {
        let output = forebay_with(Some(TOKEN), &[&["clear", "--at", &address][..], more].concat());
        assert!(!format!("{output:?}").contains(TOKEN), "it is not shown");
        printed(&output, 0)
    };
    assert_eq!(cleared(&["--namespace", "0123456789abcdef"]), "0 chunks cleared\n");
    assert_eq!(chunks(), CHUNKS);
    assert_eq!(cleared(&["--namespace", &id()]), "6 chunks cleared\n");
    assert_eq!(chunks(), 0);
    assert!(matches!(running.cache.lookup(&keys), Lookup::Miss));
    fill(&running.cache);
    assert_eq!(cleared(&["--json"]), "{\"cleared\":6}\n");
}

#[test]
fn where_no_token_is_set_nothing_is_cleared_and_it_says_why() {
    let running = Running::start("");
    fill(&running.cache);
    let line = refused(&forebay_with(Some(TOKEN), &["clear", "--at", &running.address()]));
    assert!(line.contains("http_token is not set"), "{line}");
    assert_eq!(running.cache.stats().control.disk.chunks, CHUNKS);
}

#[test]
fn a_directory_in_use_is_left_alone_and_it_says_where_to_clear_it() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    fill(&cache);
    let line = refused(&on("clear", directory.path(), &[]));
    assert!(
        line.contains(&format!("in use by process {}", std::process::id())) && line.contains("--at"),
        "{line}"
    );
    assert_eq!(cache.stats().control.disk.chunks, CHUNKS);
    close(cache, directory.path());
    assert_eq!(printed(&on("clear", directory.path(), &[]), 0), "6 chunks cleared\n");
}

#[test]
fn a_directory_is_cleared_and_is_as_usable_as_before() {
    let directory = closed();
    let length = fs::metadata(data_path(directory.path())).unwrap().len();
    let other = printed(&on("clear", directory.path(), &["--namespace", "0123456789abcdef"]), 0);
    assert_eq!((other.as_str(), records(directory.path()).len() as u64), ("0 chunks cleared\n", CHUNKS));
    let cleared = json(&on("clear", directory.path(), &["--namespace", &id(), "--json"]), 0);
    assert_eq!((&cleared["cleared"], records(directory.path()).len()), (&CHUNKS.into(), 0));
    assert_eq!(fs::metadata(data_path(directory.path())).unwrap().len(), length, "no longer and no shorter");
    printed(&on("verify", directory.path(), &[]), 0);
    let cache = open(directory.path());
    assert_eq!(cache.stats().control.disk.chunks, 0);
    let keys = fill(&cache);
    assert_eq!(cache.lookup(&keys).chunks() as u64, CHUNKS);
    close(cache, directory.path());
    assert_eq!(records(directory.path()).len() as u64, CHUNKS);
}

#[test]
fn what_is_no_cache_is_refused_and_untouched() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("data"), "somebody's").unwrap();
    let before = everything(directory.path());
    for command in ["clear", "gc"] {
        let line = refused(&on(command, directory.path(), &[]));
        assert!(line.contains("no cache directory of Forebay"), "{line}");
        let line = refused(&on(command, &directory.path().join("none"), &[]));
        assert!(line.contains("no such directory"), "{line}");
    }
    assert_eq!(everything(directory.path()), before);
    for wrong in [&["clear"][..], &["clear", "a", "--at", "9180"], &["clear", "a", "--namespace", "12"]] {
        assert_eq!(filled::forebay(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn the_disk_of_a_cache_that_runs_becomes_smaller_and_larger() {
    let running = Running::start(TOKEN);
    fill(&running.cache);
    let capacity = || running.cache.stats().control.disk.capacity_bytes;
    let before = capacity();
    let address = running.address();
    let set = |token, size: &str| forebay_with(token, &["capacity", size, "--at", &address, "--json"]);
    assert!(refused(&set(Some("wrong"), "4MiB")).contains("that is not the token"));
    assert!(refused(&set(Some(TOKEN), "1KiB")).contains("two chunks"));
    assert_eq!(capacity(), before);
    let now = before - (4 << 20);
    assert_eq!(printed(&set(Some(TOKEN), "4MiB"), 0), format!("{{\"capacity_bytes\":{now}}}\n"));
    assert_eq!((capacity(), running.cache.stats().control.disk.chunks), (now, CHUNKS));
    let text = printed(&forebay_with(Some(TOKEN), &["capacity", "8MiB", "--at", &address]), 0);
    assert!(text.starts_with("8.00 MiB of disk, of which chunks may take 7.36 MiB"), "{text}");
    assert_eq!(capacity(), before);
}

#[test]
fn a_namespace_of_a_cache_that_runs_is_pinned_and_unpinned() {
    let running = Running::start(TOKEN);
    fill(&running.cache);
    let pinned = || running.cache.stats().control.disk.pinned_chunks;
    let (address, id) = (running.address(), id());
    let run = |token, arguments: &[&str]| forebay_with(token, &[arguments, &["--at", &address][..]].concat());
    assert!(refused(&run(Some("wrong"), &["pin", "--namespace", &id])).contains("that is not the token"));
    assert_eq!(pinned(), 0);
    assert_eq!(printed(&run(Some(TOKEN), &["pin", "--namespace", &id]), 0), "6 chunks pinned\n");
    assert_eq!(pinned(), CHUNKS);
    assert_eq!(
        printed(&run(Some(TOKEN), &["pin", "--namespace", "0123456789abcdef"]), 0),
        "0 chunks pinned\n"
    );
    assert_eq!(printed(&run(Some(TOKEN), &["unpin", "--json"]), 0), "{\"unpinned\":6}\n");
    assert_eq!(pinned(), 0);
}
