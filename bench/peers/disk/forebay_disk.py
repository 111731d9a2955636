"""Forebay through its Python façade, staging-only. Run by ../run.py.

The chunks lie in the caller's memory before a store and after a load: everything between that memory and the disk
is counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from peer import Peer, run

import forebay

GIB = 1 << 30


class Forebay(Peer):
    name = "Forebay"
    checked = True

    def __init__(self, options: argparse.Namespace) -> None:
        self.staging_bytes = options.staging_bytes
        config = forebay.Config(
            local_disk=str(options.directory),
            max_local_disk_size=2 * options.chunks * options.chunk_bytes / GIB,
            local_cpu=False,
            use_only_staging_buffer=True,
            max_local_cpu_size=options.staging_bytes / GIB,
            disk_io_threads=options.threads,
        )
        self._cache = forebay.Cache(config, options.chunk_bytes)
        self._keys = forebay.chunk_keys(range(options.chunks), 1, forebay.Namespace(model="bench"))
        self.caller_bytes = options.batch * options.chunk_bytes
        self._buffers = [forebay.PageBuffer(options.chunk_bytes) for _ in range(options.batch)]

    def room(self, chunks: Sequence[int]) -> list[memoryview]:
        return [memoryview(buffer) for buffer in self._buffers[: len(chunks)]]

    def store(self, chunks: Sequence[int]) -> None:
        parent = self._keys[chunks[0] - 1] if chunks[0] else None
        keys = [self._keys[chunk] for chunk in chunks]
        self._cache.store(keys, self._buffers[: len(keys)], parent=parent).wait()

    def load(self, chunks: Sequence[int]) -> list[memoryview | None]:
        keys = [self._keys[chunk] for chunk in chunks]
        outcomes = self._cache.load(keys, self._buffers[: len(keys)]).wait()
        return [
            memoryview(buffer) if outcome.status == "loaded" else None
            for outcome, buffer in zip(outcomes, self._buffers, strict=False)
        ]

    def lookup(self, chunks: Sequence[int]) -> int:
        with self._cache.lookup(self._keys[: len(chunks)]) as hit:
            return hit.chunks

    def close(self) -> None:
        self._cache.close()


if __name__ == "__main__":
    run(Forebay)
