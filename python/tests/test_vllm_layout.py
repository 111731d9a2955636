"""What the connector makes of an engine's KV cache: the layouts it refuses, the names it gives, the bytes it
copies."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheTensor,
    SlidingWindowSpec,
)

import forebay
from forebay.vllm.device import DevicePages, HostPages, open_pages
from forebay.vllm.layout import KvLayout, Unsupported, lora_identity, namespace, read_layout, read_shards, worker_index
from forebay.vllm.messages import SKIPPED_BLOCK

BLOCKS, LAYERS, PAGE_BYTES = (
    8,
    3,
    2 * 16 * 2 * 8 * 4,
)  # two heads, 16 tokens, K and V, 8 numbers of four bytes


def spec(kind: type = FullAttentionSpec, **changes: Any) -> Any:
    return kind(**{"block_size": 16, "num_kv_heads": 2, "head_size": 8, "dtype": torch.float32, **changes})


def cache_config(*specs: Any, layout: str = "LBHNC") -> KVCacheConfig:
    layers = [f"layer{index}" for index in range(LAYERS)]
    inner = layout.startswith("B")
    tensor = KVCacheTensor(
        size=LAYERS * BLOCKS * PAGE_BYTES,
        layers=layers,
        layer_stride=PAGE_BYTES if inner else BLOCKS * PAGE_BYTES,
        block_stride=LAYERS * PAGE_BYTES if inner else PAGE_BYTES,
    )
    groups = [KVCacheGroupSpec(layers, each) for each in specs or (spec(),)]
    return KVCacheConfig(BLOCKS, [tensor], groups, kv_cache_layout=layout, hash_block_size=16)


def engine_config(**changes: Any) -> Any:
    parallel = {
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "decode_context_parallel_size": 1,
        "prefill_context_parallel_size": 1,
    }
    values: dict[str, Any] = {
        "parallel_config": SimpleNamespace(**{**parallel, **changes.pop("parallel", {})}),
        "speculative_config": None,
        "cache_config": SimpleNamespace(kv_cache_layout=None, cache_dtype="auto", prefix_caching_hash_algo="sha256"),
        "device_config": SimpleNamespace(device_type="cpu"),
        "model_config": SimpleNamespace(
            model="a/model",
            revision="main",
            dtype=torch.float32,
            quantization=None,
            hf_config=SimpleNamespace(to_dict=lambda: {"rope_theta": 10000.0}, _commit_hash="c0ffee"),
            get_total_num_hidden_layers=lambda: 2 * LAYERS,
        ),
    }
    return SimpleNamespace(**{**values, **changes})


@pytest.mark.parametrize(
    ("engine", "cache", "says"),
    [
        ({"parallel": {"decode_context_parallel_size": 2}}, {}, "decode context parallel"),
        ({"parallel": {"prefill_context_parallel_size": 2}}, {}, "prefill context parallel"),
        ({"parallel": {"pipeline_parallel_size": 4}}, {}, "equally many KV layers"),
        ({"parallel": {"pipeline_parallel_size": 3}}, {}, "equally many KV layers"),
        ({"speculative_config": SimpleNamespace(method="eagle")}, {}, "speculative decoding by eagle"),
        ({}, {"specs": [spec(), spec(SlidingWindowSpec, sliding_window=32)]}, "one KV cache group"),
        ({}, {"specs": [spec(SlidingWindowSpec, sliding_window=32)]}, "full attention"),
        ({}, {"specs": [spec(non_causal=True)]}, "non-causal"),
        ({}, {"layout": "LHBNC"}, "layout LHBNC"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_sentence(engine: Any, cache: Any, says: str) -> None:
    config = cache_config(*cache.pop("specs", ()), **cache)
    with pytest.raises(Unsupported, match=says) as refusal:
        read_layout(engine_config(**engine), config, 32)
    assert str(refusal.value).count(". ") == 0 and "\n" not in str(refusal.value)


def test_a_chunk_is_rounded_up_to_whole_blocks_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    assert read_layout(engine_config(), cache_config(), 32).chunk_bytes == 2 * LAYERS * PAGE_BYTES
    assert not caplog.records
    assert read_layout(engine_config(), cache_config(), 33).blocks_per_chunk == 3
    assert "not a multiple" in caplog.text


def test_everything_a_page_depends_on_is_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(
        revision: str = "", salt: str = "", chunk: int = 32, layout: str = "LBHNC", shard: int = 0, **engine: Any
    ) -> bytes:
        config, cache = engine_config(**engine), cache_config(layout=layout)
        held = read_shards(config, cache)[shard]
        return namespace(config, cache, read_layout(config, cache, chunk), held, revision=revision, salt=salt).digest

    def model(**changes: Any) -> dict[str, Any]:
        return {"model_config": SimpleNamespace(**{**vars(engine_config().model_config), **changes})}

    turned = SimpleNamespace(to_dict=lambda: {"rope_theta": 5.0}, _commit_hash="c0ffee")
    other_weights = SimpleNamespace(to_dict=lambda: {"rope_theta": 10000.0}, _commit_hash="decaf")
    names = [
        digest(),
        digest(revision="r"),
        digest(salt="s"),
        digest(chunk=48),
        digest(layout="BLHNC"),
        digest(device_config=SimpleNamespace(device_type="cuda")),
        digest(**model(model="b/model")),
        digest(**model(dtype=torch.float16)),
        digest(**model(hf_config=turned)),
        digest(**model(hf_config=other_weights)),
        *(digest(shard=shard, parallel={"tensor_parallel_size": 2}) for shard in range(2)),
        *(digest(shard=shard, parallel={"pipeline_parallel_size": 2}) for shard in range(2)),
    ]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ANOTHER")
    names.append(digest())
    assert len(set(names)) == len(names)
    monkeypatch.undo()
    assert digest() == names[0]


def test_every_worker_holds_one_shard_and_ranks_with_the_same_heads_share_it() -> None:
    def held(tp: int, pp: int, replicas: int) -> list[tuple[int, int, int, int, tuple[int, ...]]]:
        cache = cache_config()
        cache.kv_tp_replicas = replicas
        config = engine_config(parallel={"tensor_parallel_size": tp, "pipeline_parallel_size": pp})
        shards = read_shards(config, cache)
        workers = sorted(worker for shard in shards for worker in shard.workers)
        assert workers == sorted(worker_index(rank, tp, stage) for stage in range(pp) for rank in range(tp))
        return [(shard.tp_rank, shard.tp_size, shard.pp_rank, shard.pp_size, shard.workers) for shard in shards]

    assert held(1, 1, 1) == [(0, 1, 0, 1, (0,))]
    assert held(2, 1, 1) == [(0, 2, 0, 1, (0,)), (1, 2, 0, 1, (1,))]
    assert held(2, 2, 2) == [(0, 1, 0, 2, (0, 1)), (0, 1, 1, 2, (2, 3))]  # MLA
    assert held(4, 1, 2) == [(0, 2, 0, 1, (0, 1)), (1, 2, 0, 1, (2, 3))]  # two heads on four ranks


def test_weights_trained_further_in_place_get_another_name(tmp_path: Any) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = lora_identity(str(tmp_path))
    assert lora_identity(str(tmp_path)) == before
    (tmp_path / "model.safetensors").write_bytes(b"weightz")
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    assert lora_identity(str(tmp_path)) != before


def pages_of(layout_name: str) -> tuple[KvLayout, torch.Tensor, dict[str, torch.Tensor]]:
    config = cache_config(layout=layout_name)
    layout = read_layout(engine_config(), config, 48)
    memory = torch.arange(layout.size_bytes, dtype=torch.int64).mul_(2654435761).to(torch.uint8)
    caches = {
        name: memory.as_strided((BLOCKS, PAGE_BYTES), (layout.block_stride, 1), offset)
        for name, offset in zip(layout.layers, layout.layer_offsets, strict=True)
    }
    return layout, memory, caches


@pytest.mark.parametrize("part_bytes", [10**9, PAGE_BYTES, 2 * PAGE_BYTES, PAGE_BYTES + 4, 3 * PAGE_BYTES - 4, 12])
@pytest.mark.parametrize("layout_name", ["LBHNC", "BLHNC"])
def test_a_chunk_crosses_pytorch_layer_by_layer_and_skipped_blocks_stay_as_they_are(
    layout_name: str, part_bytes: int
) -> None:
    layout, memory, caches = pages_of(layout_name)
    pages = DevicePages(layout, caches["layer0"])
    staging = bytearray(layout.chunk_bytes)
    parts = [(at, memoryview(staging)[at : at + part_bytes]) for at in range(0, len(staging), part_bytes)]
    chunk = pages.chunk([5, 0, 3])
    for at, part in parts:
        chunk.fill(at, part)
    expected = b"".join(bytes(caches[name][block].numpy()) for name in layout.layers for block in (5, 0, 3))
    assert bytes(staging) == expected
    with pytest.raises(ValueError, match="without memory"):
        pages.chunk([5, SKIPPED_BLOCK, 3]).fill(*parts[0])
    before = memory.clone()
    chunk = pages.chunk([1, SKIPPED_BLOCK, 7])
    for at, part in parts:
        chunk.drain(at, part)
    for name, cache in caches.items():
        assert torch.equal(cache[1], cache[5]) and torch.equal(cache[7], cache[3])
        untouched = [0, 2, 3, 4, 5, 6]
        original = before.as_strided(cache.shape, cache.stride(), cache.storage_offset())
        assert torch.equal(cache[untouched], original[untouched]), name


def test_host_memory_takes_the_direct_path_and_a_cache_elsewhere_is_refused() -> None:
    layout, _, caches = pages_of("LBHNC")
    assert isinstance(open_pages(layout, caches), HostPages)
    assert len(HostPages(layout, caches["layer0"]).chunk([0, 1, 2])) == layout.chunk_bytes
    moved = {**caches, "layer1": caches["layer1"].clone()}
    with pytest.raises(ValueError, match="layer1"):
        open_pages(layout, moved)


def test_a_chunk_of_host_pages_refuses_a_block_outside_the_cache() -> None:
    layout, _, caches = pages_of("LBHNC")
    with pytest.raises(forebay.Error):
        HostPages(layout, caches["layer0"]).chunk([0, 1, BLOCKS])
