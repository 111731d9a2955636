//! What a client may do to the server: ask, and nothing else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

mod support;
use support::{Answer, Watched, get, prompt, say, store, watched};

const TOKEN: &str = "a-token-of-tests";

fn post(watched: &Watched, path: &str, headers: &str) -> Answer {
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    say(&watched.server, head.as_bytes()).expect("an answer")
}

fn chunks(watched: &Watched) -> u64 {
    watched.cache.stats().control.disk.chunks
}

#[test]
fn who_says_the_token_clears_the_cache_or_a_namespace_of_it() {
    let watched = watched(16 << 20, [("http_token", TOKEN.into())]);
    store(&watched.cache, &prompt(1, 4), None);
    let said = format!("Authorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n");
    let other = post(&watched, "/api/clear?namespace=0123456789abcdef", &said);
    assert_eq!((other.status, other.body.as_str(), chunks(&watched)), (200, "{\"cleared\":0}", 4));
    let id = watched.cache.stats().control.disk.namespaces[0].id.clone();
    let cleared = post(&watched, &format!("/api/clear?namespace={id}"), &said);
    assert_eq!((cleared.status, cleared.body.as_str(), chunks(&watched)), (200, "{\"cleared\":4}", 0));
    store(&watched.cache, &prompt(2, 3), None);
    assert_eq!(post(&watched, "/api/clear", &said).body, "{\"cleared\":3}");
    assert!(get(&watched.server, "/metrics").body.contains("{tier=\"disk\",cause=\"cleared\"} 7"));
}

#[test]
fn without_the_token_nothing_is_changed_whatever_is_said() {
    let watched = watched(16 << 20, [("http_token", TOKEN.into())]);
    store(&watched.cache, &prompt(1, 4), None);
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let huge = format!("{right}Content-Length: 100000000000\r\n");
    for (path, headers, status) in [
        ("/api/clear", "", 403),
        ("/api/clear", "Authorization: Bearer wrong\r\n", 403),
        ("/api/clear", "Authorization: Bearer \r\n", 403),
        ("/api/clear", &format!("Authorization: Basic {TOKEN}\r\n"), 403),
        ("/api/clear", &format!("Authorization: Bearer {TOKEN} \u{e9}\r\n"), 403),
        ("/api/clear", &format!("{right}Origin: https://example.org\r\n"), 403),
        ("/api/clear", &format!("{right}Origin: http://localhost\r\n"), 403),
        ("/api/clear?namespace=../../etc", &right, 400),
        ("/api/clear?namespace=", &right, 400),
        ("/api/clear?namespace=%00", &right, 400),
        ("/api/clear?everything=yes", &right, 400),
        ("/api/../api/clear", &right, 404),
        ("//api/clear", &right, 404),
        ("/api/clear/", &right, 404),
    ] {
        let answer = post(&watched, path, headers);
        assert_eq!(answer.status, status, "{path} {headers}: {}", answer.body);
        assert!(!answer.body.contains(TOKEN), "{}", answer.body);
    }
    assert_eq!(get(&watched.server, "/api/clear").status, 405);
    assert_eq!(chunks(&watched), 4, "nothing was changed");
    let shown = format!("{}{}", get(&watched.server, "/api/now").body, get(&watched.server, "/metrics").body);
    assert!(!shown.contains(TOKEN));
    // A body is not waited for, however long it says it is.
    assert_eq!(post(&watched, "/api/clear", &huge).status, 200);
}

#[test]
fn who_says_the_token_changes_the_capacity_and_nobody_else() {
    let watched = watched(16 << 20, [("http_token", TOKEN.into())]);
    store(&watched.cache, &prompt(1, 4), None);
    let capacity = || watched.cache.stats().control.disk.capacity_bytes;
    let before = capacity();
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let huge = format!("{right}Content-Length: 100000000000\r\n");
    let wanted = "/api/capacity?disk_gib=0.0078125";
    for (path, headers, status) in [
        (wanted, "", 403),
        (wanted, "Authorization: Bearer wrong\r\n", 403),
        (wanted, &format!("{right}Origin: http://localhost\r\n"), 403),
        ("/api/capacity", &right, 400),
        ("/api/capacity?disk_gib=", &right, 400),
        ("/api/capacity?disk_gib=much", &right, 400),
        ("/api/capacity?disk_gib=NaN", &right, 400),
        ("/api/capacity?disk_gib=inf", &right, 400),
        ("/api/capacity?disk_gib=-1", &right, 400),
        ("/api/capacity?disk_gib=0", &right, 400),
        ("/api/capacity?disk_gib=1e300", &right, 400),
        ("/api/capacity?disk_gib=1&disk_gib=2", &right, 400),
        ("/api/capacity?disk_gib=1&more=2", &right, 400),
        ("/api/capacity?disk_gib=0.0000001", &right, 409),
        ("/api/capacity?disk_gib=8000000000", &right, 409),
        ("/api/../api/capacity?disk_gib=0.0078125", &right, 404),
        ("/api/capacity/?disk_gib=0.0078125", &right, 404),
    ] {
        let answer = post(&watched, path, headers);
        assert_eq!(answer.status, status, "{path} {headers}: {}", answer.body);
        assert!(!answer.body.contains(TOKEN), "{}", answer.body);
    }
    assert_eq!(get(&watched.server, wanted).status, 405);
    assert_eq!(capacity(), before, "nothing was changed");
    // A body is not waited for, however long it says it is.
    let answer = post(&watched, wanted, &huge);
    let now = before - (8 << 20);
    assert_eq!((answer.status, answer.body), (200, format!("{{\"capacity_bytes\":{now}}}")));
    assert_eq!((capacity(), chunks(&watched)), (now, 4));
    assert!(
        get(&watched.server, "/metrics")
            .body
            .contains(&format!("forebay_capacity_bytes{{tier=\"disk\"}} {now}\n"))
    );
}

#[test]
fn who_says_the_token_pins_a_namespace_and_nobody_else() {
    let watched = watched(16 << 20, [("http_token", TOKEN.into())]);
    store(&watched.cache, &prompt(1, 4), None);
    let id = watched.cache.stats().control.disk.namespaces[0].id.clone();
    let pinned = || watched.cache.stats().control.disk.pinned_chunks;
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let wanted = format!("/api/pin?namespace={id}");
    for (path, headers, status) in [
        (wanted.as_str(), "", 403),
        (&wanted, "Authorization: Bearer wrong\r\n", 403),
        (&wanted, &format!("{right}Origin: http://localhost\r\n"), 403),
        ("/api/pin", &right, 400),
        ("/api/pin?namespace=", &right, 400),
        ("/api/pin?namespace=../../etc", &right, 400),
        ("/api/pin?keys=all", &right, 400),
        ("/api/unpin?namespace=%00", &right, 400),
        ("/api/pin/", &right, 404),
    ] {
        let answer = post(&watched, path, headers);
        assert_eq!(answer.status, status, "{path} {headers}: {}", answer.body);
        assert!(!answer.body.contains(TOKEN), "{}", answer.body);
    }
    assert_eq!((get(&watched.server, &wanted).status, pinned()), (405, 0), "nothing was changed");
    let huge = format!("{right}Content-Length: 100000000000\r\n");
    assert_eq!(post(&watched, &wanted, &huge).body, "{\"left_out\":0,\"pinned\":4}");
    assert_eq!(pinned(), 4);
    assert!(get(&watched.server, "/metrics").body.contains("forebay_pinned_chunks{tier=\"disk\"} 4\n"));
    assert!(get(&watched.server, "/api/now").body.contains("\"pinned_chunks\":4"));
    assert_eq!(post(&watched, "/api/unpin", "").status, 403);
    let other = post(&watched, "/api/unpin?namespace=0123456789abcdef", &right);
    assert_eq!((other.body.as_str(), pinned()), ("{\"unpinned\":0}", 4));
    assert_eq!(post(&watched, "/api/unpin", &right).body, "{\"unpinned\":4}");
    assert_eq!(pinned(), 0);
}

#[test]
fn where_there_is_no_token_nobody_has_it() {
    let watched = watched(16 << 20, []);
    store(&watched.cache, &prompt(1, 4), None);
    for headers in ["", "Authorization: Bearer \r\n", "Authorization: Bearer x\r\n"] {
        assert_eq!(post(&watched, "/api/clear", headers).status, 403);
        assert_eq!(post(&watched, "/api/capacity?disk_gib=0.01", headers).status, 403);
    }
    assert_eq!(chunks(&watched), 4);
}

#[test]
fn it_answers_get_and_head_on_its_paths_and_nothing_else() {
    let watched = watched(16 << 20, []);
    let server = &watched.server;
    for path in ["/", "/page.css", "/page.js", "/metrics", "/api/now", "/healthz", "/readyz"] {
        let answer = get(server, path);
        assert_eq!(answer.status, 200, "{path}");
        for header in ["content-security-policy: default-src 'none'", "x-content-type-options: nosniff"] {
            assert!(answer.head.contains(header), "{path}: {}", answer.head);
        }
    }
    for path in [
        "/../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/page.css/..",
        "/api",
        "/?a=b%00",
        "/%ff",
    ] {
        let answer = get(server, path);
        assert!([200, 404].contains(&answer.status), "{path}: {}", answer.status);
        assert!(!answer.body.contains("root:"), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"] {
        let request = format!(
            "{method} /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let answer = say(server, request.as_bytes()).expect("an answer");
        assert!((400..500).contains(&answer.status), "{method}: {}", answer.status);
    }
}

#[test]
fn another_site_that_leads_here_reads_nothing() {
    let watched = watched(16 << 20, []);
    for host in ["example.org", "example.org:80", "127.0.0.1.nip.io"] {
        let request = format!("GET /api/now HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = say(&watched.server, request.as_bytes()).expect("an answer");
        assert_eq!(answer.status, 421, "{host}");
        assert!(!answer.body.contains("tiers"), "{host}");
    }
    let answer = get(&watched.server, "/api/now");
    assert!(!answer.head.contains("access-control-allow-origin"), "no page of another origin may read it");
}

#[test]
fn what_is_no_request_is_refused_and_ends() {
    let watched = watched(16 << 20, []);
    let long =
        [b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ".as_slice(), &vec![b'x'; 200_000], b"\r\n\r\n"].concat();
    let garbage: Vec<u8> = (0..4096_u32).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
    for bytes in [long.as_slice(), &garbage, b"\r\n\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        if let Some(answer) = say(&watched.server, bytes) {
            assert!((400..500).contains(&answer.status), "{}", answer.status);
        }
    }
    let body = [
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\nConnection: close\r\n\r\n"
            .as_slice(),
        &vec![b'x'; 100_000],
    ]
    .concat();
    let answer = say(&watched.server, &body);
    assert!(answer.is_none_or(|answer| answer.status == 405));
    assert_eq!(get(&watched.server, "/healthz").status, 200, "it serves others as before");
}

#[test]
fn who_says_nothing_is_let_go_of_and_holds_nobody_up() {
    let watched = watched(16 << 20, []);
    let began = Instant::now();
    let mut silent: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(watched.server.address()).unwrap()).collect();
    silent[199].write_all(b"GET / HTT").unwrap();
    assert_eq!(get(&watched.server, "/healthz").status, 200);
    // Nor do those who ask for much and read nothing.
    let much = "GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
    let deaf: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(watched.server.address()).unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(10))).unwrap();
            // It may have been let go of already.
            let _ = stream.write_all(much.as_bytes());
            stream
        })
        .collect();
    assert_eq!(get(&watched.server, "/healthz").status, 200);
    assert!(began.elapsed() < Duration::from_secs(20), "the others did not hold it up");
    for stream in &mut silent {
        stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    drop(deaf);
    assert!(began.elapsed() < Duration::from_mins(1), "all were let go of");
}

#[test]
fn a_port_that_is_taken_is_an_error_that_says_which() {
    let watched = watched(16 << 20, []);
    let weak = std::sync::Arc::downgrade(&watched.cache);
    let address = watched.server.address();
    let error =
        forebay_watch::Server::start(address, "", std::sync::Arc::new(weak)).err().expect("it is taken");
    let said = error.to_string();
    assert!(said.contains(&address.to_string()) && said.contains("http_listen"), "{said}");
}
