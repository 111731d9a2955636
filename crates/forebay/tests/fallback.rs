//! Without `io_uring`: many containers forbid it, and everything has to work all the same.

#[path = "support/forbidden.rs"]
mod forbidden;
mod support;

use forbidden::forbid;
use forebay::config::Config;
use forebay::{Cache, ErrorKind, Value};
use support::{Home, KIB, assert_nothing_leaked, config_with, count_right, prompt, store_all};
use tempfile::TempDir;

const CHUNK: usize = 64 * KIB;

/// Forbids `io_uring` to this thread and those it starts, the way a container does.
fn forbid_io_uring() {
    forbid(libc::SYS_io_uring_setup, None, libc::EPERM);
}

fn choosing(home: &TempDir, engine: &str) -> Config {
    config_with(home.path(), CHUNK, 4, 64 << 20, [("disk_io_engine", Value::from(engine))])
}

#[test]
fn where_io_uring_is_forbidden_threads_do_its_work() {
    forbid_io_uring();
    let home = Home::new(CHUNK, 4, 64 << 20);
    let cache = home.open();
    assert_eq!(cache.stats().mover.io_engine, "threads");
    let keys = prompt(0, 100);
    store_all(&cache, &keys, CHUNK);
    assert_eq!(count_right(&cache, &keys, CHUNK), 100);
    assert_nothing_leaked(&cache);
}

#[test]
fn where_io_uring_is_asked_for_and_forbidden_the_cache_says_so() {
    forbid_io_uring();
    let home = TempDir::new().unwrap();
    let error =
        Cache::open(&choosing(&home, "io_uring"), CHUNK as u64, None).err().expect("io_uring is forbidden");
    assert_eq!(error.kind(), ErrorKind::Config);
    let message = error.to_string();
    assert!(message.contains("disk_io_engine") && message.contains("not permitted"), "{message}");
    // And the directory is free again.
    assert!(Cache::open(&choosing(&home, "auto"), CHUNK as u64, None).is_ok());
}

#[test]
fn what_one_engine_has_stored_the_other_finds() {
    let home = TempDir::new().unwrap();
    let keys = prompt(0, 20);
    let cache = Cache::open(&choosing(&home, "auto"), CHUNK as u64, None).unwrap();
    store_all(&cache, &keys[..10], CHUNK);
    drop(cache);
    let cache = Cache::open(&choosing(&home, "threads"), CHUNK as u64, None).unwrap();
    assert_eq!(cache.stats().mover.io_engine, "threads");
    assert_eq!(count_right(&cache, &keys[..10], CHUNK), 10);
    store_all(&cache, &keys[10..], CHUNK);
    drop(cache);
    let cache = Cache::open(&choosing(&home, "auto"), CHUNK as u64, None).unwrap();
    assert_eq!(count_right(&cache, &keys, CHUNK), 20);
}
