//! A chunk on its way from engine memory to a drive or to the remote store, part by part.
//!
//! Promises: a chunk is answered as written only if every block of it was, trailer included; its memory is let go of as soon
//! as its last part is copied or, where the drive reads it where it lies, written. Each part takes a slot, from just
//! before the processor passes over it until the drive has it, so that the drive finds it in the processor's cache.
//!
//! The trailer goes with the last part, when the checksum of all of them is known.

use std::hash::Hasher;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tracing::Span;

use super::job::{Job, Lent, Open, StoreJob};
use super::memory::Source;
use super::{Shared, cut, why};
use crate::catalog::{BLOCK_BYTES, ChunkRecord};
use crate::checksum::PayloadHasher;
use crate::crash_points::{Point, pass};
use crate::memory::Pages;
use crate::outcome::{Reason, Tier};
use crate::staging::{Class, Lease};
use crate::sync::Mutex;
use crate::tier::disk::engine::{Direction, Finish, Payload, Rest, Transfer};
use crate::tier::disk::trailer;
use crate::tier::remote::engine::Upload;
use crate::tier::remote::objects::Fault;

/// Engine memory until it is not needed any more. Transfers that read it where it lies keep a share of it.
type Kept = Arc<Mutex<Option<Lent<dyn Source>>>>;

/// A chunk whose parts are with the drive. Each of them has a share of it; who has the last one answers.
struct Storing {
    record: ChunkRecord,
    /// What it takes slots as.
    class: Class,
    /// Why it will not be written.
    failure: OnceLock<Reason>,
    /// Blocks that the drive has.
    written_blocks: AtomicU64,
    kept: Kept,
    /// Where its parts go, if that is not a drive.
    upload: Option<Arc<Upload>>,
    /// Locked by nobody: it makes the rest shareable.
    open: Mutex<Open>,
    way: Span,
    shared: Arc<Shared>,
}

impl Shared {
    pub(super) fn store(self: &Arc<Self>, job: StoreJob) {
        self.store_as(job, Class::Store);
    }

    /// As [`Self::store`], of a chunk that is on another tier. What goes to the remote store beside a disk must not hold up
    /// what goes to that.
    pub(super) fn copy(self: &Arc<Self>, job: StoreJob) {
        let goes_beside_a_disk = job.open.record().tier() == Tier::Remote && self.has_disk;
        self.store_as(job, if goes_beside_a_disk { Class::Copy } else { Class::Store });
    }

    fn store_as(self: &Arc<Self>, job: StoreJob, class: Class) {
        let record = job.open.record();
        if record.tier() == Tier::Memory {
            return self.remember(job);
        }
        let (held, length) = (job.lent.memory.len(), record.length);
        if held != length as usize {
            job.refuse(Reason::Engine(format!("the buffer is {held} bytes, the chunk {length}")));
            return;
        }
        let upload = match self.remote_of(&record) {
            Ok(remote) => remote.map(|remote| remote.upload(record.key)),
            Err(reason) => return job.refuse(reason),
        };
        let Some((job, lease)) = self.slot(job, class, self.store_patience) else { return };
        let Job { open, lent, .. } = job;
        let way = open.way();
        let storing = Arc::new(Storing {
            record,
            class,
            failure: OnceLock::new(),
            written_blocks: AtomicU64::new(0),
            kept: Arc::new(Mutex::new(Some(lent))),
            upload,
            open: Mutex::new(open),
            way,
            shared: Arc::clone(self),
        });
        tracing::trace!(target: crate::CHUNK_TRACES, parent: &storing.way, "it has a slot");
        match storing.send(lease) {
            Ok(()) => {
                tracing::trace!(target: crate::CHUNK_TRACES, parent: &storing.way, "all of it is with the device");
            }
            Err(reason) => storing.fail(reason),
        }
        if let Some(storing) = Arc::into_inner(storing) {
            storing.answer();
        }
    }
}

impl Storing {
    /// Hands the chunk to the I/O engine, part by part, the first of them in this slot.
    fn send(self: &Arc<Self>, lease: Lease) -> Result<(), Reason> {
        let mut lease = Some(lease);
        let mut hasher = trailer::payload_hasher();
        let in_place = self.in_place();
        let all = ChunkRecord::blocks(self.record.length);
        for (part, blocks) in cut::parts(all, self.shared.slot_blocks()).enumerate() {
            let mut lease = match lease.take() {
                Some(first) => first,
                None => self.shared.slot_for_more(self.class, &|| self.failure.get().is_some())?,
            };
            let is_last = blocks.end == all;
            let payload = cut::bytes(blocks.start)..cut::bytes(blocks.end - u64::from(is_last));
            let trailer_at = match &in_place {
                Some(_) => 0,
                None => payload.len(),
            };
            let pages = self.gather(payload, in_place.as_ref(), &mut lease, &mut hasher)?;
            let payload = pages.map(|pages| Payload { pages, keep: Arc::clone(&self.kept) as _ });
            if is_last {
                self.vouch(&hasher)?;
                let page = &mut lease.bytes()[trailer_at..trailer_at + BLOCK_BYTES];
                trailer::encode(&self.record, trailer::payload_sum(&self.record, &hasher), page);
                self.let_go_of_copied();
            }
            match &self.upload {
                None => self.submit(&blocks, lease, payload),
                Some(upload) => self.put(upload, part, &blocks, lease),
            }
        }
        Ok(())
    }

    /// The chunk's memory, if it goes to a drive that may read it where it lies.
    fn in_place(&self) -> Option<Pages<'static>> {
        if self.upload.is_some() {
            return None;
        }
        let mut kept = self.kept.lock();
        let pages = kept.as_mut()?.memory.pages();
        let pages = pages.filter(|pages| pages.len() == self.record.length as usize)?;
        // SAFETY: the source is kept, and not touched, until the last part of it is written: by the transfers that read
        // it, and before they do, by the caller, who has this chunk.
        Some(unsafe { pages.detach() })
    }

    /// Passes over a part of the payload: its checksum, and into the slot unless the drive reads it where it lies.
    fn gather(
        &self,
        bytes: Range<usize>,
        in_place: Option<&Pages<'static>>,
        lease: &mut Lease,
        hasher: &mut PayloadHasher,
    ) -> Result<Option<Pages<'static>>, Reason> {
        let length = self.record.length as usize;
        if let Some(pages) = in_place {
            let part = pages.part(bytes);
            hasher.write_cold(part.as_slice());
            return Ok(Some(part));
        }
        let (payload, padding) =
            lease.bytes()[..bytes.len()].split_at_mut(length.min(bytes.end) - bytes.start);
        let mut kept = self.kept.lock();
        let source = &mut *kept.as_mut().ok_or(Reason::Abandoned)?.memory;
        if let Err(message) = source.fill(bytes.start, payload, &mut |piece| hasher.write_cold(piece)) {
            return Err(source.vouch(hasher).err().unwrap_or(Reason::Engine(message)));
        }
        padding.fill(0);
        hasher.write(padding);
        Ok(None)
    }

    /// Asks the source whether what it gave is what it should have given.
    fn vouch(&self, payload: &PayloadHasher) -> Result<(), Reason> {
        self.kept.lock().as_mut().ok_or(Reason::Abandoned)?.memory.vouch(payload)
    }

    /// Lets go of engine memory, unless transfers have shares of it: then the drive is at it.
    fn let_go_of_copied(&self) {
        if Arc::strong_count(&self.kept) == 1 {
            let lent = self.kept.lock().take();
            drop(lent);
        }
    }

    fn submit(self: &Arc<Self>, blocks: &Range<u64>, lease: Lease, payload: Option<Payload>) {
        let (first, blocks) = (blocks.start, blocks.end - blocks.start);
        let has_trailer = first + blocks == ChunkRecord::blocks(self.record.length);
        let storing = Arc::clone(self);
        self.shared.submit(Transfer {
            direction: Direction::Write,
            drive: self.record.drive,
            extents: self.record.extents.part(first, blocks),
            lease,
            payload,
            finish: Finish::Prompt(Box::new(move |lease, outcome| {
                if outcome.is_ok() {
                    pass(if has_trailer { Point::TrailerWritten } else { Point::PartWritten });
                }
                let ended = storing.note(blocks, outcome.map_err(|error| why(&error)));
                // Whoever waits for a slot for more of the chunk looks again now.
                drop(lease);
                ended.let_go()
            })),
        });
        pass(Point::PartHandedOver);
    }

    /// As [`Self::submit`], to the remote store.
    fn put(self: &Arc<Self>, upload: &Arc<Upload>, part: usize, blocks: &Range<u64>, lease: Lease) {
        let (count, len) = (blocks.end - blocks.start, cut::bytes(blocks.end - blocks.start));
        let storing = Arc::clone(self);
        let put = Box::new(move |outcome: Result<(), Fault>| {
            let ended = storing.note(count, outcome.map_err(|fault| Reason::from(&fault)));
            ended.shared.staging.nudge();
            ended.let_go().into_iter().for_each(|rest| rest());
        });
        if blocks.end == ChunkRecord::blocks(self.record.length) {
            upload.end(lease, len, put);
        } else {
            upload.part(part, lease, len, put);
        }
    }

    /// Notes how a part ended.
    fn note(self: Arc<Self>, blocks: u64, outcome: Result<(), Reason>) -> Arc<Self> {
        tracing::trace!(target: crate::CHUNK_TRACES, parent: &self.way, blocks, done = outcome.is_ok(), "a part was written");
        match outcome {
            Ok(()) => {
                self.written_blocks.fetch_add(blocks, Ordering::AcqRel);
            }
            Err(reason) => self.fail(reason),
        }
        self
    }

    /// What is left to be done by who has the last share.
    fn let_go(self: Arc<Self>) -> Option<Rest> {
        let storing = Arc::into_inner(self)?;
        Some(Box::new(move || storing.answer()))
    }

    /// What is behind is not sent any more.
    fn fail(&self, reason: Reason) {
        let _ = self.failure.set(reason);
    }

    /// After its last part.
    fn answer(self) {
        // Bound in this order, the last is dropped first if code panics.
        let Self { open, kept, failure, written_blocks, record, shared, .. } = self;
        drop(kept);
        let verdict = match failure.into_inner() {
            Some(reason) => Err(reason),
            // A part was lost on the way.
            None if written_blocks.into_inner() != ChunkRecord::blocks(record.length) => {
                Err(Reason::Abandoned)
            }
            None => {
                pass(Point::ChunkWritten);
                shared.sync_if_each(&record).map_err(|error| why(&error))
            }
        };
        open.into_inner().answer(verdict);
    }
}
