"""LMCache's LocalDisk backend, asked as its engine and storage manager ask it. Run by ../robustness_rounds.py."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from typing import Any

from act import STORE_MAX_S, Subject, poison, run
from lmcache.v1.memory_management import MemoryFormat, MemoryObj
from lmcache.v1.pin_monitor import PinMonitor
from lmcache_disk import LMCacheDisk, torch
from peer import Content


class Asked(Subject):
    def _allocate(self) -> MemoryObj | None:
        # As its engine stores: without waiting for room.
        peer = self.peer
        return peer._pool.allocate(peer._shape, torch.bfloat16, MemoryFormat.KV_2LTD, busy_loop=False)

    def put(self, chunks: Sequence[int]) -> list[str]:
        taken = [(chunk, held) for chunk in chunks if (held := self._allocate()) is not None]
        self.fill([chunk for chunk, _ in taken], [memoryview(held.byte_array) for _, held in taken])
        reported: list[Any] = []
        keys = [self.peer._key(chunk) for chunk, _ in taken]
        self.peer._disk.batched_submit_put_task(keys, [held for _, held in taken], on_complete_callback=reported.append)
        for _, held in taken:
            held.ref_count_down()
        deadline_s = time.monotonic() + STORE_MAX_S
        while len(reported) < len(keys) and time.monotonic() < deadline_s:
            time.sleep(0.001)
        answers = {chunk: "stored" if key in reported else "not reported" for (chunk, _), key in zip(taken, keys)}  # noqa: B905
        return [answers.get(chunk, "no memory for it") for chunk in chunks]

    def poison(self) -> None:
        free = []
        while (held := self._allocate()) is not None:
            free.append(held)
        poison([memoryview(held.byte_array) for held in free])
        for held in free:
            held.ref_count_down()


class AskedAsync(Asked):
    """As with `enable_async_loading`: the prefix that is there is pinned and then loaded on LMCache's loop."""

    def __init__(self, peer: LMCacheDisk, content: Content) -> None:
        super().__init__(peer, content)
        # Its engine makes it at its start, before anything is pinned.
        PinMonitor.GetOrCreate(self.peer._pool.config)

    def get(self, chunks: Sequence[int]) -> list[memoryview | None]:
        disk, keys = self.peer._disk, [self.peer._key(chunk) for chunk in chunks]

        async def load() -> list[MemoryObj]:
            there = await disk.batched_async_contains("bench", keys, pin=True)
            return await disk.batched_get_non_blocking("bench", keys[:there]) if there else []

        found = asyncio.run_coroutine_threadsafe(load(), self.peer._loop).result()
        for held in found:
            held.unpin()
        self.peer._held = found
        return [memoryview(held.byte_array) for held in found] + [None] * (len(chunks) - len(found))


def make(options: argparse.Namespace, content: Content) -> Subject:
    mode, _, loading = options.mode.partition("-")
    options.mode = mode
    return (AskedAsync if loading else Asked)(LMCacheDisk(options), content)


if __name__ == "__main__":
    run(make)
