//! The allocator, made to tell the truth: what is resident is in use.
//!
//! Left to itself glibc has an arena for each of some threads, and keeps in each what was freed there last. The client of
//! Redis makes and drops buffers of a part's size in all of its threads; so some 20 MiB of free memory are resident, more or less
//! of them from one moment to the next, which would hide a leak of as much. With one arena, large buffers in mappings
//! of their own, and what is free given back before it is measured, none of that is seen; what nobody frees is.

/// What is larger has a mapping of its own.
#[cfg(target_env = "gnu")]
const MAPPED_FROM_BYTES: i32 = 128 << 10;

/// To be called before there is a second thread.
#[cfg(target_env = "gnu")]
pub(crate) fn prepare() {
    // SAFETY: sets numbers of the allocator's, while no other thread allocates.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES);
    }
}

/// Gives back what is free.
#[cfg(target_env = "gnu")]
pub(crate) fn trim() {
    // SAFETY: may be called at any time, from any thread; it moves nothing that is in use.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn prepare() {}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn trim() {}
