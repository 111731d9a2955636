"""How the workers' last outcomes reach the scheduler at shutdown.

The engine shuts its workers down first and its scheduler after, and takes no step in between, so the stores
and copies that finish while a worker drains have no report to travel in. Each worker leaves them in a file of its
own in a private folder that the scheduler made (its path came with a step's plan); the scheduler reads the files,
commits, and removes the folder. The halves may live in one process or in several of the same machine. A
missing or torn file only means those chunks are stored again some day: nothing uncommitted is ever served.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from .messages import StepReport


class Mailbox:
    """The scheduler's side: a folder that only its owner may read, gone with this object or its process."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forebay-vllm-", ignore_cleanup_errors=True)
        self.folder = self._folder.name

    def close(self) -> list[StepReport]:
        """What was left, if anything."""
        try:
            return [_read(path) for path in sorted(Path(self.folder).glob("*.json"))]
        finally:
            self._folder.cleanup()


def _read(path: Path) -> StepReport:
    try:
        left = json.loads(path.read_text(encoding="utf-8"))
        return StepReport(
            outcomes=[(bytes.fromhex(message), status, reason) for message, status, reason in left["outcomes"]],
            copies=[(bytes.fromhex(read), bytes.fromhex(write), *end) for read, write, *end in left["copies"]],
        )
    except (OSError, ValueError):
        return StepReport()


def leave(folder: str, worker: int, report: StepReport) -> None:
    """A worker's side: its file is whole or absent."""
    whole = Path(folder) / f"{worker}.json"
    partial = whole.with_suffix(".partial")
    left = {
        "outcomes": [[message.hex(), *end] for message, *end in report.outcomes],
        "copies": [[read.hex(), write.hex(), *end] for read, write, *end in report.copies],
    }
    partial.write_text(json.dumps(left), encoding="utf-8")
    os.replace(partial, whole)
