//! A cache that is watched, and a client of HTTP that says exactly what it is told to.

#![allow(dead_code, reason = "each test uses what it needs")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use forebay::{Cache, ChunkKey, Config, LoadOutcome, Namespace, StoreOutcome, Value};
use forebay_watch::Server;
use tempfile::TempDir;

/// Payload bytes of a chunk.
pub(crate) const CHUNK: usize = 64 << 10;
/// Longer than anything takes that ends at all.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A cache with its server and its directory.
pub(crate) struct Watched {
    pub(crate) server: Server,
    pub(crate) cache: Arc<Cache>,
    pub(crate) home: TempDir,
}

/// The configuration of a cache of so many bytes of disk, and more of it.
pub(crate) fn config<'a>(
    home: &TempDir,
    disk_bytes: u64,
    more: impl IntoIterator<Item = (&'a str, Value)>,
) -> Config {
    let values = [
        ("local_disk", Value::from(home.path().join("kv").to_str().expect("text"))),
        ("max_local_disk_size", gib(disk_bytes)),
        ("max_local_cpu_size", gib(16 * CHUNK as u64)),
        ("use_only_staging_buffer", Value::from(true)),
        ("disk_min_free_size", Value::from(0.0)),
    ];
    Config::from_values(values.into_iter().chain(more)).expect("a configuration").config
}

/// A cache of that, watched at a free port.
pub(crate) fn watched<'a>(disk_bytes: u64, more: impl IntoIterator<Item = (&'a str, Value)>) -> Watched {
    watched_in(TempDir::new().expect("a directory"), disk_bytes, more)
}

/// The same in a directory that is there.
pub(crate) fn watched_in<'a>(
    home: TempDir,
    disk_bytes: u64,
    more: impl IntoIterator<Item = (&'a str, Value)>,
) -> Watched {
    let config = config(&home, disk_bytes, more);
    let cache = Arc::new(Cache::open(&config, CHUNK as u64, None).expect("a cache"));
    let weak = Arc::downgrade(&cache);
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::start(address, &config.http_token, Arc::new(weak)).expect("a server");
    Watched { server, cache, home }
}

#[expect(clippy::cast_precision_loss, reason = "sizes of tests")]
pub(crate) fn gib(bytes: u64) -> Value {
    Value::from(bytes as f64 / f64::from(1 << 30))
}

/// The keys of the chunks of a prompt.
pub(crate) fn prompt(number: u32, chunks: usize) -> Vec<ChunkKey> {
    let mut tokens = vec![number; chunks * 4];
    tokens[0] = number;
    Namespace::of_model("watched").chunk_keys(&tokens, 4, &[]).expect("keys")
}

pub(crate) fn store(cache: &Cache, keys: &[ChunkKey], parent: Option<ChunkKey>) -> Vec<StoreOutcome> {
    let chunks = keys.iter().map(|key| (*key, Box::new(vec![key.as_bytes()[0]; CHUNK]) as _)).collect();
    let batch = cache.store(chunks, parent, None).expect("right chunks");
    batch.wait(Some(PATIENCE)).expect("stores end")
}

pub(crate) fn load(cache: &Cache, keys: &[ChunkKey]) -> Vec<LoadOutcome> {
    let buffer = || Box::new(Arc::new(parking_lot::Mutex::new(vec![0_u8; CHUNK])));
    let chunks = keys.iter().map(|key| (*key, buffer() as _)).collect();
    cache.load(chunks, None).wait(Some(PATIENCE)).expect("loads end")
}

/// An answer: status, head, body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// What comes back for these bytes until the server ends the connection.
pub(crate) fn say(server: &Server, request: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(server.address()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    // It may end before all was said.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
}

pub(crate) fn get(server: &Server, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.address());
    say(server, request.as_bytes()).expect("an answer")
}

/// The samples of `/metrics` that are whole numbers, by name and labels: all but sums of times.
pub(crate) fn samples(server: &Server) -> HashMap<String, u64> {
    let answer = get(server, "/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
    let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| line.rsplit_once(' ').expect("a sample"));
    samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}
