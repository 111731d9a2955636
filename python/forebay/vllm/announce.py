"""What is on the tiers, said in vLLM's own KV events, so that a router sends a prompt where it is known.

It promises: what is announced as stored is there on every shard, under the engine's own block hashes; it is announced
as removed when any shard's part of it leaves that tier. What was stored by an earlier process is announced when a
prompt asks for it. It knows `CHUNKS_MAX` chunks at most; the one unused for longest is announced as removed to make
room, which makes a router believe too little and never too much. Only when events are asked for
(`enable_kv_cache_events`).
"""

from __future__ import annotations

import itertools
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.distributed.kv_events import MEDIUM_CPU, MEDIUM_STORAGE, BlockRemoved, BlockStored, KVCacheEvent
from vllm.v1.core.kv_cache_utils import BlockHash, maybe_convert_block_hash

import forebay

CHUNKS_MAX = 1 << 16

_MEDIUM = {"memory": MEDIUM_CPU, "disk": MEDIUM_STORAGE, "remote": MEDIUM_STORAGE}
_LOCALITY = {"memory": "LOCAL", "disk": "LOCAL", "remote": "REMOTE"}


@dataclass(slots=True)
class _Chunk:
    """One chunk of a prompt, whichever shards it is made of."""

    keys: tuple[bytes, ...]
    """One for each shard."""
    hashes: tuple[bytes, ...]
    parent: bytes | None
    tokens: array[int]
    lora_id: int | None
    lora_name: str | None
    on: dict[str, set[bytes]] = field(default_factory=dict)
    """Of each tier, the shards' keys that are there."""
    announced: set[str] = field(default_factory=set)
    """Tiers that it was announced to be on."""


class Announcements:
    def __init__(self, events: forebay.Events, hashes_per_chunk: int, chunk_tokens: int, lookup_tier: str) -> None:
        """`lookup_tier`: where what a lookup finds, and nobody saw being stored, is taken to be."""
        self._events = events
        self._hashes_per_chunk = hashes_per_chunk
        self._chunk_tokens = chunk_tokens
        self._lookup_tier = lookup_tier
        self._lost = 0
        self._chunks: OrderedDict[bytes, _Chunk] = OrderedDict()
        """By the first shard's key, those used last at the end."""
        self._of_key: dict[bytes, _Chunk] = {}
        self._ready: list[KVCacheEvent] = []

    def planned(self, request: Any, index: int, keys: Sequence[bytes]) -> None:
        """The request's chunk of this index is to be stored under these keys, one for each shard."""
        self._note(request, index, keys)

    def found(self, request: Any, count: int, keys: Sequence[Sequence[bytes]]) -> None:
        """A lookup has found the request's first `count` chunks on every shard. `keys`: of each shard."""
        for index, of_chunk in enumerate(itertools.islice(zip(*keys, strict=True), count)):
            chunk = self._note(request, index, of_chunk)
            if not chunk.announced:
                chunk.on[self._lookup_tier] = set(chunk.keys)
                self._announce(chunk, self._lookup_tier)

    def take(self) -> list[KVCacheEvent]:
        """What has happened since the last call."""
        for event in self._events.take():
            self._apply(event)
        if self._events.lost > self._lost:  # nothing of what was said is certain
            self._lost = self._events.lost
            while self._chunks:
                self._forget(next(iter(self._chunks)))
        ready, self._ready = self._ready, []
        return ready

    def _note(self, request: Any, index: int, keys: Sequence[bytes]) -> _Chunk:
        if (known := self._chunks.get(keys[0])) is not None:
            self._chunks.move_to_end(keys[0])
            return known
        if len(self._chunks) >= CHUNKS_MAX:
            self._forget(next(iter(self._chunks)))
        first = index * self._hashes_per_chunk
        hashes = tuple(bytes(each) for each in request.block_hashes[first : first + self._hashes_per_chunk])
        tokens = request.all_token_ids[index * self._chunk_tokens : (index + 1) * self._chunk_tokens]
        lora = request.lora_request
        chunk = _Chunk(
            tuple(keys),
            hashes,
            bytes(request.block_hashes[first - 1]) if first else None,
            array("q", tokens),
            lora.adapter_id if lora is not None else None,
            lora.name if lora is not None else None,
        )
        self._chunks[keys[0]] = chunk
        self._of_key.update(dict.fromkeys(keys, chunk))
        return chunk

    def _apply(self, event: forebay.Event) -> None:
        chunk = self._of_key.get(event.key)
        if chunk is None:  # an earlier process's, or forgotten
            return
        on = chunk.on.setdefault(event.tier, set())
        if event.change == "stored":
            on.add(event.key)
            if len(on) == len(chunk.keys):
                self._announce(chunk, event.tier)
        else:
            on.discard(event.key)
            self._withdraw(chunk, event.tier)
            if not any(chunk.on.values()):
                self._forget(chunk.keys[0])

    def _announce(self, chunk: _Chunk, tier: str) -> None:
        if tier in chunk.announced:
            return
        chunk.announced.add(tier)
        self._ready.append(
            BlockStored(
                block_hashes=[maybe_convert_block_hash(BlockHash(each)) for each in chunk.hashes],
                parent_block_hash=maybe_convert_block_hash(BlockHash(chunk.parent)) if chunk.parent else None,
                token_ids=chunk.tokens.tolist(),
                block_size=self._chunk_tokens // self._hashes_per_chunk,
                lora_id=chunk.lora_id,
                medium=_MEDIUM[tier],
                lora_name=chunk.lora_name,
                locality=_LOCALITY[tier],
                ownership=f"forebay-{tier}",
            )
        )

    def _withdraw(self, chunk: _Chunk, tier: str) -> None:
        if tier not in chunk.announced:
            return
        chunk.announced.discard(tier)
        self._ready.append(
            BlockRemoved(
                block_hashes=[maybe_convert_block_hash(BlockHash(each)) for each in chunk.hashes],
                medium=_MEDIUM[tier],
                locality=_LOCALITY[tier],
                ownership=f"forebay-{tier}",
            )
        )

    def _forget(self, first_key: bytes) -> None:
        chunk = self._chunks.pop(first_key)
        for tier in sorted(chunk.announced):
            self._withdraw(chunk, tier)
        for key in chunk.keys:
            self._of_key.pop(key, None)
