//! Which piece of which transfer goes to the device next: the one order that both I/O engines keep.
//!
//! Promises:
//! * a transfer goes in pieces of about `piece_bytes`, several of them and of several transfers at once;
//! * reads go before writes. While a read waits or is with the device, one piece of a write is there beside it, so
//!   that a load waits for no more than that; after the last read writes come back step by step, so that the next load
//!   of the same prompt does not find the device full of them. That one piece is always there: stores are not starved;
//! * a transfer that stops short is gone on with, never taken for whole;
//! * it has ended when none of its pieces is with the device any more, and only then its slot is given back;
//! * an answer that belongs to no piece that is with the device changes nothing.
//!
//! A plain state machine: it does no I/O, starts no thread, reads no clock.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;

use super::block_file::whole_blocks;
use super::engine::{Direction, Finish, Transfer};
use crate::catalog::{BLOCK_BYTES, Extents};
use crate::staging::Lease;

/// Pieces of writes that have to end, with no read about, before one more of them may be with the device. It takes a
/// hundred MiB of writes alone until they have all of it again: longer than the pauses between the loads of one prompt.
const WRITES_FOR_ONE_MORE: usize = 4;

/// How much an engine has with the device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Pieces that are with the device at once.
    pub(super) pieces_max: usize,
    /// Those of them that are of writes.
    pub(super) writes_max: usize,
    /// Bytes in a piece, give or take a half.
    pub(super) piece_bytes: usize,
}

/// A range of a slot or of a payload elsewhere, to be moved from or to one range of a drive's file. It is whoever has it
/// from [`Schedule::next`] who may touch the memory, until they answer with [`Schedule::complete`].
#[derive(Debug)]
pub(super) struct Piece {
    /// What the answer is to be given with. Never used twice.
    pub(super) token: u64,
    pub(super) direction: Direction,
    pub(super) drive: u8,
    /// Where it begins.
    pub(super) memory: NonNull<u8>,
    /// Its end, if that lies in the slot while the rest lies elsewhere: address and length.
    pub(super) tail: Option<(NonNull<u8>, usize)>,
    /// Bytes in all.
    pub(super) len: usize,
    pub(super) offset: u64,
}

impl Piece {
    /// Where it lies in memory: address and length, in the order of the file.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (NonNull<u8>, usize)> {
        let tail_bytes = self.tail.map_or(0, |(_, len)| len);
        [(self.memory, self.len - tail_bytes)].into_iter().chain(self.tail)
    }
}

// SAFETY: the memory is a part of a slot whose lease the schedule holds, or of a payload lent to it, and no other piece
// has that part.
unsafe impl Send for Piece {}

/// A transfer none of whose pieces is with the device any more.
pub(super) struct Ended {
    pub(super) direction: Direction,
    pub(super) lease: Lease,
    pub(super) finish: Finish,
    pub(super) outcome: io::Result<()>,
}

struct UnderWay {
    direction: Direction,
    drive: u8,
    extents: Extents,
    lease: Lease,
    finish: Finish,
    /// The slot's first byte. Nobody but the pieces touches the slot until the transfer has ended.
    slot: NonNull<u8>,
    /// Where the first `payload_bytes` lie, if not in the slot, and what keeps that memory.
    payload: Option<(NonNull<u8>, Arc<dyn Send + Sync>)>,
    payload_bytes: usize,
    /// Bytes of the transfer that were made parts of.
    given_out: usize,
    /// Parts that have not ended.
    open: usize,
    outcome: io::Result<()>,
}

// SAFETY: the addresses are those of the slot whose lease stands beside them and of memory lent until the end; both may
// be used by any thread.
unsafe impl Send for UnderWay {}

impl UnderWay {
    /// The bytes that are given out next, as a part; `None` when there are no more. Parts of one extent are of equal
    /// length, so that there is no small one left at its end.
    fn next_part(&mut self, id: u64, piece_bytes: usize) -> Option<Part> {
        let mut before = 0;
        for extent in self.extents.as_slice() {
            let len = extent.byte_len();
            let done = self.given_out - before;
            if done < len {
                let parts = ((len + piece_bytes / 2) / piece_bytes).max(1);
                let each = len.div_ceil(parts).next_multiple_of(BLOCK_BYTES).min(len - done);
                let part = Part {
                    transfer: id,
                    at: self.given_out,
                    len: each,
                    offset: extent.byte_start() + done as u64,
                };
                self.given_out += each;
                self.open += 1;
                return Some(part);
            }
            before += len;
        }
        None
    }

    /// Where a part lies in memory: where it begins, and what of it is in the slot, if the rest is not.
    fn memory(&self, part: Part) -> (NonNull<u8>, Option<(NonNull<u8>, usize)>) {
        let elsewhere = self.payload_bytes;
        // SAFETY: a part lies within its transfer. `Schedule::add` saw that what does not lie in the memory that came
        // with it lies within the slot.
        unsafe {
            match &self.payload {
                Some((payload, _)) if part.at < elsewhere => {
                    let tail_bytes = (part.at + part.len).saturating_sub(elsewhere);
                    (payload.add(part.at), (tail_bytes > 0).then_some((self.slot, tail_bytes)))
                }
                _ => (self.slot.add(part.at - elsewhere), None),
            }
        }
    }

    fn is_given_out(&self) -> bool {
        self.given_out >= self.extents.as_slice().iter().map(|extent| extent.byte_len()).sum()
    }
}

/// A range of a transfer, and of the file.
#[derive(Debug, Clone, Copy)]
struct Part {
    transfer: u64,
    /// Where in the transfer.
    at: usize,
    len: usize,
    /// Where in the file.
    offset: u64,
}

/// What there is to do in one direction.
#[derive(Default)]
struct Line {
    /// Transfers that have parts to give out, in order of arrival.
    transfers: VecDeque<u64>,
    /// What is left of parts that stopped short.
    rests: VecDeque<Part>,
    /// Parts that are with the device.
    with_device: usize,
}

impl Line {
    fn waits(&self) -> bool {
        !self.transfers.is_empty() || !self.rests.is_empty()
    }
}

/// See the module's documentation.
pub(super) struct Schedule {
    limits: Limits,
    transfers: HashMap<u64, UnderWay>,
    /// Parts that are with the device, by token.
    with_device: HashMap<u64, Part>,
    reads: Line,
    writes: Line,
    /// Parts of writes that have ended since a read was last about.
    writes_alone: usize,
    next_number: u64,
}

impl Schedule {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            transfers: HashMap::new(),
            with_device: HashMap::new(),
            reads: Line::default(),
            writes: Line::default(),
            writes_alone: usize::MAX,
            next_number: 0,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes a transfer in; gives it back, ended, when it does not fit its slot.
    pub(super) fn add(&mut self, transfer: Transfer) -> Option<Ended> {
        let Transfer { direction, drive, extents, mut lease, payload, finish } = transfer;
        let slot = lease.bytes();
        let bytes = usize::try_from(extents.blocks()).unwrap_or(usize::MAX).saturating_mul(BLOCK_BYTES);
        let payload_bytes = payload.as_ref().map_or(0, |payload| payload.pages.len());
        if bytes.checked_sub(payload_bytes).is_none_or(|in_slot| in_slot > slot.len()) {
            let outcome =
                Err(io::Error::new(io::ErrorKind::InvalidInput, "a transfer is larger than its slot"));
            return Some(Ended { direction, lease, finish, outcome });
        }
        let slot = NonNull::from(slot).cast();
        let id = self.number();
        let payload = payload.map(|payload| (payload.pages.as_ptr(), payload.keep));
        let transfer = UnderWay {
            direction,
            drive,
            extents,
            lease,
            finish,
            slot,
            payload,
            payload_bytes,
            given_out: 0,
            open: 0,
            outcome: Ok(()),
        };
        self.transfers.insert(id, transfer);
        self.line(direction).transfers.push_back(id);
        None
    }

    /// The next piece for the device, if it may have one now.
    pub(super) fn next(&mut self) -> Option<Piece> {
        if self.reads.waits() || self.reads.with_device > 0 {
            self.writes_alone = 0;
        }
        let writes_max = self.limits.writes_max.min(1 + self.writes_alone / WRITES_FOR_ONE_MORE);
        let write_may = self.writes.waits() && self.writes.with_device < writes_max;
        // A place is kept for the one write that goes on beside reads.
        let kept = usize::from(write_may && self.writes.with_device == 0);
        let free = self.limits.pieces_max - self.reads.with_device - self.writes.with_device;
        if self.reads.waits() && free > kept {
            self.take(Direction::Read)
        } else if write_may && free > 0 {
            self.take(Direction::Write)
        } else {
            None
        }
    }

    /// Takes the device's answer on a piece: bytes moved. Gives the transfer, if that was the last of it.
    pub(super) fn complete(&mut self, token: u64, answer: io::Result<usize>) -> Option<Ended> {
        let part = self.with_device.remove(&token)?;
        let transfer = self.transfers.get_mut(&part.transfer)?;
        let direction = transfer.direction;
        let moved = match answer {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            answer => answer.and_then(whole_blocks),
        };
        let mut rest = None;
        match moved {
            Ok(moved) if moved < part.len && transfer.outcome.is_ok() => {
                let (at, len) = (part.at + moved, part.len - moved);
                rest = Some(Part { at, len, offset: part.offset + moved as u64, ..part });
            }
            Ok(_) => transfer.open -= 1,
            Err(error) => {
                transfer.open -= 1;
                if transfer.outcome.is_ok() {
                    transfer.outcome = Err(error);
                }
            }
        }
        let failed = transfer.outcome.is_err();
        let line = self.line(direction);
        line.with_device -= 1;
        line.rests.extend(rest);
        if failed {
            self.give_no_more_of(part.transfer);
        }
        if direction == Direction::Write {
            self.writes_alone = self.writes_alone.saturating_add(1);
        }
        self.end_if_over(part.transfer)
    }

    /// Whether there is something to give out this way that the device may not have yet. Then something is with the
    /// device, and its answer comes before more can go.
    pub(super) fn waits(&self, direction: Direction) -> bool {
        match direction {
            Direction::Read => self.reads.waits(),
            Direction::Write => self.writes.waits(),
        }
    }

    /// Pieces this way that are with the device.
    pub(super) fn with_device(&self, direction: Direction) -> usize {
        match direction {
            Direction::Read => self.reads.with_device,
            Direction::Write => self.writes.with_device,
        }
    }

    /// Whether there is nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.transfers.is_empty()
    }

    /// A piece of the first transfer that waits in this direction.
    fn take(&mut self, direction: Direction) -> Option<Piece> {
        let piece_bytes = self.limits.piece_bytes;
        let part = if let Some(rest) = self.line(direction).rests.pop_front() {
            rest
        } else {
            let id = *self.line(direction).transfers.front()?;
            let transfer = self.transfers.get_mut(&id)?;
            let part = transfer.next_part(id, piece_bytes)?;
            if transfer.is_given_out() {
                self.line(direction).transfers.pop_front();
            }
            part
        };
        let token = self.number();
        let transfer = self.transfers.get(&part.transfer)?;
        let ((memory, tail), drive) = (transfer.memory(part), transfer.drive);
        self.with_device.insert(token, part);
        self.line(direction).with_device += 1;
        Some(Piece { token, direction, drive, memory, tail, len: part.len, offset: part.offset })
    }

    /// After an error: what is with the device is waited for, nothing else of the transfer is moved.
    fn give_no_more_of(&mut self, id: u64) {
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        let line = match transfer.direction {
            Direction::Read => &mut self.reads,
            Direction::Write => &mut self.writes,
        };
        line.transfers.retain(|&waiting| waiting != id);
        let before = line.rests.len();
        line.rests.retain(|rest| rest.transfer != id);
        transfer.open -= before - line.rests.len();
    }

    fn end_if_over(&mut self, id: u64) -> Option<Ended> {
        let transfer = self.transfers.get(&id)?;
        let whole = transfer.is_given_out() || transfer.outcome.is_err();
        if transfer.open > 0 || !whole {
            return None;
        }
        let UnderWay { direction, lease, finish, outcome, payload, .. } = self.transfers.remove(&id)?;
        drop(payload);
        Some(Ended { direction, lease, finish, outcome })
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn line(&mut self, direction: Direction) -> &mut Line {
        match direction {
            Direction::Read => &mut self.reads,
            Direction::Write => &mut self.writes,
        }
    }
}

/// Given up without the device's answers: memory that it may still be at is lost for good. The ends of the transfers are
/// not told but dropped, and see to themselves.
impl Drop for Schedule {
    fn drop(&mut self) {
        let mut untold = Vec::with_capacity(self.transfers.len());
        for (_, UnderWay { lease, payload, finish, .. }) in self.transfers.drain() {
            std::mem::forget((lease, payload));
            untold.push(finish);
        }
        for finish in untold {
            if catch_unwind(AssertUnwindSafe(|| drop(finish))).is_err() {
                tracing::error!("what a transfer was to end with panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests;
