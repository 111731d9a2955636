//! One suite for every store: memory, a shared directory, a real Redis server, a real S3 server; near and far, over a
//! narrow line, and failing. And what becomes of requests when a server is killed, halted, or talks nonsense.

#[path = "support/servers.rs"]
mod servers;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay::tier::remote::client::{Client, Settings};
use forebay::tier::remote::layers::retry::{Retry, RetryPlan};
use forebay::tier::remote::layers::timeout::Timeout;
use forebay::tier::remote::objects::{Fault, Objects};
use forebay::tier::remote::presence::{WIDTH, front};
use forebay::tier::remote::shared_directory::trim;
use forebay::tier::remote::wrappers::chaos::{Chaos, ChaosOdds};
use forebay::tier::remote::wrappers::delay::Delay;
use forebay::tier::remote::wrappers::fake::Fake;
use forebay::tier::remote::wrappers::throttle::Throttle;
use servers::{ACCESS_KEY, Certificate, RIGHT, ServerProcess, inside, noisy_server};
use tempfile::TempDir;

/// No wait in a test is longer; what takes longer hangs.
const PATIENCE: Duration = Duration::from_mins(1);

const NAMESPACE: &str = "0123456789abcdef";

/// Started as a process of its own, by [`ServerProcess::s3`].
#[test]
#[ignore = "a server, not a test"]
fn serve_s3() {
    servers::serve_s3();
}

fn settings(url: &str) -> Settings {
    Settings {
        url: url.to_owned(),
        timeout: PATIENCE,
        requests_max: 16,
        retries: 0,
        breaker_failures: 1000,
        breaker_rest: PATIENCE,
    }
}

fn open(url: &str) -> Client {
    Client::open(&settings(url)).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs `work` on the client's threads, to its end.
fn run<T: Send + 'static>(client: &Client, work: impl Future<Output = T> + Send + 'static) -> T {
    let bounded = client.spawn(async move { tokio::time::timeout(2 * PATIENCE, work).await });
    let waiting = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    waiting.block_on(bounded).expect("no panic").expect("an end")
}

fn has(client: &Client) -> Result<bool, Fault> {
    let objects = Arc::clone(client.objects());
    run(client, async move { objects.has(&name(0, 0)).await })
}

fn name(key: u64, part: u64) -> String {
    format!("{NAMESPACE}/{key:064x}/2048-{part}")
}

fn bytes_of(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

async fn read(objects: &dyn Objects, name: &str, len: usize) -> Result<Bytes, Fault> {
    let mut into = vec![0xaa; len];
    objects.get(name, &mut into).await?;
    Ok(Bytes::from(into))
}

/// What every store must do. `keys` is where its keys begin.
async fn suite(objects: Arc<dyn Objects>, keys: u64) {
    let (here, other) = (name(keys, 0), name(keys, 1));
    assert_eq!(objects.has(&here).await, Ok(false));
    assert_eq!(read(&*objects, &here, 10).await, Err(Fault::NotThere));
    assert_eq!(objects.remove(&here).await, Ok(()), "removing nothing is no error");

    for len in [1, 4096, 100_001, (2 << 20) + 7] {
        let bytes = bytes_of(len as u64, len);
        assert_eq!(objects.put(&here, bytes.clone()).await, Ok(()));
        assert_eq!(objects.has(&here).await, Ok(true));
        assert!(read(&*objects, &here, len).await == Ok(bytes), "{len} bytes come back");
        for asked in [len - 1, len + 1, 0] {
            let end = read(&*objects, &here, asked).await;
            let told = if asked == len { Ok(()) } else { Err(Fault::OtherLength(len as u64)) };
            assert_eq!(end.map(drop), told, "{asked} bytes of {len}");
        }
    }
    assert_eq!(objects.put(&here, Bytes::from_static(b"short")).await, Ok(()), "in place of a longer one");
    assert_eq!(read(&*objects, &here, 5).await, Ok(Bytes::from_static(b"short")));
    assert_eq!(objects.has(&other).await, Ok(false), "another part is another object");
    assert_eq!(objects.put(&other, Bytes::new()).await, Ok(()));
    assert_eq!(read(&*objects, &other, 0).await, Ok(Bytes::new()), "also an empty object is one");
    assert_eq!(objects.remove(&here).await, Ok(()));
    assert_eq!((objects.has(&here).await, objects.has(&other).await), (Ok(false), Ok(true)));
    assert_eq!(read(&*objects, &here, 5).await, Err(Fault::NotThere));

    many_at_a_time(&objects, keys + 1).await;
    whole_or_not_at_all(&objects, keys + 1000).await;
    let chain: Vec<String> = (0..100).map(|number| name(keys + 1 + number, 0)).collect();
    assert_eq!(front(&*objects, &chain, WIDTH).await, Ok(40));
}

async fn many_at_a_time(objects: &Arc<dyn Objects>, keys: u64) {
    let tasks: Vec<_> = (0..40)
        .map(|number| {
            let (objects, name) = (Arc::clone(objects), name(keys + number, 0));
            let bytes = bytes_of(number, 10_000 + usize::try_from(number).expect("small"));
            tokio::spawn(async move {
                objects.put(&name, bytes.clone()).await?;
                Ok::<_, Fault>(read(&*objects, &name, bytes.len()).await? == bytes)
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.expect("no panic"), Ok(true));
    }
}

/// Readers see one version or the other while they are written, and a put that is given up leaves all or nothing.
async fn whole_or_not_at_all(objects: &Arc<dyn Objects>, key: u64) {
    const LEN: usize = 300_000;
    let (contended, given_up) = (name(key, 0), name(key, 1));
    objects.put(&contended, Bytes::from(vec![0; LEN])).await.expect("put");
    let writers: Vec<_> = (0..3_u8)
        .map(|writer| {
            let (objects, name) = (Arc::clone(objects), contended.clone());
            tokio::spawn(async move {
                for _ in 0..4 {
                    objects.put(&name, Bytes::from(vec![writer; LEN])).await?;
                }
                Ok::<_, Fault>(())
            })
        })
        .collect();
    for _ in 0..8 {
        let bytes = read(&**objects, &contended, LEN).await.expect("it is there all the time");
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "no mixture of two versions");
    }
    for writer in writers {
        assert_eq!(writer.await.expect("no panic"), Ok(()));
    }
    for patience in [0, 100, 300, 1000, 3000, 10_000] {
        let put = objects.put(&given_up, bytes_of(9, LEN));
        let _ = tokio::time::timeout(Duration::from_micros(patience), put).await;
        match read(&**objects, &given_up, LEN).await {
            Ok(bytes) => assert!(bytes == bytes_of(9, LEN), "whole"),
            Err(fault) => assert_eq!(fault, Fault::NotThere, "or not at all"),
        }
    }
    // One of those may still be on its way: what the store was told before it knew.
    objects.remove(&contended).await.expect("removed");
}

/// The suite over the client's store, near, far, and over a narrow line; then with failures.
fn all_suites(client: &Client) {
    let near = Arc::clone(client.objects());
    run(client, suite(Arc::clone(&near), 0));
    run(client, suite(Arc::new(Delay::new(Arc::clone(&near), Duration::from_millis(2))), 10_000));
    run(client, suite(Arc::new(Throttle::new(Arc::clone(&near), 200 << 20)), 20_000));
    assert_eq!(client.stats().requests.in_flight, 0);
    failing(client, &near);
    lying(client, &near);
}

/// Errors and stalls alone: trying again helps.
fn failing(client: &Client, near: &Arc<dyn Objects>) {
    let odds = ChaosOdds { error: 0.3, stall: 0.02, ..ChaosOdds::default() };
    let chaos = Arc::new(Chaos::new(Arc::clone(near), 5, odds));
    // Long enough for a busy machine, since what is given up is tried again only so often.
    let timed = Arc::new(Timeout::new(chaos.clone(), Duration::from_secs(2)));
    let plan = RetryPlan {
        tries: 30,
        first_rest: Duration::from_millis(1),
        longest_rest: Duration::from_millis(5),
        whole: PATIENCE,
    };
    let retry = Arc::new(Retry::new(timed, plan));
    let objects: Arc<dyn Objects> = retry.clone();
    run(client, async move {
        many_at_a_time(&objects, 30_000).await;
        let names: Vec<String> = (0..60).map(|number| name(30_000 + number, 0)).collect();
        assert_eq!(front(&*objects, &names, WIDTH).await, Ok(40));
    });
    assert!(chaos.stats().errors > 0 && chaos.stats().stalls > 0, "{:?}", chaos.stats());
    assert!(retry.stats().helped > 0 && retry.stats().exhausted == 0, "{:?}", retry.stats());
}

/// Whatever the store does, every request ends, and what it ends as is a value.
fn lying(client: &Client, near: &Arc<dyn Objects>) {
    let odds = ChaosOdds {
        error: 0.1,
        stall: 0.05,
        torn_put: 0.2,
        flipped_bit: 0.2,
        other_object: 0.2,
        wrong_length: 0.1,
        false_there: 0.2,
        false_not_there: 0.2,
    };
    let chaos = Arc::new(Chaos::new(Arc::clone(near), 6, odds));
    let quick =
        Settings { timeout: Duration::from_millis(200), retries: 2, breaker_failures: 5, ..settings("") };
    let quick = Settings { breaker_rest: Duration::from_millis(1), ..quick };
    let lying = Client::over(chaos, &quick).expect("a client");
    let objects = Arc::clone(lying.objects());
    run(client, async move {
        let tasks: Vec<_> = (0..40_u64)
            .map(|number| {
                let (objects, name) = (Arc::clone(&objects), name(40_000 + number, 0));
                tokio::spawn(async move {
                    let _ = objects.put(&name, bytes_of(number, 1000)).await;
                    let _ = objects.has(&name).await;
                    let _ = read(&*objects, &name, 1000).await;
                    let _ = objects.remove(&name).await;
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
    });
    let requests = lying.stats().requests;
    assert_eq!((requests.requests, requests.in_flight, requests.dropped), (160, 0, 0));
}

#[test]
fn memory() {
    all_suites(&Client::over(Arc::new(Fake::default()), &settings("")).expect("a client"));
}

#[test]
fn a_shared_directory() {
    let root = TempDir::new().expect("a temporary directory");
    let client = open(&format!("file://{}", root.path().display()));
    all_suites(&client);
    for directory in [NAMESPACE, ".incoming"] {
        let mode = std::fs::metadata(root.path().join(directory)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{directory} is its owner's alone");
    }
    let objects = Arc::clone(client.objects());
    run(&client, async move { objects.put(&name(7, 0), bytes_of(7, 1000)).await }).expect("put");
    assert!(
        trim(root.path(), u64::MAX).expect("trimmed").bytes_before >= 1000,
        "its objects are where trimming looks"
    );
    trim(root.path(), 0).expect("trimmed");
    let objects = Arc::clone(client.objects());
    let again = run(&client, async move {
        objects.get(&name(7, 0), &mut [0; 1000]).await.expect_err("removed");
        objects.put(&name(7, 0), bytes_of(7, 1000)).await
    });
    assert_eq!(again, Ok(()), "there is room again");
}

#[test]
fn a_redis_server() {
    let server = ServerProcess::redis(&[]);
    all_suites(&open(&format!("redis://127.0.0.1:{}/1", server.port())));
}

#[test]
fn a_redis_cluster() {
    let bus = servers::free_port().to_string();
    let server = ServerProcess::redis(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--cluster-announce-ip",
        "127.0.0.1",
    ]);
    assert!(server.say("CLUSTER ADDSLOTSRANGE 0 16383").starts_with("+OK"));
    let deadline = Instant::now() + PATIENCE;
    while !server.say("CLUSTER INFO").contains("cluster_state:ok") {
        assert!(Instant::now() < deadline, "the cluster did not come up");
        std::thread::sleep(Duration::from_millis(5));
    }
    let client = open(&format!("redis://127.0.0.1:{}?cluster=true", server.port()));
    run(&client, suite(Arc::clone(client.objects()), 0));
}

#[test]
fn an_s3_server() {
    if inside("an_s3_server", &RIGHT) {
        let server = ServerProcess::s3();
        all_suites(&open(&server.bucket_url()));
        assert!(server.directory().join("bucket/a/prefix").is_dir(), "below the prefix");
    }
}

#[test]
fn wrong_credentials_are_refused_by_redis() {
    let server = ServerProcess::redis(&["--requirepass", "right"]);
    for (login, is_right) in [("", false), (":wrong@", false), ("nobody:wrong@", false), (":right@", true)] {
        let end = has(&open(&format!("redis://{login}127.0.0.1:{}", server.port())));
        match end {
            Ok(is_there) => assert!(is_right && !is_there),
            Err(Fault::Refused(why)) => assert!(!is_right && !why.contains("wrong"), "{login}: {why}"),
            other => panic!("{login}: {other:?}"),
        }
    }
}

#[test]
fn wrong_credentials_are_refused_by_s3() {
    let wrong = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", "wrong")];
    if inside("wrong_credentials_are_refused_by_s3", &wrong) {
        let server = ServerProcess::s3();
        let client = open(&server.bucket_url());
        assert!(matches!(has(&client), Err(Fault::Refused(_))), "{:?}", has(&client));
        let objects = Arc::clone(client.objects());
        let put = run(&client, async move { objects.put(&name(0, 0), Bytes::from_static(b"1")).await });
        assert!(matches!(&put, Err(Fault::Refused(why)) if !why.contains("wrong")), "{put:?}");
    }
}

const CERTIFICATE: &str = "FOREBAY_TEST_CERTIFICATE";

/// With a certificate that is trusted and one that is not.
#[test]
fn redis_over_tls() {
    let certificate = Certificate::new();
    let port = servers::free_port().to_string();
    let (file, key) = (certificate.certificate(), certificate.key());
    let options = ["--tls-port", &port, "--tls-cert-file", &file, "--tls-key-file", &key];
    let more = ["--tls-auth-clients", "no", "--requirepass", "right"];
    if std::env::var_os(CERTIFICATE).is_none() {
        let _server = ServerProcess::redis(&[&options[..], &more].concat());
        let url = format!("rediss://:right@localhost:{port}");
        inside("redis_over_tls", &[(CERTIFICATE, &url), ("SSL_CERT_FILE", &file)]);
        let end = has(&open(&url));
        assert!(matches!(end, Err(Fault::Unavailable(_))), "nobody vouches for it here: {end:?}");
    } else {
        let client = open(&std::env::var(CERTIFICATE).expect("a URL"));
        run(&client, suite(Arc::clone(client.objects()), 0));
    }
}

#[test]
fn https() {
    if let Ok(url) = std::env::var(CERTIFICATE) {
        let client = open(&url);
        let objects = Arc::clone(client.objects());
        let end = run(&client, async move { read(&*objects, &name(0, 0), 5).await });
        assert_eq!(end, Ok(Bytes::from_static(b"bytes")));
    } else {
        let certificate = Certificate::new();
        let server = ServerProcess::https(&certificate, &name(0, 0), "bytes");
        let url = format!("s3://bucket?endpoint=https://localhost:{}", server.port());
        let environment =
            [RIGHT[0], RIGHT[1], (CERTIFICATE, &url), ("SSL_CERT_FILE", &certificate.certificate())];
        inside("https", &environment);
        inside("https_that_nobody_vouches_for", &environment[..3]);
    }
}

/// Run by [`https`], which has the server.
#[test]
fn https_that_nobody_vouches_for() {
    if let Ok(url) = std::env::var(CERTIFICATE) {
        let end = has(&open(&url));
        assert!(matches!(end, Err(Fault::Unavailable(_))), "{end:?}");
    }
}

/// Killed, and started again; halted, and let go on.
fn comes_and_goes(server: &mut ServerProcess, url: &str) {
    let rest = Duration::from_millis(20);
    let client = Client::open(&Settings { breaker_failures: 3, breaker_rest: rest, ..settings(url) })
        .expect("a client");
    assert_eq!(has(&client), Ok(false));
    server.kill_9();
    for _ in 0..3 {
        let end = has(&client);
        assert!(matches!(end, Err(Fault::Unavailable(_))), "{end:?}");
    }
    assert_eq!(client.stats().breaker.opened, 1);
    server.start_again();
    let deadline = Instant::now() + PATIENCE;
    while has(&client).is_err() {
        assert!(Instant::now() < deadline, "it is not asked again");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((client.stats().breaker.state, client.stats().breaker.closed), ("closed", 1));

    let timeout = Duration::from_millis(300);
    let client = Client::open(&Settings { timeout, ..settings(url) }).expect("a client");
    let deadline = Instant::now() + PATIENCE;
    while has(&client).is_err() {
        assert!(Instant::now() < deadline, "it does not answer");
    }
    server.stop();
    let began = Instant::now();
    assert_eq!(has(&client), Err(Fault::TimedOut), "on a connection that is there");
    assert_eq!(has(&client), Err(Fault::TimedOut), "and on another one");
    assert!(began.elapsed() < PATIENCE);
    server.cont();
    while has(&client).is_err() {
        assert!(Instant::now() < deadline, "it does not answer again");
    }
}

#[test]
fn a_redis_server_comes_and_goes() {
    let mut server = ServerProcess::redis(&[]);
    let url = format!("redis://127.0.0.1:{}", server.port());
    comes_and_goes(&mut server, &url);
}

#[test]
fn an_s3_server_comes_and_goes() {
    if inside("an_s3_server_comes_and_goes", &RIGHT) {
        let mut server = ServerProcess::s3();
        let url = server.bucket_url();
        comes_and_goes(&mut server, &url);
    }
}

#[test]
fn nonsense_is_a_fault() {
    if !inside("nonsense_is_a_fault", &RIGHT) {
        return;
    }
    let noises: [&[u8]; 9] = [
        b"",
        b"\0\xff\x16\x03\x01\r\n\r\n",
        b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n$4\r\nab",
        b"$99999999999999999999\r\n",
        b"$1000000000000\r\nx",
        b"*1000000000\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        b"HTTP/1.1 500 No\r\ncontent-length: 3\r\n\r\n<<<",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffff\r\n",
    ];
    let random = bytes_of(11, 100_000);
    for noise in noises.into_iter().chain([&random[..]]) {
        for hangs_up in [true, false] {
            let port = noisy_server(noise.to_vec(), hangs_up);
            for url in [
                format!("redis://127.0.0.1:{port}"),
                format!("redis://127.0.0.1:{port}?cluster=true"),
                format!("rediss://127.0.0.1:{port}"),
                format!("s3://bucket?endpoint=http://127.0.0.1:{port}"),
                format!("s3://bucket?endpoint=https://127.0.0.1:{port}"),
            ] {
                let client = Client::open(&Settings { timeout: Duration::from_millis(50), ..settings(&url) });
                let client = client.expect("nothing is asked yet");
                let objects = Arc::clone(client.objects());
                let end = run(&client, async move { objects.get(&name(0, 0), &mut [0; 100]).await });
                assert!(end.is_err(), "{url}");
            }
        }
    }
}
