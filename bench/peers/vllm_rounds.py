"""Asks vLLM the same prompts without a connector, with Forebay's and with LMCache's, in several rounds.

A round of a connector is engines in a row, each a fresh process, on one directory that begins empty: `cold` (nothing
is stored), then `warm` (a fresh engine; LMCache's server goes on and may answer from its memory) and `restarted` (the
server is new as well and the page cache holds none of its files, so that only the disk can answer), these two as
often as asked for. Forebay lives in the engine: its cache restarts with it each time. The connectors take turns,
engine by engine, and LMCache's server is halted while another has its turn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page_cache

HERE = Path(__file__).resolve().parent
BIN = HERE / ".venv" / "bin"
CHUNK_TOKENS = 256
GIB = 1 << 30
ENGINE_MAX_S = 420
SERVER_MAX_S = 120
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LMCACHE_TRACK_USAGE": "false", "LMCACHE_LOG_LEVEL": "WARNING"}


def _forebay(options: argparse.Namespace, store: Path) -> dict[str, Any]:
    return {
        "kv_connector": "ForebayConnector",
        "kv_connector_module_path": "forebay.vllm",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "local_disk": str(store),
            "max_local_disk_size": 4,
            "local_cpu": False,
            "use_only_staging_buffer": True,
            "max_local_cpu_size": options.vllm_staging_mib * (1 << 20) / GIB,
            "chunk_size": CHUNK_TOKENS,
        },
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """LMCache's server with its `fs` tier; memory for all prompts, so that nothing is evicted from it."""

    def __init__(self, store: Path, log: Path) -> None:
        self.port, web, metrics = _free_port(), _free_port(), _free_port()
        command = [str(BIN / "lmcache"), "server", "--port", str(self.port), "--http-port", str(web)]
        command += ["--prometheus-port", str(metrics), "--chunk-size", str(CHUNK_TOKENS)]
        command += ["--supported-transfer-mode", "auto", "--l1-size-gb", "2", "--no-l1-use-lazy"]
        command += ["--eviction-policy", "LRU"]
        command += ["--l2-adapter", json.dumps({"type": "fs", "base_path": str(store)})]
        with log.open("a") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **ENVIRONMENT})
        until_s = time.monotonic() + SERVER_MAX_S
        while not self._answers(web):
            if self._process.poll() is not None or time.monotonic() > until_s:
                self.stop()
                raise RuntimeError(f"LMCache's server does not start: {log.read_text()[-1500:]}")
            time.sleep(0.2)

    @staticmethod
    def _answers(port: int) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    def rss_mib(self) -> float:
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def halt(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.go_on()
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def connector(self) -> dict[str, Any]:
        extra = {"lmcache.mp.host": "tcp://localhost", "lmcache.mp.port": self.port}
        return {"kv_connector": "LMCacheMPConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}


def _ask(options: argparse.Namespace, connector: dict[str, Any] | None, store: Path, work: Path) -> dict[str, Any]:
    result, log = work / "result.json", work / "engine.log"
    result.unlink(missing_ok=True)
    command = [str(BIN / "python"), str(HERE / "vllm" / "ask.py"), "--model", str(options.model)]
    command += ["--result", str(result), "--store", str(store), "--answer-tokens", str(options.answer_tokens)]
    command += ["--prompt-tokens", *map(str, options.prompt_tokens)]
    if connector:
        command += ["--connector", json.dumps(connector)]
    with log.open("w") as output:
        code = subprocess.run(
            command,
            stdout=output,
            stderr=output,
            timeout=ENGINE_MAX_S,
            check=False,
            env={**os.environ, **ENVIRONMENT},
        ).returncode
    if code or not result.exists():
        raise RuntimeError(f"the engine ended with {code}: {log.read_text()[-1500:]}")
    return dict(json.loads(result.read_text()))


def _phases(options: argparse.Namespace) -> Iterator[str]:
    yield "cold"
    for _ in range(options.repeats):
        yield from ("warm", "restarted")


def _plain(options: argparse.Namespace, store: Path, work: Path) -> Iterator[dict[str, Any]]:
    yield {"phase": "cold", **_ask(options, None, store, work)}


def _with_forebay(options: argparse.Namespace, store: Path, work: Path) -> Iterator[dict[str, Any]]:
    for phase in _phases(options):
        if phase == "restarted":
            page_cache.sync(store)
            page_cache.drop(store)
        yield {"phase": phase, **_ask(options, _forebay(options, store), store, work)}


def _with_lmcache(options: argparse.Namespace, store: Path, work: Path) -> Iterator[dict[str, Any]]:
    server = Server(store, work / "server.log")
    try:
        for phase in _phases(options):
            server.go_on()
            if phase == "restarted":
                server.stop()
                page_cache.sync(store)
                page_cache.drop(store)
                server = Server(store, work / "server.log")
            seen = {"phase": phase, **_ask(options, server.connector(), store, work)}
            seen["server_rss_mib"] = server.rss_mib()
            server.halt()
            yield seen
    finally:
        server.stop()


CONFIGURATIONS = {"none": _plain, "forebay": _with_forebay, "lmcache": _with_lmcache}


def run(options: argparse.Namespace, results: Path) -> list[dict[str, Any]]:
    names = [name for name in CONFIGURATIONS if not options.connectors or name in options.connectors]
    seen = []
    with results.open("w") as out:
        for number in range(options.rounds):
            turn = number % len(names)
            running = [_round(options, name, number + 1) for name in names[turn:] + names[:turn]]
            while running:
                for one in tuple(running):
                    result = next(one, None)
                    if result is None:
                        running.remove(one)
                        continue
                    print(_line(result), file=sys.stderr, flush=True)
                    out.write(json.dumps(result) + "\n")
                    out.flush()
                    seen.append(result)
    return seen


def _round(options: argparse.Namespace, name: str, number: int) -> Iterator[dict[str, Any]]:
    work = Path(tempfile.mkdtemp(prefix=f"ask-{name}-", dir=options.directory))
    store = work / "store"
    store.mkdir()
    about = {"configuration": name, "round": number}
    try:
        for seen in CONFIGURATIONS[name](options, store, work):
            yield about | seen
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        yield about | {"error": str(error)}
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _line(result: dict[str, Any]) -> str:
    start = f"  round {result['round']}, {result['configuration']:<8}"
    if "error" in result:
        return f"{start} FAILED: {result['error']}"
    times = ", ".join(f"{answer['prompt_tokens']}: {answer['ttft_s']:.2f} s" for answer in result["answers"])
    return f"{start} {result['phase']:<10} {times}"
