//! A cache that runs and is watched, and a terminal to watch it at.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::Cache;
use forebay_watch::Server;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use super::filled;

/// Longer than anything takes that ends at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cache of 8 MiB with its server and its directory.
pub(crate) struct Running {
    pub(crate) server: Server,
    pub(crate) cache: Arc<Cache>,
    pub(crate) address: String,
    pub(crate) home: tempfile::TempDir,
}

impl Running {
    /// Who says `token` may change it.
    pub(crate) fn start(token: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let cache = Arc::new(filled::open(home.path()));
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::start(anywhere, token, Arc::new(Arc::downgrade(&cache))).unwrap();
        let address = server.address().to_string();
        Self { server, cache, address, home }
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// What `/api/now` says.
    pub(crate) fn now(&self) -> serde_json::Value {
        let mut stream = TcpStream::connect(self.server.address()).unwrap();
        stream.write_all(b"GET /api/now HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

/// A terminal, and what was ever seen on it.
pub(crate) struct Seat {
    /// The side that shows and types.
    front: OwnedFd,
    /// The side that a program has.
    back: OwnedFd,
    seen: Vec<u8>,
}

impl Seat {
    pub(crate) fn new(columns: u16, rows: u16) -> Self {
        let front = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&front).unwrap();
        unlockpt(&front).unwrap();
        let name = ptsname(&front, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let back = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
        tcsetwinsize(&back, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        Self { front, back, seen: Vec::new() }
    }

    /// How the terminal treats keys and text.
    pub(crate) fn modes(&self) -> String {
        let modes = tcgetattr(&self.back).unwrap();
        format!("{:?} {:?} {:?}", modes.input_modes, modes.output_modes, modes.local_modes)
    }

    /// Starts the program in front of it.
    pub(crate) fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Child {
        let side = || Stdio::from(self.back.try_clone().unwrap());
        // With this terminal as its own, and not the one that the tests may have.
        Command::new("setsid")
            .args(["--ctty", env!("CARGO_BIN_EXE_forebay")])
            .args(arguments)
            .env_remove("NO_COLOR")
            .env("TERM", "xterm-256color")
            .envs(variables.iter().copied())
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap()
    }

    pub(crate) fn type_in(&self, keys: &str) {
        rustix::io::write(&self.front, keys.as_bytes()).unwrap();
    }

    /// All that was seen.
    pub(crate) fn seen(&mut self) -> String {
        while self.see(Duration::ZERO) {}
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Waits for something to be seen.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen().contains(words) {
            assert!(Instant::now() < deadline, "{words}: {:?}", self.seen());
            self.see(Duration::from_millis(100));
        }
    }

    /// The exit code of what ran in front of it.
    #[track_caller]
    pub(crate) fn end_of(&mut self, program: &mut Child) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = program.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it did not end: {:?}", self.seen());
            self.see(Duration::from_millis(20));
        }
    }

    /// What was ever written in a row of the screen, without what moves the cursor or colours it.
    pub(crate) fn rows(&mut self) -> Vec<String> {
        let seen = self.seen();
        let mut rows = vec![String::new()];
        let mut rest = seen.as_str();
        while let Some((text, sequence)) = rest.split_once('\u{1b}') {
            rows.last_mut().unwrap().push_str(text);
            let end = sequence.find(|it: char| it.is_ascii_alphabetic()).unwrap();
            if sequence.as_bytes()[end] == b'H' {
                rows.push(String::new());
            }
            rest = &sequence[end + 1..];
        }
        rows
    }

    fn see(&mut self, patience: Duration) -> bool {
        let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(patience.subsec_nanos()) };
        let mut front = [PollFd::new(&self.front, PollFlags::IN)];
        if poll(&mut front, Some(&patience)).unwrap_or(0) == 0 {
            return false;
        }
        let mut piece = [0; 4096];
        let read = rustix::io::read(&self.front, &mut piece).unwrap();
        self.seen.extend_from_slice(&piece[..read]);
        read > 0
    }
}
