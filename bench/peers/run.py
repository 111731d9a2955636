#!/usr/bin/env python3
"""Runs Forebay and its peers on the same work and writes the tables into a document. bench/peers/README.md says more.

bench/peers/run.py                        # all of it, into docs/BENCHMARKS.md
bench/peers/run.py disk --rounds 1        # a part of it, quicker
bench/peers/run.py disk --results FILE    # only the table, from the lines of an earlier run
bench/peers/run.py robustness             # damaged files, a full disk and the like, into docs/ROBUSTNESS.md
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import disk_rounds
import disk_table
import machine
import robustness_rounds
import robustness_table
import sections
import vllm_rounds
import vllm_table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GIB = 1 << 30


def arguments() -> argparse.Namespace:
    peers = {entry.key for entry in (*disk_rounds.ENTRIES, *robustness_rounds.ENTRIES)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("all", "disk", "vllm", "robustness"), default="all")
    parser.add_argument(
        "--output", type=Path, help="what gets the tables (default: docs/BENCHMARKS.md, docs/ROBUSTNESS.md)"
    )
    parser.add_argument(
        "--directory", type=Path, default=ROOT / "target", help="the drive to measure (default: target/)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each measurement is made (default 3)")
    parser.add_argument(
        "--results", type=Path, nargs="+", help="lines of earlier runs of this part, put together; nothing is run"
    )
    parser.add_argument("--no-setup", action="store_true", help="everything is installed and built already")
    disk = parser.add_argument_group("disk")
    disk.add_argument("--total-mib", type=int, default=2048, help="bytes a round writes and reads (default 2048)")
    disk.add_argument("--chunk-mib", type=int, nargs="+", default=[2, 8, 32])
    disk.add_argument("--batch-mib", type=int, default=256, help="what is stored or loaded at once (default 256)")
    disk.add_argument("--staging-mib", type=int, default=256, help="memory a cache may use (default 256)")
    disk.add_argument("--threads", type=int, default=4, help="I/O threads of a cache (default 4)")
    disk.add_argument("--peers", nargs="+", choices=sorted(peers), help="only these (disk, robustness)")
    robustness = parser.add_argument_group("robustness")
    robustness.add_argument(
        "--limit", type=float, default=60, help="seconds after which no answer is a hang (default 60)"
    )
    robustness.add_argument("--cases", nargs="+", choices=list(robustness_rounds.CASES))
    vllm = parser.add_argument_group("vllm")
    vllm.add_argument("--prompt-tokens", type=int, nargs="+", default=[1040, 2064, 4112])
    vllm.add_argument("--connectors", nargs="+", choices=list(vllm_rounds.CONFIGURATIONS))
    vllm.add_argument("--repeats", type=int, default=1, help="engines on a warm store in a round (default 1)")
    vllm.add_argument("--answer-tokens", type=int, default=24)
    vllm.add_argument("--vllm-staging-mib", type=float, default=64, help="bound on Forebay's staging (default 64 MiB)")
    vllm.add_argument("--model", type=Path, default=ROOT / ".models" / "smollm2-135m")
    options = parser.parse_args()
    if options.results and options.part == "all":
        parser.error("--results goes with one part")
    if not options.output:
        options.output = ROOT / "docs" / ("ROBUSTNESS.md" if options.part == "robustness" else "BENCHMARKS.md")
    return options


def command() -> str:
    """How this run was started, without what does not change a figure."""
    words = [word for word in sys.argv[1:] if word != "--no-setup"]
    if "--output" in words:
        place = words.index("--output")
        del words[place : place + 2]
    return shlex.join(["bench/peers/run.py", *words])


def copy_cost(chunk_mib: int) -> float:
    program = [str(HERE / ".venv" / "bin" / "python"), str(HERE / "disk" / "copy_cost.py"), str(chunk_mib << 20)]
    seen = json.loads(subprocess.run(program, check=True, capture_output=True, text=True).stdout)
    return float(seen["cpu_s_per_gb"])


def results_of(options: argparse.Namespace, part: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The lines of a run, made now or read, and how it was made, which is the first line of the file."""
    if options.results:
        seen, abouts = [], []
        for results in options.results:
            about, *lines = (json.loads(line) for line in results.read_text().splitlines())
            abouts.append(about)
            seen += lines
        together = {
            "command": "\n".join(about["command"] for about in abouts),
            "minutes": sum(about["minutes"] for about in abouts),
        }
        return seen, abouts[-1] | together
    file = ROOT / "target" / f"bench-peers-{part}.jsonl"
    began_s = time.monotonic()
    rounds = {"disk": disk_rounds, "vllm": vllm_rounds, "robustness": robustness_rounds}[part]
    seen = rounds.run(options, file.with_suffix(".tmp"))
    about = {
        "minutes": (time.monotonic() - began_s) / 60,
        "machine": machine.describe(options.directory),
        "command": command(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip(),
        "copy_cpu_s_per_gb": copy_cost(8),
        "rounds": options.rounds,
        "total_gib": options.total_mib / 1024,
        "batch_mib": options.batch_mib,
        "threads": options.threads,
    }
    file.write_text("".join(json.dumps(line) + "\n" for line in (about, *seen)))
    return seen, about


def heading(about: dict[str, Any]) -> list[str]:
    return [
        f"Measured at commit {about['commit']} on {about['machine']}, in {about['minutes']:.0f} minutes:",
        "",
        "```sh",
        about["command"],
        "```",
        "",
    ]


def disk_section(options: argparse.Namespace) -> str:
    seen, about = results_of(options, "disk")
    lines = heading(about)
    lines += [
        f"Medians of {about['rounds']} round(s), the range in brackets. {about['total_gib']:g} GiB a round, "
        f"{about['batch_mib']} MiB stored or loaded at once, {about['threads']} I/O threads. One copy from memory to "
        f"memory costs {about['copy_cpu_s_per_gb']:.3f} CPU-s/GB here: what a connector adds to a row whose "
        "cache does not reach the engine's memory. Bold is the best of a column.",
    ]
    for chunk_mib in sorted({run["chunk_mib"] for run in seen}):
        lines += ["", f"#### Chunks of {chunk_mib} MiB", "", disk_table.table(seen, chunk_mib)]
    return "\n".join(lines)


def vllm_section(options: argparse.Namespace) -> str:
    seen, about = results_of(options, "vllm")
    return "\n".join([*heading(about), "Medians, with the range in brackets.", "", vllm_table.table(seen)])


def robustness_section(options: argparse.Namespace) -> str:
    seen, about = results_of(options, "robustness")
    lines = heading(about)
    lines += [
        f"{about['rounds']} round(s), counted together. The full disk was {robustness_table.file_systems(seen)}.",
        "",
        robustness_table.summary(seen),
        "",
        robustness_table.table(seen),
    ]
    return "\n".join(lines)


def main() -> None:
    options = arguments()
    (ROOT / "target").mkdir(exist_ok=True)
    options.directory.mkdir(parents=True, exist_ok=True)
    if not options.no_setup and not options.results:
        without = ["--without-foyer"] if options.part == "robustness" else []
        subprocess.run([str(HERE / "setup.sh"), *without], check=True)
    # Robustness is a part of its own: it writes into another document.
    sections_of = {"disk": disk_section, "vllm": vllm_section, "robustness": robustness_section}
    for part, section in sections_of.items():
        if options.part == part or (options.part == "all" and part != "robustness"):
            print(f"bench: {part}", file=sys.stderr)
            sections.replace(options.output, f"peers-{part}", section(options))


if __name__ == "__main__":
    main()
