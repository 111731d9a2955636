//! An I/O engine of threads with blocking reads and writes: works everywhere, and through any
//! [`BlockFile`](super::block_file::BlockFile).
//!
//! Promises: the order of pieces is the schedule's; a panic in the file costs the chunk only, one in a transfer's
//! `finish` that transfer only. When the last thread has died of one, what is under way ends at once and no more is taken.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::data_files::DataFiles;
use super::engine::{self, Direction, IoEngine, Transfer};
use super::schedule::{Limits, Piece, Schedule};
use crate::crash_points::turn;
use crate::crew::{Crew, JOIN_PATIENCE};
use crate::error::Result;
use crate::sync::{Condvar, Mutex, now};

/// A blocking call moves all of a slot: each piece costs a wake-up.
const PIECE_BYTES: usize = 4 << 20;

/// See the module's documentation.
pub struct ThreadEngine {
    shared: Arc<Shared>,
    crew: Crew,
}

struct Shared {
    files: DataFiles,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    schedule: Schedule,
    closed: bool,
    /// Threads that have not died.
    alive: u32,
}

/// Signs a thread off when it dies of a panic.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.died();
        }
    }
}

impl ThreadEngine {
    /// Starts `threads` threads (at least two) on `files`.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn start(files: DataFiles, threads: u32) -> Result<Self> {
        let threads = threads.max(2);
        let pieces_max = threads as usize;
        let limits = Limits { pieces_max, writes_max: pieces_max - 1, piece_bytes: PIECE_BYTES };
        let state = Mutex::new(State { schedule: Schedule::new(limits), closed: false, alive: threads });
        let shared = Arc::new(Shared { files, state, changed: Condvar::new() });
        let engine = Self { shared, crew: Crew::default() };
        for number in 0..threads {
            let alive = Alive(Arc::clone(&engine.shared));
            engine.crew.spawn(format!("forebay-io-{number}"), move || alive.0.work())?;
        }
        Ok(engine)
    }
}

impl IoEngine for ThreadEngine {
    fn submit(&self, transfer: Transfer) {
        let mut state = self.shared.state.lock();
        if state.closed {
            drop(state);
            transfer.refuse(engine::shut_down());
            return;
        }
        let refused = state.schedule.add(transfer);
        drop(state);
        self.shared.changed.notify_one();
        refused.into_iter().for_each(engine::tell);
    }

    fn shutdown(&self, deadline: Instant) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_all();
        self.crew.join(deadline);
    }

    fn dead_threads(&self) -> Vec<String> {
        self.crew.dead()
    }

    fn name(&self) -> &'static str {
        "threads"
    }
}

impl Drop for ThreadEngine {
    fn drop(&mut self) {
        self.shutdown(now() + JOIN_PATIENCE);
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            turn();
            if let Some(piece) = state.schedule.next() {
                drop(state);
                // There may be more, for the others.
                self.changed.notify_one();
                let token = piece.token;
                let moved = catch_unwind(AssertUnwindSafe(|| self.carry(&piece)))
                    .unwrap_or_else(|_| Err(io::Error::other("the data file panicked")));
                state = self.state.lock();
                if let Some(ended) = state.schedule.complete(token, moved) {
                    drop(state);
                    // What this one made room for is another thread's: this one is not free yet.
                    self.changed.notify_one();
                    engine::tell(ended);
                    state = self.state.lock();
                }
            } else if state.closed && state.schedule.is_idle() {
                drop(state);
                self.changed.notify_all();
                return;
            } else {
                self.changed.wait(&mut state);
            }
        }
    }

    /// A thread has: if it was the last, nobody will end what is under way; else what it was woken for is another's.
    fn died(&self) {
        let mut state = self.state.lock();
        state.alive -= 1;
        if state.alive == 0 {
            state.closed = true;
            let limits = state.schedule.limits();
            let abandoned = std::mem::replace(&mut state.schedule, Schedule::new(limits));
            drop(state);
            drop(abandoned);
        } else {
            drop(state);
            self.changed.notify_one();
        }
    }

    fn carry(&self, piece: &Piece) -> io::Result<usize> {
        let file = self.files.get(piece.drive)?;
        let mut moved = 0;
        for (start, len) in piece.ranges() {
            let (start, offset) = (start.as_ptr(), piece.offset + moved as u64);
            // SAFETY: a piece is its holder's alone until it is answered, and lies within memory that is kept until
            // then; of what is written to the disk others may read the memory.
            let now = unsafe {
                match piece.direction {
                    Direction::Read => file.read_at(std::slice::from_raw_parts_mut(start, len), offset)?,
                    Direction::Write => file.write_at(std::slice::from_raw_parts(start, len), offset)?,
                }
            };
            moved += now;
            if now < len {
                break;
            }
        }
        Ok(moved)
    }
}
