"""One cache in a process of its own, that does what it is told line by line. Started by ../robustness_rounds.py through
one of the files beside this one.

Each line of its socket is a JSON object with `do` and its arguments, each line it answers the answer to one. What
is loaded is compared with what was stored before it is told: a chunk is "right", "wrong" or a "miss". Memory that a
load may fill is filled with other bytes before, so that what was left there by an earlier one is not taken for right.

The caches are those of ../disk, asked as an engine asks them: nobody waits without end for a store to be reported.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import socket
import subprocess
import sys
import traceback
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
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
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


def _own_mounts(script: str) -> None:
    """Runs a script that mounts what nobody but this process will see."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)):
        raise OSError(ctypes.get_errno(), "this process may not have mounts of its own")
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    subprocess.run(["sh", "-c", f"mount --make-rprivate / && {script}"], check=True)


def _serve(make: Callable[[argparse.Namespace, Content], Subject], asked: dict[str, Any], line: socket.socket) -> None:
    """A case's process: opens the cache and does what the line says until it ends."""
    if asked["mount"]:
        _own_mounts(asked["mount"])
    options = argparse.Namespace(**asked["options"])
    options.directory = Path(options.directory)
    options.directory.mkdir(parents=True, exist_ok=True)
    content = Content(options.chunk_bytes, options.salt)
    orders = Orders(make(options, content), content, options)
    with line.makefile("rw") as stream:
        print(json.dumps({"answer": "open"}), file=stream, flush=True)
        for order in stream:
            told = json.loads(order)
            try:
                answer = {"answer": getattr(orders, told.pop("do"))(**told)}
            except Exception as error:
                traceback.print_exc()
                answer = {"raised": type(error).__name__}
            print(json.dumps(answer), file=stream, flush=True)


def run(make: Callable[[argparse.Namespace, Content], Subject]) -> None:
    """Has imported everything, and forks for each case it is sent, one after the other: imports take the most time."""
    with socket.socket(fileno=int(sys.argv[1])) as control:
        while True:
            message, fds, _, _ = socket.recv_fds(control, 1 << 16, 2)
            if not message:
                return
            line, log = fds
            if (pid := os.fork()) == 0:
                status = 1
                try:
                    control.close()
                    os.dup2(log, 1)
                    os.dup2(log, 2)
                    _serve(make, json.loads(message), socket.socket(fileno=line))
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    # Threads of a cache that hangs do not keep the process.
                    os._exit(status)
            os.close(line)
            os.close(log)
            control.send(f"{pid}\n".encode())
            _, status = os.waitpid(pid, 0)
            control.send(f"{os.waitstatus_to_exitcode(status)}\n".encode())
