//! Engine memory as Python gives it: buffers, pages of a KV cache, objects that copy for themselves.

use std::ptr::NonNull;
use std::sync::Arc;

use forebay::mover::{Observer, Region, Sink, Source, drain_to, fill_from};
use forebay::{PageMemory, Pages, Regions};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::error::{argument, raise};
use crate::items::Items;

/// Host KV memory of an engine.
#[pyclass(module = "forebay", frozen)]
pub(crate) struct PagedMemory {
    owner: Arc<Py<PyAny>>,
    address: usize,
    size: usize,
    layer_offsets: Vec<usize>,
    block_stride: usize,
    page_bytes: usize,
}

/// Pages that make up one chunk.
#[pyclass(module = "forebay", frozen)]
pub(crate) struct PagedChunk {
    owner: Arc<Py<PyAny>>,
    /// Address (zero for a page that is passed over) and length.
    pages: Vec<(usize, usize)>,
}

#[pymethods]
impl PagedMemory {
    #[new]
    fn new(
        py: Python<'_>,
        owner: Py<PyAny>,
        address: usize,
        size: usize,
        layer_offsets: Items<usize>,
        block_stride: usize,
        page_bytes: usize,
    ) -> PyResult<Self> {
        let layer_offsets = layer_offsets.0;
        if address == 0 || address.checked_add(size).is_none() || page_bytes == 0 || layer_offsets.is_empty()
        {
            return Err(argument(py, "paged memory needs an address, a page size and at least one layer"));
        }
        if page_bytes > size {
            let message = format!("a page of {page_bytes} bytes is larger than the memory given, {size}");
            return Err(argument(py, message));
        }
        Ok(Self { owner: Arc::new(owner), address, size, layer_offsets, block_stride, page_bytes })
    }

    /// The pages of these blocks, layer by layer; -1 stands for a block that a load passes over.
    fn chunk(&self, py: Python<'_>, block_ids: Items<i64>) -> PyResult<PagedChunk> {
        let block_ids = block_ids.0;
        let count = self.layer_offsets.len().checked_mul(block_ids.len());
        // What a chunk's length is counted in everywhere.
        let bytes = count.and_then(|count| count.checked_mul(self.page_bytes));
        let mut pages = Vec::new();
        match (count, bytes) {
            (Some(count), Some(bytes))
                if u32::try_from(bytes).is_ok() && pages.try_reserve_exact(count).is_ok() => {}
            _ => {
                let message = format!("{} blocks make a chunk of 4 GiB or more", block_ids.len());
                return Err(argument(py, message));
            }
        }
        for &layer in &self.layer_offsets {
            for &block in &block_ids {
                pages.push((self.page(py, layer, block)?, self.page_bytes));
            }
        }
        Ok(PagedChunk { owner: Arc::clone(&self.owner), pages })
    }
}

impl PagedMemory {
    /// Address of a page; zero for block -1.
    fn page(&self, py: Python<'_>, layer_offset: usize, block: i64) -> PyResult<usize> {
        if block == -1 {
            return Ok(0);
        }
        let start = usize::try_from(block)
            .ok()
            .and_then(|block| block.checked_mul(self.block_stride))
            .and_then(|at| at.checked_add(layer_offset));
        match start {
            Some(start) if start.checked_add(self.page_bytes).is_some_and(|end| end <= self.size) => {
                Ok(self.address + start)
            }
            _ => Err(argument(py, format!("block {block} lies outside the memory given"))),
        }
    }
}

#[pymethods]
impl PagedChunk {
    fn __len__(&self) -> usize {
        self.pages.iter().map(|(_, len)| len).sum()
    }
}

impl PagedChunk {
    fn regions(&self) -> Regions {
        let region = |&(address, len): &(usize, usize)| Region { address: address as *mut u8, len };
        let owner: Arc<dyn Send + Sync> = Arc::<Py<PyAny>>::clone(&self.owner);
        // SAFETY: the addresses were checked against the memory that `owner` was said to keep alive, by the engine
        // that owns both; it lets nobody else write to these blocks until the transfer is released.
        unsafe { Regions::new(self.pages.iter().map(region).collect(), owner) }
    }
}

/// A buffer that the drive reads where it lies.
#[pyclass(module = "forebay", frozen)]
pub(crate) struct PageBuffer(Arc<PageBytes>);

/// Memory that Python and a transfer may have at the same time: reached by its address only.
struct PageBytes {
    start: NonNull<u8>,
    len: usize,
    _memory: PageMemory,
}

// SAFETY: an address and the memory behind it, neither tied to a thread. That a caller leaves a buffer alone while it
// is stored or loaded is the API's stated condition, as for any other buffer.
unsafe impl Send for PageBytes {}
// SAFETY: as above.
unsafe impl Sync for PageBytes {}

#[pymethods]
impl PageBuffer {
    #[new]
    fn new(py: Python<'_>, length: usize) -> PyResult<Self> {
        // Its pages are zeroed, which takes a while.
        let memory = py.detach(|| PageMemory::new(length));
        let mut memory = memory.map_err(|error| raise(py, &error))?;
        let (start, len) = (NonNull::from(memory.as_mut_slice()).cast(), memory.len());
        Ok(Self(Arc::new(PageBytes { start, len, _memory: memory })))
    }

    fn __len__(&self) -> usize {
        self.0.len
    }

    /// # Safety
    /// `view` is Python's, to be filled in.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: std::ffi::c_int,
    ) -> PyResult<()> {
        let PageBytes { start, len, .. } = *slf.get().0;
        let len = ffi::Py_ssize_t::try_from(len)?;
        // SAFETY: the view holds a reference to this object, which keeps the memory where it is.
        match unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start.as_ptr().cast(), len, 0, flags) } {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }
}

/// The memory of a [`PageBuffer`] on its way.
struct InPages(Arc<PageBytes>);

impl Source for InPages {
    fn len(&self) -> usize {
        self.0.len
    }

    fn pages(&mut self) -> Option<Pages<'_>> {
        // SAFETY: the memory is kept by this, and left alone by the caller, as the API asks of him.
        unsafe { Pages::from_raw(self.0.start, self.0.len) }
    }

    fn fill(&mut self, at: usize, to: &mut [u8], seen: Observer<'_>) -> Result<(), String> {
        // SAFETY: as in `pages`.
        let own = unsafe { std::slice::from_raw_parts(self.0.start.as_ptr(), self.0.len) };
        fill_from(&own[at..at + to.len()], to, seen);
        Ok(())
    }
}

impl Sink for InPages {
    fn len(&self) -> usize {
        self.0.len
    }

    fn drain(&mut self, at: usize, from: &[u8], seen: Observer<'_>) -> Result<(), String> {
        // SAFETY: the memory is kept by this, and left alone by the caller, as the API asks of him.
        let own = unsafe { std::slice::from_raw_parts_mut(self.0.start.as_ptr(), self.0.len) };
        drain_to(from, &mut own[at..at + from.len()], seen);
        Ok(())
    }
}

/// Keeps a Python buffer exported for as long as its memory is used.
struct Exported {
    _buffer: PyUntypedBuffer,
}

// SAFETY: a buffer view is never touched through this but to be released, which takes the GIL by itself.
unsafe impl Send for Exported {}
// SAFETY: as above.
unsafe impl Sync for Exported {}

fn exported(object: &Bound<'_, PyAny>, writable: bool) -> PyResult<Regions> {
    let py = object.py();
    let buffer = PyUntypedBuffer::get(object).map_err(|_| {
        argument(py, "a chunk's memory is a contiguous buffer (bytes, bytearray, memoryview, numpy array)")
    })?;
    if !buffer.is_c_contiguous() {
        return Err(argument(py, "a chunk's buffer must be contiguous"));
    }
    if writable && buffer.readonly() {
        return Err(argument(py, "a buffer to load into must be writable"));
    }
    let region = Region { address: buffer.buf_ptr().cast(), len: buffer.len_bytes() };
    let owner: Arc<dyn Send + Sync> = Arc::new(Exported { _buffer: buffer });
    // SAFETY: an exported buffer keeps its memory where it is until it is released, which `owner` does last. That
    // the caller leaves a buffer alone while it is stored or loaded is the API's stated condition; a store that
    // races with a writer stores some mixture, which its checksum then covers: no memory is touched wrongly.
    Ok(unsafe { Regions::new(vec![region], owner) })
}

/// An object that copies for itself, called with the GIL, for each part of the chunk: where in the chunk it begins, and a
/// view of the slot.
struct Called {
    object: Py<PyAny>,
    len: usize,
}

impl Called {
    /// Calls a method with a memoryview that does not outlive the call.
    fn call(&self, method: &str, at: usize, slot: *mut u8, len: usize, flags: i32) -> Result<(), String> {
        let called = Python::try_attach(|py| -> PyResult<()> {
            let len = ffi::Py_ssize_t::try_from(len)?;
            // SAFETY: the slot is leased to the caller of this method for the whole call, and the view is released
            // below, before the call returns. What Python makes from the view it must not keep: that is the stated
            // condition of `fill` and `drain`, since an array's hold on a buffer cannot be seen.
            let view = unsafe {
                Bound::from_owned_ptr_or_err(py, ffi::PyMemoryView_FromMemory(slot.cast(), len, flags))?
            };
            let called = self.object.bind(py).call_method1(method, (at, &view));
            let released = view.call_method0("release");
            called.and(released).map(|_| ())
        });
        match called {
            Some(outcome) => outcome.map_err(|error| error.to_string()),
            None => Err("the interpreter has ended".into()),
        }
    }
}

impl Source for Called {
    fn len(&self) -> usize {
        self.len
    }

    fn fill(&mut self, at: usize, to: &mut [u8], seen: Observer<'_>) -> Result<(), String> {
        self.call("fill", at, to.as_mut_ptr(), to.len(), ffi::PyBUF_WRITE)?;
        seen(to);
        Ok(())
    }
}

impl Sink for Called {
    fn len(&self) -> usize {
        self.len
    }

    fn drain(&mut self, at: usize, from: &[u8], seen: Observer<'_>) -> Result<(), String> {
        seen(from);
        self.call("drain", at, from.as_ptr().cast_mut(), from.len(), ffi::PyBUF_READ)
    }
}

/// A chunk's memory to store from; `len` is the plan's, for objects that copy for themselves.
pub(crate) fn source(object: &Bound<'_, PyAny>, len: usize) -> PyResult<Box<dyn Source>> {
    if let Ok(chunk) = object.cast::<PagedChunk>() {
        return Ok(Box::new(chunk.get().regions()));
    }
    if object.hasattr("fill")? && !object.hasattr("__array_interface__")? {
        return Ok(Box::new(Called { object: object.clone().unbind(), len }));
    }
    buffer_source(object)
}

/// A chunk's memory to load into.
pub(crate) fn sink(object: &Bound<'_, PyAny>, len: usize) -> PyResult<Box<dyn Sink>> {
    if let Ok(chunk) = object.cast::<PagedChunk>() {
        return Ok(Box::new(chunk.get().regions()));
    }
    if object.hasattr("drain")? {
        return Ok(Box::new(Called { object: object.clone().unbind(), len }));
    }
    buffer_sink(object)
}

/// Buffers, for the façade.
pub(crate) fn buffer_source(object: &Bound<'_, PyAny>) -> PyResult<Box<dyn Source>> {
    if let Ok(buffer) = object.cast::<PageBuffer>() {
        return Ok(Box::new(InPages(Arc::clone(&buffer.get().0))));
    }
    Ok(Box::new(exported(object, false)?))
}

/// Buffers, for the façade.
pub(crate) fn buffer_sink(object: &Bound<'_, PyAny>) -> PyResult<Box<dyn Sink>> {
    if let Ok(buffer) = object.cast::<PageBuffer>() {
        return Ok(Box::new(InPages(Arc::clone(&buffer.get().0))));
    }
    Ok(Box::new(exported(object, true)?))
}
