"""How much of a directory's files the page cache holds, and how to make it hold nothing of them."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_MAP_FAILED = ctypes.c_void_p(-1).value


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file() and path.stat().st_size)


def held_bytes(directory: Path) -> int:
    """Bytes of all files below `directory` that are in the page cache."""
    return sum(_held(path) for path in _files(directory))


def _held(path: Path) -> int:
    file = os.open(path, os.O_RDONLY)
    try:
        length = os.fstat(file).st_size
        address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), f"cannot map {path}")
        pages = ctypes.create_string_buffer(-(-length // mmap.PAGESIZE))
        failed = _libc.mincore(address, length, pages)
        _libc.munmap(address, length)
        if failed:
            raise OSError(ctypes.get_errno(), f"cannot ask for the pages of {path}")
    finally:
        os.close(file)
    # Only the lowest bit of each byte means anything.
    return (len(pages.raw) - pages.raw.count(b"\0")) * mmap.PAGESIZE


def sync(directory: Path) -> float:
    """Makes every file durable; seconds it took."""
    began_s = time.perf_counter()
    for path in _files(directory):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.close(file)
    return time.perf_counter() - began_s


def drop(directory: Path) -> None:
    """Empties the page cache of the files, which must be synced. Raises where it cannot be emptied."""
    for path in _files(directory):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
    total = sum(path.stat().st_size for path in _files(directory))
    if (left := held_bytes(directory)) > total // 100:
        raise RuntimeError(f"{left} bytes of {directory} stay in the page cache; a read would not be cold")
