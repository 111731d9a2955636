//! The I/O engine: carries chunks, or parts of them, between leased slots and the data files. One engine serves all
//! drives.
//!
//! A transfer owns its lease until the device is done with it, so a slot cannot be used again while the kernel may
//! still touch it. What is done with the outcome is the caller's: it comes as a closure that gets the lease back.
//!
//! Two engines keep the same order of pieces ([`schedule`](super)): [`super::uring`], where the kernel allows it, and
//! [`super::threads`], which works everywhere. [`LateEngine`] chooses.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::data_files::DataFiles;
use super::schedule::Ended;
use super::threads::ThreadEngine;
use super::uring::UringEngine;
use crate::catalog::Extents;
use crate::config::IoEngineChoice;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Pages;
use crate::staging::{Lease, Staging};
use crate::sync::Mutex;
use crate::tellers::caught;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Disk to slot.
    Read,
    /// Slot to disk.
    Write,
}

/// What is called with the lease when the device is done.
pub enum Finish {
    /// It checks and copies, or runs a caller's code: no thread that serves a device waits for it.
    Working(Box<dyn FnOnce(Lease, io::Result<()>) + Send>),
    /// It returns at once. What it gives, if anything, is called as the other kind is.
    Prompt(Box<dyn FnOnce(Lease, io::Result<()>) -> Option<Rest> + Send>),
}

/// What is left to be done at the end of a transfer.
pub type Rest = Box<dyn FnOnce() + Send>;

/// A chunk, or a part of one, to be moved.
pub struct Transfer {
    /// Which way.
    pub direction: Direction,
    /// On which drive.
    pub drive: u8,
    /// Where on it, and how much.
    pub extents: Extents,
    /// Whole blocks from the front of the slot, but for those that lie elsewhere.
    pub lease: Lease,
    /// All or the first of the blocks, if they do not lie in the slot.
    pub payload: Option<Payload>,
    /// Called when the device is done, on a thread of the engine; at once, if that is shut down. Dropped uncalled if
    /// the transfer panics: what it holds must see to itself then.
    pub finish: Finish,
}

/// Blocks that the device reads or writes where their owner has them.
pub struct Payload {
    /// Where that is.
    pub pages: Pages<'static>,
    /// What keeps that memory. Let go of before `finish` is called; never, if the device may still be at it.
    pub keep: Arc<dyn Send + Sync>,
}

impl Transfer {
    /// Ends a transfer that no engine takes.
    pub fn refuse(self, error: io::Error) {
        let Self { lease, finish, .. } = self;
        finish.call(lease, Err(error));
    }
}

impl Finish {
    fn call(self, lease: Lease, outcome: io::Result<()>) {
        match self {
            Self::Working(finish) => finish(lease, outcome),
            Self::Prompt(finish) => finish(lease, outcome).into_iter().for_each(|rest| rest()),
        }
    }
}

/// What a transfer ends with that the device was never asked for: it says nothing about what is on disk.
pub const NOT_ASKED: io::ErrorKind = io::ErrorKind::NotConnected;

/// Moves them. Reads go before writes but do not starve them, and writes never occupy the whole engine.
pub trait IoEngine: Send + Sync {
    /// Takes a transfer over; returns at once. There are never more of them than there are slots.
    fn submit(&self, transfer: Transfer);

    /// Finishes what was submitted and ends the engine's threads, waiting for them until `deadline` at most. A
    /// transfer submitted later is finished with an error at once.
    fn shutdown(&self, deadline: Instant);

    /// A stable short name of how it does that, or that it does not any more.
    fn name(&self) -> &'static str;

    /// Its threads that died of a panic.
    fn dead_threads(&self) -> Vec<String> {
        Vec::new()
    }
}

/// How a mover comes to its data files.
pub type OpenFiles = Box<dyn Fn() -> Result<DataFiles> + Send + Sync>;

/// An engine that starts when it is first needed: a mover may start before the directory's owner has made the files.
pub struct LateEngine {
    open: OpenFiles,
    staging: Arc<Staging>,
    choice: IoEngineChoice,
    threads: u32,
    started: OnceLock<Started>,
    starting: Mutex<()>,
}

/// An engine with its files.
pub struct Started {
    /// The files.
    pub files: DataFiles,
    /// The engine on them.
    pub engine: Box<dyn IoEngine>,
}

impl LateEngine {
    /// An engine to be started on what `open` gives.
    pub fn new(open: OpenFiles, staging: Arc<Staging>, choice: IoEngineChoice, threads: u32) -> Self {
        Self { open, staging, choice, threads, started: OnceLock::new(), starting: Mutex::new(()) }
    }

    /// One that has started.
    pub(crate) fn of(started: Started, staging: Arc<Staging>) -> Self {
        let files = started.files.clone();
        Self {
            started: started.into(),
            ..Self::new(Box::new(move || Ok(files.clone())), staging, IoEngineChoice::Auto, 0)
        }
    }

    /// The engine; starts it if it has not been. What failed once is tried again.
    ///
    /// # Errors
    /// When a file cannot be opened, or no engine starts on them.
    pub fn get(&self) -> Result<&Started> {
        if let Some(started) = self.started.get() {
            return Ok(started);
        }
        let _starting = self.starting.lock();
        if let Some(started) = self.started.get() {
            return Ok(started);
        }
        let files = (self.open)()?;
        let engine = start(&files, &self.staging, self.choice, self.threads)?;
        Ok(self.started.get_or_init(|| Started { files, engine }))
    }

    /// The engine, if it has been started.
    pub fn started(&self) -> Option<&Started> {
        self.started.get()
    }
}

/// An engine on `files`, for slots of `staging`: `io_uring` if it is wanted and to be had, else `threads` threads.
///
/// # Errors
/// When `io_uring` is asked for by name and not to be had, or the system gives no more threads.
fn start(
    files: &DataFiles,
    staging: &Arc<Staging>,
    choice: IoEngineChoice,
    threads: u32,
) -> Result<Box<dyn IoEngine>> {
    if choice != IoEngineChoice::Threads {
        match UringEngine::start(files.clone(), staging) {
            Ok(engine) => return Ok(Box::new(engine)),
            Err(error) if choice == IoEngineChoice::Uring => {
                let message = "io_uring cannot be used here; set disk_io_engine to auto, or allow io_uring";
                return Err(Error::new(ErrorKind::Config, format!("{message} ({error})")));
            }
            Err(error) => {
                tracing::info!(%error, "no io_uring here; {threads} threads read and write instead");
            }
        }
    }
    Ok(Box::new(ThreadEngine::start(files.clone(), threads)?))
}

/// Tells the end of a transfer.
pub(super) fn tell(ended: Ended) {
    let Ended { lease, finish, outcome, .. } = ended;
    caught(|| finish.call(lease, outcome));
}

/// What a transfer ends with that comes too late.
pub(super) fn shut_down() -> io::Error {
    io::Error::new(NOT_ASKED, "the I/O engine is shut down")
}
