//! A client of HTTP for one question at a time: asks the server of a cache, which `http_listen` names.
//!
//! Promises: a question ends within the patience it was given; an answer is bounded; a token goes into no message, and to
//! nobody but who was asked: no proxy is used, and no other place followed.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use forebay::{Error, ErrorKind, Result};
use ureq::Body;
use ureq::http::Response;

/// The most bytes of an answer's body.
const BODY_BYTES_MAX: u64 = 8 << 20;
/// What an answer that is no success may say in a message.
const SAID_CHARS_MAX: usize = 300;
/// Where a server listens by all examples.
pub(crate) const PORT: u16 = 9180;
/// The variable that says where, which is that of the key `http_listen`.
pub(crate) const ADDRESS_VARIABLE: &str = "FOREBAY_HTTP_LISTEN";

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: u16,
}

impl Default for Address {
    fn default() -> Self {
        Self { host: "127.0.0.1".into(), port: PORT }
    }
}

impl FromStr for Address {
    type Err = String;

    /// A port of this machine, a host with a port, or the URL that a browser is given.
    fn from_str(text: &str) -> Result<Self, String> {
        const FORMS: &str = "name a port such as 9180, or host and port such as 127.0.0.1:9180";
        let text = text.trim();
        if text.starts_with("https://") {
            return Err(format!("a cache speaks http, and https is a proxy's: {FORMS}"));
        }
        let bare = text.strip_prefix("http://").unwrap_or(text);
        let bare = bare.strip_suffix('/').unwrap_or(bare);
        let (host, port) = bare.rsplit_once(':').unwrap_or(("", bare));
        let port = port.parse::<u16>().map_err(|_| format!("`{text}` has no port: {FORMS}"))?;
        let numbered = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_number = numbered.is_some_and(|number| number.parse::<Ipv6Addr>().is_ok());
        let is_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        if host.is_empty() {
            return Ok(Self { port, ..Self::default() });
        }
        let host = numbered.filter(|_| is_number).or(Some(host).filter(|_| is_name));
        let host = host.ok_or_else(|| format!("`{text}` names no host: {FORMS}"))?.to_owned();
        Ok(Self { host, port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse() {
            Ok(IpAddr::V6(number)) => write!(f, "[{number}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// What it says, where that is no success: one line, and not a long one.
    pub(crate) fn said(&self) -> String {
        let words: Vec<&str> = self.body.split_whitespace().collect();
        let line: String =
            words.join(" ").chars().filter(|it| !it.is_control()).take(SAID_CHARS_MAX).collect();
        if line.is_empty() { format!("status {}", self.status) } else { line }
    }
}

impl Address {
    /// Where the variable [`ADDRESS_VARIABLE`] says, or where all examples listen.
    ///
    /// # Errors
    /// When the variable says something else.
    pub(crate) fn of_surroundings() -> Result<Self> {
        match std::env::var(ADDRESS_VARIABLE) {
            Err(_) => Ok(Self::default()),
            Ok(text) => text.parse::<Self>().map_err(|error| {
                Error::new(ErrorKind::Argument, format!("{ADDRESS_VARIABLE} is no address: {error}"))
            }),
        }
    }

    /// Asks for a path.
    pub(crate) fn get(&self, path: &str, patience: Duration) -> Result<Answer> {
        self.answer(path, Self::agent(patience).get(self.url(path)).call())
    }

    /// Asks for something to be done, with a token.
    pub(crate) fn post(&self, path: &str, token: &str, patience: Duration) -> Result<Answer> {
        let question = Self::agent(patience).post(self.url(path));
        self.answer(path, question.header("Authorization", format!("Bearer {token}")).send_empty())
    }

    fn agent(patience: Duration) -> ureq::Agent {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(patience))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None);
        config.build().into()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{self}{path}")
    }

    /// What became of a question.
    fn answer(&self, path: &str, asked: Result<Response<Body>, ureq::Error>) -> Result<Answer> {
        let read = asked.and_then(|mut response| {
            let body = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_string()?;
            Ok(Answer { status: response.status().as_u16(), body })
        });
        read.map_err(|error| {
            let asking =
                format!("asking {} (does a cache run there with http_listen set to that?)", self.url(path));
            let error = match error {
                ureq::Error::Timeout(_) => io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
                error => error.into_io(),
            };
            Error::io(asking, error)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn addresses_are_what_people_write() {
        for (text, said) in [
            ("9180", "127.0.0.1:9180"),
            (":81", "127.0.0.1:81"),
            ("localhost:9180", "localhost:9180"),
            ("http://10.0.0.7:9180/", "10.0.0.7:9180"),
            ("[::1]:9180", "[::1]:9180"),
            (" node-3.example.org:80 ", "node-3.example.org:80"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), said, "{text}");
        }
        for text in
            ["", "localhost", "https://a:1", "a b:1", "a:99999", "::1:80", "[x]:1", "a\r\nX: y:1", "a/b:1"]
        {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains("127.0.0.1:9180"), "{text}: {error}");
        }
    }

    /// A server that answers one question with these pieces, `pause` apart, and ends the connection.
    fn answering(pieces: Vec<Vec<u8>>, pause: Duration) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 1024];
            let _ = stream.read(&mut question);
            for piece in pieces {
                if stream.write_all(&piece).is_err() {
                    return;
                }
                thread::sleep(pause);
            }
        });
        Address { port, ..Address::default() }
    }

    fn ask(pieces: &[&[u8]]) -> Result<Answer> {
        let pieces = pieces.iter().map(|piece| piece.to_vec()).collect();
        answering(pieces, Duration::ZERO).get("/", Duration::from_secs(20))
    }

    #[test]
    fn an_answer_is_taken_whole_however_it_comes() {
        let head = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 5\r\n\r\n";
        for pieces in [
            vec![&head[..], &b"hello, and more"[..]],
            vec![&head[..10], &head[10..], &b"he"[..], &b"llo"[..]],
            vec![&b"HTTP/1.0 403 No\r\n\r\n"[..], &b"hello"[..]],
        ] {
            let answer = ask(&pieces).unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (403, "hello"));
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error_that_says_so() {
        let huge = [b"HTTP/1.0 200 OK\r\n\r\n".as_slice(), &vec![b'x'; 9 << 20]].concat();
        let endless = [b"HTTP/1.0 200 OK\r\nX: ".as_slice(), &vec![b'x'; 1 << 20]].concat();
        for pieces in [
            vec![],
            vec![b"SSH-2.0-a\r\n".as_slice()],
            vec![b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nshort".as_slice()],
            vec![b"HTTP/1.0 200 OK\r\nContent-Length: 99999999999\r\n\r\n".as_slice()],
            vec![b"HTTP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n".as_slice()],
            vec![b"HTTP/1.0 200 OK\r\n\r\n\xff\xff".as_slice()],
            vec![endless.as_slice()],
            vec![huge.as_slice()],
        ] {
            let error = ask(&pieces).unwrap_err().to_string();
            assert!(error.contains("http_listen"), "{error}");
        }
    }

    #[test]
    fn nobody_is_followed_elsewhere() {
        let elsewhere = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(ask(&[elsewhere]).unwrap().status, 302);
    }

    #[test]
    fn who_answers_drop_by_drop_is_let_go_of_in_time() {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".to_vec();
        let drops = std::iter::once(head).chain(std::iter::repeat_n(b"x".to_vec(), 1000)).collect();
        let began = Instant::now();
        let error = answering(drops, Duration::from_millis(20)).get("/", Duration::from_millis(200));
        assert!(error.unwrap_err().to_string().contains("no answer in time"));
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
