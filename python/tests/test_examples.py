"""The examples run and say what they should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tiny_model import QUICK_VLLM_ENVIRONMENT

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
VLLM_MAX_S = 480
CHUNK_TOKENS = 256


def run(name: str, *arguments: str, timeout_s: float = 60) -> str:
    # The programs beside this Python are found, whether its environment is active or not.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **QUICK_VLLM_ENVIRONMENT, "PATH": path},
        check=False,
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-6000:]
    return ended.stdout


def prompt_and_cached(said: str) -> list[tuple[int, int]]:
    found = re.findall(r"tokens of prompt: (\d+), of them from (?:the|a) cache: (\d+)", said)
    return [(int(prompt), int(cached)) for prompt, cached in found]


def test_the_cache_example_comes_back_after_a_restart(tmp_path: Path) -> None:
    said = run("cache.py", str(tmp_path))
    assert "after a restart: hit, 10 of 10 chunks" in said
    assert "10 loaded, 10 of them right" in said


def test_the_vllm_examples_find_what_an_engine_before_them_has_left(tiny_model: Path, tmp_path: Path) -> None:
    """One directory, three engines one after the other: two offline, then the server."""
    model, directory = str(tiny_model), str(tmp_path / "kv")
    first = run("vllm_offline.py", model, directory, timeout_s=VLLM_MAX_S)
    [(prompt, cached)] = prompt_and_cached(first)
    chunks = prompt // CHUNK_TOKENS
    assert chunks > 8 and cached == 0
    # vLLM gives an engine five seconds to end, and one on a machine that is busy may lose what it was storing.
    for _ in range(3):
        second = run("vllm_offline.py", model, directory, timeout_s=VLLM_MAX_S)
        if prompt_and_cached(second) == [(prompt, chunks * CHUNK_TOKENS)]:
            break
    assert prompt_and_cached(second) == [(prompt, chunks * CHUNK_TOKENS)]
    [answer] = re.findall(r"answer: (.+)", first)
    assert answer in second

    served = run("vllm_serve.py", model, directory, timeout_s=VLLM_MAX_S)
    [from_disk, from_memory] = prompt_and_cached(served)
    assert from_disk == (prompt, chunks * CHUNK_TOKENS)
    assert from_memory[1] >= from_disk[1]
    assert f'forebay_loaded_chunks_total{{tier="disk"}} {chunks}' in served
