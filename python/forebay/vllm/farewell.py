"""How a worker's last outcomes reach the scheduler at shutdown.

The engine shuts its workers down first and its scheduler after, and takes no step in between, so the stores
that finish while a worker drains have no report to travel in. The worker leaves them in a file of a private
folder that the scheduler made (its path came with a step's plan); the scheduler reads it, commits, and
removes the folder. The halves may live in one process or in two of the same machine. A missing or torn file
only means those chunks are stored again some day: nothing uncommitted is ever served.
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
        self.path = str(Path(self._folder.name) / "outcomes.json")

    def close(self) -> list[Outcome]:
        """The outcomes that were left, if any."""
        try:
            with open(self.path, encoding="utf-8") as file:
                return [(bytes.fromhex(message), status, reason) for message, status, reason in json.load(file)]
        except (OSError, ValueError):
            return []
        finally:
            self._folder.cleanup()


def leave(path: str, outcomes: list[Outcome]) -> None:
    """The worker's side: the file is whole or absent."""
    partial = f"{path}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump([[message.hex(), status, reason] for message, status, reason in outcomes], file)
    os.replace(partial, path)
