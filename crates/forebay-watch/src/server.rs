//! Says the figures over HTTP, on a thread of its own.
//!
//! Promises: it answers GET and HEAD on a handful of paths and nothing else; a request's head is bounded in size and
//! time, a body is not read, connections are bounded in number; on a loopback address it answers only who asks for
//! that by name or number, so that no page of another site can read it. What it shows holds no secret: no URL, no key,
//! no prompt.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use forebay::config::Config;
use forebay::error::{Error, Result};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use crate::figures::{Figures, Watched};
use crate::health::Health;
use crate::{metrics, now};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to say what it wants.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may last, idle or not.
const CONNECTION_PATIENCE: Duration = Duration::from_mins(5);
/// The most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// What the page may load: itself.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                           img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'";

/// A server; it ends when this is dropped.
pub struct Server {
    address: SocketAddr,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    watched: Arc<dyn Watched>,
    started: SystemTime,
    is_local: bool,
}

impl Server {
    /// Listens on `address` (port 0: any that is free), and says the figures of `watched` from now on.
    ///
    /// # Errors
    /// When the address cannot be listened on, or there are no more threads.
    pub fn start(address: SocketAddr, watched: Arc<dyn Watched>) -> Result<Self> {
        let doing = format!("listening on {address} (http_listen)");
        let failed = |error| Error::io(doing.clone(), error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let listener = runtime.block_on(TcpListener::bind(address)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let is_local = address.ip().is_loopback();
        let shared = Arc::new(Shared { watched, started: SystemTime::now(), is_local });
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
        Ok(Self { address, stop: Mutex::new(Some(stop)), thread: Mutex::new(Some(thread)) })
    }

    /// As [`Self::start`], where the configuration says. That it cannot is said in the log and nothing else: the cache
    /// works without.
    pub fn start_as_configured(config: &Config, watched: Arc<dyn Watched>) -> Option<Self> {
        let started = Self::start(config.http_listen?, watched);
        started.inspect_err(|error| tracing::error!(%error, "no metrics, health or page will be seen")).ok()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it.
    pub fn close(&self) {
        // Dropping it says the same.
        drop(self.stop.lock().take());
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

async fn accept(listener: TcpListener, router: Router) {
    let turns = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    // How a client ended is no news.
                    let _ = tokio::time::timeout(CONNECTION_PATIENCE, serve(stream, router)).await;
                    drop(turn);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: it passes.
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, router: Router) -> hyper::Result<()> {
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
        .route("/readyz", get(say(|figures, _| health(figures, |health| health.ready))))
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

/// Lets in who may ask, and says with each answer how little a browser may do with it.
async fn guard(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Result<Response, Infallible> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if shared.is_local && !names_this_machine(host) {
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
    name == "localhost" || number.is_ok_and(|number| number.is_loopback())
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
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered_to() {
        for host in
            ["localhost", "localhost:9100", "127.0.0.1", "127.0.0.1:80", "[::1]:9100", "[::1]", "127.9.9.9:1"]
        {
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
