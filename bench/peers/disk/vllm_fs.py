"""The `fs` tier of vLLM's native offloading, driven without an engine. Run by ../run.py.

Its memory is the primary tier's region (`SharedOffloadRegion`, shared memory) as vLLM makes it, of one batch. A chunk
is filled in and compared inside that region: the copy between it and an engine's memory is not counted. Each chunk is
a job of its own, so that all threads take part; as vLLM submits it, a request's chunks are one job on one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Sequence
from types import SimpleNamespace

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import numpy as np
from peer import Peer, run
from vllm.v1.kv_offload.base import OffloadingKVEventsConfig, OffloadKey, ReqContext, make_offload_key
from vllm.v1.kv_offload.config import (
    OffloadingCacheConfig,
    OffloadingConfig,
    OffloadingGroupConfig,
    OffloadingModelConfig,
    OffloadingParallelConfig,
)
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.base import TransferJob
from vllm.v1.kv_offload.tiering.fs import io as fs_io
from vllm.v1.kv_offload.tiering.fs.manager import FileSystemTierManager

TOKENS = 256


def _config(chunk_bytes: int) -> OffloadingConfig:
    return OffloadingConfig(
        groups=(OffloadingGroupConfig(tokens_per_block=TOKENS, layer_names=("layer",), group_id=0),),
        worker_kv_bytes_per_block=chunk_bytes,
        enable_kv_cache_events=False,
        extra_config={},
        engine_id=f"bench-{os.getpid()}",
        model=OffloadingModelConfig(name="bench", dtype="bfloat16"),
        cache=OffloadingCacheConfig(tokens_per_hash=TOKENS, blocks_per_chunk=1),
        parallel=OffloadingParallelConfig(
            rank=0,
            world_size=1,
            tp_size=1,
            pp_size=1,
            pcp_size=1,
            dcp_size=1,
            data_parallel_index=0,
            data_parallel_size=1,
            data_parallel_rank_local=None,
            is_parallelism_agnostic=True,
        ),
    )


class VllmFs(Peer):
    checked = False

    def __init__(self, options: argparse.Namespace) -> None:
        extension = "" if fs_io._HAS_FSIO_C else ", without its C extension"
        self.name = f"vLLM fs tier{extension}"
        self.staging_bytes = options.batch * options.chunk_bytes
        config = _config(options.chunk_bytes)
        self._region = SharedOffloadRegion(config.engine_id, options.batch, None, options.chunk_bytes, 0)
        events = OffloadingKVEventsConfig(enable_kv_cache_events=False, self_describing_kv_events=False)
        self._view = self._region.create_kv_memoryview()
        self._tier = FileSystemTierManager(
            SimpleNamespace(config=config, kv_events_config=events, blocks_per_chunk=1),
            self._view,
            "fs",
            str(options.directory),
            n_read_threads=options.threads // 2,
            n_write_threads=options.threads - options.threads // 2,
        )
        self._jobs = 0
        self._request = ReqContext(req_id="bench")

    @staticmethod
    def _key(chunk: int) -> OffloadKey:
        return make_offload_key(hashlib.sha256(chunk.to_bytes(8)).digest(), 0)

    def _slots(self, count: int) -> list[memoryview]:
        whole = np.asarray(self._view)
        return [memoryview(whole[slot]) for slot in range(count)]

    def _jobs_for(self, chunks: Sequence[int], promotion: bool) -> list[TransferJob]:
        first, self._jobs = self._jobs, self._jobs + len(chunks)
        return [
            TransferJob(first + slot, [self._key(chunk)], np.array([slot]), promotion, self._request)
            for slot, chunk in enumerate(chunks)
        ]

    def _succeeded(self, jobs: list[TransferJob]) -> list[bool]:
        self._tier.drain_jobs()
        ended = {result.job_id: result.success for result in self._tier.get_finished_jobs()}
        return [ended.get(job.job_id, False) for job in jobs]

    def room(self, chunks: Sequence[int]) -> list[memoryview]:
        return self._slots(len(chunks))

    def store(self, chunks: Sequence[int]) -> None:
        jobs = self._jobs_for(chunks, promotion=False)
        for job in jobs:
            self._tier.submit_store(job)
        self._succeeded(jobs)

    def load(self, chunks: Sequence[int]) -> list[memoryview | None]:
        jobs = self._jobs_for(chunks, promotion=True)
        for job in jobs:
            self._tier.submit_load(job)
        loaded = self._succeeded(jobs)
        slots = self._slots(len(chunks))
        return [slot if right else None for right, slot in zip(loaded, slots, strict=True)]

    def lookup(self, chunks: Sequence[int]) -> int:
        keys = [self._key(chunk) for chunk in chunks]
        return sum(self._tier._lookup_manager.batch_lookup(keys, self._request))

    def close(self) -> None:
        self._tier.shutdown()
        self._view.release()
        self._region.cleanup()


if __name__ == "__main__":
    run(VllmFs)
