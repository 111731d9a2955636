"""The connector's halves as vLLM drives them, without vLLM: real control plane, movers, files and pages, any number of
workers under one scheduler, and their outputs merged by vLLM's own aggregator."""

from __future__ import annotations

import itertools
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.utils import KVOutputAggregator
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput

import forebay
from forebay.vllm.device import open_pages
from forebay.vllm.incidents import Incidents
from forebay.vllm.layout import KvLayout, Shard
from forebay.vllm.messages import StepPlan
from forebay.vllm.scheduler import SchedulerHalf
from forebay.vllm.settings import read_settings
from forebay.vllm.worker import WorkerHalf

BLOCKS, PAGE_BYTES, BLOCK_TOKENS, CHUNK_TOKENS = 64, 4096, 4, 8
LAYOUT = KvLayout(
    "LBHNC",
    layers=("l0", "l1"),
    layer_offsets=(0, BLOCKS * PAGE_BYTES),
    block_stride=PAGE_BYTES,
    page_bytes=PAGE_BYTES,
    size_bytes=2 * BLOCKS * PAGE_BYTES,
    block_tokens=BLOCK_TOKENS,
    hash_tokens=BLOCK_TOKENS,
    chunk_tokens=CHUNK_TOKENS,
)
PATIENCE_S = 30.0
PROMPT_TOKENS = 4 * CHUNK_TOKENS + 2


def computed(prompt: int, block: int, shard: int) -> torch.Tensor:
    """What a forward pass leaves in the pages of a prompt's block: one row a layer."""
    noise = random.Random(f"{prompt} {block} {shard}").randbytes(2 * PAGE_BYTES)
    return torch.frombuffer(bytearray(noise), dtype=torch.uint8).view(2, PAGE_BYTES)


class Engine:
    """What vLLM does with a connector, one prompt after the other."""

    def __init__(
        self,
        directory: Path | None,
        shards: tuple[Shard, ...],
        *,
        dead: tuple[int, ...] = (),
        role: str = "kv_both",
        announces: bool = False,
        salt: str = "",
        **options: Any,
    ) -> None:
        """Without a directory there is no disk. `dead` are workers whose mover does not start; `options` are further
        settings."""
        disk = {"local_disk": str(directory), "max_local_disk_size": 0.01, "disk_min_free_size": 0}
        staging = {"max_local_cpu_size": 0.01, "use_only_staging_buffer": True, "chunk_size": CHUNK_TOKENS}
        self.settings = read_settings({**(disk if directory else {}), **staging, **options})
        self.shard_of = {worker: index for index, shard in enumerate(shards) for worker in shard.workers}
        namespaces = [
            forebay.Namespace("m", tp_rank=s.tp_rank, tp_size=s.tp_size, pp_rank=s.pp_rank, salt=salt) for s in shards
        ]
        self.plane = forebay.ControlPlane(self.settings.config, LAYOUT.chunk_bytes, namespaces[0])
        self.scheduler = SchedulerHalf(
            self.settings,
            LAYOUT,
            shards,
            self.plane,
            lambda request: namespaces,
            incidents=Incidents(),
            loads=role != "kv_producer",
            stores=role != "kv_consumer",
            announces=announces,
        )
        self.memory = [torch.zeros(LAYOUT.size_bytes, dtype=torch.uint8) for _ in self.shard_of]
        self.workers = [WorkerHalf(index, self._opener(index in dead), Incidents()) for index in sorted(self.shard_of)]
        for worker, memory in zip(self.workers, self.memory, strict=True):
            caches = {
                layer: memory.as_strided((BLOCKS, PAGE_BYTES), (PAGE_BYTES, 1), offset)
                for layer, offset in zip(LAYOUT.layers, LAYOUT.layer_offsets, strict=True)
            }
            worker.register(open_pages(LAYOUT, caches))
        self.aggregator = KVOutputAggregator(len(self.workers))
        self.block_ids: list[int] = []
        self.names = itertools.count()

    def _opener(self, dead: bool) -> Callable[[], forebay.Mover]:
        def open_mover() -> forebay.Mover:
            if dead:
                raise OSError("no memory for staging")
            return forebay.Mover(self.settings.config, LAYOUT.chunk_bytes)

        return open_mover

    def page(self, worker: int, block_id: int) -> torch.Tensor:
        return self.memory[worker].view(2, BLOCKS, PAGE_BYTES)[:, block_id]

    def step(self, scheduled: dict[str, int]) -> KVConnectorOutput:
        plan = self.scheduler.plan_step(scheduled, (), lambda name: self.block_ids)
        # Between processes, as in vLLM: nobody shares an object with another.
        sent = pickle.dumps(plan)
        answers = [pickle.dumps(self._worker_step(worker, pickle.loads(sent))) for worker in self.workers]
        merged = self.aggregator.aggregate([pickle.loads(answer) for answer in answers])
        assert merged is not None and merged.kv_connector_output is not None
        output = merged.kv_connector_output
        if output.kv_connector_worker_meta is not None:
            self.scheduler.take_report(output.kv_connector_worker_meta)
        self.scheduler.load_reported(output.finished_recving or ())
        return output

    @staticmethod
    def _worker_step(worker: WorkerHalf, plan: StepPlan) -> ModelRunnerOutput:
        worker.before_overwriting(plan)
        worker.start_loads(plan)
        worker.start_stores(plan)
        worker.start_copies(plan)
        sent, received = worker.finished(plan)
        output = KVConnectorOutput(
            finished_sending=sent or None,
            finished_recving=received or None,
            invalid_block_ids=worker.take_failed_blocks(),
            kv_connector_worker_meta=worker.take_report(),
        )
        return ModelRunnerOutput.with_kv_conn_output_only(output)

    def idle_until(self, over: Callable[[KVConnectorOutput], bool]) -> set[int]:
        """Steps on; gives the blocks that were reported as failed on the way."""
        failed: set[int] = set()
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            output = self.step({})
            failed |= output.invalid_block_ids
            if over(output):
                return failed
        raise AssertionError(f"the engine hangs: {self.scheduler.stats()}")

    def ask(self, request: Any) -> int:
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            tokens, _ = self.scheduler.matched_tokens(request, 0)
            if tokens is not None:
                return tokens
            self.step({})
        raise AssertionError("the lookup has no end")

    def prefill(self, prompt: int, after_lookup: Callable[[], object] = lambda: None) -> tuple[int, int]:
        """Tokens that were promised from the cache, and those of them that arrived; each rank's bytes are checked."""
        name = f"{prompt}-{next(self.names)}"
        blocks = PROMPT_TOKENS // BLOCK_TOKENS
        request = SimpleNamespace(
            request_id=name,
            num_tokens=PROMPT_TOKENS,
            num_prompt_tokens=PROMPT_TOKENS,
            num_computed_tokens=0,
            num_output_tokens=0,
            all_token_ids=list(range(prompt, prompt + PROMPT_TOKENS)),
            lora_request=None,
            block_hashes=[bytes([prompt, block]) * 16 for block in range(blocks)],
            skip_reading_prefix_cache=False,
        )
        self.block_ids = random.Random(name).sample(range(BLOCKS), blocks + 1)
        for memory in self.memory:
            memory.zero_()
        promised = self.ask(request)
        after_lookup()
        self.scheduler.allocated(request, self.block_ids, promised)
        arrived = promised // BLOCK_TOKENS
        if promised:
            failed = self.idle_until(lambda output: name in (output.finished_recving or ()))
            arrived = next((at for at in range(arrived) if self.block_ids[at] in failed), arrived)
        for worker, block in itertools.product(range(len(self.workers)), range(blocks)):
            right = computed(prompt, block, self.shard_of[worker])
            page = self.page(worker, self.block_ids[block])
            if block < arrived:
                assert torch.equal(page, right), f"worker {worker} was given wrong bytes in block {block}"
            page.copy_(right)
        request.num_computed_tokens = arrived * BLOCK_TOKENS
        keep = False
        sent: set[str] = set()

        def settled(output: KVConnectorOutput) -> bool:
            sent.update(output.finished_sending or ())
            return not self.scheduler.work_in_flight() and (not keep or name in sent)

        self.step({name: PROMPT_TOKENS - request.num_computed_tokens})
        request.num_output_tokens = 1
        keep = self.scheduler.request_finished(name)
        self.idle_until(settled)
        return promised, arrived * BLOCK_TOKENS

    def close(self) -> dict[str, Any]:
        for worker in self.workers:
            worker.shutdown()
        return self.scheduler.shutdown()
