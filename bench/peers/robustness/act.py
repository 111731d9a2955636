"""One cache in a process of its own, that does what it is told line by line. Started by ../robustness_rounds.py through
one of the files beside this one.

Each line of standard input is a JSON object with `do` and its arguments, each line of output the answer to one. What
is loaded is compared with what was stored before it is told: a chunk is "right", "wrong" or a "miss". Memory that a
load may fill is filled with other bytes before, so that what was left there by an earlier one is not taken for right.

The caches are those of ../disk, asked as an engine asks them: nobody waits without end for a store to be reported.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peer import Content

# How long a store may take to be reported.
STORE_MAX_S = 10
# Bytes of a chunk by which it is found in a file.
SAMPLE_BYTES = 64
FILL = "fill"
POISON = 0xA5


def poison(views: Sequence[memoryview]) -> None:
    """So that what was left in memory is not taken for loaded."""
    for view in views:
        np.frombuffer(view, dtype=np.uint8)[:] = POISON


class Subject:
    """A cache under abuse: `peer` with how a store is answered."""

    def __init__(self, peer: Any, content: Content) -> None:
        self.peer: Any = peer
        self._content = content

    def fill(self, chunks: Sequence[int], views: Sequence[memoryview]) -> None:
        for chunk, view in zip(chunks, views, strict=False):
            self._content.fill(view, chunk)

    def put(self, chunks: Sequence[int]) -> list[str]:
        raise NotImplementedError

    def get(self, chunks: Sequence[int]) -> list[memoryview | None]:
        return self.peer.load(chunks)

    def prompt(self, chunks: Sequence[int]) -> list[memoryview | None]:
        """Loads all chunks of one prompt, as an engine would ask for them."""
        return self.get(chunks)

    def poison(self) -> None:
        raise NotImplementedError


class Orders:
    """What a line may ask for."""

    def __init__(self, subject: Subject, content: Content, options: argparse.Namespace) -> None:
        self._subject, self._content, self._options = subject, content, options

    def put(self, chunks: list[int]) -> list[str]:
        return self._subject.put(chunks)

    def _told(self, chunks: list[int], load: Callable[[Sequence[int]], list[memoryview | None]]) -> list[str]:
        self._subject.poison()
        views = load(chunks)
        told = [
            "miss" if view is None else "right" if self._content.right(view, chunk) else "wrong"
            for chunk, view in zip(chunks, views, strict=True)
        ]
        self._subject.peer.done()
        return told

    def get(self, chunks: list[int]) -> list[str]:
        return self._told(chunks, self._subject.get)

    def prompt(self, chunks: list[int]) -> list[str]:
        return self._told(chunks, self._subject.prompt)

    def sample(self, chunks: list[int]) -> list[str]:
        buffer = bytearray(self._options.chunk_bytes)
        samples = []
        for chunk in chunks:
            self._content.fill(memoryview(buffer), chunk)
            samples.append(bytes(buffer[:SAMPLE_BYTES]).hex())
        return samples

    def fill(self) -> int:
        """Takes all the space that the file system has left."""
        size = 0
        with (self._options.directory.parent / FILL).open("wb", buffering=0) as file:
            for piece in (1 << 20, 4096):
                try:
                    while True:
                        size += file.write(bytes(piece))
                except OSError:
                    continue
            os.fsync(file.fileno())
        return size

    def free(self) -> None:
        (self._options.directory.parent / FILL).unlink()

    def file_system(self) -> str:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        return next(kind for _, at, kind, *_ in reversed(mounts) if self._options.directory.is_relative_to(at))

    def close(self) -> None:
        self._subject.peer.close()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--chunk-bytes", type=int, required=True)
    parser.add_argument("--chunks", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--staging-bytes", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--salt", type=int, required=True)
    parser.add_argument("--mode", default="")
    return parser.parse_args()


def run(make: Callable[[argparse.Namespace, Content], Subject]) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    options = arguments()
    options.directory.mkdir(parents=True, exist_ok=True)
    content = Content(options.chunk_bytes, options.salt)
    orders = Orders(make(options, content), content, options)
    print(json.dumps({"answer": "open"}), file=out, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"answer": getattr(orders, asked.pop("do"))(**asked)}
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            answer = {"raised": type(error).__name__}
        print(json.dumps(answer), file=out, flush=True)
    out.flush()
    # Threads of a cache that hangs do not keep the process.
    os._exit(0)
