//! What a client may do to the server: ask, and nothing else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

mod support;
use support::{get, say, watched};

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
        (0..20).map(|_| TcpStream::connect(watched.server.address()).unwrap()).collect();
    silent[0].write_all(b"GET / HTT").unwrap();
    assert_eq!(get(&watched.server, "/healthz").status, 200);
    assert!(began.elapsed() < Duration::from_secs(4), "the others did not hold it up");
    for stream in &mut silent {
        stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    assert!(began.elapsed() < Duration::from_secs(30), "all were let go of");
}

#[test]
fn a_port_that_is_taken_is_an_error_that_says_which() {
    let watched = watched(16 << 20, []);
    let weak = std::sync::Arc::downgrade(&watched.cache);
    let address = watched.server.address();
    let error = forebay_watch::Server::start(address, std::sync::Arc::new(weak)).err().expect("it is taken");
    let said = error.to_string();
    assert!(said.contains(&address.to_string()) && said.contains("http_listen"), "{said}");
}
