"""The demo: a long prompt is computed once, the engine restarts, and the same prompt comes from the disk.

Three vLLM processes in a row with a real small model on the CPU: without a connector (what is right, and how
long it takes), with Forebay and an empty cache, and with Forebay after the restart. Prints a table and writes
target/demo.json. Ends with an error if a token differs, if the last process computed 5 % of the prompt or
more, or if it was not clearly faster.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / ".models" / "smollm2-135m"
CHUNK_TOKENS = 256
GIB = 1 << 30
ENGINE_MAX_S = 280
COMPUTED_FRACTION_MAX = 0.05
RATIO_MIN = 5.0  # far below what is seen; a machine that does other work must not fail the demo


def chunk_bytes() -> int:
    """K and V of a chunk: layers x heads x head size x two x four bytes (float32) x tokens."""
    config = json.loads((MODEL / "config.json").read_text())
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return int(config["num_hidden_layers"] * config["num_key_value_heads"] * head * 2 * 4 * CHUNK_TOKENS)


def run_engine(what: str, options: argparse.Namespace, forebay: dict[str, Any] | None, work: Path) -> dict[str, Any]:
    print(f"  {what:<52}", end="", flush=True)
    result, log = work / "result.json", work / "engine.log"
    result.unlink(missing_ok=True)
    command = [
        sys.executable,
        str(ROOT / "demo" / "engine.py"),
        "--model",
        str(MODEL),
        "--result",
        str(result),
    ]
    command += ["--prompt-tokens", str(options.prompt_tokens), "--answer-tokens", str(options.answer_tokens)]
    if forebay is not None:
        command += ["--forebay", json.dumps(forebay)]
    began_s = time.monotonic()
    with log.open("w") as output:
        code = subprocess.run(command, stdout=output, stderr=output, timeout=ENGINE_MAX_S, check=False).returncode
    if code != 0 or not result.exists():
        print("failed")
        sys.exit(f"the engine ended with code {code}; the end of its log:\n{log.read_text()[-4000:]}")
    seen: dict[str, Any] = json.loads(result.read_text())
    print(f"first token after {seen['ttft_s']:7.2f} s   ({time.monotonic() - began_s:.0f} s in all)")
    return seen


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    plain, cold, loaded = runs["plain"], runs["cold"], runs["loaded"]
    stats = loaded["stats"]
    return {
        "cold_ttft_s": cold["ttft_s"],
        "loaded_ttft_s": loaded["ttft_s"],
        "ratio": cold["ttft_s"] / loaded["ttft_s"],
        "computed_fraction": loaded["computed_tokens"] / loaded["prompt_tokens"],
        "tokens_identical": plain["token_ids"] == cold["token_ids"] == loaded["token_ids"],
        "disk_bytes": stats["bytes"],
        "staging_bytes_max": max(cold["stats"]["staging_bytes_max"], stats["staging_bytes_max"]),
        "staging_bytes_bound": stats["staging_bytes"],
        "rss_mib": loaded["rss_mib"],
        "plain_ttft_s": plain["ttft_s"],
        "plain_rss_mib": plain["rss_mib"],
        "chunks": loaded["chunks_loaded"],
        "chunk_bytes": chunk_bytes(),
        "prompt_tokens": loaded["prompt_tokens"],
        "answer_tokens": len(loaded["token_ids"]),
        "model": "SmolLM2-135M-Instruct, float32, CPU",
    }


def table_rows(seen: dict[str, Any]) -> list[tuple[str, str]]:
    mib = 1 << 20
    return [
        ("time to first token, computed", f"{seen['cold_ttft_s']:.2f} s"),
        ("time to first token, loaded after a restart", f"{seen['loaded_ttft_s']:.2f} s"),
        ("faster by", f"{seen['ratio']:.0f} x"),
        ("tokens computed after the restart", f"{100 * seen['computed_fraction']:.1f} % of the prompt"),
        ("answer identical to vLLM's own", "yes" if seen["tokens_identical"] else "NO"),
        (
            "loaded from disk",
            f"{seen['chunks']} chunks, {seen['chunks'] * seen['chunk_bytes'] / mib:.0f} MiB",
        ),
        ("on disk", f"{seen['disk_bytes'] / mib:.0f} MiB"),
        (
            "staging memory, highest use of what is allowed",
            f"{seen['staging_bytes_max'] / mib:.1f} of {seen['staging_bytes_bound'] / mib:.1f} MiB",
        ),
        (
            "resident memory of the engine (without Forebay)",
            f"{seen['rss_mib']:.0f} ({seen['plain_rss_mib']:.0f}) MiB",
        ),
    ]


def table(seen: dict[str, Any], rows: list[tuple[str, str]], text: str) -> str:
    label = max(len(row[0]) for row in rows)
    value = max(len(row[1]) for row in rows)
    title = f" {seen['prompt_tokens']} tokens of prompt on {seen['model']} "
    width = label + value + 3
    lines = ["┌" + title.center(width + 2, "─") + "┐"]
    lines += [f"│ {name:<{label}}   {figure:>{value}} │" for name, figure in rows]
    lines += ["└" + "─" * (width + 2) + "┘", f"  The answer: {' '.join(text.split())[:96]}"]
    return "\n".join(lines)


def complaints(seen: dict[str, Any]) -> list[str]:
    found: list[str] = []
    if not seen["tokens_identical"]:
        found.append("the answers differ")
    if seen["computed_fraction"] >= COMPUTED_FRACTION_MAX:
        found.append(f"{100 * seen['computed_fraction']:.1f} % of the prompt was computed again")
    if seen["ratio"] < RATIO_MIN:
        found.append(f"loading was only {seen['ratio']:.1f} times faster")
    if seen["staging_bytes_max"] > seen["staging_bytes_bound"]:
        found.append("more staging memory was used than allowed")
    return found


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--staging-mib", type=float, default=64, help="bound on staging memory (default 64 MiB)")
    parser.add_argument("--prompt-tokens", type=int, default=16 * CHUNK_TOKENS + 16, help="default: 4112")
    parser.add_argument("--answer-tokens", type=int, default=24)
    return parser


def staging_only(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "local_cpu": False,
        "use_only_staging_buffer": True,
        "max_local_cpu_size": options.staging_mib * (1 << 20) / GIB,
        "chunk_size": CHUNK_TOKENS,
    }


@contextlib.contextmanager
def work_folder(name: str) -> Iterator[Path]:
    """A folder in target/ that is gone afterwards, but for the log of the last engine."""
    target = ROOT / "target"
    target.mkdir(exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=target))
    try:
        yield work
    finally:
        if (work / "engine.log").exists():
            shutil.copyfile(work / "engine.log", target / f"{name}.log")
        shutil.rmtree(work, ignore_errors=True)


def conclude(name: str, seen: dict[str, Any], rows: list[tuple[str, str]], text: str, found: list[str]) -> None:
    (ROOT / "target" / f"{name}.json").write_text(json.dumps(seen, indent=2) + "\n")
    print(table(seen, rows, text))
    if found:
        sys.exit(f"{name}: " + "; ".join(found))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--disk", type=Path, help="where the cache lives (default: a temporary folder in target/)")
    options = parser.parse_args()
    print(f"Forebay demo: {options.prompt_tokens} tokens, at most {options.staging_mib:g} MiB of staging")
    with work_folder("demo") as work:
        disk = options.disk or work / "kv"
        disk.mkdir(parents=True, exist_ok=True)
        forebay = {"local_disk": str(disk), "max_local_disk_size": 2, **staging_only(options)}
        runs = {
            "plain": run_engine("vLLM alone", options, None, work),
            "cold": run_engine("vLLM with Forebay, nothing stored yet", options, forebay, work),
            "loaded": run_engine("vLLM with Forebay, restarted", options, forebay, work),
        }
    seen = summary(runs)
    conclude("demo", seen, table_rows(seen), runs["loaded"]["text"], complaints(seen))


if __name__ == "__main__":
    main()
