"""Values made from a fuzzer's bytes: anything Python can hand over, from the usual to the hostile."""

from __future__ import annotations

import array
import itertools
import pathlib
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

TYPECODES = "bBhHiIlLqQfd"
DTYPES = (
    "u1",
    "i1",
    "u2",
    "i2",
    "<u4",
    ">u4",
    "i4",
    ">i4",
    "u8",
    "i8",
    ">i8",
    "f4",
    "f8",
    "c8",
    "?",
    "S3",
    "U2",
    "M8[s]",
)
NUMBERS = (
    0,
    1,
    2,
    3,
    255,
    256,
    4095,
    4096,
    4097,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
)
FLOATS = (0.0, -0.0, 0.5, 1e-320, 1e18, 1e19, 1e300, float("inf"), float("-inf"), float("nan"), -1.0)
TEXTS = ("", "a", "\0", "é", "\ud800", "x" * 5000, "../..", "/", "redis://", "s3://b/\n", "1", "true", "null")
DEEP = 100_000


class Hostile(Exception):
    """What an object of a caller's raises by itself: it may come back out."""


class _Nasty:
    """Raises whatever it is asked."""

    def _raise(self, *_: Any) -> Any:
        raise Hostile

    __iter__ = __len__ = __index__ = __float__ = __getitem__ = __fspath__ = __bool__ = __int__ = __eq__ = _raise
    __hash__ = None  # type: ignore[assignment]


class _Liar(list):
    """Says it is longer than it is."""

    def __len__(self) -> int:
        return 2**40


class _Shrinking(list):
    """Becomes empty while it is gone through."""

    def __iter__(self) -> Iterator[Any]:
        for item in self[:]:
            self.clear()
            yield item


class Given:
    """Takes bytes from the front and makes values of them; zeros when there are no more."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def left(self) -> int:
        return max(0, len(self._data) - self._at)

    def bytes(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken.ljust(count, b"\0")

    def below(self, most: int) -> int:
        """A number from 0 to `most` - 1."""
        return int.from_bytes(self.bytes(1 if most <= 256 else 4), "little") % most

    def one(self, choices: Any) -> Any:
        return choices[self.below(len(choices))]

    def chance(self, in_256: int) -> bool:
        return self.below(256) < in_256

    def integer(self) -> int:
        kind = self.below(4)
        if kind == 0:
            return self.below(64)
        if kind == 1:
            return self.one(NUMBERS)
        if kind == 2:
            return -self.one(NUMBERS)
        return struct.unpack("<q", self.bytes(8))[0]

    def number(self) -> float:
        return self.one(FLOATS) if self.chance(128) else struct.unpack("<d", self.bytes(8))[0]

    def text(self) -> str:
        if self.chance(128):
            return self.one(TEXTS)
        return self.bytes(self.below(24)).decode("utf-8", "surrogateescape")

    def blob(self) -> bytes:
        return self.bytes(self.one((0, 1, 31, 32, 33, 64, 255)))

    def buffer(self, length: int) -> Any:
        """Memory of `length` bytes, or of about as much, of every kind that there is."""
        length = length if self.chance(200) else self.one((0, 1, max(0, length - 1), length + 1, 2 * length))
        kinds: tuple[Callable[[], Any], ...] = (
            lambda: bytearray(length),
            lambda: bytes(length),
            lambda: memoryview(bytearray(length)),
            lambda: memoryview(bytearray(2 * length))[::2],
            lambda: memoryview(bytearray(length)).toreadonly(),
            lambda: np.zeros(length, np.uint8),
            lambda: np.zeros(2 * length, np.uint8)[::2],
            lambda: np.zeros(length, np.uint8)[::-1],
            lambda: np.zeros((length // 8, 2), ">i4"),
            lambda: np.zeros((length // 8, 8), np.uint8, order="F"),
            lambda: np.broadcast_to(np.zeros(1, np.uint8), length),
            lambda: array.array(self.one(TYPECODES), bytes(length // 8 * 8)),
            lambda: np.zeros(0, np.uint8),
        )
        return self.one(kinds)()

    def released(self, length: int) -> memoryview:
        view = memoryview(bytearray(length))
        view.release()
        return view

    def tokens(self) -> Any:
        """A row of token ids, or something that looks like one."""
        count = self.below(40)
        kinds: tuple[Callable[[], Any], ...] = (
            lambda: [self.below(2**32) for _ in range(count)],
            lambda: tuple(self.integer() for _ in range(count)),
            lambda: array.array(self.one(TYPECODES[:10]), self.bytes(count * 8)),
            lambda: np.frombuffer(self.bytes(count * 8), self.one(DTYPES[:12]))[:: self.one((1, 2, -1))],
            lambda: np.frombuffer(self.bytes(count * 24), self.one(DTYPES)),
            lambda: np.frombuffer(self.bytes(64), "u4").reshape(4, 4),
            lambda: np.array(self.integer() % 2**63),
            lambda: memoryview(self.bytes(count * 4)).cast(self.one(("I", "i", "f", "B", "H"))),
            lambda: self.bytes(count),
            lambda: range(self.below(5000)),
            lambda: (self.below(100) for _ in range(count)),
            lambda: dict.fromkeys(range(count)),
            self.anything,
        )
        return self.one(kinds)()

    def anything(self, depth: int = 0) -> Any:
        """Any value at all."""
        plain: tuple[Callable[[], Any], ...] = (
            lambda: None,
            lambda: self.chance(128),
            self.integer,
            self.number,
            self.text,
            self.blob,
            lambda: pathlib.Path(self.text().replace("\0", "")),
            lambda: 1j,
            lambda: object,
            _Nasty,
            lambda: self.buffer(32),
            lambda: self.released(32),
            lambda: np.int64(self.below(100)),
            lambda: np.float32(self.number()),
            self._deep,
            self._round,
        )
        if depth > 3 or self.chance(160):
            return self.one(plain)()
        items = [self.anything(depth + 1) for _ in range(self.below(5))]
        nested: tuple[Callable[[], Any], ...] = (
            lambda: items,
            lambda: tuple(items),
            lambda: {self.text(): item for item in items},
            lambda: {self.integer(): item for item in items},
            lambda: _Liar(items),
            lambda: _Shrinking(items),
            lambda: iter(items),
            lambda: itertools.chain(items),
            lambda: np.array([len(items)] * 3),
        )
        return self.one(nested)()

    def _deep(self) -> Any:
        value: Any = None
        for _ in range(DEEP if self.chance(64) else 300):
            value = [value] if self.chance(250) else {"a": value}
        return value

    def _round(self) -> Any:
        value: list[Any] = []
        value.append(value)
        table = {"a": value}
        value.append(table)
        table["b"] = table  # type: ignore[assignment]
        return self.one((value, table))
