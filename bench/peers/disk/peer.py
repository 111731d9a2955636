"""A peer's side of the disk benchmark: the same work for every cache, told as one JSON line a phase.

A peer is a class with the methods of `Peer`; `run` drives it through the phases and prints what each took. The
process that started it (../run.py) measures memory and page cache between the phases, empties the page cache and
answers with a line: nothing goes on before it did. What is filled in, checked or printed is never inside a timed
part. Processor time is that of the whole process, all its threads.

Every chunk has its own bytes; they are compared after every load, so a chunk is right, wrong or missing.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HUGE_PAGE = 2 << 20
LOOKUP_S = 0.5
_MASK = (1 << 64) - 1


class Peer(ABC):
    """One cache under test. `chunks` are numbers from 0; what a key is, is the peer's business."""

    name: str
    checked: bool
    """Whether a load compares the payload with a checksum."""
    staging_bytes: int
    caller_bytes = 0
    """Memory that stands for the engine's and would be there without the cache."""

    @abstractmethod
    def room(self, chunks: Sequence[int]) -> list[memoryview]:
        """Memory to put these chunks in before they are stored: the cache's own where it has such memory."""

    @abstractmethod
    def store(self, chunks: Sequence[int]) -> None:
        """Stores what `room` was filled with and returns when all of it can be loaded."""

    @abstractmethod
    def load(self, chunks: Sequence[int]) -> list[memoryview | None]:
        """Loads chunks, all at once as far as the cache can; None is a chunk it did not give."""

    def done(self) -> None:  # noqa: B027 - most peers keep nothing
        """What `room` or `load` gave is not needed any more."""

    @abstractmethod
    def lookup(self, chunks: Sequence[int]) -> int:
        """How many of them are there, as the cache answers before a load."""

    @abstractmethod
    def close(self) -> None: ...


class Content:
    """What a chunk must hold: one random block, changed by the number of chunk and round."""

    def __init__(self, chunk_bytes: int, salt: int) -> None:
        self._base = np.random.default_rng(7).integers(0, _MASK, chunk_bytes // 8, dtype=np.uint64, endpoint=True)
        self._scratch = self._base.copy()
        self._salt = salt

    def _key(self, chunk: int) -> np.uint64:
        mixed = ((self._salt << 32) + chunk + 1) * 0x9E3779B97F4A7C15 & _MASK
        return np.uint64(mixed ^ mixed >> 29)

    def fill(self, view: memoryview, chunk: int) -> None:
        np.bitwise_xor(self._base, self._key(chunk), out=np.frombuffer(view, dtype=np.uint64))

    def right(self, view: memoryview, chunk: int) -> bool:
        seen = np.frombuffer(view, dtype=np.uint64)
        if seen.size != self._base.size:
            return False
        np.bitwise_xor(seen, self._key(chunk), out=self._scratch)
        return bool(np.array_equal(self._scratch, self._base))


def huge_buffers(count: int, length: int) -> list[memoryview]:
    """Memory of an engine: on huge pages, each buffer at a border of 4 KiB, every page touched."""
    stride = -(-length // 4096) * 4096
    mapping = mmap.mmap(-1, count * stride + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(mapping, dtype=np.uint8)
    start = -whole.ctypes.data % HUGE_PAGE
    whole[start :: mmap.PAGESIZE] = 0
    return [memoryview(whole[start + i * stride : start + i * stride + length]) for i in range(count)]


class _Clock:
    """Wall and processor seconds of the timed parts."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0
        self.each_s: list[float] = []

    def time(self, work: Callable[[], Any]) -> Any:
        used = resource.getrusage(resource.RUSAGE_SELF)
        began = time.perf_counter()
        result = work()
        took = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_SELF)
        self.wall_s += took
        self.cpu_s += after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
        self.each_s.append(took)
        return result


class _Starter:
    """The line to the process that started this one. Whatever else prints, prints to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def tell(self, phase: str, **seen: Any) -> None:
        print(json.dumps({"phase": phase, **seen}), file=self._out, flush=True)
        if not sys.stdin.readline():
            sys.exit("the starter is gone")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--chunk-bytes", type=int, required=True)
    parser.add_argument("--chunks", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True, help="chunks stored, and loaded, at once")
    parser.add_argument("--staging-bytes", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--salt", type=int, required=True)
    parser.add_argument("--mode", default="", help="a variant of the peer")
    return parser.parse_args()


def _batches(options: argparse.Namespace, size: int) -> Iterator[range]:
    for first in range(0, options.chunks, size):
        yield range(first, min(first + size, options.chunks))


def _read(peer: Peer, content: Content, options: argparse.Namespace, size: int) -> dict[str, Any]:
    clock, missing, wrong = _Clock(), [], []
    for batch in _batches(options, size):
        for chunk, view in zip(batch, clock.time(lambda chunks=batch: peer.load(chunks)), strict=True):
            if view is None:
                missing.append(chunk)
            elif not content.right(view, chunk):
                wrong.append(chunk)
        peer.done()
    read = (options.chunks - len(missing)) * options.chunk_bytes
    return {
        "bytes": read,
        "wall_s": clock.wall_s,
        "cpu_s": clock.cpu_s,
        "each_ms": [round(each * 1000, 4) for each in clock.each_s],
        "missing": len(missing),
        "wrong": len(wrong),
    }


def run(make: Callable[[argparse.Namespace], Peer]) -> None:
    starter, options = _Starter(), arguments()
    content = Content(options.chunk_bytes, options.salt)
    starter.tell("imported")
    peer = make(options)
    starter.tell(
        "open",
        name=peer.name,
        checked=peer.checked,
        staging_bytes=peer.staging_bytes,
        caller_bytes=peer.caller_bytes,
    )

    clock = _Clock()
    for batch in _batches(options, options.batch):
        for chunk, view in zip(batch, peer.room(batch), strict=True):
            content.fill(view, chunk)
        clock.time(lambda chunks=batch: peer.store(chunks))
        peer.done()
    starter.tell("write", bytes=options.chunks * options.chunk_bytes, wall_s=clock.wall_s, cpu_s=clock.cpu_s)

    starter.tell("read_one", **_read(peer, content, options, 1))
    starter.tell("read_batch", **_read(peer, content, options, options.batch))

    clock, asked, found = _Clock(), 0, 0
    while clock.wall_s < LOOKUP_S:
        found = clock.time(lambda: peer.lookup(range(options.chunks)))
        asked += options.chunks
    starter.tell("lookup", keys=asked, found=found, wall_s=clock.wall_s)
    peer.close()
    starter.tell("closed")
