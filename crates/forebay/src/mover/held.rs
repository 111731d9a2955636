//! The memory tier's side of the mover: chunks go into it, come out of it, and go on from it without a slot.
//!
//! Promises: as of the other tiers, but that no checksum is computed (`tier/memory.rs` says why it need not be). Whoever
//! writes a place has a plan to write it and answers that only when nothing of this process writes there any more.

use std::ptr::NonNull;
use std::sync::Arc;

use super::job::{Job, LoadJob, StoreJob, Verdict};
use super::memory::{Observer, Source, fill_from};
use super::{Shared, stream};
use crate::memory::Pages;
use crate::outcome::Reason;
use crate::tier::memory::Place;

impl Shared {
    /// Stores into memory.
    pub(super) fn remember(&self, job: StoreJob) {
        let length = job.lent.memory.len();
        let Some((job, place)) = self.with_place(job, length) else { return };
        let Job { open, mut lent, .. } = job;
        // SAFETY: the job has a plan to write the chunk.
        let mut pieces = unsafe {
            place.seal(false);
            place.write(0, length)
        };
        let verdict: Verdict = match lent.memory.pages().filter(|pages| pages.len() == length) {
            // Past the cache: whoever reads it next is a drive, or comes much later.
            Some(pages) => {
                pieces.for_each(|(at, to)| stream::copy_slice(to, &pages.as_slice()[at..at + to.len()]));
                Ok(())
            }
            None => {
                pieces.try_for_each(|(at, to)| lent.memory.fill(at, to, &mut |_| ()).map_err(Reason::Engine))
            }
        };
        // SAFETY: as above.
        unsafe { place.seal(verdict.is_ok()) };
        drop(lent);
        open.answer(verdict);
    }

    /// Loads from memory.
    pub(super) fn recall(self: &Arc<Self>, job: LoadJob) {
        let length = job.lent.memory.len();
        let Some((job, place)) = self.with_place(job, length) else { return };
        let Job { open, mut lent, .. } = job;
        // SAFETY: the job has a plan to read the chunk.
        let (checked, mut pieces) = unsafe { (place.check(), place.read(0, length)) };
        let verdict: Verdict = checked.and_then(|()| {
            pieces.try_for_each(|(at, from)| lent.memory.drain(at, from, &mut |_| ()).map_err(Reason::Engine))
        });
        drop(lent);
        open.answer(verdict);
    }

    /// Where the chunk of a job lies, or the job answered.
    fn with_place<M: ?Sized>(&self, job: Job<M>, held: usize) -> Option<(Job<M>, Place)> {
        let record = job.open.record();
        let place = if (job.cancelled)() {
            Err(Reason::Cancelled)
        } else if held != record.length as usize {
            Err(Reason::Engine(format!("the buffer is {held} bytes, the chunk {}", record.length)))
        } else {
            self.place(&record)
        };
        match place {
            Ok(place) => Some((job, place)),
            Err(reason) => {
                job.refuse(reason);
                None
            }
        }
    }
}

/// A chunk in memory as a source: what goes on to the tier behind. A drive reads it where it lies.
pub(super) struct Held {
    place: Place,
}

impl Held {
    /// # Errors
    /// When the chunk is not there.
    pub(super) fn new(place: Place) -> Result<Self, Reason> {
        // SAFETY: whoever makes this has a plan to read the chunk, answered after this is dropped.
        unsafe { place.check() }?;
        Ok(Self { place })
    }
}

impl Source for Held {
    fn len(&self) -> usize {
        self.place.length()
    }

    fn pages(&mut self) -> Option<Pages<'_>> {
        // SAFETY: as in `new`.
        let mut pieces = unsafe { self.place.read(0, self.place.length()) };
        let (_, all) = pieces.next().filter(|(_, piece)| piece.len() == self.place.length())?;
        // SAFETY: as above; as long as the plan is open nobody writes it, and a store only reads it.
        unsafe { Pages::from_raw(NonNull::from(all).cast(), all.len()) }
    }

    fn fill(&mut self, at: usize, to: &mut [u8], seen: Observer<'_>) -> Result<(), String> {
        // SAFETY: as in `new`.
        for (from_at, from) in unsafe { self.place.read(at, to.len()) } {
            let to = &mut to[from_at - at..][..from.len()];
            fill_from(from, to, &mut *seen);
        }
        Ok(())
    }
}
