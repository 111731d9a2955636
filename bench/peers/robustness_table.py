"""The table of `run.py robustness`: what each cache did in each case, in a few words made from what was counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import robustness_rounds

# In this order where several are in one phase; what is not here comes last.
_ORDER = ("right", "stored", "miss", "wrong")
_BAD = ("wrong", "hang", "crash", "error", "not reported", "no memory")
_TELLING = {
    "damaged chunk": "the chunk",
    "stored anew": "stored anew",
    "then": "then",
}
_QUIET = {
    # What is as it has to be, so that it is told only when it is not.
    "before": "stored",
    "one that fits": "right",
    "afterwards": "right",
}


def _is_bad(outcome: str) -> bool:
    return outcome.startswith(_BAD)


def _word(outcome: str, count: int, total: int) -> str:
    words = "wrong bytes" if outcome == "wrong" else outcome
    if outcome.startswith(("hang", "crash", "ended")):
        return f"**{words}**"
    share = f"{words}" if count == total else f"{count} of {total} {words}"
    return f"**{share}**" if _is_bad(outcome) else share


def _outcomes(counts: dict[str, int]) -> str:
    order = {outcome: place for place, outcome in enumerate(_ORDER)}
    total = sum(counts.values())
    told = sorted(counts.items(), key=lambda item: order.get(item[0], len(order)))
    return ", ".join(_word(outcome, count, total) for outcome, count in told)


def _phase(name: str, counts: dict[str, int]) -> str:
    if set(counts) == {_QUIET.get(name)} or name == "file system":
        return ""
    if name == "files left":
        return f"files left behind: {' or '.join(sorted(counts))}"
    return f"{_TELLING.get(name, name)}: {_outcomes(counts)}"


def _merged(runs: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """All rounds' counts together, the phases in their order."""
    merged: dict[str, Counter[str]] = {}
    for run in runs:
        for phase, counts in run["seen"].items():
            merged.setdefault(phase, Counter()).update(counts)
    return {phase: dict(counts) for phase, counts in merged.items()}


def cell(runs: list[dict[str, Any]]) -> str:
    """What was seen in all rounds of a case."""
    if not runs:
        return "not run"
    told = [text for phase, counts in _merged(runs).items() if (text := _phase(phase, counts))]
    return "; ".join(told)


def file_systems(seen: list[dict[str, Any]]) -> str:
    kinds = {kind for run in seen for kind in run["seen"].get("file system", {})}
    return " or ".join(sorted(kinds)) or "none"


def _verdict(runs: list[dict[str, Any]]) -> set[str]:
    """What of the bad happened at all, in the words of the summary."""
    seen = {outcome for run in runs for counts in run["seen"].values() for outcome in counts}
    found = {word for word in _BAD if any(outcome.startswith(word) for outcome in seen)}
    if any(set(run["seen"].get("reported as stored", {})) == {"miss"} for run in runs):
        found.add("all lost")
    if any(
        "stored" in run["seen"].get("new stores", {}) and set(run["seen"].get("after a restart", {})) == {"miss"}
        for run in runs
    ):
        found.add("new stores lost")
    return found


def table(seen: list[dict[str, Any]]) -> str:
    entries = [entry for entry in robustness_rounds.ENTRIES if any(run["peer"] == entry.key for run in seen)]
    lines = []
    for case, (title, _) in robustness_rounds.CASES.items():
        if not any(run["case"] == case for run in seen):
            continue
        lines += ["", f"**{title[0].upper()}{title[1:]}**" if title[0].isalpha() else f"**{title}**", ""]
        lines += ["| cache | what it did |", "|---|---|"]
        for entry in entries:
            runs = [run for run in seen if run["peer"] == entry.key and run["case"] == case]
            lines.append(f"| {entry.name} | {cell(runs)} |")
    return "\n".join(lines[1:])


def summary(seen: list[dict[str, Any]]) -> str:
    """Of each cache in each case, the worst: one word a cell."""
    cases = [case for case in robustness_rounds.CASES if any(run["case"] == case for run in seen)]
    entries = [entry for entry in robustness_rounds.ENTRIES if any(run["peer"] == entry.key for run in seen)]
    lines = ["| | " + " | ".join(entry.name for entry in entries) + " |", "|---" * (len(entries) + 1) + "|"]
    worst = {
        "wrong": "**wrong bytes**",
        "hang": "**hang**",
        "crash": "**crash**",
        "all lost": "**all lost**",
        "new stores lost": "**new stores lost at the restart**",
        "error": "error raised",
        "not reported": "stores never reported",
        "no memory": "no memory left",
    }
    for case in cases:
        row = []
        for entry in entries:
            runs = [run for run in seen if run["peer"] == entry.key and run["case"] == case]
            found = _verdict(runs)
            words = [text for word, text in worst.items() if word in found]
            row.append(", ".join(words) if words else _sound(runs))
        lines.append(f"| {robustness_rounds.CASES[case][0]} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def _sound(runs: list[dict[str, Any]]) -> str:
    if not runs:
        return "not run"
    loads = {"damaged chunk", "others", "prompt", "those", "reported as stored", "stored before", "new"}
    seen = Counter[str]()
    for phase, counts in _merged(runs).items():
        if phase in loads:
            seen.update(counts)
    return "right, or a miss" if seen.get("miss") else "right"
