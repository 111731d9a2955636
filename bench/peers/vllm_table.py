"""The head-to-head's table, from the lines of `vllm_rounds`: medians of the rounds, tokens held against plain vLLM."""

from __future__ import annotations

from statistics import median
from typing import Any

Result = dict[str, Any]
ROWS = (
    ("none", "cold", "no connector"),
    ("forebay", "cold", "Forebay, nothing stored"),
    ("lmcache", "cold", "LMCache multi-process, nothing stored"),
    ("forebay", "warm", "Forebay, fresh engine"),
    ("lmcache", "warm", "LMCache, fresh engine, server kept (its memory answers)"),
    ("forebay", "restarted", "Forebay, fresh engine, page cache emptied"),
    ("lmcache", "restarted", "LMCache, server restarted, page cache emptied (its `fs` tier answers)"),
)


def _times(runs: list[Result], place: int) -> str:
    values = [run["answers"][place]["ttft_s"] for run in runs]
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def _reference(results: list[Result]) -> list[list[int]]:
    for run in results:
        if run["configuration"] == "none" and "error" not in run:
            return [answer["token_ids"] for answer in run["answers"]]
    return []


def _found(runs: list[Result]) -> str:
    shares = {
        f"{sum(answer['cached_tokens'] for answer in run['answers'])}/"
        f"{sum(answer['prompt_tokens'] for answer in run['answers'])}"
        for run in runs
    }
    return ", ".join(sorted(shares))


def table(results: list[Result]) -> str:
    good = [run for run in results if "error" not in run]
    if not good:
        return "No run succeeded."
    reference = _reference(good)
    lengths = [answer["prompt_tokens"] for answer in good[0]["answers"]]
    titles = [
        "seconds to first token",
        *(f"{length:,} tokens" for length in lengths),
        "tokens from the cache",
        "same tokens",
        "engine MiB",
        "server MiB",
        "runs",
    ]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, phase, title in ROWS:
        runs = [run for run in good if run["configuration"] == name and run["phase"] == phase]
        if not runs:
            continue
        same = sum([answer["token_ids"] for answer in run["answers"]] == reference for run in runs)
        server = [run["server_rss_mib"] for run in runs if "server_rss_mib" in run]
        cells = [title, *(_times(runs, place) for place in range(len(lengths))), _found(runs)]
        cells += [f"{same} of {len(runs)}", f"{median(run['rss_mib'] for run in runs):.0f}"]
        cells += [f"{median(server):.0f}" if server else "", str(len(runs))]
        lines.append("| " + " | ".join(cells) + " |")
    for run in results:
        if "error" in run:
            lines += ["", f"Failed: {run['configuration']}, round {run['round']}: {run['error'].splitlines()[0][:200]}"]
    return "\n".join(lines)
