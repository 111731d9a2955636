"""What a router and vLLM's own metrics are told: the halves with real planes and files, and the sums on their own."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from halves_engine import BLOCK_TOKENS, CHUNK_TOKENS, PROMPT_TOKENS, Engine
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from vllm.distributed.kv_events import BlockRemoved, BlockStored, KVCacheEvent
from vllm.v1.core.kv_cache_utils import BlockHash, maybe_convert_block_hash

from forebay.vllm import announce
from forebay.vllm.layout import Shard
from forebay.vllm.metrics import COUNTERS, LOAD_SECONDS, PREFIX, PrefillRate, PromMetrics, Tally

ONE = (Shard(tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, workers=(0,)),)
TWO = tuple(Shard(tp_rank=rank, tp_size=2, pp_rank=0, pp_size=1, workers=(rank,)) for rank in range(2))
METRICS_DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "METRICS.md"
CHUNKS = PROMPT_TOKENS // CHUNK_TOKENS


class Router:
    """Believes what it is told."""

    def __init__(self) -> None:
        self.blocks: set[tuple[str, object]] = set()
        self.removed = 0

    def hear(self, events: list[KVCacheEvent]) -> None:
        for event in events:
            assert isinstance(event, BlockStored | BlockRemoved)
            assert event.ownership is not None
            blocks: set[tuple[str, object]] = {(event.ownership, block) for block in event.block_hashes}
            assert len(blocks) == CHUNK_TOKENS // BLOCK_TOKENS
            if isinstance(event, BlockStored):
                assert not blocks & self.blocks, "told twice"
                assert len(event.token_ids) == CHUNK_TOKENS and event.block_size == BLOCK_TOKENS
                self.blocks |= blocks
            else:
                assert blocks <= self.blocks, "it was never told"
                self.blocks -= blocks
                self.removed += 1

    def chunks(self, prompt: int) -> int:
        """Those of a prompt of `Engine.prefill` that it takes to be on disk."""
        hashes = [BlockHash(bytes([prompt, block]) * 16) for block in range(PROMPT_TOKENS // BLOCK_TOKENS)]
        known = sum(("forebay-disk", maybe_convert_block_hash(each)) in self.blocks for each in hashes)
        return known // (CHUNK_TOKENS // BLOCK_TOKENS)


@pytest.mark.parametrize("shards", [ONE, TWO])
def test_a_router_believes_of_the_disk_what_is_there(tmp_path: Path, shards: tuple[Shard, ...]) -> None:
    # Room for some 40 prompts of one shard: what is stored first is evicted.
    engine = Engine(tmp_path, shards, announces=True, max_local_disk_size=0.003)
    router = Router()
    draw = random.Random(7)
    for _ in range(120):
        engine.prefill(draw.randrange(1, 90))
        router.hear(engine.scheduler.onlooker.take_events())
    assert router.removed > 20, "the disk was full"
    whole = sum(router.chunks(prompt) for prompt in range(1, 90))
    assert whole * CHUNK_TOKENS // BLOCK_TOKENS == len(router.blocks)
    stats = engine.scheduler.stats()
    if len(shards) == 1:
        assert whole == stats["chunks"]
    for prompt in range(1, 90):
        # A hit of a prompt is what the router would have sent it here for.
        assert engine.prefill(prompt)[0] // CHUNK_TOKENS == router.chunks(prompt)
        router.hear(engine.scheduler.onlooker.take_events())
    engine.close()

    again = Engine(tmp_path, shards, announces=True, max_local_disk_size=0.003)
    fresh = Router()
    promised, _ = again.prefill(89)
    fresh.hear(again.scheduler.onlooker.take_events())
    assert fresh.chunks(89) == CHUNKS and promised == CHUNKS * CHUNK_TOKENS, "a hit tells what was stored before"
    assert again.scheduler.clear()
    fresh.hear(again.scheduler.onlooker.take_events())
    assert not fresh.blocks
    again.close()


def test_what_is_forgotten_is_taken_back_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announce, "CHUNKS_MAX", 3 * CHUNKS)
    engine = Engine(tmp_path, ONE, announces=True)
    router = Router()
    for prompt in range(1, 9):
        engine.prefill(prompt)
        router.hear(engine.scheduler.onlooker.take_events())
    assert [router.chunks(prompt) for prompt in range(1, 9)] == [0] * 5 + [CHUNKS] * 3
    assert engine.prefill(1)[0] == CHUNKS * CHUNK_TOKENS, "it is there all the same"
    engine.close()


def test_who_asks_for_no_events_keeps_none(tmp_path: Path) -> None:
    engine = Engine(tmp_path, ONE)
    engine.prefill(1)
    assert engine.scheduler.onlooker.take_events() == []
    engine.close()


def test_the_tally_is_what_happened(tmp_path: Path) -> None:
    engine = Engine(tmp_path, ONE)
    total = Tally()
    for prompt in (1, 2, 1, 1):
        engine.prefill(prompt)
        if (tally := engine.scheduler.onlooker.take_tally()) is not None:
            total.aggregate(Tally(data=tally.to_dict()))
    assert engine.scheduler.onlooker.take_tally() is None, "it was taken"
    loaded = 2 * CHUNKS * CHUNK_TOKENS
    assert total.data["prompt_tokens"] == 4 * PROMPT_TOKENS
    assert total.data["hit_tokens"] == total.data["loaded_tokens"] == loaded
    assert total.data["stored_chunks"] == 2 * CHUNKS
    assert len(total.data[LOAD_SECONDS]) == 2 and "failed_loads" not in total.data
    assert total.reduce()["loads"] == 2
    engine.close()


def test_what_is_only_watched_changes_nothing_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("as it should")

    for name in ("found", "planned"):
        monkeypatch.setattr(announce.Announcements, name, fail)
    for name in ("computed", "loaded"):
        monkeypatch.setattr(PrefillRate, name, fail)
    engine = Engine(tmp_path, ONE, announces=True)
    assert engine.prefill(1) == (0, 0)
    assert engine.prefill(1) == (CHUNKS * CHUNK_TOKENS, CHUNKS * CHUNK_TOKENS)
    assert engine.scheduler.stats()["connector_observation_failed"] > 0
    engine.close()


def test_time_saved_is_what_computing_would_have_taken_less_the_load() -> None:
    rate = PrefillRate()
    assert rate.loaded(1000, 0.5) == 0.0, "nothing is known yet"
    assert rate.computed(PrefillRate.TOKENS_MIN - 1, 100.0) == 0.0, "too little to tell"
    assert rate.computed(1000, 2.0) == pytest.approx(2.0 - 0.5), "and now it is"
    assert rate.loaded(1000, 0.5) == pytest.approx(1.5)
    assert rate.loaded(100, 0.5) == pytest.approx(-0.3), "it would have been faster to compute"
    rate.computed(1000, 12.0)
    assert rate.loaded(1000, 0.0) == pytest.approx(3.0), "a tenth of the way to the new rate"


def test_vllm_shows_every_metric_that_is_documented_and_no_other() -> None:
    registry = CollectorRegistry()

    def made(kind: type) -> object:
        return lambda **options: kind(registry=registry, **options)

    types = {Counter: made(Counter), Histogram: made(Histogram), Gauge: made(Gauge)}
    config = type("Config", (), {"kv_transfer_config": None})()
    metrics = PromMetrics(config, types, ["model_name", "engine"], {0: ["m", "0"], 1: ["m", "1"]})
    metrics.observe({"loaded_tokens": 64, LOAD_SECONDS: [0.25, 0.5]}, engine_idx=1)
    labels = {"model_name": "m", "engine": "1"}
    assert registry.get_sample_value(f"{PREFIX}loaded_tokens_total", labels) == 64
    assert registry.get_sample_value(f"{PREFIX}{LOAD_SECONDS}_sum", labels) == 0.75
    assert registry.get_sample_value(f"{PREFIX}loaded_tokens_total", {**labels, "engine": "0"}) == 0
    shown = {family.name for family in registry.collect()}
    assert shown == {PREFIX + name for name in (*COUNTERS, LOAD_SECONDS)}
    rows = [line.split("`")[1] for line in METRICS_DOCUMENT.read_text().splitlines() if line.startswith(f"| `{PREFIX}")]
    assert {row.removesuffix("_total") for row in rows} == shown
