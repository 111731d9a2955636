//! `forebay.ControlPlane` and `forebay.Mover`: the two halves, for an engine whose scheduler and workers are apart.

use std::sync::{Arc, Weak};
use std::time::Duration;

use forebay::cache::load_status;
use forebay::catalog::{PLAN_BYTES, Plan};
use forebay::config::DirectIo;
use forebay::control::{self, CopyStep, LoadPlan};
use forebay::mover::{Batch, Job, Verdict};
use forebay::tier::disk::directory::open_data_files;
use forebay::tier::disk::trailer::Corruption;
use forebay::tier::remote::client::Client;
use forebay::{ChunkKey, LoadStatus, Reason};
use forebay_watch::Server;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::cache::Lookup;
use crate::config::Config;
use crate::error::{argument, closed, raise};
use crate::events::Events;
use crate::exit::at_exit;
use crate::handle::{interruptible, seconds};
use crate::items::{Items, Octets};
use crate::keys::{Namespace, Which, from_bytes, one};
use crate::memory::{sink, source};
use crate::seen::{self, Seen, Workers};
use crate::stats;

/// More workers than one control plane has.
const WORKERS_MAX: u32 = 4096;

/// Chunks that are looked at in one `plan_copies`: it is called in an engine's step.
const COPY_STEPS_MAX: usize = 64;

/// What was decided on one chunk of a store or a load.
#[pyclass(module = "forebay", frozen)]
pub(crate) struct ChunkPlan {
    key: ChunkKey,
    #[pyo3(get)]
    status: &'static str,
    #[pyo3(get)]
    reason: String,
    message: Option<Vec<u8>>,
}

#[pymethods]
impl ChunkPlan {
    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.key.as_bytes())
    }

    #[getter]
    fn message<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.message.as_deref().map(|message| PyBytes::new(py, message))
    }
}

impl ChunkPlan {
    /// To be carried out.
    fn to_do(key: ChunkKey, status: &'static str, plan: &Plan) -> Self {
        Self { key, status, reason: String::new(), message: Some(plan.encode().to_vec()) }
    }

    /// Nothing to be done.
    fn settled(key: ChunkKey, status: &'static str, reason: Option<&Reason>) -> Self {
        Self { key, status, reason: reason.map(ToString::to_string).unwrap_or_default(), message: None }
    }
}

fn decode(py: Python<'_>, message: &[u8]) -> PyResult<Plan> {
    Plan::decode(message).ok_or_else(|| argument(py, "this is no message of a control plane of this version"))
}

/// The plans in a load's message: what is to be read, and where it is to be kept besides.
fn decode_load(py: Python<'_>, message: &[u8]) -> PyResult<LoadPlan> {
    match message.split_at_checked(PLAN_BYTES) {
        Some((read, kept)) if !kept.is_empty() => {
            Ok(LoadPlan { read: decode(py, read)?, write_back: Some(decode(py, kept)?) })
        }
        _ => Ok(LoadPlan { read: decode(py, message)?, write_back: None }),
    }
}

/// The deciding half.
#[pyclass(module = "forebay", frozen)]
pub(crate) struct ControlPlane {
    control: Arc<control::ControlPlane>,
    chunk_bytes: u64,
    workers: Arc<Workers>,
    server: Mutex<Option<Server>>,
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // It writes a checkpoint: nobody else in the interpreter has to wait for that.
        Python::try_attach(|py| py.detach(|| self.end()));
    }
}

impl ControlPlane {
    fn end(&self) {
        // Without the lock: its end is waited for.
        let server = self.server.lock().take();
        drop(server);
        self.control.close();
    }
}

#[pymethods]
impl ControlPlane {
    #[new]
    #[pyo3(signature = (config, chunk_bytes, namespace=None))]
    fn new(
        py: Python<'_>,
        config: &Config,
        chunk_bytes: u64,
        namespace: Option<&Namespace>,
    ) -> PyResult<Self> {
        let config = &config.resolved.config;
        let namespace = namespace.map(|namespace| &namespace.0);
        let control = py.detach(|| {
            config.staging_shape(chunk_bytes)?;
            control::ControlPlane::open(config, chunk_bytes, namespace)
        });
        let control = Arc::new(control.map_err(|error| raise(py, &error))?);
        let workers = Arc::<Workers>::default();
        let seen = Seen { control: Arc::downgrade(&control), workers: Arc::clone(&workers) };
        let server = py.detach(|| Server::start_as_configured(config, Arc::new(seen)));
        Ok(Self { control, chunk_bytes, workers, server: Mutex::new(server) })
    }

    /// How much of a prompt is there; with `settle`, as far as is known now, without asking a remote store.
    #[pyo3(signature = (keys, settle=false))]
    fn lookup(&self, keys: &Bound<'_, PyAny>, settle: bool) -> PyResult<Lookup> {
        let keys = from_bytes(keys)?;
        Ok(if settle { self.control.lookup_known(&keys) } else { self.control.lookup(&keys) }.into())
    }

    /// Forgets that a chunk was not in the remote store: it is on its way there.
    fn ask_again(&self, key: &Bound<'_, PyAny>) -> PyResult<()> {
        self.control.ask_again(&one(key)?);
        Ok(())
    }

    /// Plans the store of consecutive chunks of `length` payload bytes each.
    #[pyo3(signature = (keys, length, parent=None))]
    fn plan_store(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        length: u32,
        parent: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<ChunkPlan>> {
        if length == 0 || u64::from(length) > self.chunk_bytes {
            let message = format!(
                "a chunk of {length} bytes is empty or larger than chunk_bytes, {}",
                self.chunk_bytes
            );
            return Err(argument(py, message));
        }
        let chunks: Vec<(ChunkKey, u32)> = from_bytes(keys)?.into_iter().map(|key| (key, length)).collect();
        let parent = parent.map(one).transpose()?;
        let plans = py.detach(|| self.control.plan_store(&chunks, parent));
        let plan = |((key, _), plan)| match plan {
            control::StorePlan::Write { plan, .. } => ChunkPlan::to_do(key, "write", &plan),
            control::StorePlan::Present(_) => ChunkPlan::settled(key, "present", None),
            control::StorePlan::InFlight(_) => ChunkPlan::settled(key, "refused", Some(&Reason::InFlight)),
            control::StorePlan::Refused(reason) => ChunkPlan::settled(key, "refused", Some(&reason)),
        };
        Ok(chunks.into_iter().zip(plans).map(plan).collect())
    }

    /// Plans a load of chunks of `length` payload bytes each (`chunk_bytes` unless said); each is pinned until its `finish`.
    #[pyo3(signature = (keys, length=None))]
    fn plan_load(&self, keys: &Bound<'_, PyAny>, length: Option<u32>) -> PyResult<Vec<ChunkPlan>> {
        let keys = from_bytes(keys)?;
        let length = length.unwrap_or(u32::try_from(self.chunk_bytes).unwrap_or(u32::MAX));
        let chunks: Vec<(ChunkKey, u32)> = keys.iter().map(|key| (*key, length)).collect();
        let plans = self.control.plan_load(&chunks);
        let plan = |(key, plan): (ChunkKey, Result<LoadPlan, Reason>)| match plan {
            Ok(LoadPlan { read, write_back: None }) => ChunkPlan::to_do(key, "read", &read),
            // A message of two plans.
            Ok(LoadPlan { read, write_back: Some(kept) }) => ChunkPlan {
                message: Some([read.encode(), kept.encode()].concat()),
                ..ChunkPlan::to_do(key, "read", &read)
            },
            Err(reason @ Reason::NotThere) => ChunkPlan::settled(key, "miss", Some(&reason)),
            Err(reason) => ChunkPlan::settled(key, "refused", Some(&reason)),
        };
        Ok(keys.into_iter().zip(plans).map(plan).collect())
    }

    /// The next copies from disk to the remote store: a pair of messages each, for `Mover.copy`.
    fn plan_copies<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let next = || self.control.next_copy();
        let steps: Vec<_> = py.detach(|| std::iter::from_fn(next).take(COPY_STEPS_MAX).collect());
        steps
            .into_iter()
            .filter_map(|step| match step {
                CopyStep::Copy(plan) => Some(plan),
                CopyStep::Ended { .. } => None,
            })
            .map(|plan| (PyBytes::new(py, &plan.from.encode()), PyBytes::new(py, &plan.to.encode())))
            .collect()
    }

    /// Takes a mover's result for a copy. False when it was finished before.
    #[pyo3(signature = (read, write, status, reason=""))]
    fn finish_copy(
        &self,
        py: Python<'_>,
        read: &[u8],
        write: &[u8],
        status: &str,
        reason: &str,
    ) -> PyResult<bool> {
        let (from, to) = (decode(py, read)?, decode(py, write)?);
        let verdict = match status {
            "copied" => Ok(()),
            "miss" => Err(Reason::Corrupt(Corruption::Payload)),
            // The code of a reason stands at its front.
            "failed" => Err(match reason.strip_prefix("io: ") {
                Some(detail) => Reason::Io(detail.into()),
                None => Reason::Remote(reason.into()),
            }),
            _ => {
                return Err(argument(py, format!("{status:?} is no result: it is copied, miss or failed")));
            }
        };
        Ok(py.detach(|| self.control.finish_copy(&from, &to, verdict)).is_some())
    }

    /// Whether chunks wait to be copied to the remote store, or are being.
    fn has_copies(&self) -> bool {
        self.control.has_copies()
    }

    /// Takes a mover's result for a message. False when that message was finished before.
    #[pyo3(signature = (message, status, reason=""))]
    fn finish(&self, py: Python<'_>, message: &[u8], status: &str, reason: &str) -> PyResult<bool> {
        let LoadPlan { read, write_back } = decode_load(py, message)?;
        let ticket = read.ticket;
        if let Some(kept) = write_back {
            self.control.finish_write_back(kept.ticket, status == "loaded");
        }
        let is_store = self.control.is_writing(ticket);
        match (status, is_store) {
            ("written" | "failed", true) => {
                match py.detach(|| self.control.finish_store(ticket, status == "written")) {
                    // Home's file system takes its time: it is committed when it has written it down, if it can.
                    Ok(_) | Err(Reason::Busy) => Ok(true),
                    Err(Reason::Unknown) => Ok(false),
                    Err(reason) => Err(crate::error::raise(
                        py,
                        &forebay::Error::new(
                            forebay::ErrorKind::Io,
                            format!("a chunk was written but could not be committed: {reason}"),
                        ),
                    )),
                }
            }
            ("loaded", _) => Ok(self.control.finish_load(ticket, LoadStatus::Loaded, None)),
            ("miss", _) => {
                let reason = (reason == Reason::NotThere.code()).then_some(Reason::NotThere);
                Ok(py.detach(|| self.control.finish_load(ticket, LoadStatus::Miss, reason.as_ref())))
            }
            ("failed", false) => {
                // The code of a reason stands at its front.
                let reason = if let Some(detail) = reason.strip_prefix("io: ") {
                    Some(Reason::Io(detail.into()))
                } else if reason == Reason::TimedOut.code() {
                    Some(Reason::TimedOut)
                } else {
                    reason.strip_prefix("remote: ").map(|detail| Reason::Remote(detail.into()))
                };
                Ok(py.detach(|| self.control.finish_load(ticket, LoadStatus::Failed, reason.as_ref())))
            }
            ("written", false) => Ok(false),
            _ => Err(argument(py, format!("{status:?} is no result: it is written, loaded, miss or failed"))),
        }
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(py);
        stats::control(&out, &self.control.stats())?;
        Ok(out)
    }

    /// Takes all chunks out of memory and disk, or those of a namespace; says how many copies that were.
    #[pyo3(signature = (namespace=None))]
    fn clear(&self, py: Python<'_>, namespace: Option<&Namespace>) -> u64 {
        let namespace = namespace.map(|namespace| namespace.0.id());
        py.detach(|| self.control.clear(namespace))
    }

    /// Keeps chunks on disk from being evicted until they are unpinned: these, those of a namespace, or all. Says how many
    /// of them are pinned, and how many were left out.
    #[pyo3(signature = (keys=None, namespace=None))]
    fn pin(
        &self,
        py: Python<'_>,
        keys: Option<&Bound<'_, PyAny>>,
        namespace: Option<&Namespace>,
    ) -> PyResult<(u64, u64)> {
        let which = Which::of(py, keys, namespace)?;
        let pinned = py.detach(|| self.control.pin(which.pinning())).map_err(|error| raise(py, &error))?;
        Ok((pinned.chunks, pinned.left_out))
    }

    /// Lets chunks be evicted again: these, or those of a namespace, or all. Says how many were pinned.
    #[pyo3(signature = (keys=None, namespace=None))]
    fn unpin(
        &self,
        py: Python<'_>,
        keys: Option<&Bound<'_, PyAny>>,
        namespace: Option<&Namespace>,
    ) -> PyResult<u64> {
        let which = Which::of(py, keys, namespace)?;
        py.detach(|| self.control.unpin(which.pinning())).map_err(|error| raise(py, &error))
    }

    /// Gives the disk so many bytes, all files together, until the next start; says how many of them chunks may take.
    fn set_disk_capacity(&self, py: Python<'_>, capacity_bytes: u64) -> PyResult<u64> {
        py.detach(|| self.control.set_disk_capacity(capacity_bytes)).map_err(|error| raise(py, &error))
    }

    /// Notes what the mover of this number said of itself (`Mover.figures`), to be shown. One that is in this process is
    /// asked itself from then on.
    fn note_mover(&self, py: Python<'_>, worker: u32, figures: &[u8]) -> PyResult<()> {
        if worker >= WORKERS_MAX {
            return Err(argument(
                py,
                format!("there is no worker {worker}: they are numbered from 0 to {}", WORKERS_MAX - 1),
            ));
        }
        let noted = self.workers.note(worker, figures);
        noted.map_err(|_| argument(py, "these are no figures of a mover of this version"))
    }

    /// What comes onto a tier and what leaves it from now on.
    fn events(&self) -> Events {
        self.control.events().into()
    }

    /// Where metrics, health and the page are shown (`http_listen`); None where they are not.
    #[getter]
    fn http_address(&self) -> Option<String> {
        self.server.lock().as_ref().map(|server| server.address().to_string())
    }

    /// Writes a checkpoint and takes no more plans.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.end());
    }
}

/// A chunk's message, how it ended and why.
type End = (Vec<u8>, &'static str, String);

/// Chunks a mover is working on.
#[pyclass(module = "forebay", frozen)]
pub(crate) struct Transfer {
    batch: Arc<Batch<End>>,
    /// Weak, so that a transfer that is kept does not keep the mover.
    mover: Weak<forebay::Mover>,
}

#[pymethods]
impl Transfer {
    fn done(&self) -> bool {
        self.batch.is_done()
    }

    /// Whether no engine memory is read or written any more.
    fn released(&self) -> bool {
        self.batch.is_released()
    }

    fn wait_released(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let timeout = seconds(py, Some(timeout))?;
        let released = interruptible(py, timeout, |slice| self.batch.wait_released(slice).then_some(()))?;
        Ok(released.is_some())
    }

    /// The chunks that ended since the last call.
    fn poll<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, &'static str, String)> {
        let ends = self.batch.poll().into_iter();
        ends.map(|(message, status, reason)| (PyBytes::new(py, &message), status, reason)).collect()
    }

    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let timeout = seconds(py, timeout)?;
        match interruptible(py, timeout, |slice| self.batch.wait(Some(slice)))? {
            Some(_) => Ok(()),
            None => Err(pyo3::exceptions::PyTimeoutError::new_err("chunks are still under way")),
        }
    }

    fn cancel(&self, py: Python<'_>) {
        py.detach(|| match self.mover.upgrade() {
            Some(mover) => mover.cancel(&self.batch),
            None => self.batch.cancel(),
        });
    }
}

/// The doing half.
#[pyclass(module = "forebay", frozen)]
pub(crate) struct Mover {
    /// What it is known by ([`seen::register`]).
    id: u64,
    mover: Mutex<Option<Arc<forebay::Mover>>>,
}

impl Mover {
    fn open_mover(&self, py: Python<'_>) -> PyResult<Arc<forebay::Mover>> {
        // Made without the lock: making an exception lets go of the GIL, which whoever wants the lock may then hold.
        let mover = self.mover.lock().clone();
        mover.ok_or_else(|| closed(py))
    }
}

#[pymethods]
impl Mover {
    #[new]
    fn new(py: Python<'_>, config: &Config, chunk_bytes: u64) -> PyResult<Self> {
        let config = &config.resolved.config;
        let start = || {
            let (directories, direct) = (config.local_disk.clone(), config.disk_direct_io == DirectIo::Auto);
            let open = move || open_data_files(&directories, direct);
            let client = Client::of(config)?;
            forebay::Mover::start_late(config, chunk_bytes, Box::new(open), client)
        };
        let mover = Arc::new(py.detach(start).map_err(|error| raise(py, &error))?);
        at_exit(Arc::downgrade(&mover), forebay::Mover::close);
        Ok(Self { id: seen::register(&mover), mover: Mutex::new(Some(mover)) })
    }

    /// Writes chunks: `sources` are buffers, `PagedChunk`s or objects with `fill(offset, memoryview)`.
    fn store(
        &self,
        py: Python<'_>,
        messages: Items<Octets>,
        sources: &Bound<'_, PyAny>,
    ) -> PyResult<Transfer> {
        let mover = self.open_mover(py)?;
        let (plans, memories) = pair(py, &messages.0, sources, source)?;
        let batch = Batch::new(plans.len());
        for (index, (LoadPlan { read: plan, .. }, memory)) in plans.into_iter().zip(memories).enumerate() {
            let ends = Arc::clone(&batch);
            let answer = move |plan: Plan, verdict: Verdict| {
                let (status, reason) = match verdict {
                    Ok(()) => ("written", String::new()),
                    Err(reason) => ("failed", reason.to_string()),
                };
                ends.end(index, (plan.encode().to_vec(), status, reason));
            };
            mover.store(Job::new(&batch, plan, memory, answer));
        }
        Ok(Transfer { batch, mover: Arc::downgrade(&mover) })
    }

    /// Reads chunks: `sinks` are writable buffers, `PagedChunk`s or objects with `drain(offset, memoryview)`.
    fn load(&self, py: Python<'_>, messages: Items<Octets>, sinks: &Bound<'_, PyAny>) -> PyResult<Transfer> {
        let mover = self.open_mover(py)?;
        let (plans, memories) = pair(py, &messages.0, sinks, sink)?;
        let batch = Batch::new(plans.len());
        for (index, ((LoadPlan { read, write_back }, memory), message)) in
            plans.into_iter().zip(memories).zip(messages.0).enumerate()
        {
            let ends = Arc::clone(&batch);
            let answer = move |_: Plan, verdict: Verdict| {
                let (status, reason) = load_status(verdict);
                let reason = reason.map(|reason| reason.to_string()).unwrap_or_default();
                ends.end(index, (message.0, status.name(), reason));
            };
            mover.load(Job::new(&batch, read, memory, answer).keeping(write_back.map(|plan| plan.record)));
        }
        Ok(Transfer { batch, mover: Arc::downgrade(&mover) })
    }

    /// Copies chunks from disk to the remote store: pairs of messages of `ControlPlane.plan_copies`. Each end names the
    /// message to be read.
    fn copy(&self, py: Python<'_>, messages: Items<(Octets, Octets)>) -> PyResult<Transfer> {
        let mover = self.open_mover(py)?;
        let mut plans = Vec::with_capacity(messages.0.len());
        for (read, write) in &messages.0 {
            plans.push((decode(py, read.as_ref())?, decode(py, write.as_ref())?));
        }
        let batch = Batch::new(plans.len());
        py.detach(|| {
            for (index, (from, to)) in plans.into_iter().enumerate() {
                let ends = Arc::clone(&batch);
                mover.copy(from, to, move |from, _, verdict| {
                    let (status, reason) = match verdict {
                        Ok(()) => ("copied", String::new()),
                        Err(reason @ Reason::Corrupt(_)) => ("miss", reason.to_string()),
                        Err(reason) => ("failed", reason.to_string()),
                    };
                    ends.end(index, (from.encode().to_vec(), status, reason));
                });
            }
        });
        Ok(Transfer { batch, mover: Arc::downgrade(&mover) })
    }

    /// Address and length of the staging buffer.
    fn staging_memory(&self, py: Python<'_>) -> PyResult<(usize, usize)> {
        let (start, len) = self.open_mover(py)?.staging_memory();
        Ok((start.as_ptr() as usize, len))
    }

    /// What it says of itself, for `ControlPlane.note_mover`.
    fn figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let figures = seen::told(self.id, &self.open_mover(py)?.stats());
        Ok(PyBytes::new(py, &figures.map_err(|error| argument(py, error.to_string()))?))
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(py);
        stats::mover(&out, &self.open_mover(py)?.stats())?;
        Ok(out)
    }

    /// Finishes what is under way for at most `timeout` seconds, ends the rest, and closes. Once is enough.
    #[pyo3(signature = (timeout=10.0))]
    fn close(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        let timeout = seconds(py, Some(timeout))?.unwrap_or(Duration::MAX / 4);
        let mover = self.mover.lock().take();
        py.detach(|| {
            if let Some(mover) = mover {
                mover.close(timeout);
            }
        });
        Ok(())
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        // A thread of the mover may want the GIL to finish a copy: do not wait for it while holding it.
        if let Some(mover) = self.mover.lock().take() {
            Python::try_attach(|py| py.detach(|| drop(mover)));
        }
    }
}

/// Messages as plans, each with its memory.
fn pair<M: ?Sized>(
    py: Python<'_>,
    messages: &[Octets],
    memories: &Bound<'_, PyAny>,
    convert: fn(&Bound<'_, PyAny>, usize) -> PyResult<Box<M>>,
) -> PyResult<(Vec<LoadPlan>, Vec<Box<M>>)> {
    let plans: Vec<_> =
        messages.iter().map(|message| decode_load(py, message.as_ref())).collect::<PyResult<_>>()?;
    let mut converted = Vec::with_capacity(plans.len());
    for (memory, plan) in memories.try_iter()?.zip(&plans) {
        converted.push(convert(&memory?, plan.read.record.length as usize)?);
    }
    if converted.len() != plans.len() || memories.len()? != plans.len() {
        return Err(argument(py, format!("{} messages but not as many memories", plans.len())));
    }
    Ok((plans, converted))
}
