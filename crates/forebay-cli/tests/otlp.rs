//! With the feature `otlp`: each chunk's way arrives at a collector, and a collector that is not there costs nothing.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

fn bench(directory: &Path, endpoint: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command
        .args(["bench", "--chunk-size", "64KiB", "--total", "1MiB", "--rounds", "1", "--dir"])
        .arg(directory)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    command
}

/// Answers requests as a collector does, and gives their bodies.
fn collector() -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (got, requests) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, got) = (stream.unwrap(), got.clone());
            thread::spawn(move || {
                let mut bytes = Vec::new();
                let mut buffer = [0; 64 << 10];
                loop {
                    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n");
                    if let Some(head) = head {
                        let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
                        let length = text.split("content-length: ").nth(1).expect("it says its length");
                        let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
                        if bytes.len() >= head + 4 + length {
                            let rest = bytes.split_off(head + 4 + length);
                            let body = bytes.split_off(head + 4);
                            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
                            let _ = got.send((text, body));
                            bytes = rest;
                            continue;
                        }
                    }
                    match stream.read(&mut buffer) {
                        Ok(0) | Err(_) => return,
                        Ok(read) => bytes.extend_from_slice(&buffer[..read]),
                    }
                }
            });
        }
    });
    (address, requests)
}

fn has(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn the_way_of_chunks_arrives_at_a_collector() {
    let directory = tempfile::TempDir::new().unwrap();
    let (endpoint, requests) = collector();
    let output = bench(directory.path(), &endpoint).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut seen = Vec::new();
    while let Ok((head, body)) = requests.recv_timeout(Duration::from_millis(200)) {
        assert!(head.starts_with("post /v1/traces "), "{head}");
        seen.extend(body);
    }
    for text in
        ["service.name", "forebay", "store", "load", "tier", "disk", "outcome", "done", "it has a slot"]
    {
        assert!(has(&seen, text), "{text} is not in {} bytes", seen.len());
    }
}

#[test]
fn a_collector_that_is_not_there_costs_spans_and_nothing_else() {
    let directory = tempfile::TempDir::new().unwrap();
    let began = Instant::now();
    let output = bench(directory.path(), "http://127.0.0.1:1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(began.elapsed() < Duration::from_mins(1));
}
