//! A Redis server as a process of its own, that can be killed, halted, made slow and started again. It ends with its owner,
//! unless that is killed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// No server takes longer to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// An answer that takes longer is none.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// See the module's documentation.
pub(crate) struct Server {
    port: u16,
    child: Option<Child>,
    directory: TempDir,
    memory_mib: u64,
}

impl Server {
    /// Starts one that forgets what was used least when it holds so much.
    pub(crate) fn start(memory_mib: u64) -> Result<Self, String> {
        let directory = TempDir::new().map_err(|error| format!("a directory for redis-server: {error}"))?;
        let mut server = Self { port: 0, child: None, directory, memory_mib };
        for _ in 0..10 {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
            server.port = free.map_err(|error| format!("a port for redis-server: {error}"))?.port();
            match server.run() {
                Ok(()) => return Ok(server),
                Err(error) if error.contains("apt-get") => return Err(error),
                Err(_) => {}
            }
        }
        Err("redis-server did not start on any of ten ports".into())
    }

    /// Runs it, on the port it has, until it answers.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        self.kill();
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &self.port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.args(["--maxmemory", &format!("{}mb", self.memory_mib), "--maxmemory-policy", "allkeys-lru"]);
        command.arg("--dir").arg(self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        self.child =
            Some(child.map_err(|error| format!("redis-server: {error} (apt-get install redis-server)"))?);
        let deadline = Instant::now() + PATIENCE;
        while self.say("PING").is_none_or(|answer| !answer.starts_with("+PONG")) {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                return Err(format!("redis-server ended: {status}"));
            }
            if Instant::now() > deadline {
                return Err(format!("redis-server did not answer within {PATIENCE:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Only of one that has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether it was killed, and not started again.
    pub(crate) fn is_dead(&self) -> bool {
        self.child.is_none()
    }

    /// Halts it: its connections stay, and are silent.
    pub(crate) fn halt(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn say(&self, command: &str) -> Option<String> {
        say(self.port, command)
    }
}

/// Says something to the server at this port, and gives the beginning of its answer, if there is one.
pub(crate) fn say(port: u16, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
    write!(stream, "{command}\r\n").ok()?;
    let mut answer = [0; 1024];
    let len = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..len]).into_owned())
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
