"""The disk peers' table, from the lines of `disk_rounds`: medians of the rounds, and where Forebay is behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

MIB = 1 << 20
BEHIND_RATIO_MIN = 1.1  # below that, two rounds of the same cache differ as much
OURS = "forebay"

Result = dict[str, Any]


@dataclass(frozen=True)
class Column:
    title: str
    value: Callable[[Result], float]
    form: str
    best: Callable[..., float] | None = max
    """Which of two is better; None where it is no competition."""
    spread: bool = False


def _rate(phase: str) -> Callable[[Result], float]:
    return lambda run: run["phases"][phase]["bytes"] / run["phases"][phase]["wall_s"] / 1e9


def _cost(phase: str) -> Callable[[Result], float]:
    return lambda run: run["phases"][phase]["cpu_s"] * 1e9 / max(1, run["phases"][phase]["bytes"])


def _get(share: float) -> Callable[[Result], float]:
    def value(run: Result) -> float:
        each = sorted(run["phases"]["read_one"]["each_ms"])
        return each[min(len(each) - 1, int(share * len(each)))]

    return value


def _durable(run: Result) -> float:
    write = run["phases"]["write"]
    return write["bytes"] / (write["wall_s"] + write["sync_s"]) / 1e9


def _resident(run: Result) -> float:
    return max(phase["rss_max_bytes"] for phase in run["phases"].values()) / MIB


def _beyond(run: Result) -> float:
    phases = run["phases"]
    before = phases["imported"]["rss_bytes"] + phases["open"]["caller_bytes"]
    return max(0.0, _resident(run) - before / MIB)


def _cached(run: Result) -> float:
    return max(run["phases"][phase]["cached_bytes"] for phase in ("write", "read_one", "read_batch")) / MIB


def _lookups(run: Result) -> float:
    return run["phases"]["lookup"]["keys"] / run["phases"]["lookup"]["wall_s"] / 1e6


def _lost(run: Result) -> float:
    return max(run["phases"][phase]["missing"] for phase in ("read_one", "read_batch"))


def _wrong(run: Result) -> float:
    return max(run["phases"][phase]["wrong"] for phase in ("read_one", "read_batch"))


COLUMNS = (
    Column("write GB/s", _rate("write"), "{:.2f}", spread=True),
    Column("CPU-s/GB", _cost("write"), "{:.3f}", min),
    Column("write and sync GB/s", _durable, "{:.2f}"),
    Column("read GB/s", _rate("read_batch"), "{:.2f}", spread=True),
    Column("CPU-s/GB", _cost("read_batch"), "{:.3f}", min),
    Column("one by one GB/s", _rate("read_one"), "{:.2f}", spread=True),
    Column("CPU-s/GB", _cost("read_one"), "{:.3f}", min),
    Column("get p50 ms", _get(0.5), "{:.1f}", min),
    Column("p99", _get(0.99), "{:.1f}", min),
    Column("M lookups/s", _lookups, "{:.2f}"),
    Column("memory of the cache MiB", _beyond, "{:.0f}", min),
    Column("whole process MiB", _resident, "{:.0f}", None),
    Column("page cache MiB", _cached, "{:.0f}", min),
)
_PLACE = {  # how a column is called in a sentence
    1: "CPU-s/GB of a write",
    4: "CPU-s/GB of a read",
    6: "CPU-s/GB of reads one by one",
    7: "get p50",
    8: "get p99",
}


def _cell(column: Column, runs: list[Result], best: bool) -> str:
    values = [column.value(run) for run in runs]
    text = column.form.format(median(values))
    text = f"**{text}**" if best else text
    if column.spread and len(values) > 1:
        text += f" ({column.form.format(min(values))}-{column.form.format(max(values))})"
    return text


def _row(runs: list[Result], best: set[int]) -> str:
    about = runs[0]["phases"]["open"]
    cells = [f"{about['name']}, staging {about['staging_bytes'] // MIB} MiB"]
    cells += [_cell(column, runs, place in best) for place, column in enumerate(COLUMNS)]
    chunks = runs[0]["phases"]["write"]["bytes"] // runs[0]["chunk_mib"] // MIB
    lost, wrong = max(_lost(run) for run in runs), max(_wrong(run) for run in runs)
    cells.append(f"{lost:.0f} of {chunks}" + (f", {wrong:.0f} WRONG" if wrong else ""))
    cells.append("yes" if about["checked"] else "no")
    return "| " + " | ".join(cells) + " |"


def _name(place: int) -> str:
    return _PLACE.get(place, COLUMNS[place].title)


def _behind(medians: dict[str, list[float]], names: dict[str, str]) -> list[str]:
    found = []
    ours = medians.get(OURS)
    if ours is None:
        return found
    for place, column in enumerate(COLUMNS):
        if column.best is None:
            continue
        peer = column.best(medians, key=lambda key, place=place: medians[key][place])
        theirs = medians[peer][place]
        low, high = sorted((ours[place], theirs))
        form = column.form
        if peer != OURS and high >= low * BEHIND_RATIO_MIN and form.format(high) != form.format(low):
            found.append(f"{_name(place)}: {form.format(ours[place])}, {names[peer]} {form.format(theirs)}")
    return found


def table(results: list[Result], chunk_mib: int) -> str:
    """The table of one chunk size. Bold is the best of a column."""
    mine = [run for run in results if run["chunk_mib"] == chunk_mib]
    failed = [run for run in mine if "error" in run]
    groups: dict[str, list[Result]] = {}
    for run in mine:
        if "error" not in run:
            groups.setdefault(run["peer"], []).append(run)
    medians = {key: [median(column.value(run) for run in runs) for column in COLUMNS] for key, runs in groups.items()}
    best: dict[str, set[int]] = {key: set() for key in groups}
    for place, column in enumerate(COLUMNS):
        if column.best and medians:
            top = column.best(values[place] for values in medians.values())
            for key, values in medians.items():
                if column.form.format(values[place]) == column.form.format(top):
                    best[key].add(place)
    titles = ["cache", *(column.title for column in COLUMNS), "chunks lost", "payload checked"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    lines += [_row(runs, best[key]) for key, runs in groups.items()]
    names = {key: runs[0]["phases"]["open"]["name"] for key, runs in groups.items()}
    behind = _behind(medians, names)
    if behind:
        lines += ["", f"Behind at {chunk_mib} MiB: " + "; ".join(behind) + "."]
    for run in failed:
        lines += ["", f"Failed: {run['peer']}, round {run['round']}: {run['error'].splitlines()[0][:200]}"]
    return "\n".join(lines)
