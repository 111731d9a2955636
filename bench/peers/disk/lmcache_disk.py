"""LMCache's LocalDisk backend, driven as its storage manager drives it. Run by ../run.py.

`local_cpu` is false, so its memory is a staging pool that chunks cross. A chunk is filled in and compared inside
that pool: the copy between an engine's memory and the pool, which its GPU connector would do, is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import threading
from collections.abc import Sequence

os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")

import torch
from lmcache.utils import CacheEngineKey
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.memory_management import MemoryFormat, MemoryObj
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend
from lmcache.v1.storage_backend.local_disk_backend import LocalDiskBackend
from peer import Peer, run

GIB = 1 << 30
TOKENS = 256
STORE_MAX_S = 300


class LMCacheDisk(Peer):
    checked = False

    def __init__(self, options: argparse.Namespace) -> None:
        direct = options.mode == "direct"
        self.name = f"LMCache LocalDisk, {'O_DIRECT' if direct else 'buffered'}"
        self.staging_bytes = options.staging_bytes
        config = LMCacheEngineConfig.from_defaults(
            chunk_size=TOKENS,
            local_cpu=False,
            max_local_cpu_size=options.staging_bytes / GIB,
            local_disk=str(options.directory),
            max_local_disk_size=2 * options.chunks * options.chunk_bytes / GIB,
            extra_config={"use_odirect": direct, "disk_io_threads": options.threads},
        )
        hidden = options.chunk_bytes // (2 * TOKENS * torch.bfloat16.itemsize)
        self._shape = torch.Size([2, 1, TOKENS, hidden])
        metadata = LMCacheMetadata(
            model_name="bench",
            world_size=1,
            local_world_size=1,
            worker_id=0,
            local_worker_id=0,
            kv_dtype=torch.bfloat16,
            kv_shape=(1, 2, TOKENS, 1, hidden),
        )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._pool = LocalCPUBackend(config, metadata, dst_device="cpu")
        self._disk = LocalDiskBackend(config, self._loop, self._pool, dst_device="cpu", metadata=metadata)
        self._held: list[MemoryObj] = []

    @staticmethod
    def _key(chunk: int) -> CacheEngineKey:
        return CacheEngineKey("bench", 1, 0, chunk + 1, torch.bfloat16)

    def room(self, chunks: Sequence[int]) -> list[memoryview]:
        for _ in chunks:
            held = self._pool.allocate(self._shape, torch.bfloat16, MemoryFormat.KV_2LTD)
            assert held is not None
            self._held.append(held)
        return [memoryview(held.byte_array) for held in self._held]

    def store(self, chunks: Sequence[int]) -> None:
        stored = threading.Semaphore(0)
        self._disk.batched_submit_put_task(
            [self._key(chunk) for chunk in chunks], self._held, on_complete_callback=lambda _: stored.release()
        )
        for _ in chunks:
            if not stored.acquire(timeout=STORE_MAX_S):
                raise TimeoutError("LMCache did not report a chunk as stored")

    def load(self, chunks: Sequence[int]) -> list[memoryview | None]:
        found = self._disk.batched_get_blocking([self._key(chunk) for chunk in chunks])
        self._held = [held for held in found if held is not None]
        return [None if held is None else memoryview(held.byte_array) for held in found]

    def done(self) -> None:
        for held in self._held:
            held.ref_count_down()
        self._held = []

    def lookup(self, chunks: Sequence[int]) -> int:
        return sum(self._disk.contains(self._key(chunk)) for chunk in chunks)

    def close(self) -> None:
        self._disk.close()
        self._loop.call_soon_threadsafe(self._loop.stop)


if __name__ == "__main__":
    run(LMCacheDisk)
