//! [`Objects`] in a bucket or in a shared directory, through `OpenDAL`.
//!
//! Promises: bytes are handed to the library as they are, and what it reads is copied once, into the caller's memory.
//! A directory never shows half an object: it is written under another name beside the others and renamed. Directories
//! made there are for their owner only; the root's own mode is its owner's affair.
//!
//! Assumes: the root is on one file system; limits in time are set in [`layers`](super::layers).

use std::collections::HashSet;
use std::error::Error as _;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::TryStreamExt;
use opendal::{HttpTransporter, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;

use super::objects::{Answer, Fault, Objects, one_line};
use super::url::Bucket;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;

/// Where objects of a shared directory are written before they have their name.
pub(super) const INCOMING: &str = ".incoming";

/// A store that the library reaches.
pub struct Library {
    operator: Operator,
    directory: Option<Directory>,
}

struct Directory {
    root: PathBuf,
    /// The directories of namespaces that are known to be there.
    made: Arc<Mutex<HashSet<String>>>,
}

impl Library {
    /// A bucket. Nothing is asked of it yet. Connections take `connect_timeout` at most.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the bucket's region or its credentials' place cannot be made out.
    pub fn bucket(bucket: &Bucket, requests_max: usize, connect_timeout: Duration) -> Result<Self> {
        let region_of = |name| std::env::var(name).ok().filter(|region: &String| !region.is_empty());
        let endpoint = bucket
            .endpoint
            .clone()
            .or_else(|| region_of("AWS_ENDPOINT_URL_S3"))
            .or_else(|| region_of("AWS_ENDPOINT_URL"));
        let region = bucket
            .region
            .clone()
            .or_else(|| region_of("AWS_REGION"))
            .or_else(|| region_of("AWS_DEFAULT_REGION"));
        let region = match (region, &endpoint) {
            (Some(region), _) => region,
            // Servers that are not AWS take any, and this one by custom.
            (None, Some(_)) => "us-east-1".to_owned(),
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!(
                        "the region of the bucket {} is not known. Add `region=` to `remote_url`, or set AWS_REGION.",
                        bucket.name
                    ),
                ));
            }
        };
        let mut builder = opendal::services::S3::default()
            .bucket(&bucket.name)
            .root(&format!("/{}", bucket.prefix))
            .region(&region);
        if let Some(endpoint) = &endpoint {
            builder = builder.endpoint(endpoint);
        }
        let unusable = |why: &str| {
            let why = one_line(why);
            Error::new(
                ErrorKind::Config,
                format!("the bucket {} cannot be used: {why}. Check it.", bucket.name),
            )
        };
        // A client of its own: connections of a shared one would die with the threads of whoever made them first.
        let http = reqwest::Client::builder()
            .connect_timeout(connect_timeout)
            .pool_max_idle_per_host(requests_max)
            .build()
            .map_err(|error| unusable(&error.to_string()))?;
        let operator = Operator::new(builder).map_err(|error| unusable(error.message()))?;
        let context =
            operator.context().with_http_transport(HttpTransporter::new(ReqwestTransport::new(http)));
        Ok(Self { operator: operator.with_context(context), directory: None })
    }

    /// A directory that several machines have mounted. It must be there already: made here, it would be on the local
    /// disk when the mount is missing.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is no directory, [`ErrorKind::Io`] when nothing can be made in it.
    pub fn directory(root: &Path) -> Result<Self> {
        let shown = root.display();
        if !root.is_dir() {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{shown} is not a directory. Mount what it is to be, or make it."),
            ));
        }
        let incoming = root.join(INCOMING);
        make_private(&incoming)
            .map_err(|error| Error::io(format!("making {}", incoming.display()), error))?;
        let plain = |path: &Path| {
            path.to_str().map(str::to_owned).ok_or_else(|| {
                Error::new(ErrorKind::Config, format!("{shown} is not written in UTF-8. Name it so."))
            })
        };
        let builder =
            opendal::services::Fs::default().root(&plain(root)?).atomic_write_dir(&plain(&incoming)?);
        let operator = Operator::new(builder).map_err(|error| {
            let why = one_line(error.message());
            Error::new(ErrorKind::Config, format!("{shown} cannot be used: {why}. Check who owns it."))
        })?;
        Ok(Self { operator, directory: Some(Directory { root: root.to_owned(), made: Arc::default() }) })
    }
}

impl Directory {
    /// Makes the directory of the namespace of `name`, for the owner only. Those below it are hidden by it.
    async fn prepare(&self, name: &str) -> Result<(), Fault> {
        let Some((namespace, _)) = name.split_once('/') else { return Ok(()) };
        if self.made.lock().contains(namespace) {
            return Ok(());
        }
        let (path, namespace) = (self.root.join(namespace), namespace.to_owned());
        let made = Arc::clone(&self.made);
        let making = tokio::task::spawn_blocking(move || {
            make_private(&path)?;
            made.lock().insert(namespace);
            Ok(())
        });
        match making.await {
            Ok(made) => made.map_err(|error: io::Error| of_the_system(&error, "making a directory")),
            Err(_) => Err(Fault::Unavailable("making a directory was interrupted".to_owned())),
        }
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

impl Objects for Library {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            if let Some(directory) = &self.directory {
                directory.prepare(name).await?;
            }
            match self.operator.write(name, bytes).await {
                Ok(_) => Ok(()),
                Err(error) => match fault(&error) {
                    // Its directory was removed beneath it, by whoever keeps the store within its capacity.
                    Fault::NotThere => {
                        if let (Some(directory), Some((namespace, _))) =
                            (&self.directory, name.split_once('/'))
                        {
                            directory.made.lock().remove(namespace);
                        }
                        Err(Fault::Unavailable("what it was put in was removed meanwhile".to_owned()))
                    }
                    fault => Err(fault),
                },
            }
        })
    }

    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()> {
        Box::pin(async move {
            let reader = self.operator.reader(name).await.map_err(|error| fault(&error))?;
            let mut stream = reader.into_stream(..).await.map_err(|error| fault(&error))?;
            let expected = into.len() as u64;
            // What is known of the length beforehand spares the reading of another object's bytes.
            match stream.metadata().await {
                Ok(known) if known.content_length() != expected => {
                    return Err(Fault::OtherLength(known.content_length()));
                }
                Err(error) if error.kind() != opendal::ErrorKind::Unsupported => return Err(fault(&error)),
                _ => {}
            }
            let mut filled = 0;
            let mut seen = 0_u64;
            while let Some(mut piece) = stream.try_next().await.map_err(|error| fault(&error))? {
                seen += piece.remaining() as u64;
                if seen > expected {
                    drop(stream);
                    // How much longer it is, is not worth reading it for.
                    let whole = self.operator.stat(name).await.map_err(|error| fault(&error))?;
                    return Err(Fault::OtherLength(whole.content_length()));
                }
                let end = filled + piece.remaining();
                piece.copy_to_slice(&mut into[filled..end]);
                filled = end;
            }
            if seen == expected { Ok(()) } else { Err(Fault::OtherLength(seen)) }
        })
    }

    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool> {
        Box::pin(async move {
            match self.operator.stat(name).await {
                Ok(known) => Ok(known.is_file()),
                Err(error) => match fault(&error) {
                    Fault::NotThere => Ok(false),
                    fault => Err(fault),
                },
            }
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            match self.operator.delete(name).await.map_err(|error| fault(&error)) {
                Err(Fault::NotThere) => Ok(()),
                other => other,
            }
        })
    }
}

fn of_the_system(error: &io::Error, doing: &str) -> Fault {
    use io::ErrorKind as Kind;
    let text = one_line(&format!("{doing}: {error}"));
    match error.kind() {
        Kind::TimedOut => Fault::TimedOut,
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem | Kind::NotADirectory | Kind::IsADirectory => {
            Fault::Refused(text)
        }
        _ => Fault::Unavailable(text),
    }
}

fn fault(error: &opendal::Error) -> Fault {
    use opendal::ErrorKind as Kind;

    let mut text = error.message().to_owned();
    let mut source = error.source();
    while let Some(deeper) = source {
        if let Some(error) = deeper.downcast_ref::<io::Error>()
            && matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::ReadOnlyFilesystem)
        {
            return of_the_system(error, "the file system");
        }
        text = format!("{text}: {deeper}");
        source = deeper.source();
    }
    let text = one_line(&text);
    match error.kind() {
        Kind::NotFound => Fault::NotThere,
        Kind::RateLimited | Kind::Conflict => Fault::Unavailable(text),
        Kind::Unexpected if error.is_temporary() => Fault::Unavailable(text),
        _ => Fault::Refused(text),
    }
}
