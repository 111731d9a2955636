//! A chunk on its way from a drive, or from the remote store, to engine memory, part by part.
//!
//! Promises: a chunk is answered as loaded only if trailer, binding and payload checksum were right; what has arrived is
//! checked and copied in one pass, in order, while the rest is still on its way, and each part's slot is free right
//! after that. A load that is given up touches engine memory no more, whatever the device does.
//!
//! A part that arrives before the one in front of it waits in its slot: the one in front has its own, and is with the
//! device.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tracing::Span;

use super::job::{Job, Lent, LoadJob, Open, Verdict};
use super::memory::Sink;
use super::watch::Cell;
use super::{Shared, cut, why};
use crate::catalog::{BLOCK_BYTES, ChunkRecord};
use crate::checksum::PayloadHasher;
use crate::outcome::Reason;
use crate::staging::{Class, Lease};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::tier::disk::engine::{Direction, Finish, Transfer};
use crate::tier::disk::trailer::{self, Corruption};
use crate::tier::memory::Place;
use crate::tier::remote::engine::RemoteEngine;
use crate::tier::remote::objects::Fault;

/// A load that the device is asked for, until it is answered or given up.
pub(super) struct Asked {
    lent: Lent<dyn Sink>,
    /// Where in the memory tier it is kept besides. With the rest, so that nothing is written there after the end.
    kept: Option<Place>,
    open: Open,
    _over: Over,
}

/// Says when it is dropped that nobody waits for the load any more.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Asked {
    pub(super) fn refuse(self, reason: Reason) {
        let refused = catch_unwind(AssertUnwindSafe(|| {
            drop(self.lent);
            self.open.answer(Err(reason));
        }));
        if refused.is_err() {
            tracing::error!("the end of a load that was given up panicked");
        }
    }
}

/// A chunk whose parts are with the drive. Each of them has a share of it; who has the last one answers.
struct Loading {
    record: ChunkRecord,
    /// Empty when the load was given up, and while a part is copied: then it cannot be given up.
    asked: Cell<Asked>,
    /// It has failed, or nobody waits for it any more.
    over: Arc<AtomicBool>,
    arrivals: Mutex<Arrivals>,
    way: Span,
    shared: Arc<Shared>,
}

/// What has arrived.
struct Arrivals {
    /// Parts that wait for one in front of them, by their first block.
    waiting: BTreeMap<u64, (Range<u64>, Lease)>,
    /// The first block that was not checked yet, and the check so far, unless somebody is at it.
    next: u64,
    check: Option<Check>,
    failure: Option<Reason>,
}

/// A chunk's check as far as it has come.
struct Check {
    hasher: PayloadHasher,
    /// What the trailer says it should come to.
    sum: Option<u64>,
}

impl Arrivals {
    /// What is to be checked next, if it is there and nobody is at it.
    fn turn(&mut self) -> Option<(Range<u64>, Lease, Check)> {
        let first = self.waiting.first_entry().filter(|first| *first.key() == self.next)?;
        let check = self.check.take()?;
        let (blocks, lease) = first.remove();
        Some((blocks, lease, check))
    }
}

impl Shared {
    pub(super) fn load(self: &Arc<Self>, job: LoadJob) {
        let record = job.open.record();
        let (held, length) = (job.lent.memory.len(), record.length);
        if held != length as usize {
            job.refuse(Reason::Engine(format!("the buffer is {held} bytes, the chunk {length}")));
            return;
        }
        let remote = match self.remote_of(&record) {
            Ok(remote) => remote.cloned(),
            Err(reason) => return job.refuse(reason),
        };
        let kept = match job.kept.map(|record| self.place(&record)).transpose() {
            Ok(kept) => kept,
            Err(reason) => return job.refuse(reason),
        };
        if let Some(kept) = &kept {
            // SAFETY: there is a plan to write it.
            unsafe { kept.seal(false) };
        }
        let Some((job, lease)) = self.slot(job, Class::Load, self.load_patience) else { return };
        let Job { open, lent, .. } = job;
        let way = open.way();
        tracing::trace!(target: crate::CHUNK_TRACES, parent: &way, "it has a slot");
        let over = Arc::new(AtomicBool::new(false));
        let asked = self.watch.add(Asked { lent, kept, open, _over: Over(Arc::clone(&over)) });
        let check = Check { hasher: trailer::payload_hasher(), sum: None };
        let arrivals = Arrivals { waiting: BTreeMap::new(), next: 0, check: Some(check), failure: None };
        let arrivals = Mutex::new(arrivals);
        let loading = Arc::new(Loading { record, asked, over, arrivals, way, shared: Arc::clone(self) });
        if let Err(reason) = loading.ask(lease, remote.as_deref()) {
            loading.fail(&mut loading.arrivals.lock(), reason);
        }
        loading.let_go();
    }
}

impl Loading {
    /// Asks the device for the chunk, part by part, the first of them into this slot.
    fn ask(self: &Arc<Self>, lease: Lease, remote: Option<&RemoteEngine>) -> Result<(), Reason> {
        let mut lease = Some(lease);
        let all = ChunkRecord::blocks(self.record.length);
        for (part, blocks) in cut::parts(all, self.shared.slot_blocks()).enumerate() {
            // Asked with the staging buffer locked: no other lock may be wanted here.
            let unwanted = || self.over.load(Ordering::Acquire);
            let lease = match lease.take() {
                Some(first) => first,
                None => self.shared.slot_for_more(Class::Load, &unwanted)?,
            };
            let loading = Arc::clone(self);
            if let Some(remote) = remote {
                let part = (blocks.end < all).then_some(part);
                let len = cut::bytes(blocks.end - blocks.start);
                let got = move |lease, outcome: Result<(), Fault>| {
                    loading.arrived(blocks, lease, outcome.map_err(|fault| Reason::from(&fault)));
                };
                remote.get(&self.record.key, part, lease, len, Box::new(got));
                continue;
            }
            self.shared.submit(Transfer {
                direction: Direction::Read,
                drive: self.record.drive,
                extents: self.record.extents.part(blocks.start, blocks.end - blocks.start),
                lease,
                payload: None,
                finish: Finish::Working(Box::new(move |lease, outcome: io::Result<()>| {
                    let outcome = outcome.map_err(|error| match error.kind() {
                        io::ErrorKind::UnexpectedEof => Reason::Corrupt(Corruption::Truncated),
                        _ => why(&error),
                    });
                    loading.arrived(blocks, lease, outcome);
                })),
            });
        }
        Ok(())
    }

    /// Takes a part in; checks and copies what can be now.
    fn arrived(self: Arc<Self>, blocks: Range<u64>, lease: Lease, outcome: Result<(), Reason>) {
        let mut turn = {
            let mut arrivals = self.arrivals.lock();
            match outcome {
                Ok(()) if arrivals.failure.is_none() => {
                    arrivals.waiting.insert(blocks.start, (blocks, lease));
                }
                Ok(()) => drop(lease),
                Err(reason) => {
                    drop(lease);
                    self.fail(&mut arrivals, reason);
                }
            }
            arrivals.turn()
        };
        while let Some((blocks, lease, mut check)) = turn {
            let next = blocks.end;
            let verdict = self.scatter(&blocks, lease, &mut check);
            tracing::trace!(target: crate::CHUNK_TRACES, parent: &self.way, ?blocks, done = verdict.is_ok(), "a part was checked and copied");
            let mut arrivals = self.arrivals.lock();
            arrivals.check = Some(check);
            arrivals.next = next;
            if let Err(reason) = verdict {
                self.fail(&mut arrivals, reason);
            }
            turn = arrivals.turn();
        }
        self.let_go();
    }

    /// The rest is of no use, and what is behind is not asked for any more.
    fn fail(&self, arrivals: &mut Arrivals, reason: Reason) {
        self.over.store(true, Ordering::Release);
        arrivals.failure.get_or_insert(reason);
        arrivals.waiting.clear();
    }

    /// Checks the blocks in a slot and empties it into engine memory, in one pass.
    fn scatter(&self, blocks: &Range<u64>, mut lease: Lease, check: &mut Check) -> Verdict {
        // Taken out before engine memory is touched: nobody gives the load up meanwhile.
        let Some(mut asked) = self.asked.take() else { return Err(Reason::TimedOut) };
        let bytes = &lease.bytes()[..cut::bytes(blocks.end - blocks.start)];
        let is_last = blocks.end == ChunkRecord::blocks(self.record.length);
        let (payload, page) = bytes.split_at(bytes.len() - if is_last { BLOCK_BYTES } else { 0 });
        let at = cut::bytes(blocks.start);
        let (payload, padding) = payload.split_at(payload.len().min(self.record.length as usize - at));
        let copied = asked.lent.memory.drain(at, payload, &mut |piece| check.hasher.write(piece));
        check.hasher.write(padding);
        if let Some(kept) = &asked.kept {
            // SAFETY: there is a plan to write it, which is answered after this was put back.
            let pieces = unsafe { kept.write(at, payload.len()) };
            pieces.for_each(|(to_at, to)| to.copy_from_slice(&payload[to_at - at..][..to.len()]));
        }
        let proof = if is_last { trailer::verify(page, &self.record).map(Some) } else { Ok(None) };
        drop(lease);
        self.put_back(asked);
        copied.map_err(Reason::Engine)?;
        check.sum = proof.map_err(Reason::Corrupt)?;
        Ok(())
    }

    fn put_back(&self, asked: Asked) {
        if let Some(asked) = self.asked.put_back(asked) {
            self.shared.give_up(asked);
        }
    }

    /// Answers, if no other part is under way.
    fn let_go(self: Arc<Self>) {
        let Some(loading) = Arc::into_inner(self) else { return };
        let Self { record, asked, arrivals, shared, .. } = loading;
        let arrivals = arrivals.into_inner();
        drop(arrivals.waiting);
        let Some(Asked { lent, kept, open, .. }) = asked.take() else { return };
        // If this panics, the memory goes before the answer.
        let (open, lent) = (open, lent);
        drop(lent);
        let verdict = match (arrivals.failure, arrivals.check) {
            (Some(reason), _) => Err(reason),
            (None, Some(Check { hasher, sum: Some(sum) }))
                if arrivals.next == ChunkRecord::blocks(record.length) =>
            {
                if trailer::payload_sum(&record, &hasher) == sum {
                    Ok(())
                } else {
                    Err(Reason::Corrupt(Corruption::Payload))
                }
            }
            // A part was lost on the way.
            (None, _) => Err(Reason::Abandoned),
        };
        if let Some(kept) = kept {
            // SAFETY: there is a plan to write it, answered below.
            unsafe { kept.seal(verdict.is_ok()) };
        }
        match (shared.remote_of(&record), &verdict) {
            // If one of its parts has gone, its end may still be there.
            (Ok(Some(remote)), Err(Reason::Corrupt(_) | Reason::NotThere)) => {
                remote.remove(&record.key, Box::new(move || open.answer(verdict)));
            }
            _ => open.answer(verdict),
        }
    }
}
