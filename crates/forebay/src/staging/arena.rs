//! The arena: the memory under the staging buffer, mapped once and never grown.
//!
//! Promises: `slots` slots of equal length on 4 KiB borders, each a 4 KiB header page and the payload area after it, as
//! a chunk lies on disk; all of it resident from the start, on huge pages where the system gives them (their share is reported). Huge pages are
//! worth a factor of three at the drive: a direct transfer from 4 KiB pages is cut into hundreds of segments.
//! Never hands out memory by itself: [`super::Staging`] decides who may use which slot, and `Arena::slot` trusts it.

use std::ptr::NonNull;

use crate::catalog::BLOCK_BYTES;
use crate::error::{Error, ErrorKind, Result};

#[cfg(not(miri))]
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Memory for `slots` chunks.
#[derive(Debug)]
pub(super) struct Arena {
    mapping: Mapping,
    slots: u32,
    payload_bytes: usize,
}

impl Arena {
    pub(super) fn new(slots: u32, payload_bytes: usize) -> Result<Self> {
        assert!(payload_bytes > 0 && payload_bytes.is_multiple_of(BLOCK_BYTES), "slots are whole blocks");
        let all = payload_bytes.checked_add(BLOCK_BYTES).and_then(|each| each.checked_mul(slots as usize));
        Ok(Self { mapping: Mapping::new(all.ok_or_else(too_large)?)?, slots, payload_bytes })
    }

    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    pub(super) fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Bytes that lie on huge pages.
    pub(super) fn huge_bytes(&self) -> usize {
        self.mapping.huge_bytes()
    }

    /// Where all of it lies.
    pub(super) fn range(&self) -> (NonNull<u8>, usize) {
        (self.mapping.start, self.mapping.len)
    }

    /// A slot: header page and payload area.
    ///
    /// # Safety
    /// Nobody else may use slot `index` for as long as the slice lives.
    #[expect(clippy::mut_from_ref, reason = "exclusive by the caller's promise, as in an allocator")]
    pub(super) unsafe fn slot(&self, index: u32) -> &mut [u8] {
        assert!(index < self.slots, "slot {index} of {}", self.slots);
        // SAFETY: the range lies in the mapping, since `index < slots`; ranges of different slots do not meet, and
        // the caller promises that this slot is its own.
        unsafe { self.mapping.part(index as usize, BLOCK_BYTES + self.payload_bytes) }
    }
}

fn too_large() -> Error {
    Error::new(ErrorKind::Config, "max_local_cpu_size is larger than the address space; make it smaller")
}

/// Zeroed memory of its own, on a border of 2 MiB.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
    #[cfg(not(miri))]
    whole: (NonNull<u8>, usize),
}

// SAFETY: a mapping is plain memory that belongs to no thread; access to it goes through `Arena::slot`, whose
// caller promises exclusiveness.
unsafe impl Send for Mapping {}
// SAFETY: as above; the methods of `&Mapping` only read its address and length.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// # Safety
    /// Part `index` of `each` bytes must lie in the mapping and be the caller's alone while the slice lives.
    #[expect(clippy::mut_from_ref, reason = "exclusive by the caller's promise, as in an allocator")]
    unsafe fn part(&self, index: usize, each: usize) -> &mut [u8] {
        debug_assert!((index + 1) * each <= self.len);
        // SAFETY: in bounds and exclusive by the caller's promise; the memory is mapped and was zeroed.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(index * each), each) }
    }
}

#[cfg(not(miri))]
impl Mapping {
    fn new(len: usize) -> Result<Self> {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

        let whole_len = len.checked_add(HUGE_PAGE_BYTES).ok_or_else(too_large)?;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let whole = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                whole_len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .map_err(|error| no_memory(len, error))?;
        let whole = NonNull::new(whole.cast::<u8>()).ok_or_else(too_large)?;
        let skip = whole.as_ptr().align_offset(HUGE_PAGE_BYTES);
        // SAFETY: `skip` is less than the 2 MiB that were mapped on top of `len`.
        let start = unsafe { whole.add(skip) };
        let mapping = Self { start, len, whole: (whole, whole_len) };
        if len >= HUGE_PAGE_BYTES {
            // Only a wish: without huge pages everything works, more slowly, and `huge_bytes` says so.
            // SAFETY: the range is ours and the advice changes nothing of what it holds.
            let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxHugepage) };
        }
        // SAFETY: as above. Populating now makes "allocated at start" true, and fails here instead of under load.
        match unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxPopulateWrite) } {
            Ok(()) => {}
            // Kernels before 5.14 do not know the advice: touch each page instead.
            Err(rustix::io::Errno::INVAL) => {
                for page in (0..len).step_by(BLOCK_BYTES) {
                    // SAFETY: `page < len`, and nobody else has the mapping yet.
                    unsafe { start.add(page).write_volatile(0) };
                }
            }
            Err(error) => return Err(no_memory(len, error)),
        }
        Ok(mapping)
    }

    /// What the kernel says of this mapping in `smaps`.
    fn huge_bytes(&self) -> usize {
        let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else { return 0 };
        let (start, end) = (self.start.as_ptr() as usize, self.start.as_ptr() as usize + self.len);
        let mut inside = false;
        let mut huge_kib = 0;
        for line in maps.lines() {
            let mut words = line.split_ascii_whitespace();
            let Some(first) = words.next() else { continue };
            if let Some((from, to)) = first.split_once('-') {
                let bounds = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16));
                inside = matches!(bounds, (Ok(from), Ok(to)) if from < end && start < to);
            } else if inside && first == "AnonHugePages:" {
                huge_kib += words.next().and_then(|kib| kib.parse::<usize>().ok()).unwrap_or(0);
            }
        }
        (huge_kib << 10).min(self.len)
    }
}

#[cfg(not(miri))]
fn no_memory(len: usize, error: rustix::io::Errno) -> Error {
    Error::io(
        format!(
            "allocating {len} bytes of staging memory (max_local_cpu_size: make it smaller, or free memory)"
        ),
        error,
    )
}

#[cfg(not(miri))]
impl Drop for Mapping {
    fn drop(&mut self) {
        let (whole, len) = self.whole;
        // SAFETY: unmaps exactly what `new` mapped; slices into it live no longer than the arena.
        if let Err(error) = unsafe { rustix::mm::munmap(whole.as_ptr().cast(), len) } {
            tracing::warn!(%error, "could not unmap staging memory");
        }
    }
}

/// Miri knows no `mmap`: the same memory from the allocator, so that the rest can be checked.
#[cfg(miri)]
impl Mapping {
    fn layout(len: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(len, BLOCK_BYTES).expect("a small test size")
    }

    fn new(len: usize) -> Result<Self> {
        // SAFETY: the length is not zero.
        let start =
            NonNull::new(unsafe { std::alloc::alloc_zeroed(Self::layout(len)) }).ok_or_else(too_large)?;
        Ok(Self { start, len })
    }

    fn huge_bytes(&self) -> usize {
        0
    }
}

#[cfg(miri)]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), Self::layout(self.len)) };
    }
}
