"""Several workers under one scheduler. Guarantees 1, 4, 6 and 9 of docs/DESIGN.md, for an engine of any number of
ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from halves_engine import BLOCK_TOKENS, CHUNK_TOKENS, PROMPT_TOKENS, Engine, computed

from forebay.vllm.layout import Shard

TP2 = (Shard(0, 2, 0, 1, workers=(0,)), Shard(1, 2, 0, 1, workers=(1,)))
PP2 = (Shard(0, 1, 0, 2, workers=(0,)), Shard(0, 1, 1, 2, workers=(1,)))
MLA2 = (Shard(0, 1, 0, 1, workers=(0, 1)),)
TP2_PP2 = tuple(Shard(tp, 2, pp, 2, workers=(2 * pp + tp,)) for pp in range(2) for tp in range(2))
MLA2_PP2 = (Shard(0, 1, 0, 2, workers=(0, 1)), Shard(0, 1, 1, 2, workers=(2, 3)))


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
        num_output_tokens=0,
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
