//! `forebay bench --tier remote` beside a real Redis server: that it measures what it says, and leaves nothing in the
//! store, however it ends. No figure that a clock gave is asserted but for being there.

mod filled;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use filled::{forebay, json, printed, refused};

const SMALL: [&str; 8] = ["--chunk-size", "8MiB", "--total", "128MiB", "--rounds", "2", "--staging", "24MiB"];

/// No wait in a test is longer; what takes longer hangs.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server that ends with its owner.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        for _ in 0..10 {
            let port = free_port();
            let options =
                ["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
            let started = Command::new("redis-server").args(options).stdout(Stdio::piped()).spawn();
            let mut child = started.unwrap_or_else(|error| {
                panic!("redis-server is needed ({error}): apt-get install redis-server")
            });
            let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            let is_ready = said.any(|line| line.contains("Ready to accept connections"));
            // Reads on, so that the server never waits for a reader.
            thread::spawn(move || said.for_each(drop));
            let server = Self { child, port };
            if is_ready {
                return server;
            }
        }
        panic!("no redis-server started on any of ten ports")
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    fn keys(&self) -> u64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"DBSIZE\r\n").unwrap();
        let mut answer = [0; 64];
        let len = stream.read(&mut answer).unwrap();
        let answer = std::str::from_utf8(&answer[..len]).unwrap();
        answer.trim().trim_start_matches(':').parse().unwrap_or_else(|_| panic!("DBSIZE gave {answer:?}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody has at this moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn bench(url: &str, more: &[&str]) -> Output {
    forebay(&[&["bench", "--tier", "remote", "--remote-url", url], &SMALL[..], more].concat())
}

#[test]
fn both_ways_are_measured_beside_a_bare_client_and_nothing_is_left() {
    let server = Server::start();
    let report = json(&bench(&server.url(), &["--json"]), 0);
    for direction in ["write", "read"] {
        for name in ["gbps", "ceiling_gbps", "ratio", "cpu_s_per_gb", "p50_ms", "p99_ms"] {
            let figure = report[direction][name].as_f64();
            assert!(figure.is_some_and(|figure| figure > 0.0), "{direction}.{name} in {report:#}");
        }
        let [least, most] = [0, 1].map(|end| report["ratio_spread"][direction][end].as_f64().unwrap());
        let ratio = report[direction]["ratio"].as_f64().unwrap();
        assert!(least <= ratio && ratio <= most, "the median lies within the spread: {report:#}");
        // Chunks and parts; the better one is the ceiling.
        let both = report["ceilings_gbps"][direction].as_array().unwrap();
        let sizes: Vec<_> = report["bare"][direction].as_array().unwrap().iter().collect();
        assert_eq!((both.len(), sizes.len()), (2, 2), "{report:#}");
        assert_eq!([&sizes[0]["object_bytes"], &sizes[1]["object_bytes"]], [8 << 20, 4 << 20]);
        let best = both.iter().filter_map(serde_json::Value::as_f64).fold(0.0, f64::max);
        assert!((best - report[direction]["ceiling_gbps"].as_f64().unwrap()).abs() < 1e-9, "{report:#}");
        let shares = report["ceilings_ratio"][direction].as_array().unwrap();
        let shares: Vec<_> = shares.iter().filter_map(serde_json::Value::as_f64).collect();
        assert!(shares.len() == 2 && shares.contains(&ratio), "the ceiling's is one of them: {report:#}");
        assert!([1, 2, 4, 8, 16, 32].contains(&report["ceiling_depth"][direction].as_u64().unwrap()));
    }
    assert!(report["mixed"]["alone_p99_ms"].as_f64().unwrap() > 0.0);
    assert_eq!((&report["tier"], &report["part_bytes"]), (&"remote".into(), &(4 << 20).into()));
    assert_eq!((&report["wrong_chunks"], &report["rounds"]), (&0.into(), &2.into()));
    assert_eq!((&report["chunk_bytes"], &report["total_bytes"]), (&(8 << 20).into(), &(128 << 20).into()));
    let [used, whole] = ["staging_bytes", "staging_buffer_bytes"].map(|name| report[name].as_u64().unwrap());
    assert!(0 < used && used <= whole && whole <= 24 << 20, "{report:#}");
    assert_eq!(server.keys(), 0, "nothing is left");

    let text = printed(&bench(&server.url(), &[]), 0);
    for part in
        ["128.00 MiB in chunks of 8.00 MiB, 2 rounds", "\nwrite ", "\nread ", "CPU-s/GB", "a bare client"]
    {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert_eq!(server.keys(), 0, "nothing is left");
}

#[test]
fn one_that_is_interrupted_removes_what_it_put() {
    let server = Server::start();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args(["bench", "--tier", "remote", "--remote-url", &server.url()])
        .args(["--chunk-size", "1MiB", "--total", "64MiB", "--rounds", "1000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while server.keys() == 0 {
        assert!(Instant::now() < deadline, "nothing was put");
        thread::sleep(Duration::from_millis(10));
    }
    let id = bench.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let code = bench.wait().unwrap().code();
    let mut said = String::new();
    bench.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    assert_eq!(server.keys(), 0, "nothing is left");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let url = format!("redis://127.0.0.1:{}", free_port());
    let said = refused(&bench(&url, &[]));
    assert!(said.contains(&format!("{url}/0 cannot be measured")) && said.contains("it runs"), "{said}");
    assert!(refused(&bench("nonsense", &[])).contains("remote_url"));
    assert!(refused(&bench(&url, &["--threads", "2"])).contains("--threads and --copied are of the disk"));
    assert!(refused(&forebay(&["bench", "--tier", "remote"])).contains("add --remote-url URL"));
    assert!(refused(&forebay(&["bench"])).contains("add --dir DIR"));
    assert!(refused(&forebay(&["bench", "--tier", "memory", "--copied"])).contains("are of the disk"));
}
