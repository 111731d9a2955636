//! Says the figures over HTTP, on a thread of its own.
//!
//! Promises: it answers GET and HEAD on a handful of paths, and POST on some to who says the token, if there is one; a request's
//! head is bounded in size and time, a body is not read, connections are bounded in number and time, and too many end
//! the oldest; on a loopback address it answers only who asks for that by name or number, so that no page of another
//! site can read it. What it shows holds no secret: no URL, no key, no prompt.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use forebay::catalog::NamespaceId;
use forebay::config::Config;
use forebay::control::Pinned;
use forebay::error::{Error, ErrorKind, Result};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::figures::{Figures, Watched};
use crate::health::Health;
use crate::{metrics, now};

/// Connections at a time; one more ends the oldest.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to say what it wants.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may last, whatever it does. Browsers and Prometheus make another one without a word.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer waits for what was asked for: the connection lasts longer.
const CHANGE_PATIENCE: Duration = Duration::from_secs(20);
/// The most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// What the page may load: itself.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                           img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'";

/// A server; it ends when this is dropped.
pub struct Server {
    address: SocketAddr,
    /// In which its thread is.
    process: u32,
    running: Mutex<Option<Running>>,
}

struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    /// The one that is listened on.
    socket: OwnedFd,
}

struct Shared {
    watched: Arc<dyn Watched>,
    started: SystemTime,
    is_local: bool,
    /// The digest of the token; none where nobody may change anything.
    token: Option<Digest>,
    refusals: AtomicU64,
}

type Digest = [u8; 32];

impl Server {
    /// Listens on `address` (port 0: any that is free), and says the figures of `watched` from now on. Who says `token` may
    /// clear it, pin what is in it and change its capacity; nobody, if that is empty.
    ///
    /// # Errors
    /// When the address cannot be listened on, or there are no more threads.
    pub fn start(address: SocketAddr, token: &str, watched: Arc<dyn Watched>) -> Result<Self> {
        let doing = format!("listening on {address} (http_listen)");
        let failed = |error| Error::io(doing.clone(), error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let inside = runtime.enter();
        let socket = std::net::TcpListener::bind(address).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let kept = OwnedFd::from(socket.try_clone().map_err(failed)?);
        let listener = TcpListener::from_std(socket).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        drop(inside);
        let is_local = address.ip().to_canonical().is_loopback();
        let token = (!token.is_empty()).then(|| digest(token));
        let started = SystemTime::now();
        let shared = Arc::new(Shared { watched, started, is_local, token, refusals: AtomicU64::new(0) });
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("forebay-http".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, router(shared)) => {}
                        _ = stopped => {}
                    }
                });
                // Connections that are open end here.
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        tracing::info!(%address, "metrics, health and a page are at http://{address}/");
        let running = Running { stop, thread, socket: kept };
        Ok(Self { address, process: std::process::id(), running: Mutex::new(Some(running)) })
    }

    /// As [`Self::start`], where the configuration says. That it cannot is said in the log and nothing else: the cache
    /// works without.
    pub fn start_as_configured(config: &Config, watched: Arc<dyn Watched>) -> Option<Self> {
        let started = Self::start(config.http_listen?, &config.http_token, watched);
        started.inspect_err(|error| tracing::error!(%error, "no metrics, health or page will be seen")).ok()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it, and waits for that. A forked child has this object, but not its thread: there nothing is done.
    pub fn close(&self) {
        let Some(Running { stop, thread, socket }) = self.running.lock().take() else { return };
        if self.process != std::process::id() {
            // To drop them would wake, or wait for, what is the parent's.
            std::mem::forget((stop, thread));
            return;
        }
        // A child may have a copy of the socket: it is not listened on any more all the same.
        let _ = TcpStream::from(socket).shutdown(Shutdown::Both);
        drop(stop);
        // Who closes it there, because the last of what it shows went while it was shown, does not wait for itself.
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes connections, and ends the oldest where there are too many: who holds them keeps nobody else out.
async fn accept(listener: TcpListener, router: Router) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                open.retain(|connection| !connection.is_finished());
                while open.len() >= CONNECTIONS_MAX {
                    open.pop_front().iter().for_each(AbortHandle::abort);
                }
                let router = router.clone();
                // How a client ended is no news.
                let connection = tokio::spawn(async move {
                    let _ = tokio::time::timeout(CONNECTION_PATIENCE, serve(stream, router)).await;
                });
                open.push_back(connection.abort_handle());
            }
            Err(error) => {
                // Out of descriptors, most likely: it passes.
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: tokio::net::TcpStream, router: Router) -> hyper::Result<()> {
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(async || page("text/html; charset=utf-8", include_str!("../page/index.html"))))
        .route("/page.css", get(async || page("text/css; charset=utf-8", include_str!("../page/page.css"))))
        .route(
            "/page.js",
            get(async || page("text/javascript; charset=utf-8", include_str!("../page/page.js"))),
        )
        .route("/metrics", get(say(|figures, _| typed(metrics::CONTENT_TYPE, metrics::text(figures)))))
        .route(
            "/api/now",
            get(say(|figures, started| axum::Json(now::now(figures, started)).into_response())),
        )
        .route("/healthz", get(say(|figures, _| health(figures, |health| health.live))))
        .route("/readyz", get(say(|figures, _| health(figures, |_| true))))
        .route("/api/clear", post(clear))
        .route("/api/pin", post(pin))
        .route("/api/unpin", post(unpin))
        .route("/api/capacity", post(capacity))
        .layer(from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

/// What a path says of the figures.
fn say(
    of: fn(&Figures, SystemTime) -> Response,
) -> impl Fn(State<Arc<Shared>>) -> std::future::Ready<Response> + Clone {
    move |State(shared)| {
        std::future::ready(match shared.watched.figures() {
            Some(figures) => of(&figures, shared.started),
            None => (StatusCode::SERVICE_UNAVAILABLE, "the cache is closed\n").into_response(),
        })
    }
}

/// Clears the cache, or one of its namespaces, for who says the token.
async fn clear(shared: State<Arc<Shared>>, asked: Query<OfNamespace>, headers: HeaderMap) -> Response {
    change(shared, &headers, "clear the cache", asked.id(), |watched, id| {
        let cleared = watched.clear(id)?;
        Some(Ok(serde_json::json!({ "cleared": cleared })))
    })
    .await
}

/// Pins a namespace, likewise.
async fn pin(shared: State<Arc<Shared>>, asked: Query<OfNamespace>, headers: HeaderMap) -> Response {
    // Which one has to be said.
    let id = asked.id().and_then(|id| id.ok_or(NAMESPACE_SAID));
    change(shared, &headers, "pin chunks", id, |watched, id| {
        let said =
            |pinned: Pinned| serde_json::json!({ "pinned": pinned.chunks, "left_out": pinned.left_out });
        Some(watched.pin(id)?.map(said))
    })
    .await
}

/// Unpins all, or a namespace, likewise.
async fn unpin(shared: State<Arc<Shared>>, asked: Query<OfNamespace>, headers: HeaderMap) -> Response {
    change(shared, &headers, "unpin chunks", asked.id(), |watched, id| {
        Some(watched.unpin(id)?.map(|unpinned| serde_json::json!({ "unpinned": unpinned })))
    })
    .await
}

/// Makes the disk larger or smaller, likewise.
async fn capacity(shared: State<Arc<Shared>>, asked: Query<Capacity>, headers: HeaderMap) -> Response {
    let bytes = bytes_of_gib(asked.disk_gib);
    let bytes = bytes.ok_or("disk_gib is how many GiB all files together may take, such as 100 or 0.5");
    change(shared, &headers, "change the capacity", bytes, |watched, bytes| {
        let set = watched.set_disk_capacity(bytes)?;
        Some(set.map(|capacity_bytes| serde_json::json!({ "capacity_bytes": capacity_bytes })))
    })
    .await
}

/// Changes something, for who says the token: what was asked for, or what is wrong with that. `act` says what came of
/// it; none once the cache is closed.
async fn change<T: Send + 'static>(
    State(shared): State<Arc<Shared>>,
    headers: &HeaderMap,
    what: &'static str,
    asked: Result<T, &'static str>,
    act: impl FnOnce(&dyn Watched, T) -> Option<Result<serde_json::Value>> + Send + 'static,
) -> Response {
    if let Err(why) = may_change(&shared, headers) {
        // A line for the first and for each power of two: who goes on asking must not fill the log.
        let refusals = shared.refusals.fetch_add(1, Ordering::Relaxed) + 1;
        if refusals.is_power_of_two() {
            tracing::warn!(refusals, "a request to {what} was refused: {why}");
        }
        return (StatusCode::FORBIDDEN, format!("{why}\n")).into_response();
    }
    let asked = match asked {
        Ok(asked) => asked,
        Err(wrong) => return (StatusCode::BAD_REQUEST, format!("{wrong}\n")).into_response(),
    };
    // It takes locks, and its time: not on the thread that answers everybody.
    let acting = tokio::task::spawn_blocking(move || act(&*shared.watched, asked));
    let Ok(done) = tokio::time::timeout(CHANGE_PATIENCE, acting).await else {
        // It goes on without anybody who waits.
        tracing::info!("a request to {what} was granted over HTTP, and takes its time");
        return (StatusCode::ACCEPTED, axum::Json(serde_json::json!({ "under_way": true }))).into_response();
    };
    match done.ok().flatten() {
        Some(Ok(said)) => {
            tracing::info!(%said, "a request to {what} was granted over HTTP");
            axum::Json(said).into_response()
        }
        Some(Err(error)) if error.kind() != ErrorKind::Closed => {
            (StatusCode::CONFLICT, format!("{error}\n")).into_response()
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the cache is closed\n").into_response(),
    }
}

/// What a request for another capacity asks for.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Capacity {
    disk_gib: f64,
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is positive, and not too large"
)]
fn bytes_of_gib(gib: f64) -> Option<u64> {
    let bytes = gib * f64::from(1 << 30);
    (1.0..2.0_f64.powi(63)).contains(&bytes).then_some(bytes as u64)
}

/// What a request about all chunks, or those of a namespace, asks for.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct OfNamespace {
    namespace: Option<String>,
}

const NAMESPACE_SAID: &str = "namespace is 16 hexadecimal digits, as /api/now and forebay inspect show them";

impl OfNamespace {
    /// The namespace, if one is named.
    fn id(&self) -> Result<Option<NamespaceId>, &'static str> {
        let named = self.namespace.as_deref();
        named.map(|digits| namespace_id(digits).ok_or(NAMESPACE_SAID)).transpose()
    }
}

fn namespace_id(text: &str) -> Option<NamespaceId> {
    let digits = (text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(text)?;
    u64::from_str_radix(digits, 16).ok().map(u64::to_be_bytes)
}

fn may_change(shared: &Shared, headers: &HeaderMap) -> Result<(), &'static str> {
    let Some(token) = shared.token else {
        return Err("http_token is not set, so nothing can be changed here");
    };
    if headers.contains_key(ORIGIN) {
        return Err("a page may not change anything");
    }
    let said = headers.get(AUTHORIZATION).and_then(|said| said.to_str().ok()?.strip_prefix("Bearer "));
    // Digests, so that the time it takes tells nothing of the token.
    match said {
        Some(said) if digest(said) == token => Ok(()),
        Some(_) => Err("that is not the token"),
        None => Err("say the token: Authorization: Bearer …"),
    }
}

fn digest(text: &str) -> Digest {
    Sha256::digest(text).into()
}

/// Lets in who may ask, and says with each answer how little a browser may do with it.
async fn guard(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Result<Response, Infallible> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // A browser always says whom it asks.
    if shared.is_local && !host.is_empty() && !names_this_machine(host) {
        let said = "this address is asked for as localhost or by its number\n";
        return Ok((StatusCode::MISDIRECTED_REQUEST, said).into_response());
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Whether a `Host` is a loopback address or its name: a name of another site that leads here is not.
fn names_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let number = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || number.is_ok_and(|number| number.is_loopback())
}

fn page(kind: &'static str, content: &'static str) -> Response {
    typed(kind, content.to_owned())
}

fn typed(kind: &'static str, content: String) -> Response {
    ([(CONTENT_TYPE, kind)], content).into_response()
}

fn health(figures: &Figures, is_well: fn(&Health) -> bool) -> Response {
    let health = Health::of(figures);
    let status = if is_well(&health) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(health)).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_that_takes_its_time_is_answered_while_the_connection_lasts_and_goes_on() {
        const { assert!(CHANGE_PATIENCE.as_secs() < CONNECTION_PATIENCE.as_secs()) };
        let shared = Arc::new(Shared {
            watched: Arc::new(Weak::<forebay::Cache>::new()),
            started: SystemTime::UNIX_EPOCH,
            is_local: true,
            token: Some(digest("token")),
            refusals: AtomicU64::new(0),
        });
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer token"));
        let (go_on, told_to) = channel::<()>();
        let (tell, told) = channel();
        let act = move |_: &dyn Watched, ()| {
            told_to.recv().expect("it goes on");
            tell.send(()).expect("somebody listens");
            Some(Ok(serde_json::json!({})))
        };
        let changing =
            tokio::spawn(async move { change(State(shared), &headers, "wait", Ok(()), act).await.status() });
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!changing.is_finished());
        tokio::time::advance(CHANGE_PATIENCE).await;
        assert_eq!(changing.await.expect("no panic"), StatusCode::ACCEPTED);
        go_on.send(()).expect("it waits");
        told.recv().expect("it was done all the same");
    }

    #[test]
    fn only_names_of_this_machine_are_answered_to() {
        for host in [
            "localhost",
            "localhost:9100",
            "LOCALHOST",
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]:9100",
            "[::1]",
            "127.9.9.9:1",
        ] {
            assert!(names_this_machine(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "example.org:9100",
            "localhost.example.org",
            "10.0.0.1:9100",
            "127.0.0.1.nip.io",
        ] {
            assert!(!names_this_machine(host), "{host}");
        }
    }
}
