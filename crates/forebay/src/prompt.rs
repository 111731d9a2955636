//! Threads that run as soon as they are woken.
//!
//! A thread that waits for a drive works for some microseconds at a time. If it is woken while another one computes on
//! its processor, the system may let that go on first, also while another processor is idle,
//! and the drive has nothing to do meanwhile: a sixth of the time of stores on a machine with two processors. A thread
//! may ask for short turns instead, without any privilege; then it is let in at once (Linux 6.12 and later).

use std::io;

/// The shortest turn that Linux gives.
const TURN_NS: u64 = 100_000;

/// Asks for short turns for this thread. Where the system does not know that, or answers no, nothing changes.
pub(crate) fn ask_for_short_turns() {
    if let Err(error) = change_turn() {
        tracing::debug!(%error, "a thread was not given short turns");
    }
}

#[cfg(not(miri))]
fn change_turn() -> io::Result<()> {
    let done = |result| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    let size = u32::try_from(size_of::<libc::sched_attr>()).map_err(io::Error::other)?;
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes at most `size` bytes to the structure of that size; 0 is this thread.
    done(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) })?;
    // Whoever gave the process another policy knows better.
    if attributes.sched_policy != u32::try_from(libc::SCHED_OTHER).unwrap_or(0) {
        return Ok(());
    }
    attributes.sched_runtime = TURN_NS;
    // SAFETY: the kernel reads the structure, which is as long as it says; 0 is this thread.
    done(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
}

#[cfg(miri)]
fn change_turn() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_changes_neither_policy_nor_priority() {
        // SAFETY: both read a number of this thread.
        let now = || unsafe { (libc::getpriority(libc::PRIO_PROCESS, 0), libc::sched_getscheduler(0)) };
        std::thread::spawn(move || {
            let before = now();
            ask_for_short_turns();
            assert_eq!(now(), before);
        })
        .join()
        .unwrap();
    }
}
