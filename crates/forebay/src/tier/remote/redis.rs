//! [`Objects`] in a server, or a cluster, of Redis or Valkey.
//!
//! A request is one command and one round trip. Requests share a few connections; each of them is made when it is first
//! needed and again after it failed. Limits in time are not set here but in [`layers`](super::layers): a request that
//! is given up gives its connection up too, since one whose peer vanished would never say so.
//!
//! Promises: `SET` replaces whole values, so nothing is ever half there. Assumes a caller that bounds waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisError,
};

use super::objects::{Answer, Fault, Objects, one_line};
use super::url::Server;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;

/// More connections carry no more bytes; fewer let a small answer wait behind more large ones.
const CONNECTIONS_MOST: usize = 8;

/// A server, or a cluster, of Redis or Valkey.
pub struct Redis {
    opener: Opener,
    lines: Vec<Line>,
    next: AtomicUsize,
}

impl Redis {
    /// Prepares for what `server` names, for `requests_max` requests at a time. No connection is made yet;
    /// `connect_timeout` is how long the making of one may take.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the library cannot use the place.
    pub fn new(server: &Server, requests_max: usize, connect_timeout: Duration) -> Result<Self> {
        let opener = Opener::new(server, connect_timeout).map_err(|error| {
            let why = one_line(error.category());
            Error::new(
                ErrorKind::Config,
                format!("`remote_url` cannot be used: {server}: {why}. Write another."),
            )
        })?;
        let lines = (0..requests_max.clamp(1, CONNECTIONS_MOST)).map(|_| Line::default()).collect();
        Ok(Self { opener, lines, next: AtomicUsize::new(0) })
    }

    async fn ask<T: FromRedisValue>(&self, command: Cmd) -> Result<T, Fault> {
        let line = &self.lines[self.next.fetch_add(1, Ordering::Relaxed) % self.lines.len()];
        let connection = line.connection(&self.opener).await.map_err(|error| fault(&error))?;
        let mut hold = Hold { line, number: connection.number, is_well: false };
        let answer: Result<T, RedisError> = match connection.wire {
            Wire::Single(mut wire) => command.query_async(&mut wire).await,
            Wire::Cluster(mut wire) => command.query_async(&mut wire).await,
        };
        // What a server says in order leaves its connection in order.
        hold.is_well = answer.as_ref().map_or_else(
            |error| matches!(error.kind(), redis::ErrorKind::Server(_) | redis::ErrorKind::Extension),
            |_| true,
        );
        answer.map_err(|error| fault(&error))
    }
}

impl Objects for Redis {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        let mut command = Cmd::with_capacity(3, bytes.len() + name.len() + 8);
        command.arg("SET").arg(name).arg(&bytes[..]);
        Box::pin(self.ask(command))
    }

    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut command = redis::cmd("GET");
            command.arg(name);
            let bytes: Bytes = self.ask::<Option<Bytes>>(command).await?.ok_or(Fault::NotThere)?;
            if bytes.len() != into.len() {
                return Err(Fault::OtherLength(bytes.len() as u64));
            }
            into.copy_from_slice(&bytes);
            Ok(())
        })
    }

    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool> {
        let mut command = redis::cmd("EXISTS");
        command.arg(name);
        Box::pin(self.ask(command))
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        let mut command = redis::cmd("DEL");
        command.arg(name);
        Box::pin(async move { self.ask::<u64>(command).await.map(drop) })
    }
}

/// Makes connections.
enum Opener {
    Single(Client, AsyncConnectionConfig),
    Cluster(redis::cluster::ClusterClient),
}

impl Opener {
    fn new(server: &Server, connect_timeout: Duration) -> Result<Self, RedisError> {
        let mut login = redis::RedisConnectionInfo::default().set_db(server.database);
        if let Some(user) = &server.user {
            login = login.set_username(user);
        }
        if let Some(password) = &server.password {
            login = login.set_password(password);
        }
        let infos: Vec<redis::ConnectionInfo> = server
            .hosts
            .iter()
            .map(|(host, port)| {
                let address = if server.tls {
                    ConnectionAddr::TcpTls {
                        host: host.clone(),
                        port: *port,
                        insecure: false,
                        tls_params: None,
                    }
                } else {
                    ConnectionAddr::Tcp(host.clone(), *port)
                };
                Ok(address.into_connection_info()?.set_redis_settings(login.clone()))
            })
            .collect::<Result<_, RedisError>>()?;
        if server.cluster {
            let mut builder =
                redis::cluster::ClusterClient::builder(infos).connection_timeout(connect_timeout);
            builder = builder.retries(2);
            if let Some(user) = &server.user {
                builder = builder.username(user);
            }
            if let Some(password) = &server.password {
                builder = builder.password(password);
            }
            return Ok(Self::Cluster(builder.response_timeout(connect_timeout).build()?));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect_timeout))
            // The library's own is half a second, which a part of a few MiB takes on a slow or a busy line.
            .set_response_timeout(None);
        let info =
            infos.into_iter().next().ok_or((redis::ErrorKind::InvalidClientConfig, "it names no host"))?;
        Ok(Self::Single(Client::open(info)?, config))
    }

    async fn open(&self) -> Result<Wire, RedisError> {
        match self {
            Self::Single(client, config) => {
                client.get_multiplexed_async_connection_with_config(config).await.map(Wire::Single)
            }
            Self::Cluster(client) => client.get_async_connection().await.map(Wire::Cluster),
        }
    }
}

/// One connection, whenever there is one.
#[derive(Default)]
struct Line {
    current: Mutex<Option<Connection>>,
    /// Held by whoever makes the connection anew; the others wait for it.
    opening: tokio::sync::Mutex<u64>,
}

#[derive(Clone)]
struct Connection {
    number: u64,
    wire: Wire,
}

#[derive(Clone)]
enum Wire {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Line {
    async fn connection(&self, by: &Opener) -> Result<Connection, RedisError> {
        let there = || self.current.lock().clone();
        if let Some(connection) = there() {
            return Ok(connection);
        }
        let mut opened = self.opening.lock().await;
        if let Some(connection) = there() {
            return Ok(connection);
        }
        let wire = by.open().await?;
        *opened += 1;
        let connection = Connection { number: *opened, wire };
        *self.current.lock() = Some(connection.clone());
        Ok(connection)
    }
}

/// A connection in use: gives it up unless it turned out well. So does a request that is dropped halfway.
struct Hold<'a> {
    line: &'a Line,
    number: u64,
    is_well: bool,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if !self.is_well {
            let mut current = self.line.current.lock();
            if current.as_ref().is_some_and(|connection| connection.number == self.number) {
                *current = None;
            }
        }
    }
}

fn fault(error: &RedisError) -> Fault {
    use redis::{ErrorKind as Kind, ServerErrorKind as Said};

    if error.is_timeout() {
        return Fault::TimedOut;
    }
    let text = one_line(&error.to_string());
    let may_pass = match error.kind() {
        Kind::AuthenticationFailed
        | Kind::InvalidClientConfig
        | Kind::Server(Said::NoPerm | Said::CrossSlot | Said::NoScript | Said::ExecAbort) => false,
        Kind::Server(Said::ResponseError) => text.contains("max number of clients"),
        Kind::Extension => !matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "WRONGTYPE" | "DENIED")),
        _ => true,
    };
    if may_pass { Fault::Unavailable(text) } else { Fault::Refused(text) }
}
