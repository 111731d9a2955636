//! An I/O engine on `io_uring`: one thread that hands pieces to the kernel and takes its answers, in few calls and
//! without waiting for any single one of them.
//!
//! Promises: the order of pieces is the schedule's; the thread sleeps when there is nothing to do; what its transfers
//! end with, unless it is said to return at once, is told on other threads (stores on one, loads on one, each with a
//! helper), so that checking and copying keep no piece from the device; on the ring's, once both of those have died. A panic
//! there costs that transfer only. Memory that the kernel may still write to is never given back:
//! if the ring itself fails, the slots of what is under way are lost, and the engine takes no more.
//!
//! Registered with the kernel, where it allows that: the files, and the slots' memory (a limit on locked memory may
//! forbid it; then each piece's pages are looked up as it goes).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use io_uring::{IoUring, Probe, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};

use super::data_files::DataFiles;
use super::engine::{self, Direction, Finish, IoEngine, Rest, Transfer};
use super::schedule::{Ended, Limits, Piece, Schedule};
use crate::catalog::DRIVES_MAX;
use crate::crash_points::turn;
use crate::crew::{Crew, JOIN_PATIENCE};
use crate::error::{Error, Result};
use crate::staging::Staging;
use crate::sync::{Mutex, now};
use crate::tellers::{Tellers, caught};

/// Measured on a virtual drive: each piece costs its way there and back, so pieces of 2 MiB are up to a tenth faster than
/// of 1 MiB, larger ones no more; 32 MiB of them at once are enough. A load waits for the write pieces before it, which
/// speaks for no more.
const LIMITS: Limits = Limits { pieces_max: 64, writes_max: 16, piece_bytes: 2 << 20 };
const _: () = assert!(LIMITS.writes_max < LIMITS.pieces_max, "a load always has a place");
/// Places in the submission queue: for all pieces, and the wake-up.
const RING_ENTRIES: u32 = 128;
/// The largest part of memory that the kernel registers as one.
const REGISTERED_BYTES: usize = 1 << 30;
/// What the wake-up's answer is known by; pieces count from one.
const WAKE_TOKEN: u64 = 0;
/// `IORING_ENTER_GETEVENTS` of the kernel's interface.
const ENTER_GETEVENTS: u32 = 1;
/// After a submission that the kernel had no memory for.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// Pieces that keep a drive busy, so that the next one may wait until one of them is answered. Waking the ring's thread for each costs more than it gains: on a virtual drive a fifth of what loads get.
const ENOUGH: usize = 2;
/// For how long: the time that slow drives take for a piece.
const STRAGGLING: types::Timespec = types::Timespec::new().nsec(5_000_000);

/// Ends that wait to be told. With more of them, whoever holds up the threads that tell them holds up the device too.
const UNTOLD_MAX: usize = 4096;

/// See the module's documentation.
pub struct UringEngine {
    shared: Arc<Shared>,
    crew: Crew,
}

struct Shared {
    inbox: Mutex<Inbox>,
    /// Wakes the ring's thread.
    wake: OwnedFd,
    stored: Tellers,
    loaded: Tellers,
}

/// Whether the ring's thread takes transfers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// It was told to end.
    Closed,
    /// It has ended untold.
    Dead,
}

#[derive(Default)]
struct Inbox {
    transfers: Vec<Transfer>,
    phase: Phase,
    /// The ring's thread waits in the kernel, and must be woken for a transfer this way. It need not be while others wait
    /// that way: then it is the device's next answer that makes room for more.
    wake_for_read: bool,
    wake_for_write: bool,
}

impl Inbox {
    /// Takes no more; why, the first says.
    fn close(&mut self, phase: Phase) {
        if self.phase == Phase::Open {
            self.phase = phase;
        }
    }

    /// Whether to wake the ring's thread for a transfer this way; once is enough.
    fn wakes_for(&mut self, direction: Direction) -> bool {
        let wakes = match direction {
            Direction::Read => self.wake_for_read,
            Direction::Write => self.wake_for_write,
        };
        if wakes {
            (self.wake_for_read, self.wake_for_write) = (false, false);
        }
        wakes
    }
}

impl UringEngine {
    /// Starts the engine on `files`.
    ///
    /// # Errors
    /// When the kernel does not give a ring, a file is not one that it can be asked for directly, or there are no
    /// more threads.
    pub fn start(files: DataFiles, staging: &Arc<Staging>) -> Result<Self> {
        if files.iter().any(|(_, file)| file.descriptor().is_none()) {
            let reason =
                io::Error::new(io::ErrorKind::Unsupported, "a data file is not opened for direct I/O");
            return Err(Error::io("starting io_uring", reason));
        }
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::io("starting io_uring", error))?;
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            wake,
            stored: Tellers::new(UNTOLD_MAX),
            loaded: Tellers::new(UNTOLD_MAX),
        });
        let engine = Self { shared, crew: Crew::default() };
        let shared = Arc::clone(&engine.shared);
        let staging = Arc::clone(staging);
        // The ring belongs to the thread that uses it: the kernel then spares itself locks and interrupts.
        let (tell, told) = sync_channel(1);
        engine.crew.spawn_prompt("forebay-ring".into(), move || {
            let shared = Closing(shared);
            match Ring::new(files, staging) {
                Ok(ring) => {
                    let _ = tell.send(Ok(()));
                    shared.0.serve(ring);
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            }
        })?;
        let begun = told.recv().unwrap_or_else(|_| Err(io::Error::other("its thread ended")));
        begun.map_err(|error| Error::io("starting io_uring", error))?;
        engine.shared.stored.start(&engine.crew, "forebay-stored")?;
        // Two at once share the memory's speed and cost more than one: the second only helps out.
        engine.shared.loaded.start(&engine.crew, "forebay-loaded")?;
        Ok(engine)
    }
}

impl IoEngine for UringEngine {
    fn submit(&self, transfer: Transfer) {
        let mut inbox = self.shared.inbox.lock();
        if inbox.phase != Phase::Open {
            drop(inbox);
            transfer.refuse(engine::shut_down());
            return;
        }
        let wakes = inbox.wakes_for(transfer.direction);
        inbox.transfers.push(transfer);
        drop(inbox);
        if wakes {
            self.shared.ring_the_bell();
        }
    }

    fn shutdown(&self, deadline: Instant) {
        self.shared.inbox.lock().close(Phase::Closed);
        self.shared.ring_the_bell();
        self.crew.join(deadline);
    }

    fn dead_threads(&self) -> Vec<String> {
        self.crew.dead()
    }

    fn name(&self) -> &'static str {
        match self.shared.inbox.lock().phase {
            Phase::Dead => "io_uring (dead)",
            Phase::Open | Phase::Closed => "io_uring",
        }
    }
}

impl Drop for UringEngine {
    fn drop(&mut self) {
        self.shutdown(now() + JOIN_PATIENCE);
    }
}

impl Shared {
    fn ring_the_bell(&self) {
        // The only way to fail is a counter that is full: then it is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// The life of the ring's thread.
    fn serve(&self, mut ring: Ring) {
        let mut schedule = Schedule::new(LIMITS);
        let mut untold: Vec<Ended> = Vec::new();
        let enough = if ring.kernel.params().is_feature_ext_arg() { ENOUGH } else { usize::MAX };
        loop {
            turn();
            let (new, closed) = {
                let mut inbox = self.inbox.lock();
                // Whoever submits from here on rings; the bell is heard in `wait`, also if it rang before.
                (inbox.wake_for_read, inbox.wake_for_write) = (true, true);
                (std::mem::take(&mut inbox.transfers), inbox.phase != Phase::Open)
            };
            untold.extend(new.into_iter().filter_map(|transfer| schedule.add(transfer)));
            let mut refused = Vec::new();
            while let Some(piece) = schedule.next() {
                if let Err(error) = ring.push(&piece) {
                    refused.push((piece.token, error));
                }
            }
            if !refused.is_empty() {
                for (token, error) in refused {
                    untold.extend(schedule.complete(token, Err(error)));
                }
                // That made room for others.
                continue;
            }
            let handed_over = ring.hand_over();
            // Last of all: who is woken may take this thread's processor.
            untold.drain(..).for_each(|ended| self.end(ended));
            if closed && schedule.is_idle() {
                return;
            }
            let deaf = self.wake_for_what_would_go(&schedule, enough);
            if let Err(error) = handed_over.and_then(|()| ring.wait(&self.wake, deaf.then_some(STRAGGLING))) {
                tracing::error!(%error, "io_uring failed; the disk is not used any more");
                // What is under way is given up, and the memory that the kernel may be at lost, as `schedule` goes.
                return;
            }
            for (token, answer) in ring.answers(&self.wake) {
                untold.extend(schedule.complete(token, answer));
            }
        }
    }

    /// Before the ring's thread sleeps: a transfer behind others that wait changes nothing, and one behind others that keep
    /// the device busy may wait for their answers. Gives whether it does, and so may not sleep for long: they may belong to
    /// a drive that hangs.
    fn wake_for_what_would_go(&self, schedule: &Schedule, enough: usize) -> bool {
        let is_busy = |way| schedule.with_device(way) >= enough;
        let would_go = |way| !schedule.waits(way) && !is_busy(way);
        let mut inbox = self.inbox.lock();
        // Who has submitted since has rung, or will.
        inbox.wake_for_read &= would_go(Direction::Read);
        inbox.wake_for_write &= would_go(Direction::Write);
        is_busy(Direction::Read) || is_busy(Direction::Write)
    }

    /// Tells what has ended, or hands it to those who do.
    fn end(&self, ended: Ended) {
        let Ended { direction, lease, finish, outcome } = ended;
        let rest: Rest = match finish {
            Finish::Prompt(finish) => match caught(|| finish(lease, outcome)).flatten() {
                Some(rest) => rest,
                None => return,
            },
            Finish::Working(finish) => Box::new(move || finish(lease, outcome)),
        };
        match direction {
            Direction::Write => self.stored.tell(rest),
            Direction::Read => self.loaded.tell(rest),
        }
    }
}

/// Closes everything when the ring's thread ends, however it does.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        let left = {
            let mut inbox = self.0.inbox.lock();
            inbox.close(Phase::Dead);
            std::mem::take(&mut inbox.transfers)
        };
        for transfer in left {
            caught(|| transfer.refuse(engine::shut_down()));
        }
        self.0.stored.close();
        self.0.loaded.close();
    }
}

/// Makes the files known to the kernel; gives the number of each by its drive.
fn register(ring: &IoUring, files: &DataFiles) -> Vec<Option<i32>> {
    let mut numbers = vec![None; DRIVES_MAX];
    let mut descriptors = Vec::new();
    for (drive, file) in files.iter() {
        if let Some(descriptor) = file.descriptor() {
            numbers[usize::from(drive)] = i32::try_from(descriptors.len()).ok();
            descriptors.push(descriptor.as_raw_fd());
        }
    }
    if ring.submitter().register_files(&descriptors).is_ok() { numbers } else { Vec::new() }
}

/// The kernel's side.
struct Ring {
    kernel: IoUring,
    files: DataFiles,
    /// The number under which the kernel knows a drive's file, by drive; empty when it knows none.
    registered: Vec<Option<i32>>,
    /// The slots' memory, if the kernel knows it, in parts of [`REGISTERED_BYTES`].
    memory: Option<(NonNull<u8>, usize)>,
    /// The ranges of pieces that lie in two, by token, until they are answered.
    vectors: HashMap<u64, Box<[libc::iovec]>>,
    /// Whether the kernel will tell when the bell rings.
    listening: bool,
    /// The memory is mapped for as long as the kernel may write to it.
    _staging: Arc<Staging>,
}

impl Ring {
    fn new(files: DataFiles, staging: Arc<Staging>) -> io::Result<Self> {
        // Kernels before 6.1 know no deferred work: the same without it.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(RING_ENTRIES)
            .or_else(|_| IoUring::new(RING_ENTRIES))?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::ReadFixed::CODE,
            opcode::WriteFixed::CODE,
            opcode::Readv::CODE,
            opcode::Writev::CODE,
            opcode::PollAdd::CODE,
        ];
        if !needed.iter().all(|&code| probe.is_supported(code)) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel's io_uring cannot read and write",
            ));
        }
        let registered = register(&ring, &files);
        let (start, len) = staging.range();
        let parts: Vec<libc::iovec> = (0..len)
            .step_by(REGISTERED_BYTES)
            .map(|at| libc::iovec {
                iov_base: start.as_ptr().wrapping_add(at).cast(),
                iov_len: REGISTERED_BYTES.min(len - at),
            })
            .collect();
        // SAFETY: the memory stays mapped for as long as `_staging` is held, which is longer than the ring.
        let memory = match unsafe { ring.submitter().register_buffers(&parts) } {
            Ok(()) => Some((start, len)),
            Err(error) => {
                tracing::debug!(%error, "the staging buffer cannot be registered with the kernel");
                None
            }
        };
        Ok(Self {
            kernel: ring,
            files,
            registered,
            memory,
            vectors: HashMap::new(),
            listening: false,
            _staging: staging,
        })
    }

    /// Prepares a piece; it goes to the kernel with the next [`Self::wait`].
    fn push(&mut self, piece: &Piece) -> io::Result<()> {
        let (file, flags) = if let Some(&Some(number)) = self.registered.get(usize::from(piece.drive)) {
            (types::Fd(number), squeue::Flags::FIXED_FILE)
        } else {
            let file = self.files.get(piece.drive)?.descriptor().ok_or(io::ErrorKind::Unsupported)?;
            (types::Fd(file.as_raw_fd()), squeue::Flags::empty())
        };
        let (memory, offset) = (piece.memory.as_ptr(), piece.offset);
        let len = u32::try_from(piece.len).map_err(io::Error::other)?;
        let entry = if piece.tail.is_some() {
            let (ranges, count) = self.keep_ranges(piece);
            match piece.direction {
                Direction::Read => opcode::Readv::new(file, ranges, count).offset(offset).build(),
                Direction::Write => opcode::Writev::new(file, ranges, count).offset(offset).build(),
            }
        } else {
            match (piece.direction, self.registered_part(piece)) {
                (Direction::Read, Some(part)) => {
                    opcode::ReadFixed::new(file, memory, len, part).offset(offset).build()
                }
                (Direction::Read, None) => opcode::Read::new(file, memory, len).offset(offset).build(),
                (Direction::Write, Some(part)) => {
                    opcode::WriteFixed::new(file, memory, len, part).offset(offset).build()
                }
                (Direction::Write, None) => opcode::Write::new(file, memory, len).offset(offset).build(),
            }
        };
        let entry = entry.flags(flags).user_data(piece.token);
        // SAFETY: the schedule keeps slot and payload until the piece is answered, so its memory is valid and nobody
        // else's, and so are the ranges kept here; the files are open for as long as the ring.
        unsafe { self.kernel.submission().push(&entry) }.map_err(io::Error::other)
    }

    /// Where a piece lies, in the kernel's words; stays there until the piece is answered.
    fn keep_ranges(&mut self, piece: &Piece) -> (*const libc::iovec, u32) {
        let ranges: Box<[_]> = piece
            .ranges()
            .map(|(start, len)| libc::iovec { iov_base: start.as_ptr().cast(), iov_len: len })
            .collect();
        let ranges = self.vectors.entry(piece.token).insert_entry(ranges).into_mut();
        // Two of them.
        (ranges.as_ptr(), u32::try_from(ranges.len()).unwrap_or(0))
    }

    /// The registered part of memory that holds all of a piece.
    fn registered_part(&self, piece: &Piece) -> Option<u16> {
        let (start, len) = self.memory?;
        let at = piece.memory.addr().get().checked_sub(start.addr().get())?;
        let end = at + piece.len;
        let part = at / REGISTERED_BYTES;
        (end <= len && part == (end - 1) / REGISTERED_BYTES).then(|| u16::try_from(part).ok()).flatten()
    }

    /// Hands over what was prepared, as far as the kernel takes it now.
    fn hand_over(&mut self) -> io::Result<()> {
        match self.kernel.submit() {
            Ok(_) => Ok(()),
            // It is handed over with the next wait.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Hands over what was prepared, and waits for an answer, the bell, or so long.
    fn wait(&mut self, bell: &OwnedFd, at_most: Option<types::Timespec>) -> io::Result<()> {
        if !self.listening {
            let poll_in = u32::from(libc::POLLIN.unsigned_abs());
            let entry = opcode::PollAdd::new(types::Fd(bell.as_fd().as_raw_fd()), poll_in).build();
            // SAFETY: names no memory; the bell is open for as long as the ring's thread runs.
            unsafe { self.kernel.submission().push(&entry.user_data(WAKE_TOKEN)) }
                .map_err(io::Error::other)?;
            self.listening = true;
        }
        loop {
            let handed_over = match &at_most {
                Some(at_most) => {
                    let args = types::SubmitArgs::new().timespec(at_most);
                    self.kernel.submitter().submit_with_args(1, &args)
                }
                None => self.kernel.submit_and_wait(1),
            };
            match handed_over {
                Ok(_) => break,
                Err(error) if error.raw_os_error() == Some(libc::ETIME) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // No memory for so many, or answers that want to be taken first.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {
                    // Have it post the answers it has: they may hold what it lacks.
                    // SAFETY: hands over no entry.
                    let asked = unsafe {
                        self.kernel.submitter().enter::<libc::sigset_t>(0, 0, ENTER_GETEVENTS, None)
                    };
                    if asked.is_ok() && !self.kernel.completion().is_empty() {
                        break;
                    }
                    std::thread::sleep(RETRY_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The kernel's answers: token, and bytes moved.
    fn answers(&mut self, bell: &OwnedFd) -> Vec<(u64, io::Result<usize>)> {
        let mut answers = Vec::new();
        for answer in self.kernel.completion() {
            if answer.user_data() == WAKE_TOKEN {
                self.listening = false;
                let _ = rustix::io::read(bell, &mut [0_u8; 8]);
            } else {
                self.vectors.remove(&answer.user_data());
                let moved = answer.result();
                let moved = usize::try_from(moved).map_err(|_| io::Error::from_raw_os_error(-moved));
                answers.push((answer.user_data(), moved));
            }
        }
        answers
    }
}
