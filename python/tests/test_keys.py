"""Chunk keys are the same from every language, in every process and on every machine."""

from __future__ import annotations

import array
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import reference_keys

import forebay

VECTORS_FILE = Path(__file__).with_name("key_vectors.json")
VECTORS: dict[str, Any] = json.loads(VECTORS_FILE.read_text(encoding="utf-8"))

CHILD = """
import json, sys
import forebay
ask = json.load(sys.stdin)
space = forebay.Namespace(**ask["namespace"])
extra = [bytes.fromhex(item) for item in ask["extra"]]
keys = forebay.chunk_keys(ask["tokens"], ask["chunk_size"], space, extra)
print(json.dumps([key.hex() for key in keys]))
"""


def namespace(fields: dict[str, Any]) -> forebay.Namespace:
    return forebay.Namespace(**({"model": ""} | fields))


def unhex(items: list[str]) -> list[bytes]:
    return [bytes.fromhex(item) for item in items]


def test_the_recorded_vectors_are_those_of_the_reference() -> None:
    assert VECTORS_FILE.read_text(encoding="utf-8") == reference_keys.text()


@pytest.mark.parametrize("vector", VECTORS["namespaces"])
def test_a_namespace_has_the_recorded_digest(vector: dict[str, Any]) -> None:
    assert namespace(vector["namespace"]).digest.hex() == vector["digest"]


@pytest.mark.parametrize("vector", VECTORS["tokens"])
def test_tokens_have_the_recorded_keys(vector: dict[str, Any]) -> None:
    space = namespace(vector["namespace"])
    keys = forebay.chunk_keys(vector["tokens"], vector["chunk_size"], space, unhex(vector["extra"]))
    assert keys == unhex(vector["keys"])
    assert all(type(key) is bytes and key[:8] == space.digest[:8] for key in keys)


@pytest.mark.parametrize("vector", VECTORS["blocks"])
def test_block_hashes_have_the_recorded_keys(vector: dict[str, Any]) -> None:
    space = namespace(vector["namespace"])
    keys = forebay.chunk_keys_from_blocks(unhex(vector["blocks"]), vector["blocks_per_chunk"], space)
    assert keys == unhex(vector["keys"])


def test_generated_prompts_have_the_keys_of_the_reference() -> None:
    draw = random.Random(20)
    for _ in range(200):
        fields = {name: draw.choice(["", "a", "ab", "ü"]) for name in ("model", "revision", "layout", "salt")}
        fields |= {name: draw.randrange(3) for name in ("tp_rank", "pp_size")}
        tokens = [draw.choice([draw.randrange(2**32), draw.randrange(300)]) for _ in range(draw.randrange(40))]
        size = draw.randrange(1, 9)
        extra = [draw.randbytes(draw.randrange(5)) for _ in range(draw.randrange(3))]
        space = namespace(fields)
        assert forebay.chunk_keys(tokens, size, space, extra) == reference_keys.token_keys(fields, tokens, size, extra)
        blocks = [draw.randbytes(draw.choice([0, 16, 32])) for _ in range(draw.randrange(9))]
        assert forebay.chunk_keys_from_blocks(blocks, size, space) == reference_keys.block_keys(fields, blocks, size)


@pytest.mark.parametrize("hash_seed", ["0", "1", "4294967295"])
def test_another_process_makes_the_same_keys_whatever_its_hash_seed(hash_seed: str) -> None:
    vector = next(vector for vector in VECTORS["tokens"] if vector["extra"] and vector["namespace"].get("salt"))
    answer = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(vector),
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(answer.stdout) == vector["keys"]


def test_the_kind_of_sequence_makes_no_difference() -> None:
    tokens = list(range(10, 22))
    space = namespace({"model": "a-model"})
    expected = reference_keys.token_keys({"model": "a-model"}, tokens, 4)
    kinds = [tokens, tuple(tokens), range(10, 22), *(array.array(code, tokens) for code in "BHIiLlQq")]
    for kind in kinds:
        assert forebay.chunk_keys(kind, 4, space) == expected, repr(kind)


def test_numpy_tokens_of_every_integer_type_and_stride_make_no_difference() -> None:
    tokens = list(range(10, 22))
    space = namespace({"model": "a-model"})
    expected = reference_keys.token_keys({"model": "a-model"}, tokens, 4)
    for code in ("u1", "i2", "u4", "i4", "i8", "u8", ">i4", ">u4", ">i8"):
        given = numpy.array(tokens, dtype=code)
        assert forebay.chunk_keys(given, 4, space) == expected, code
        assert forebay.chunk_keys(numpy.repeat(given, 2)[::2], 4, space) == expected, f"{code}, every other one"


def test_the_default_chunk_size_is_256() -> None:
    tokens = list(range(600))
    space = namespace({"model": "a-model"})
    assert forebay.chunk_keys(tokens, namespace=space) == reference_keys.token_keys({"model": "a-model"}, tokens, 256)


@pytest.mark.parametrize("token", [-1, 2**32, 1.5, "7", None])
def test_what_is_no_token_id_is_refused(token: object) -> None:
    with pytest.raises(forebay.Error, match="token id"):
        forebay.chunk_keys([1, token], 2, namespace({"model": "a-model"}))


@pytest.mark.parametrize("code", ["i", "q"])
def test_a_negative_token_id_in_a_buffer_is_refused(code: str) -> None:
    with pytest.raises(forebay.Error, match="token id"):
        forebay.chunk_keys(array.array(code, [1, -1]), 2, namespace({"model": "a-model"}))


def test_a_chunk_of_no_tokens_or_blocks_is_refused() -> None:
    space = namespace({"model": "a-model"})
    with pytest.raises(forebay.Error, match="chunk_size"):
        forebay.chunk_keys([1, 2], 0, space)
    with pytest.raises(forebay.Error, match="blocks_per_chunk"):
        forebay.chunk_keys_from_blocks([b"x"], 0, space)


class Liar(list):
    """Says that it is longer than any memory."""

    def __len__(self) -> int:
        return 2**40


def test_a_length_that_is_not_true_is_not_believed() -> None:
    space = namespace({"model": "a-model"})
    blocks = [b"x" * 32, b"y" * 32]
    assert forebay.chunk_keys_from_blocks(Liar(blocks), 1, space) == forebay.chunk_keys_from_blocks(blocks, 1, space)
    assert forebay.chunk_keys([1], 1, space, Liar([b"x"])) == forebay.chunk_keys([1], 1, space, [b"x"])


def test_block_hashes_that_are_no_bytes_are_refused() -> None:
    for hashes in ("text", [1], ["text"], [None], 5):
        with pytest.raises(TypeError):
            forebay.chunk_keys_from_blocks(hashes, 1, namespace({"model": "a-model"}))
