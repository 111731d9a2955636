//! Real servers as processes of their own, that can be killed, halted and started again; and one that talks nonsense.
//!
//! A server ends with its owner, also when a test panics. An S3 server is this same program, started again: the test
//! file that uses it has an ignored test `serve_s3` that calls [`serve_s3`].

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;

/// No server takes longer to start.
const PATIENCE: Duration = Duration::from_mins(1);

const ROOT: &str = "FOREBAY_TEST_S3_ROOT";
const PORT: &str = "FOREBAY_TEST_S3_PORT";
pub const ACCESS_KEY: &str = "a-key-of-tests";
pub const SECRET_KEY: &str = "a-secret-of-tests";
pub const BUCKET: &str = "bucket";

/// Credentials that the S3 server takes.
pub const RIGHT: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];

/// Runs the rest of the test `test` in a process of its own with this environment. `true` in that process.
pub fn inside(test: &str, environment: &[(&str, &str)]) -> bool {
    const INSIDE: &str = "FOREBAY_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().expect("this program has a name"));
    command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").env("AWS_EC2_METADATA_DISABLED", "true");
    for proxy in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "AWS_ENDPOINT_URL", "AWS_PROFILE"] {
        command.env_remove(proxy);
    }
    let output = command.envs(environment.iter().copied()).output().expect("it runs");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

/// A server process.
pub struct ServerProcess {
    make: Box<dyn Fn(u16) -> Command + Send>,
    ready: &'static str,
    port: u16,
    child: Option<Child>,
    directory: TempDir,
}

impl ServerProcess {
    /// A Redis server; `more` are further options of its command line.
    pub fn redis(more: &[&str]) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let more: Vec<String> = more.iter().map(|&option| option.to_owned()).collect();
        let path = directory.path().to_owned();
        let make = move |port: u16| {
            let mut command = Command::new("redis-server");
            command.args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ]);
            command.arg("--dir").arg(&path).args(&more);
            command
        };
        Self::start(directory, Box::new(make), "Ready to accept connections")
    }

    /// An S3 server with one bucket.
    pub fn s3() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        std::fs::create_dir(directory.path().join(BUCKET)).expect("a bucket is a directory");
        let path = directory.path().to_owned();
        let make = move |port: u16| {
            let program = std::env::current_exe().expect("this program has a name");
            let mut command = Command::new(program);
            command.args(["--ignored", "--exact", "serve_s3", "--nocapture"]);
            command.env(ROOT, &path).env(PORT, port.to_string());
            command
        };
        Self::start(directory, Box::new(make), "the S3 server is ready")
    }

    /// A web server that speaks TLS and has one object in a bucket: `name`, with these bytes.
    pub fn https(certificate: &Certificate, name: &str, bytes: &str) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let path = directory.path().join(BUCKET).join(name);
        std::fs::create_dir_all(path.parent().expect("a bucket")).expect("it can be made");
        let answer = format!("HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n{bytes}", bytes.len());
        std::fs::write(path, answer).expect("it can be written");
        let (certificate, key) = (certificate.certificate(), certificate.key());
        let path = directory.path().to_owned();
        let make = move |port: u16| {
            let mut command = Command::new("openssl");
            command.args(["s_server", "-HTTP", "-accept", &port.to_string()]);
            command.args(["-cert", &certificate, "-key", &key]).current_dir(&path);
            command
        };
        Self::start(directory, Box::new(make), "ACCEPT")
    }

    fn start(directory: TempDir, make: Box<dyn Fn(u16) -> Command + Send>, ready: &'static str) -> Self {
        let mut server = Self { make, ready, port: 0, child: None, directory };
        for _ in 0..10 {
            server.port = free_port();
            if server.try_run() {
                return server;
            }
        }
        panic!(
            "no server started on any of ten ports; its directory was {}",
            server.directory.path().display()
        );
    }

    /// Whether it runs and is ready.
    fn try_run(&mut self) -> bool {
        let mut command = (self.make)(self.port);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let program = command.get_program().display();
                panic!("{program} is not there: apt-get install redis-server openssl")
            }
            Err(error) => panic!("{command:?}: {error}"),
        };
        let said = BufReader::new(child.stdout.take().expect("it is piped"));
        self.child = Some(child);
        let (tell, told) = channel();
        let ready = self.ready;
        // Reads on after that, so that the server never waits for a reader.
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                if line.contains(ready) {
                    let _ = tell.send(());
                }
            }
        });
        told.recv_timeout(PATIENCE).is_ok()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of an S3 server's bucket.
    pub fn bucket_url(&self) -> String {
        format!("s3://{BUCKET}/a/prefix?endpoint=http://127.0.0.1:{}&region=us-east-1", self.port)
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("it can be told");
    }

    pub fn kill_9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ended");
        }
    }

    /// Halts it: its connections stay, and are silent. Returns when all its threads have halted.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let process = Pid::from_child(self.child.as_ref().expect("it runs"));
        let halted = waitpid(Some(process), WaitOptions::UNTRACED).expect("it is ours");
        assert!(halted.is_some_and(|(_, status)| status.stopped()), "it halts");
    }

    /// Lets it go on.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// Runs it again, on the port it had.
    pub fn start_again(&mut self) {
        self.kill_9();
        let deadline = Instant::now() + PATIENCE;
        while !self.try_run() {
            assert!(Instant::now() < deadline, "the server did not start again");
            self.kill_9();
        }
    }

    /// Says something to a Redis server, and gives the beginning of its answer.
    pub fn say(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        write!(stream, "{command}\r\n").expect("it reads");
        let mut answer = [0; 4096];
        let len = stream.read(&mut answer).expect("it answers");
        String::from_utf8_lossy(&answer[..len]).into_owned()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A certificate for `localhost` that vouches for itself, and its key.
pub struct Certificate {
    directory: TempDir,
}

impl Certificate {
    pub fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-days", "2"])
            .args(["-keyout", "key.pem", "-out", "certificate.pem"])
            .current_dir(directory.path())
            .output()
            .expect("openssl is there: apt-get install openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { directory }
    }

    pub fn certificate(&self) -> String {
        self.directory.path().join("certificate.pem").display().to_string()
    }

    pub fn key(&self) -> String {
        self.directory.path().join("key.pem").display().to_string()
    }
}

/// A port that nobody has at this moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    listener.local_addr().expect("it has an address").port()
}

/// The life of an S3 server, if this process was started to be one. Ends with the process that started it.
pub fn serve_s3() {
    let (Some(root), Ok(port)) = (std::env::var_os(ROOT), std::env::var(PORT)) else { return };
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let port: u16 = port.parse().expect("a port");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(async move {
        let files = s3s_fs::FileSystem::new(root).expect("a directory");
        let mut service = s3s::service::S3ServiceBuilder::new(files);
        service.set_auth(s3s::auth::SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        println!("the S3 server is ready");
        let server = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
        while let Ok((socket, _)) = listener.accept().await {
            let connection = server.serve_connection(hyper_util::rt::TokioIo::new(socket), service.clone());
            tokio::spawn(connection.into_owned());
        }
    });
}

/// A server that answers whatever it is asked with `noise`, and then hangs up or is silent. Ends with the process.
pub fn noisy_server(noise: Vec<u8>, hangs_up: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let port = listener.local_addr().expect("it has an address").port();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut asked = [0; 1024];
            let _ = stream.read(&mut asked);
            let _ = stream.write_all(&noise);
            if !hangs_up {
                kept.push(stream);
            }
        }
    });
    port
}
