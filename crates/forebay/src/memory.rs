//! Memory for direct transfers: zeroed, on a border of 2 MiB, on huge pages where the system gives them.
//!
//! Promises: all of it is resident from the start, so that no transfer and no copy pays for a page fault; its length
//! never changes. Huge pages are worth a factor of three at the drive: a direct transfer from 4 KiB pages is cut into
//! hundreds of segments. They are a wish: without them everything works, more slowly, and
//! [`PageMemory::huge_bytes`] says so.
//!
//! The staging buffer is made of it. An engine or a benchmark that wants its own chunks to move as fast makes its
//! buffers of it too.

use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::catalog::BLOCK_BYTES;
use crate::error::{Error, Result};

/// What memory is aligned to, and what the system's huge pages hold.
#[cfg(not(miri))]
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The small pages that a kernel without `MADV_POPULATE_WRITE` is made to give, one by one.
#[cfg(not(miri))]
const PAGE_BYTES: usize = 4096;

/// Zeroed memory of its own. See the module's documentation.
///
/// ```
/// let mut chunk = forebay::PageMemory::new(8 << 20)?;
/// chunk[0] = 7;
/// assert_eq!((chunk.len(), chunk.as_slice()[..2].to_vec()), (8 << 20, vec![7, 0]));
/// # Ok::<(), forebay::Error>(())
/// ```
pub struct PageMemory {
    start: NonNull<u8>,
    len: usize,
    #[cfg(not(miri))]
    whole: (NonNull<u8>, usize),
}

// SAFETY: plain memory that belongs to no thread.
unsafe impl Send for PageMemory {}
// SAFETY: `&PageMemory` gives only shared slices; `part` makes exclusiveness its caller's promise.
unsafe impl Sync for PageMemory {}

impl PageMemory {
    /// `len` bytes, all zero.
    ///
    /// # Errors
    /// When the memory is not to be had.
    pub fn new(len: usize) -> Result<Self> {
        Self::map(len).map_err(|error| {
            Error::io(format!("allocating {len} bytes of memory (ask for less, or free memory)"), error)
        })
    }

    /// Bytes of it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of it.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: mapped, zeroed at first and ours; `part`'s callers promise not to write while this slice lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// All of it, to be written.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` keeps everybody else out.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Where it lies.
    pub(crate) fn range(&self) -> (NonNull<u8>, usize) {
        (self.start, self.len)
    }

    /// One of the pieces of `each` bytes, for an owner that shares them out itself.
    ///
    /// # Safety
    /// Piece `index` must lie in the memory and be the caller's alone while the slice lives: nobody else may have a
    /// piece that overlaps it, or a slice of the whole.
    #[expect(clippy::mut_from_ref, reason = "exclusive by the caller's promise, as in an allocator")]
    pub(crate) unsafe fn part(&self, index: usize, each: usize) -> &mut [u8] {
        // SAFETY: the caller's promise.
        unsafe { self.piece(index * each, each) }
    }

    /// `len` bytes from `start` on, to be read by any number of callers.
    ///
    /// # Safety
    /// Nobody writes them while the slice lives.
    pub(crate) unsafe fn shared_piece(&self, start: usize, len: usize) -> &[u8] {
        assert!(start + len <= self.len, "a piece of {} bytes", self.len);
        // SAFETY: in bounds, not written by the caller's promise; the memory is mapped and was zeroed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(start), len) }
    }

    /// `len` bytes from `start` on, as [`Self::part`].
    ///
    /// # Safety
    /// As of [`Self::part`].
    #[expect(clippy::mut_from_ref, reason = "exclusive by the caller's promise, as in an allocator")]
    pub(crate) unsafe fn piece(&self, start: usize, len: usize) -> &mut [u8] {
        assert!(start + len <= self.len, "a piece of {} bytes", self.len);
        // SAFETY: in bounds, and exclusive by the caller's promise; the memory is mapped and was zeroed.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(start), len) }
    }
}

#[cfg(not(miri))]
impl PageMemory {
    /// As [`Self::new`], for an owner that has more to say about the error.
    pub(crate) fn map(len: usize) -> io::Result<Self> {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

        let whole_len = len.checked_add(HUGE_PAGE_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let whole = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                whole_len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let whole = NonNull::new(whole.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let skip = whole.as_ptr().align_offset(HUGE_PAGE_BYTES);
        // SAFETY: `skip` is less than the 2 MiB that were mapped on top of `len`.
        let start = unsafe { whole.add(skip) };
        let memory = Self { start, len, whole: (whole, whole_len) };
        if len >= HUGE_PAGE_BYTES {
            // Only a wish.
            // SAFETY: the range is ours and the advice changes nothing of what it holds.
            let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxHugepage) };
        }
        // SAFETY: as above. Populating now makes "resident from the start" true, and fails here instead of under load.
        match unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxPopulateWrite) } {
            Ok(()) => {}
            // Kernels before 5.14 do not know the advice: touch each page instead.
            Err(rustix::io::Errno::INVAL) => {
                for page in (0..len).step_by(PAGE_BYTES) {
                    // SAFETY: `page < len`, and nobody else has the memory yet.
                    unsafe { start.add(page).write_volatile(0) };
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(memory)
    }

    /// Bytes that lie on huge pages now: what the kernel says of this memory in `smaps`.
    pub fn huge_bytes(&self) -> usize {
        if self.len < HUGE_PAGE_BYTES {
            // None were asked for.
            return 0;
        }
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
impl Drop for PageMemory {
    fn drop(&mut self) {
        let (whole, len) = self.whole;
        // SAFETY: unmaps exactly what `map` mapped; slices into it live no longer than its owner.
        if let Err(error) = unsafe { rustix::mm::munmap(whole.as_ptr().cast(), len) } {
            tracing::warn!(%error, "could not unmap memory");
        }
    }
}

/// Miri knows no `mmap`: the same memory from the allocator, so that the rest can be checked.
#[cfg(miri)]
impl PageMemory {
    fn layout(len: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(len.max(1), BLOCK_BYTES).expect("a small test size")
    }

    pub(crate) fn map(len: usize) -> io::Result<Self> {
        // SAFETY: the layout's length is not zero.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(Self::layout(len)) })
            .ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Bytes that lie on huge pages now.
    pub fn huge_bytes(&self) -> usize {
        0
    }
}

#[cfg(miri)]
impl Drop for PageMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `map` with the same layout.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), Self::layout(self.len)) };
    }
}

impl Deref for PageMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl DerefMut for PageMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl std::fmt::Debug for PageMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageMemory")
            .field("start", &self.start)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Whole pages of memory that a drive may read or write where they lie, borrowed for `'a`.
#[derive(Debug)]
pub struct Pages<'a> {
    start: NonNull<u8>,
    len: usize,
    _memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: stands for an exclusive borrow of plain memory, which may go to another thread.
unsafe impl Send for Pages<'_> {}

impl<'a> Pages<'a> {
    /// The first `len` bytes of `memory`; `None` when they are not whole blocks of 4 KiB, or there are not so many.
    pub fn of(memory: &'a mut PageMemory, len: usize) -> Option<Self> {
        let whole = len.is_multiple_of(BLOCK_BYTES) && len <= memory.len;
        whole.then_some(Self { start: memory.start, len, _memory: PhantomData })
    }

    /// Memory of somebody else; `None` when it does not begin and end on a border of 4 KiB.
    ///
    /// # Safety
    /// While the value lives, and as long after as whoever takes it is told to keep the memory, `start` is memory of
    /// `len` bytes that may be read and that nobody else writes; for a load, that may be written and that nobody else
    /// reads.
    pub unsafe fn from_raw(start: NonNull<u8>, len: usize) -> Option<Self> {
        let whole = len.is_multiple_of(BLOCK_BYTES) && start.addr().get().is_multiple_of(BLOCK_BYTES);
        whole.then_some(Self { start, len, _memory: PhantomData })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whole blocks of them, to be read beside the whole.
    pub(crate) fn part(&self, bytes: std::ops::Range<usize>) -> Self {
        assert!(bytes.start <= bytes.end && bytes.end <= self.len, "a part of {} bytes", self.len);
        debug_assert!(bytes.start.is_multiple_of(BLOCK_BYTES) && bytes.end.is_multiple_of(BLOCK_BYTES));
        // SAFETY: it lies in the memory that this stands for.
        let start = unsafe { self.start.add(bytes.start) };
        Self { start, len: bytes.end - bytes.start, _memory: PhantomData }
    }

    pub(crate) fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    /// What is in them.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: valid for reads by the promise of whoever made this.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The same for longer than the borrow it came from.
    ///
    /// # Safety
    /// Whatever it was borrowed from is kept, and not touched, while the value lives.
    pub(crate) unsafe fn detach(self) -> Pages<'static> {
        Pages { start: self.start, len: self.len, _memory: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn miri_memory_is_zeroed_and_the_owners_alone() {
        let mut first = PageMemory::new(3 * 4096 + 5).unwrap();
        let second = PageMemory::new(4096).unwrap();
        assert_eq!(first.len(), 3 * 4096 + 5);
        assert!(first.iter().chain(&*second).all(|&byte| byte == 0));
        first.fill(0xab);
        let last = first.len() - 1;
        first.as_mut_slice()[last] = 1;
        assert_eq!((first[0], first.as_slice()[last]), (0xab, 1));
        assert!(second.iter().all(|&byte| byte == 0), "memories do not overlap");
        assert_eq!(first.as_ptr().align_offset(4096), 0);
        assert!(PageMemory::new(0).unwrap().is_empty());
    }

    #[test]
    fn miri_parts_do_not_meet() {
        let memory = PageMemory::map(3 * 4096).unwrap();
        // SAFETY: three parts of 4096 bytes lie in it; each is taken once, and the whole is not looked at meanwhile.
        let (one, two, three) = unsafe { (memory.part(0, 4096), memory.part(1, 4096), memory.part(2, 4096)) };
        one.fill(1);
        two.fill(2);
        three.fill(3);
        assert_eq!((one[4095], two[0], two[4095], three[0]), (1, 2, 2, 3));
        assert_eq!([0, 4095, 4096, 8191, 8192].map(|at| memory[at]), [1, 1, 2, 2, 3]);
    }

    #[cfg(not(miri))]
    #[test]
    fn memory_begins_on_a_border_of_huge_pages_and_is_resident() {
        let memory = PageMemory::new(4 << 20).unwrap();
        assert_eq!(memory.as_ptr().align_offset(HUGE_PAGE_BYTES), 0);
        assert!(memory.huge_bytes() <= memory.len());
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let start = memory.as_ptr() as usize;
        let mut inside = false;
        let mut resident_kib = 0;
        for line in maps.lines() {
            let mut words = line.split_ascii_whitespace();
            let first = words.next().unwrap();
            if let Some((from, to)) = first.split_once('-') {
                let (from, to) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16));
                inside =
                    matches!((from, to), (Ok(from), Ok(to)) if from < start + memory.len() && start < to);
            } else if inside && first == "Rss:" {
                resident_kib += words.next().unwrap().parse::<usize>().unwrap();
            }
        }
        assert!(resident_kib << 10 >= memory.len(), "{resident_kib} KiB resident before the first touch");
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        let error = PageMemory::new(usize::MAX - 4096).unwrap_err();
        assert!(error.to_string().starts_with("allocating "), "{error}");
    }
}
