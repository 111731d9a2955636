"""Several workers under one scheduler: the connector's halves with real control plane, movers, files and pages, their
outputs merged by vLLM's own aggregator. Guarantees 1, 4, 6 and 9 of docs/DESIGN.md, for an engine of any number of
ranks."""

from __future__ import annotations

import itertools
import pickle
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
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
TP2 = (Shard(0, 2, 0, 1, workers=(0,)), Shard(1, 2, 0, 1, workers=(1,)))
PP2 = (Shard(0, 1, 0, 2, workers=(0,)), Shard(0, 1, 1, 2, workers=(1,)))
MLA2 = (Shard(0, 1, 0, 1, workers=(0, 1)),)
TP2_PP2 = tuple(Shard(tp, 2, pp, 2, workers=(2 * pp + tp,)) for pp in range(2) for tp in range(2))
MLA2_PP2 = (Shard(0, 1, 0, 2, workers=(0, 1)), Shard(0, 1, 1, 2, workers=(2, 3)))
PATIENCE_S = 30.0
PROMPT_TOKENS = 4 * CHUNK_TOKENS + 2


def computed(prompt: int, block: int, shard: int) -> torch.Tensor:
    """What a forward pass leaves in the pages of a prompt's block: one row a layer."""
    noise = random.Random(f"{prompt} {block} {shard}").randbytes(2 * PAGE_BYTES)
    return torch.frombuffer(bytearray(noise), dtype=torch.uint8).view(2, PAGE_BYTES)


class Engine:
    """What vLLM does with a connector, one prompt after the other."""

    def __init__(
        self, directory: Path, shards: tuple[Shard, ...], *, dead: tuple[int, ...] = (), role: str = "kv_both"
    ) -> None:
        self.settings = read_settings(
            {
                "local_disk": str(directory),
                "max_local_disk_size": 0.01,
                "disk_min_free_size": 0,
                "max_local_cpu_size": 0.01,
                "use_only_staging_buffer": True,
                "chunk_size": CHUNK_TOKENS,
            }
        )
        self.shard_of = {worker: index for index, shard in enumerate(shards) for worker in shard.workers}
        namespaces = [forebay.Namespace("m", tp_rank=s.tp_rank, tp_size=s.tp_size, pp_rank=s.pp_rank) for s in shards]
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

    def prefill(self, prompt: int) -> tuple[int, int]:
        """Tokens that were promised from the cache, and those of them that arrived; each rank's bytes are checked."""
        name = f"{prompt}-{next(self.names)}"
        blocks = PROMPT_TOKENS // BLOCK_TOKENS
        request = SimpleNamespace(
            request_id=name,
            num_tokens=PROMPT_TOKENS,
            num_prompt_tokens=PROMPT_TOKENS,
            num_computed_tokens=0,
            block_hashes=[bytes([prompt, block]) * 16 for block in range(blocks)],
            skip_reading_prefix_cache=False,
        )
        self.block_ids = random.Random(name).sample(range(BLOCKS), blocks + 1)
        for memory in self.memory:
            memory.zero_()
        promised = self.ask(request)
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
            return not self.scheduler.stores_in_flight() and (not keep or name in sent)

        self.step({name: PROMPT_TOKENS - request.num_computed_tokens})
        keep = self.scheduler.request_finished(name)
        self.idle_until(settled)
        return promised, arrived * BLOCK_TOKENS

    def close(self) -> dict[str, Any]:
        for worker in self.workers:
            worker.shutdown()
        return self.scheduler.shutdown()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Starts engines on one directory, each after the one before has ended."""
    running: list[Engine] = []

    def start(shards: tuple[Shard, ...], **options: Any) -> Engine:
        while running:
            running.pop().close()
        running.append(Engine(tmp_path, shards, **options))
        return running[-1]

    yield start
    for each in running:
        stats = each.close()
        at_rest = ("connector_requests", "connector_loads_open", "connector_stores_open", "open_tickets")
        assert {name: stats[name] for name in at_rest} == dict.fromkeys(at_rest, 0), "something leaked"


def damage(directory: Path, prompt: int, shard: int, chunk: int) -> None:
    """Flips a byte of what one shard holds of one chunk."""
    stored = computed(prompt, chunk * CHUNK_TOKENS // BLOCK_TOKENS, shard)[0].numpy().tobytes()
    with (directory / "data").open("r+b") as file:
        place = file.read().find(stored)
        assert place >= 0, "this chunk is not in the data file"
        file.seek(place)
        file.write(bytes([stored[0] ^ 1]))


ALL = 4 * CHUNK_TOKENS


@pytest.mark.parametrize("shards", [TP2, PP2, MLA2, TP2_PP2, MLA2_PP2], ids=["tp", "pp", "mla", "tp+pp", "mla+pp"])
def test_after_a_restart_every_rank_gets_its_own_bytes_back(
    engine: Callable[..., Engine], shards: tuple[Shard, ...]
) -> None:
    first = engine(shards)
    assert first.prefill(1) == (0, 0)
    assert first.prefill(2) == (0, 0)
    stored = first.scheduler.stats()
    assert stored["connector_chunks_stored"] == 2 * 4 * len(shards), "what ranks have in common is stored once"
    second = engine(shards)
    assert second.prefill(1) == (ALL, ALL)
    assert second.prefill(2) == (ALL, ALL)
    loaded = second.scheduler.stats()
    assert loaded["connector_chunks_loaded"] == 2 * 4 * len(second.workers)
    assert "connector_chunks_stored" not in loaded


def test_a_chunk_that_one_rank_lost_is_computed_and_no_hit_until_it_is_stored_again(
    engine: Callable[..., Engine], tmp_path: Path
) -> None:
    engine(TP2).prefill(1)
    consumer = engine(TP2, role="kv_consumer")
    damage(tmp_path, prompt=1, shard=1, chunk=2)
    assert consumer.prefill(1) == (ALL, 2 * CHUNK_TOKENS), "the other rank's chunk does not help"
    assert consumer.prefill(1) == (2 * CHUNK_TOKENS, 2 * CHUNK_TOKENS), "a chunk is a hit if every rank has it"
    mending = engine(TP2)
    assert mending.prefill(1) == (2 * CHUNK_TOKENS, 2 * CHUNK_TOKENS)
    assert mending.scheduler.stats()["connector_chunks_stored"] == 1, "one rank's part, the other has its own"
    assert mending.prefill(1) == (ALL, ALL)


def test_what_all_ranks_share_and_lost_is_computed_on_all(engine: Callable[..., Engine], tmp_path: Path) -> None:
    engine(MLA2).prefill(1)
    damage(tmp_path, prompt=1, shard=0, chunk=1)
    second = engine(MLA2)
    assert second.prefill(1) == (ALL, CHUNK_TOKENS)
    assert second.prefill(1) == (ALL, ALL)


@pytest.mark.parametrize("shards", [TP2, MLA2], ids=["tp", "mla"])
@pytest.mark.parametrize("dead", [0, 1])
def test_a_rank_without_a_mover_makes_every_lookup_a_miss_and_nothing_hangs(
    engine: Callable[..., Engine], shards: tuple[Shard, ...], dead: int
) -> None:
    engine(shards).prefill(1)
    lame = engine(shards, dead=(dead,))
    promised, arrived = lame.prefill(1)  # the rank's report comes with the first step
    assert (promised, arrived) == (ALL, 0)
    assert lame.prefill(1) == (0, 0)
    assert lame.prefill(2) == (0, 0)
    assert engine(shards).prefill(1) == (ALL, ALL), "what was stored is still there"


def test_a_producer_only_stores_and_a_consumer_only_loads(engine: Callable[..., Engine]) -> None:
    producer = engine(TP2, role="kv_producer")
    assert [producer.prefill(1), producer.prefill(1)] == [(0, 0), (0, 0)]
    assert producer.plane.stats()["lookups"] == 0
    consumer = engine(TP2, role="kv_consumer")
    assert [consumer.prefill(1), consumer.prefill(2), consumer.prefill(2)] == [(ALL, ALL), (0, 0), (0, 0)]
    assert "connector_chunks_stored" not in consumer.scheduler.stats()


def test_what_several_ranks_finished_while_shutting_down_is_committed(engine: Callable[..., Engine]) -> None:
    first = engine(TP2)
    first.block_ids = list(range(9))
    request = SimpleNamespace(
        request_id="last",
        num_tokens=PROMPT_TOKENS,
        num_prompt_tokens=PROMPT_TOKENS,
        num_computed_tokens=0,
        block_hashes=[bytes([1, block]) * 16 for block in range(8)],
        skip_reading_prefix_cache=False,
    )
    for worker, block in itertools.product(range(2), range(8)):
        first.page(worker, block).copy_(computed(1, block, worker))
    assert first.ask(request) == 0
    plan = first.scheduler.plan_step({"last": PROMPT_TOKENS}, (), lambda name: first.block_ids)
    for worker in first.workers:
        worker.start_loads(plan)
        worker.start_stores(plan)
    assert engine(TP2).prefill(1) == (ALL, ALL)
