//! The I/O engine: carries whole chunks between leased slots and the data files. One engine serves all drives.
//!
//! A transfer owns its lease until the device is done with it, so a slot cannot be used again while the kernel may
//! still touch it. What is done with the outcome is the caller's: it comes as a closure that gets the lease back.
//!
//! Two engines keep the same order of pieces ([`schedule`](super)): [`super::uring`], where the kernel allows it, and
//! [`super::threads`], which works everywhere. [`LateEngine`] chooses.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;

use super::data_files::DataFiles;
use super::schedule::Ended;
use super::threads::ThreadEngine;
use super::uring::UringEngine;
use crate::catalog::ChunkRecord;
use crate::config::IoEngineChoice;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Pages;
use crate::staging::{Lease, Staging};

/// Which way a chunk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Disk to slot.
    Read,
    /// Slot to disk.
    Write,
}

/// What is called with the lease when the device is done.
pub type Finish = Box<dyn FnOnce(Lease, io::Result<()>) + Send>;

/// A chunk to be moved.
pub struct ChunkTransfer {
    /// Which way.
    pub direction: Direction,
    /// Where on disk, and how much.
    pub record: ChunkRecord,
    /// Header page and, unless that lies elsewhere, payload: whole blocks of it.
    pub lease: Lease,
    /// The payload if it does not lie in the slot: as many bytes as the record says, in whole blocks.
    pub payload: Option<Payload>,
    /// Called when the device is done, on a thread of the engine; at once, if that is shut down. Dropped uncalled if
    /// the transfer panics: what it holds must see to itself then.
    pub finish: Finish,
}

/// A payload that the device reads or writes where its owner has it.
pub struct Payload {
    /// Where that is.
    pub pages: Pages<'static>,
    /// What keeps that memory. Let go of before `finish` is called; never, if the device may still be at it.
    pub keep: Arc<dyn Send + Sync>,
}

impl ChunkTransfer {
    /// Ends a transfer that no engine takes.
    pub fn refuse(self, error: io::Error) {
        let Self { lease, finish, .. } = self;
        finish(lease, Err(error));
    }
}

/// What a transfer ends with that the device was never asked for: it says nothing about the chunk.
pub const NOT_ASKED: io::ErrorKind = io::ErrorKind::NotConnected;

/// Moves chunks. Reads go before writes but do not starve them, and writes never occupy the whole engine.
pub trait IoEngine: Send + Sync {
    /// Takes a transfer over; returns at once. There are never more of them than there are slots.
    fn submit(&self, transfer: ChunkTransfer);

    /// Finishes what was submitted and ends the engine's threads, waiting for them until `deadline` at most. A
    /// transfer submitted later is finished with an error at once.
    fn shutdown(&self, deadline: Instant);

    /// A stable short name of how it moves chunks.
    fn name(&self) -> &'static str;
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

/// Tells the end of a transfer. A panic in there costs that transfer only.
pub(super) fn tell(ended: Ended) {
    let Ended { lease, finish, outcome, .. } = ended;
    if catch_unwind(AssertUnwindSafe(|| finish(lease, outcome))).is_err() {
        tracing::error!("the end of a chunk's transfer panicked; the chunk was given up");
    }
}

/// What a transfer ends with that comes too late.
pub(super) fn shut_down() -> io::Error {
    io::Error::new(NOT_ASKED, "the I/O engine is shut down")
}
