"""What the engine's KV cache looks like in memory, and whose bytes it holds.

`read_layout` turns vLLM's description into offsets and strides, or raises `Unsupported` with one sentence for
whatever could not be served byte for byte. `read_shards` says which of the engine's workers hold which bytes.
`namespace` names everything a page's bytes depend on besides the tokens: a page is opaque to forebay, so
anything that changes its meaning must change the name. Both halves of the connector call these with the same
configuration and come to the same answer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import vllm
from vllm.distributed.utils import get_pp_indices
from vllm.v1.kv_cache_interface import FullAttentionSpec, MLAAttentionSpec

import forebay

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

logger = logging.getLogger("forebay.vllm")

# A page (one layer's part of a block) is one run of bytes in these. The other layouts of vLLM put the heads
# outside the blocks, which scatters a page over the whole cache.
_SERVED_LAYOUTS = ("LBHNC", "LBNHC", "BLHNC", "BLNHC")
# Drafters that keep no KV of their own.
_SERVED_DRAFTERS = ("ngram", "suffix")


class Unsupported(ValueError):
    """The model or its configuration cannot be served; the message is one sentence for the person who starts
    it."""


@dataclass(frozen=True)
class KvLayout:
    """Page (l, b) is the `page_bytes` at `layer_offsets[l] + b * block_stride` of one allocation of
    `size_bytes`."""

    name: str
    layers: tuple[str, ...]
    layer_offsets: tuple[int, ...]
    block_stride: int
    page_bytes: int
    size_bytes: int
    block_tokens: int
    hash_tokens: int
    """Tokens per block hash of a request; divides `block_tokens`."""
    chunk_tokens: int

    @property
    def blocks_per_chunk(self) -> int:
        return self.chunk_tokens // self.block_tokens

    @property
    def hashes_per_chunk(self) -> int:
        return self.chunk_tokens // self.hash_tokens

    @property
    def chunk_bytes(self) -> int:
        return self.blocks_per_chunk * len(self.layers) * self.page_bytes


@dataclass(frozen=True)
class Shard:
    """What some workers hold of every token's KV. A chunk of the prompt is stored as one chunk for each shard."""

    tp_rank: int
    tp_size: int
    pp_rank: int
    pp_size: int
    workers: tuple[int, ...]
    """The workers whose KV caches have these bytes, by their place among all. The first stores, all load."""


def worker_index(tp_rank: int, tp_size: int, pp_rank: int) -> int:
    """A worker's place among all workers of an engine: stage by stage, and in a stage by tensor-parallel rank."""
    return pp_rank * tp_size + tp_rank


def read_shards(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> tuple[Shard, ...]:
    """Heads of which there are fewer than ranks are the same on ranks that follow each other, and MLA's latent is the
    same on all: such ranks share a shard."""
    parallel = vllm_config.parallel_config
    stages, ranks = parallel.pipeline_parallel_size, parallel.tensor_parallel_size
    replicas = kv_cache_config.kv_tp_replicas
    return tuple(
        Shard(
            tp_rank=first // replicas,
            tp_size=ranks // replicas,
            pp_rank=stage,
            pp_size=stages,
            workers=tuple(worker_index(rank, ranks, stage) for rank in range(first, first + replicas)),
        )
        for stage in range(stages)
        for first in range(0, ranks, replicas)
    )


def read_layout(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, chunk_tokens: int) -> KvLayout:
    _refuse_context_parallel(vllm_config)
    _refuse_drafters(vllm_config)
    spec = _only_spec(kv_cache_config)
    name = kv_cache_config.kv_cache_layout or vllm_config.cache_config.kv_cache_layout
    if name not in _SERVED_LAYOUTS:
        raise Unsupported(
            f"Forebay cannot serve the KV cache layout {name}: a page must be one run of bytes; "
            f"set VLLM_KV_CACHE_LAYOUT to one of {', '.join(_SERVED_LAYOUTS)}, if the attention backend can."
        )
    layers: list[str] = []
    offsets: list[int] = []
    strides: set[int] = set()
    for tensor in kv_cache_config.kv_cache_tensors:
        strides.add(tensor.block_stride)
        for index, layer in enumerate(tensor.layers):
            layers.append(layer)
            offsets.append(tensor.offset + index * tensor.layer_stride)
    if len(strides) != 1:
        raise Unsupported("Forebay cannot serve a KV cache whose layers have blocks of different sizes.")
    _refuse_uneven_stages(vllm_config, len(layers))
    return KvLayout(
        name=name,
        layers=tuple(layers),
        layer_offsets=tuple(offsets),
        block_stride=strides.pop(),
        page_bytes=spec.page_size_bytes,
        size_bytes=kv_cache_config.kv_cache_tensors[0].size,
        block_tokens=spec.block_size,
        hash_tokens=kv_cache_config.hash_block_size or spec.block_size,
        chunk_tokens=_whole_blocks(chunk_tokens, spec.block_size),
    )


def _whole_blocks(chunk_tokens: int, block_tokens: int) -> int:
    rounded = -(-chunk_tokens // block_tokens) * block_tokens
    if rounded != chunk_tokens:
        logger.warning(
            "chunk_size %d is not a multiple of vLLM's block size %d; using %d",
            chunk_tokens,
            block_tokens,
            rounded,
        )
    return rounded


def _refuse_context_parallel(vllm_config: VllmConfig) -> None:
    parallel = vllm_config.parallel_config
    sizes = {
        "decode context": parallel.decode_context_parallel_size,
        "prefill context": parallel.prefill_context_parallel_size,
    }
    for kind, size in sizes.items():
        if size > 1:
            raise Unsupported(f"Forebay does not serve {kind} parallel engines yet (size {size}); run it with size 1.")


def _refuse_uneven_stages(vllm_config: VllmConfig, layers_here: int) -> None:
    """The scheduler knows the first stage's KV cache only, and takes the others' chunks to be as large."""
    stages = vllm_config.parallel_config.pipeline_parallel_size
    if stages == 1:
        return
    hidden = vllm_config.model_config.get_total_num_hidden_layers()
    borders = [get_pp_indices(hidden, stage, stages) for stage in range(stages)]
    if {end - start for start, end in borders} != {layers_here}:
        raise Unsupported(
            f"Forebay serves pipeline stages with equally many KV layers, and this model's {hidden} layers "
            f"on {stages} stages are not ({layers_here} have KV in this one): use another number of stages."
        )


def _refuse_drafters(vllm_config: VllmConfig) -> None:
    speculative = vllm_config.speculative_config
    if speculative is not None and speculative.method not in _SERVED_DRAFTERS:
        raise Unsupported(
            f"Forebay does not serve speculative decoding by {speculative.method}, whose drafter keeps KV "
            f"of its own; use one of {', '.join(_SERVED_DRAFTERS)} or none."
        )


def _only_spec(kv_cache_config: KVCacheConfig) -> Any:
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1:
        kinds = ", ".join(sorted({type(group.kv_cache_spec).__name__ for group in groups})) or "none"
        raise Unsupported(
            f"Forebay serves models with one KV cache group, and this one has {len(groups)} ({kinds}): "
            "hybrid and Mamba models are not supported yet."
        )
    spec = groups[0].kv_cache_spec
    # Exact types: a subclass may keep a window, a state or sinks that whole pages do not carry.
    if type(spec) not in (FullAttentionSpec, MLAAttentionSpec):
        raise Unsupported(
            f"Forebay serves models with full attention, and this one's KV cache is a {type(spec).__name__}, "
            "which is not supported yet."
        )
    if spec.non_causal:
        raise Unsupported("Forebay cannot serve non-causal attention: a prefix's KV depends on what follows it.")
    return spec


def namespace(
    vllm_config: VllmConfig,
    kv_cache_config: KVCacheConfig,
    layout: KvLayout,
    shard: Shard,
    *,
    revision: str,
    salt: str = "",
) -> forebay.Namespace:
    """`salt` separates what the block hashes name but do not prove, such as a LoRA adapter's weights."""
    model = vllm_config.model_config
    spec = kv_cache_config.kv_cache_groups[0].kv_cache_spec
    return forebay.Namespace(
        model=str(model.model),
        revision=_digest(revision or _weights_identity(model), _model_settings(model)),
        kv_dtype=f"{vllm_config.cache_config.cache_dtype}/{spec.dtype}/{spec.kv_quant_mode.name}",
        layout=json.dumps(
            {
                "engine": f"vllm {vllm.__version__}",
                "processor": _processor(vllm_config),
                "layout": layout.name,
                "spec": type(spec).__name__,
                "layers": len(layout.layers),
                "kv_heads": spec.num_kv_heads,
                "head_size": spec.head_size,
                "page_bytes": layout.page_bytes,
                "block_tokens": layout.block_tokens,
                "hash_tokens": layout.hash_tokens,
                "chunk_tokens": layout.chunk_tokens,
                "hash": vllm_config.cache_config.prefix_caching_hash_algo,
            },
            sort_keys=True,
        ),
        tp_rank=shard.tp_rank,
        tp_size=shard.tp_size,
        pp_rank=shard.pp_rank,
        pp_size=shard.pp_size,
        salt=salt,
    )


def _processor(vllm_config: VllmConfig) -> str:
    """On CPU the attention kernels pack K for the processor they run on, so its kind is part of the
    layout."""
    device = vllm_config.device_config.device_type
    if device != "cpu":
        return str(device)
    return f"cpu/{platform.machine()}/{torch.backends.cpu.get_cpu_capability()}"


def _model_settings(model: Any) -> str:
    """What changes K and V besides the weights: rotary scaling and the like, overrides included."""
    settings = model.hf_config.to_dict()
    for volatile in ("_name_or_path", "transformers_version", "_commit_hash"):
        settings.pop(volatile, None)
    return json.dumps([settings, str(model.dtype), str(model.quantization)], sort_keys=True, default=str)


def _weights_identity(model: Any) -> str:
    """Names the weights: the commit they came from, or the files of a local folder by name, size and time.

    The time is there because weights trained further keep name and size. A copied folder therefore starts
    cold; who wants two machines to share chunks of local weights names them with `model_revision`."""
    if (commit := getattr(model.hf_config, "_commit_hash", None)) is not None:
        return str(commit)
    folder = Path(model.model)
    if not folder.is_dir():
        return str(model.revision or "")
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return json.dumps([str(model.revision)] + [_file_identity(file) for file in files])


def _file_identity(path: Path) -> str:
    status = os.stat(path)
    return f"{path.name}:{status.st_size}:{status.st_mtime_ns}"


def lora_identity(path: str) -> str:
    """vLLM's block hashes hold an adapter's name only, and a name may be given to other weights after a
    restart."""
    folder = Path(path)
    if not folder.is_dir():
        return f"lora:{path}"
    return _digest("lora", *(_file_identity(file) for file in sorted(folder.iterdir()) if file.is_file()))


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
