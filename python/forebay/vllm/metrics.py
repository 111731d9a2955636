"""What vLLM's own metrics say of the cache: in its log lines and at its `/metrics`.

The onlooker counts into `Tally`; vLLM takes the tally with each step, adds it up in its front end, and shows it.
It is plain data that can be serialised. docs/METRICS.md lists the metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter, Histogram
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

COUNTERS = {
    "prompt_tokens": "Tokens of prompts that were looked up and answered",
    "hit_tokens": "Of them, those that were found beyond what the engine had itself",
    "loaded_tokens": "Tokens that were loaded",
    "failed_loads": "Requests whose load failed in part or whole, and which computed what was missing",
    "stored_chunks": "Chunks that were stored",
    "unstored_chunks": "Chunks that were to be stored and were not",
    "first_token_saved_seconds": (
        "Time to first token that loads have saved: what computing the tokens would have taken, at the rate at which "
        "the engine prefilled other prompts, less what loading them took"
    ),
    "first_token_lost_seconds": "The same of loads that took longer than computing would have",
}
LOAD_SECONDS = "load_seconds"
LOAD_SECONDS_HELP = "How long each request's load took, from being planned to being reported"
LOAD_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)
PREFIX = "vllm:forebay_"


@dataclass
class Tally(KVConnectorStats):
    """`data` has a number for each of `COUNTERS` that has moved, and the samples of `LOAD_SECONDS`."""

    def reset(self) -> None:
        self.data = {}

    def add(self, counter: str, by: float = 1) -> None:
        if by:
            self.data[counter] = self.data.get(counter, 0) + by

    def sample_load(self, seconds: float) -> None:
        self.data.setdefault(LOAD_SECONDS, []).append(seconds)

    def aggregate(self, other: KVConnectorStats) -> Tally:
        for name, value in other.data.items():
            self.data[name] = self.data.get(name, type(value)()) + value
        return self

    def reduce(self) -> dict[str, int | float]:
        """For the log."""
        samples = self.data.get(LOAD_SECONDS, [])
        slowest = {"slowest_load_seconds": round(max(samples), 3)} if samples else {}
        counters = {name: self.data[name] for name in COUNTERS if name in self.data}
        return {name: round(value, 3) for name, value in counters.items()} | {"loads": len(samples)} | slowest

    def is_empty(self) -> bool:
        return not self.data


class PromMetrics(KVConnectorPromMetrics):
    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: Any, per_engine_labelvalues: Any) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._families = {
            name: metric_types[Counter](name=PREFIX + name, documentation=documentation, labelnames=labelnames)
            for name, documentation in COUNTERS.items()
        }
        self._families[LOAD_SECONDS] = metric_types[Histogram](
            name=PREFIX + LOAD_SECONDS,
            documentation=LOAD_SECONDS_HELP,
            buckets=LOAD_SECONDS_BUCKETS,
            labelnames=labelnames,
        )
        # Each is there from the start, as zero, so that a rate can be taken of its first step.
        self._of_engine = {
            engine: {name: family.labels(*labels) for name, family in self._families.items()}
            for engine, labels in per_engine_labelvalues.items()
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        metrics = self._of_engine[engine_idx]
        for name, value in transfer_stats_data.items():
            if name == LOAD_SECONDS:
                for seconds in value:
                    metrics[name].observe(seconds)
            elif name in COUNTERS:
                metrics[name].inc(value)


class PrefillRate:
    """What a load has saved, by what the engine itself needs for a token of a prompt.

    The rate is a mean that forgets (each prompt that was computed weighs a tenth), over prompts that had enough to
    compute for the rest of a step not to matter. Waits for a turn are in it, as they are in the time to a first token.
    It takes a prompt's cost to be proportional to its length, so it is too low for prompts that are much longer than
    those computed.
    """

    TOKENS_MIN = 64
    _WEIGHT = 0.1

    def __init__(self) -> None:
        self._seconds_per_token: float | None = None
        self._unrated: list[tuple[int, float]] = []

    def computed(self, tokens: int, seconds: float) -> float:
        """So many tokens of a prompt were computed in this time. Gives the seconds that earlier loads have saved, which
        could not be told before there was a rate."""
        if tokens < self.TOKENS_MIN:
            return 0.0
        now = seconds / tokens
        before = self._seconds_per_token
        self._seconds_per_token = now if before is None else before + self._WEIGHT * (now - before)
        unrated, self._unrated = self._unrated, []
        return sum(self.loaded(*load) for load in unrated)

    def loaded(self, tokens: int, seconds: float) -> float:
        """So many tokens were loaded in this time. Gives the seconds that saved; below zero when it took longer than
        computing them, and zero while there is no rate."""
        if self._seconds_per_token is None:
            if len(self._unrated) < 1000:
                self._unrated.append((tokens, seconds))
            return 0.0
        return tokens * self._seconds_per_token - seconds
