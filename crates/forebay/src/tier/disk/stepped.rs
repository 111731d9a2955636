//! An I/O engine without threads or a device: who has it is the device. For simulators.
//!
//! Promises: the order of pieces is the schedule's; a piece's memory is shown only while the piece is with the device.
//! The ends of transfers are told by whoever completes their last piece, before [`SteppedEngine::complete`] returns.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::sync::Mutex;

use super::engine::{self, Direction, IoEngine, Transfer};
use super::schedule::{Limits, Piece, Schedule};

/// How much is with the device at once.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Pieces.
    pub pieces: usize,
    /// Those of them that are of writes.
    pub writes: usize,
    /// Bytes in a piece, give or take a half.
    pub piece_bytes: usize,
}

/// A piece that is with the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WithDevice {
    /// What it is to be completed under.
    pub token: u64,
    /// Which way its bytes go.
    pub direction: Direction,
    /// The drive.
    pub drive: u8,
    /// Where on the drive, in bytes.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
}

/// Called after each transfer that was submitted: the device may work while more is being submitted.
type Between = Box<dyn Fn(&SteppedEngine) + Send + Sync>;

/// See the module's documentation.
pub struct SteppedEngine {
    state: Mutex<State>,
    between: Between,
}

struct State {
    schedule: Schedule,
    with_device: BTreeMap<u64, Piece>,
    closed: bool,
}

impl SteppedEngine {
    /// An engine with a device of so much room; `between` is called after each transfer that was submitted.
    pub fn new(room: Room, between: impl Fn(&Self) + Send + Sync + 'static) -> Arc<Self> {
        let Room { pieces, writes, piece_bytes } = room;
        let limits = Limits { pieces_max: pieces, writes_max: writes, piece_bytes };
        let state = State { schedule: Schedule::new(limits), with_device: BTreeMap::new(), closed: false };
        Arc::new(Self { state: Mutex::new(state), between: Box::new(between) })
    }

    /// Gives the device what it may have now, and says what it has, by token.
    pub fn give_out(&self) -> Vec<WithDevice> {
        let mut state = self.state.lock();
        while let Some(piece) = state.schedule.next() {
            state.with_device.insert(piece.token, piece);
        }
        let all = state.with_device.values();
        let of = |piece: &Piece| WithDevice {
            token: piece.token,
            direction: piece.direction,
            drive: piece.drive,
            offset: piece.offset,
            len: piece.len,
        };
        all.map(of).collect()
    }

    /// Shows the memory of a piece that is with the device, range by range, each with where it begins in the piece.
    /// What is to be written to the drive must not be changed.
    pub fn memory_of(&self, token: u64, mut see: impl FnMut(usize, &mut [u8])) {
        let state = self.state.lock();
        let Some(piece) = state.with_device.get(&token) else { return };
        let mut at = 0;
        for (start, len) in piece.ranges() {
            // SAFETY: a piece is its holder's alone until it is answered, and lies within memory that is kept until
            // then. It is in this list until it is answered, and the list is locked.
            see(at, unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) });
            at += len;
        }
    }

    /// The device's answer on a piece: bytes moved. An answer under a token that no piece has changes nothing.
    pub fn complete(&self, token: u64, answer: io::Result<usize>) {
        let mut state = self.state.lock();
        state.with_device.remove(&token);
        let ended = state.schedule.complete(token, answer);
        drop(state);
        ended.into_iter().for_each(engine::tell);
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.state.lock().schedule.is_idle()
    }
}

impl IoEngine for Arc<SteppedEngine> {
    fn submit(&self, transfer: Transfer) {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            transfer.refuse(engine::shut_down());
            return;
        }
        let refused = state.schedule.add(transfer);
        drop(state);
        refused.into_iter().for_each(engine::tell);
        (self.between)(self);
    }

    /// What was submitted is finished by whoever is the device.
    fn shutdown(&self, _deadline: Instant) {
        self.state.lock().closed = true;
    }

    fn name(&self) -> &'static str {
        "stepped"
    }
}
