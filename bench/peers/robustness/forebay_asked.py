"""Forebay through its Python façade, staging-only. Run by ../robustness_rounds.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from act import STORE_MAX_S, Subject, poison, run
from forebay_disk import GIB, Forebay

import forebay


class Small(Forebay):
    def __init__(self, options: argparse.Namespace) -> None:
        config = forebay.Config(
            local_disk=str(options.directory),
            max_local_disk_size=2 * options.chunks * options.chunk_bytes / GIB,
            local_cpu=False,
            use_only_staging_buffer=True,
            max_local_cpu_size=options.staging_bytes / GIB,
            disk_io_threads=options.threads,
            # The file system of one of the cases is smaller than what is left free by default.
            disk_min_free_size=0,
        )
        self._cache = forebay.Cache(config, options.chunk_bytes)
        self._keys = forebay.chunk_keys(range(options.chunks), 1, forebay.Namespace(model="bench"))
        self._buffers = [forebay.PageBuffer(options.chunk_bytes) for _ in range(options.chunks)]

    def put(self, chunks: Sequence[int]) -> list[str]:
        parent = self._keys[chunks[0] - 1] if chunks[0] else None
        keys = [self._keys[chunk] for chunk in chunks]
        outcomes = self._cache.store(keys, self._buffers[: len(keys)], parent=parent).wait(STORE_MAX_S)
        return ["stored" if outcome.status in ("stored", "present") else outcome.status for outcome in outcomes]

    def views(self) -> list[memoryview]:
        return [memoryview(buffer) for buffer in self._buffers]


class Asked(Subject):
    def put(self, chunks: Sequence[int]) -> list[str]:
        self.fill(chunks, self.peer.views())
        return self.peer.put(chunks)

    def poison(self) -> None:
        poison(self.peer.views())


if __name__ == "__main__":
    run(lambda options, content: Asked(Small(options), content))
