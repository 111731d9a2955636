"""The connector over a store that several instances share: real control planes and movers, and a real Redis server.
Guarantees 1, 4 and 9 of docs/DESIGN.md."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from halves_engine import CHUNK_TOKENS, Engine
from redis_server import RedisServer

from forebay.vllm.layout import Shard

ONE = (Shard(0, 1, 0, 1, workers=(0,)),)
TP2 = (Shard(0, 2, 0, 1, workers=(0,)), Shard(1, 2, 0, 1, workers=(1,)))
MLA2 = (Shard(0, 1, 0, 1, workers=(0, 1)),)
CHUNKS = 4
ALL = CHUNKS * CHUNK_TOKENS
WAIT_S = 20.0


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def engine(redis: RedisServer) -> Iterator[Callable[..., Engine]]:
    """Starts engines that share the store, and nothing else; in the end none of them may have leaked anything."""
    running: list[Engine] = []

    def start(directory: Path | None = None, shards: tuple[Shard, ...] = ONE, **options: Any) -> Engine:
        running.append(Engine(directory, shards, **{"remote_url": redis.url, "lookup_wait_s": WAIT_S, **options}))
        return running[-1]

    yield start
    at_rest = (
        "connector_requests",
        "connector_loads_open",
        "connector_stores_open",
        "connector_copies_open",
        "open_tickets",
        "remote_open_tickets",
        "remote_queued",
    )
    for each in running:
        stats = each.close()
        assert {name: stats[name] for name in at_rest} == dict.fromkeys(at_rest, 0), "something leaked"


@pytest.mark.parametrize("shards", [ONE, TP2, MLA2], ids=["one", "tp", "mla"])
def test_without_a_disk_one_engine_finds_what_another_stored(
    engine: Callable[..., Engine], redis: RedisServer, shards: tuple[Shard, ...]
) -> None:
    first = engine(shards=shards)
    assert first.prefill(1) == (0, 0)
    assert redis.keys() == CHUNKS * len(shards)
    assert engine(shards=shards).prefill(1) == (ALL, ALL)
    assert engine(shards=shards, salt="another").prefill(1) == (0, 0), "namespaces never meet"
    assert first.prefill(1) == (ALL, ALL)


@pytest.mark.parametrize("shards", [ONE, TP2], ids=["one", "tp"])
def test_chunks_on_disk_are_copied_and_found_by_an_engine_with_another_disk(
    engine: Callable[..., Engine], redis: RedisServer, tmp_path: Path, shards: tuple[Shard, ...]
) -> None:
    first = engine(tmp_path / "first", shards)
    first.prefill(1)
    stats = first.scheduler.stats()
    assert stats["connector_chunks_copied"] == redis.keys() == CHUNKS * len(shards)
    second = engine(tmp_path / "second", shards)
    assert second.prefill(1) == (ALL, ALL)
    assert second.scheduler.stats()["remote_loaded"] == CHUNKS * len(shards)


def test_what_the_store_dropped_between_lookup_and_load_is_computed_and_stored_again(
    engine: Callable[..., Engine], redis: RedisServer
) -> None:
    engine().prefill(1)
    second = engine()
    assert second.prefill(1, after_lookup=lambda: redis.say("FLUSHALL")) == (ALL, 0)
    stats = second.scheduler.stats()
    assert stats["connector_chunks_gone"] > 0 and "connector_load_failed" not in stats
    assert redis.keys() == CHUNKS
    assert engine().prefill(1) == (ALL, ALL)


def test_a_consumer_gets_what_is_stored_while_it_waits(engine: Callable[..., Engine]) -> None:
    producer, consumer = engine(role="kv_producer"), engine(role="kv_consumer")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(consumer.prefill, 1)
        while consumer.plane.stats()["remote_lookups"] < 3 and not waiting.done():
            time.sleep(0.001)
        assert not waiting.done()
        producer.prefill(1)
        assert waiting.result() == (ALL, ALL)
    assert "connector_lookups_out_of_time" not in consumer.scheduler.stats()


def test_a_consumer_computes_what_nobody_stores_in_time(engine: Callable[..., Engine]) -> None:
    consumer = engine(role="kv_consumer", lookup_wait_s=0.3)
    began_s = time.monotonic()
    assert consumer.prefill(1) == (0, 0)
    assert time.monotonic() - began_s >= 0.3
    stats = consumer.scheduler.stats()
    assert stats["connector_lookups_out_of_time"] == 1
    assert 2 <= stats["remote_lookups"] <= 0.3 / 0.05 + 2, "asked anew, and not all the time"


def test_a_store_that_is_silent_delays_a_request_for_its_time_and_no_longer(
    engine: Callable[..., Engine], redis: RedisServer, tmp_path: Path
) -> None:
    first = engine(tmp_path / "kv", lookup_wait_s=0.3, remote_timeout_s=1.0, remote_retries=0)
    first.prefill(1)
    halted = engine(lookup_wait_s=0.3, remote_timeout_s=1.0, remote_retries=0)
    os.kill(redis.pid, signal.SIGSTOP)
    try:
        assert halted.prefill(1) == (0, 0), "only the store knows of it"
        assert halted.scheduler.stats()["connector_lookups_out_of_time"] == 1
        assert first.prefill(1) == (ALL, ALL), "its disk has it"
    finally:
        os.kill(redis.pid, signal.SIGCONT)


def test_a_store_that_was_killed_leaves_inference_alone(
    engine: Callable[..., Engine], redis: RedisServer, tmp_path: Path
) -> None:
    both, alone = engine(tmp_path / "kv"), engine()
    both.prefill(1)
    assert alone.prefill(1, after_lookup=redis.kill_9) == (ALL, 0)
    assert alone.scheduler.stats()["connector_load_failed"] > 0
    assert both.prefill(1) == (ALL, ALL)
    assert both.prefill(2) == (0, 0)
    assert both.scheduler.stats()["connector_chunks_not_copied"] == CHUNKS
    assert both.prefill(2) == (ALL, ALL), "its disk works on"
    assert alone.prefill(2) == (0, 0)
