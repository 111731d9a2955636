"""How the workers' last outcomes reach the scheduler at shutdown.

The engine shuts its workers down first and its scheduler after, and takes no step in between, so the stores
that finish while a worker drains have no report to travel in. Each worker leaves them in a file of its own in
a private folder that the scheduler made (its path came with a step's plan); the scheduler reads the files,
commits, and removes the folder. The halves may live in one process or in several of the same machine. A
missing or torn file only means those chunks are stored again some day: nothing uncommitted is ever served.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from .messages import Outcome


class Mailbox:
    """The scheduler's side: a folder that only its owner may read, gone with this object or its process."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forebay-vllm-", ignore_cleanup_errors=True)
        self.folder = self._folder.name

    def close(self) -> list[Outcome]:
        """The outcomes that were left, if any."""
        try:
            return [outcome for path in sorted(Path(self.folder).glob("*.json")) for outcome in _read(path)]
        finally:
            self._folder.cleanup()


def _read(path: Path) -> list[Outcome]:
    try:
        lines = json.loads(path.read_text(encoding="utf-8"))
        return [(bytes.fromhex(message), status, reason) for message, status, reason in lines]
    except (OSError, ValueError):
        return []


def leave(folder: str, worker: int, outcomes: list[Outcome]) -> None:
    """A worker's side: its file is whole or absent."""
    whole = Path(folder) / f"{worker}.json"
    partial = whole.with_suffix(".partial")
    lines = [[message.hex(), status, reason] for message, status, reason in outcomes]
    partial.write_text(json.dumps(lines), encoding="utf-8")
    os.replace(partial, whole)
