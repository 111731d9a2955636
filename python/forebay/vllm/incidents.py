"""Counts what goes wrong in the connector and says it rarely.

A cache must not fail inference, so errors end here instead of in the engine. Each kind of incident is counted
every time and logged at most once a minute, with the number of silent ones: a broken disk must not fill the
log.
"""

from __future__ import annotations

import logging
import time
from collections import Counter

logger = logging.getLogger("forebay.vllm")

_QUIET_S = 60.0


class Incidents:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._said_at_s: dict[str, float] = {}
        self._said_count: Counter[str] = Counter()

    def note(self, kind: str, detail: object = "") -> None:
        """`kind` is a short stable name (it becomes a key of the statistics)."""
        self.counts[kind] += 1
        now_s = time.monotonic()
        if now_s - self._said_at_s.get(kind, -_QUIET_S) < _QUIET_S:
            return
        silent = self.counts[kind] - self._said_count[kind] - 1
        self._said_at_s[kind] = now_s
        self._said_count[kind] = self.counts[kind]
        logger.warning("%s: %s%s", kind, detail, f" (and {silent} more since last said)" if silent else "")
