//! An I/O engine of threads with blocking, vectored reads and writes: works everywhere.
//!
//! Promises: a read is taken before any write that waits, but after [`LOADS_IN_A_ROW_MAX`] reads in a row a write has
//! its turn; at most all but one of the threads write at a time; a panic in a transfer's `finish` costs that transfer
//! only.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::block_file::{BlockFile, read_blocks, write_blocks};
use super::engine::{ChunkTransfer, Direction, IoEngine};
use crate::crew::{Crew, JOIN_PATIENCE};
use crate::error::Result;
use crate::staging::LOADS_IN_A_ROW_MAX;

/// See the module's documentation.
pub struct ThreadEngine {
    shared: Arc<Shared>,
    crew: Crew,
}

struct Shared {
    file: Arc<dyn BlockFile>,
    queue: Mutex<Queue>,
    changed: Condvar,
    writers_max: u32,
}

#[derive(Default)]
struct Queue {
    reads: VecDeque<ChunkTransfer>,
    writes: VecDeque<ChunkTransfer>,
    writing: u32,
    /// Reads taken while a write waited that could have been.
    reads_in_a_row: u32,
    closed: bool,
}

impl ThreadEngine {
    /// Starts `threads` threads (at least two) on `file`.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn start(file: Arc<dyn BlockFile>, threads: u32) -> Result<Self> {
        let threads = threads.max(2);
        let shared = Arc::new(Shared {
            file,
            queue: Mutex::default(),
            changed: Condvar::new(),
            writers_max: threads - 1,
        });
        let engine = Self { shared, crew: Crew::default() };
        for number in 0..threads {
            let shared = Arc::clone(&engine.shared);
            engine.crew.spawn(format!("forebay-io-{number}"), move || shared.work())?;
        }
        Ok(engine)
    }
}

impl IoEngine for ThreadEngine {
    fn submit(&self, transfer: ChunkTransfer) {
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            drop(queue);
            let ChunkTransfer { lease, finish, .. } = transfer;
            finish(lease, Err(io::Error::new(io::ErrorKind::BrokenPipe, "the I/O engine is shut down")));
            return;
        }
        match transfer.direction {
            Direction::Read => queue.reads.push_back(transfer),
            Direction::Write => queue.writes.push_back(transfer),
        }
        drop(queue);
        self.shared.changed.notify_one();
    }

    fn shutdown(&self, deadline: Instant) {
        self.shared.queue.lock().closed = true;
        self.shared.changed.notify_all();
        self.crew.join(deadline);
    }
}

impl Drop for ThreadEngine {
    fn drop(&mut self) {
        self.shutdown(Instant::now() + JOIN_PATIENCE);
    }
}

impl Shared {
    fn work(&self) {
        while let Some(transfer) = self.next() {
            let direction = transfer.direction;
            let _ = catch_unwind(AssertUnwindSafe(|| carry_out(&*self.file, transfer)))
                .inspect_err(|_| tracing::error!("a transfer panicked; its chunk was given up"));
            if direction == Direction::Write {
                self.queue.lock().writing -= 1;
                self.changed.notify_one();
            }
        }
        // Another thread may have been passed over while this one wrote.
        self.changed.notify_all();
    }

    fn next(&self) -> Option<ChunkTransfer> {
        let mut queue = self.queue.lock();
        loop {
            let writable = queue.writing < self.writers_max && !queue.writes.is_empty();
            let writes_turn = writable && queue.reads_in_a_row >= LOADS_IN_A_ROW_MAX;
            if !writes_turn && let Some(read) = queue.reads.pop_front() {
                queue.reads_in_a_row = if writable { queue.reads_in_a_row + 1 } else { 0 };
                return Some(read);
            }
            if writable && let Some(write) = queue.writes.pop_front() {
                queue.reads_in_a_row = 0;
                queue.writing += 1;
                return Some(write);
            }
            if queue.closed && queue.writes.is_empty() {
                return None;
            }
            self.changed.wait(&mut queue);
        }
    }
}

fn carry_out(file: &dyn BlockFile, transfer: ChunkTransfer) {
    let ChunkTransfer { direction, record, mut lease, finish } = transfer;
    let (header, payload) = lease.parts();
    let outcome = match (payload.get_mut(..record.padded_bytes()), direction) {
        (None, _) => Err(io::Error::new(io::ErrorKind::InvalidInput, "the chunk is larger than a slot")),
        (Some(payload), Direction::Read) => read_blocks(file, &record.extents, header, payload),
        (Some(payload), Direction::Write) => write_blocks(file, &record.extents, header, payload),
    };
    finish(lease, outcome);
}
