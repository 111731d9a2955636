"""A Redis server of one's own: on a free port, in memory only, gone with its owner's `with` block. For the demo and the
tests."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Self

_START_MAX_S = 60.0


class RedisServer:
    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="forebay-redis-")
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        for _ in range(10):  # somebody else may take the port before the server does
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            if self._start():
                return
        raise RuntimeError("redis-server did not start on any of ten ports")

    def _start(self) -> bool:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        try:
            self.process = subprocess.Popen([*command, "--dir", self.folder.name], stdout=subprocess.DEVNULL)
        except FileNotFoundError as error:
            raise RuntimeError("redis-server is not installed: apt-get install redis-server") from error
        deadline_s = time.monotonic() + _START_MAX_S
        while self.process.poll() is None and time.monotonic() < deadline_s:
            try:
                if self.say("PING") == "+PONG":
                    return True
            except OSError:
                time.sleep(0.01)
        self.kill_9()
        return False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def say(self, command: str) -> str:
        """The first line of the server's answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(f"{command}\r\n".encode())
            return connection.makefile("r", encoding="latin-1", newline="\r\n").readline().rstrip()

    def keys(self) -> int:
        return int(self.say("DBSIZE").removeprefix(":"))

    def kill_9(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill_9()
        self.folder.cleanup()
