"""Runs the disk peers one after the other, each in its own process, in several rounds of changing order."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import page_cache

HERE = Path(__file__).resolve().parent
MIB = 1 << 20
PEER_MAX_S = 900


@dataclass(frozen=True)
class Entry:
    """How a peer is started."""

    key: str
    command: tuple[str, ...]
    mode: str = ""
    staging_mib: int | None = None
    """Where the peer cannot do with what the others get, or needs less."""


_PYTHON = str(HERE / ".venv" / "bin" / "python")


def _script(name: str) -> tuple[str, ...]:
    return (_PYTHON, str(HERE / "disk" / name))


ENTRIES = (
    Entry("forebay", _script("forebay_disk.py"), staging_mib=128),
    Entry("lmcache", _script("lmcache_disk.py"), "buffered", 1024),
    Entry("lmcache-direct", _script("lmcache_disk.py"), "direct", 1024),
    Entry("vllm-fs", _script("vllm_fs.py")),
    Entry("foyer", (str(HERE / "foyer" / "target" / "release" / "bench-foyer"),)),
)


def _memory(pid: int) -> dict[str, int]:
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            fields[name] = int(rest.split()[0]) * 1024
    return {"rss_bytes": fields["VmRSS"], "rss_max_bytes": fields["VmHWM"]}


def _phases(process: subprocess.Popen[str], directory: Path) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    assert process.stdin is not None
    for line in process.stdout:
        seen = json.loads(line)
        seen |= _memory(process.pid)
        seen["cached_bytes"] = page_cache.held_bytes(directory)
        if seen["phase"] in ("write", "read_one"):
            seen["sync_s"] = page_cache.sync(directory)
            page_cache.drop(directory)
        yield seen
        process.stdin.write("\n")
        process.stdin.flush()


def run_peer(entry: Entry, options: argparse.Namespace, chunk_mib: int, salt: int, log: Path) -> dict[str, Any]:
    """One peer's phases by name. A peer that fails is a result as well: its error and the end of its log."""
    chunk_bytes = chunk_mib * MIB
    directory = Path(tempfile.mkdtemp(prefix=f"peer-{entry.key}-", dir=options.directory))
    command = [*entry.command, "--directory", str(directory), "--chunk-bytes", str(chunk_bytes)]
    command += ["--chunks", str(options.total_mib // chunk_mib), "--batch", str(options.batch_mib // chunk_mib)]
    command += ["--staging-bytes", str((entry.staging_mib or options.staging_mib) * MIB)]
    command += ["--threads", str(options.threads), "--salt", str(salt), "--mode", entry.mode]
    result: dict[str, Any] = {"peer": entry.key, "chunk_mib": chunk_mib, "round": salt, "phases": {}}
    try:
        with log.open("w") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
                env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": str(os.cpu_count() or 1)},
            )
            watchdog = threading.Timer(PEER_MAX_S, process.kill)
            watchdog.start()
            try:
                for seen in _phases(process, directory):
                    result["phases"][seen.pop("phase")] = seen
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait()
                watchdog.cancel()
        if process.returncode:
            result["error"] = f"ended with {process.returncode}: {log.read_text()[-1500:]}"
    except (OSError, RuntimeError, ValueError) as error:
        result["error"] = f"{error}: {log.read_text()[-1500:]}"
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return result


def run(options: argparse.Namespace, results: Path) -> list[dict[str, Any]]:
    chosen = [entry for entry in ENTRIES if not options.peers or entry.key in options.peers]
    seen = []
    with results.open("w") as out:
        for chunk_mib in options.chunk_mib:
            for number in range(options.rounds):
                turn = number % len(chosen)
                for entry in chosen[turn:] + chosen[:turn]:
                    result = run_peer(entry, options, chunk_mib, number + 1, results.with_suffix(".log"))
                    print(_line(result), file=sys.stderr, flush=True)
                    out.write(json.dumps(result) + "\n")
                    out.flush()
                    seen.append(result)
    return seen


def _line(result: dict[str, Any]) -> str:
    start = f"  {result['chunk_mib']:>2} MiB, round {result['round']}, {result['peer']:<15}"
    if "error" in result:
        return f"{start} FAILED: {result['error']}"
    parts = []
    for phase in ("write", "read_one", "read_batch"):
        seen = result["phases"][phase]
        parts.append(
            f"{phase} {seen['bytes'] / seen['wall_s'] / 1e9:5.2f} GB/s {seen['cpu_s'] * 1e9 / seen['bytes']:6.3f}"
        )
    return start + "  ".join(parts)
