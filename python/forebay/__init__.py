"""Forebay: KV-cache tiering for LLM serving. Staged through memory, kept on disk.

    config = forebay.Config(local_disk="/nvme/kv", max_local_disk_size=100, use_only_staging_buffer=True,
                            max_local_cpu_size=0.25)
    with forebay.Cache(config, chunk_bytes=8 << 20) as cache:
        keys = forebay.chunk_keys(tokens, namespace=forebay.Namespace(model="..."))
        cache.store(keys, buffers).wait()
        with cache.lookup(keys) as hit:
            outcomes = cache.load(keys[: hit.chunks], buffers[: hit.chunks]).wait()

`forebay.vllm` connects it to vLLM. Everything here is documented in `_native.pyi`.
"""

from forebay._native import (
    Cache,
    ChunkPlan,
    Config,
    ControlPlane,
    Error,
    Event,
    Events,
    Handle,
    Listener,
    LoadOutcome,
    Lookup,
    Mover,
    Namespace,
    PageBuffer,
    PagedChunk,
    PagedMemory,
    StoreOutcome,
    Transfer,
    __version__,
    chunk_keys,
    chunk_keys_from_blocks,
)

__all__ = [
    "Cache",
    "ChunkPlan",
    "Config",
    "ControlPlane",
    "Error",
    "Event",
    "Events",
    "Handle",
    "Listener",
    "LoadOutcome",
    "Lookup",
    "Mover",
    "Namespace",
    "PageBuffer",
    "PagedChunk",
    "PagedMemory",
    "StoreOutcome",
    "Transfer",
    "__version__",
    "chunk_keys",
    "chunk_keys_from_blocks",
]
