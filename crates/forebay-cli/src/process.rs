//! What this process has used: processor time and memory, as the kernel counts them.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

fn since_begin(clock: ClockId) -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0))
}

/// Processor time of all threads, user and system, those the kernel works with for this process included.
pub(crate) fn cpu() -> Duration {
    since_begin(ClockId::ProcessCPUTime)
}

/// Processor time of this thread.
pub(crate) fn thread_cpu() -> Duration {
    since_begin(ClockId::ThreadCPUTime)
}

/// Bytes that are resident now; zero where the kernel does not say.
pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_ascii_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_counted() {
        let (before, thread_before) = (cpu(), thread_cpu());
        let mut number = 1_u64;
        while thread_cpu().saturating_sub(thread_before) < Duration::from_millis(5) {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        assert!(cpu().saturating_sub(before) >= Duration::from_millis(5));
        assert!(resident_bytes() > 1 << 20);
    }
}
