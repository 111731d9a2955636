"""Chunk keys from `hashlib` alone: a second implementation of how a chunk is named, that shares no code with
the first. `python reference_keys.py > key_vectors.json` writes the vectors that the tests of both languages
read; a change of that file is a change of every key on every disk.

    frame(x)   = length of x as 8 bytes, then x
    namespace  = sha256( frame("forebay namespace 1"), then frame(name), frame(value) for each field )
    chunk      = sha256( frame(domain), namespace, key before (or 32 zeros), content )
    key        = namespace[:8] + chunk[:24]

    domain "forebay tokens 1": content = count, tokens as 4 bytes each, extras' count, frame(extra) for each
    domain "forebay blocks 1": content = count, frame(hash) for each block

Counts are 8 bytes, numbers are little-endian; those among a namespace's fields are written in decimal.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

FIELDS = ("model", "revision", "kv_dtype", "layout", "tp_rank", "tp_size", "pp_rank", "pp_size", "salt")
DEFAULTS = {name: "" for name in FIELDS} | {"tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1}


def count(number: int) -> bytes:
    return struct.pack("<Q", number)


def frame(field: bytes) -> bytes:
    return count(len(field)) + field


def namespace_digest(fields: dict[str, Any]) -> bytes:
    values = DEFAULTS | fields
    parts = [b"forebay namespace 1"]
    for name in FIELDS:
        parts += [name.encode(), str(values[name]).encode()]
    return sha256(b"".join(map(frame, parts))).digest()


def chain(domain: bytes, fields: dict[str, Any], contents: Iterable[bytes]) -> list[bytes]:
    namespace = namespace_digest(fields)
    keys: list[bytes] = []
    for content in contents:
        before = keys[-1] if keys else bytes(32)
        digest = sha256(frame(domain) + namespace + before + content).digest()
        keys.append(namespace[:8] + digest[:24])
    return keys


def chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[at : at + size] for at in range(0, len(items) - size + 1, size)]


def token_keys(
    fields: dict[str, Any], tokens: Sequence[int], chunk_size: int, extra: Sequence[bytes] = ()
) -> list[bytes]:
    tail = count(len(extra)) + b"".join(map(frame, extra))
    return chain(
        b"forebay tokens 1",
        fields,
        (
            count(len(chunk)) + b"".join(struct.pack("<I", token) for token in chunk) + tail
            for chunk in chunks(tokens, chunk_size)
        ),
    )


def block_keys(fields: dict[str, Any], blocks: Sequence[bytes], blocks_per_chunk: int) -> list[bytes]:
    return chain(
        b"forebay blocks 1",
        fields,
        (count(len(chunk)) + b"".join(map(frame, chunk)) for chunk in chunks(blocks, blocks_per_chunk)),
    )


def vectors() -> dict[str, Any]:
    plain = {"model": "a-model"}
    full = {
        "model": "meta/Llama-ü-8B",
        "revision": "0123abcd",
        "kv_dtype": "fp8_e4m3",
        "layout": "32x8x128/256",
        "tp_rank": 3,
        "tp_size": 8,
        "pp_rank": 1,
        "pp_size": 2,
        "salt": "tenant 7",
    }
    tokens = [
        ({}, [], 4, []),
        (plain, [1, 2, 3], 4, []),
        (plain, [7] * 512, 256, []),
        (plain, [0, 1, 255, 256, 65535, 65536, 2**31, 2**32 - 1, 5], 4, []),
        (plain, list(range(1, 9)), 1, [b""]),
        (full, list(range(1000, 1012)), 4, [b"lora:adapter", bytes(range(32))]),
        (full, list(range(1000, 1012)), 4, []),
    ]
    hashes = [sha256(bytes([number])).digest() for number in range(7)]
    blocks = [
        (plain, hashes, 1),
        (full, hashes, 3),
        (full, [b"", b"a", b"bc", bytes(16)], 2),
        (plain, hashes[:2], 3),
    ]
    return {
        "about": "Written by reference_keys.py, which says how keys are made. Bytes are in hexadecimal.",
        "namespaces": [{"namespace": fields, "digest": namespace_digest(fields).hex()} for fields in ({}, plain, full)],
        "tokens": [
            {
                "namespace": fields,
                "tokens": ids,
                "chunk_size": size,
                "extra": [item.hex() for item in extra],
                "keys": [key.hex() for key in token_keys(fields, ids, size, extra)],
            }
            for fields, ids, size, extra in tokens
        ],
        "blocks": [
            {
                "namespace": fields,
                "blocks": [block.hex() for block in items],
                "blocks_per_chunk": per_chunk,
                "keys": [key.hex() for key in block_keys(fields, items, per_chunk)],
            }
            for fields, items, per_chunk in blocks
        ],
    }


def text() -> str:
    """The vectors as JSON, one to a line."""
    parts = []
    for name, value in vectors().items():
        lines = json.dumps(value)
        if isinstance(value, list):
            lines = "[\n    " + ",\n    ".join(map(json.dumps, value)) + "\n  ]"
        parts.append(f"  {json.dumps(name)}: {lines}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    sys.stdout.write(text())
