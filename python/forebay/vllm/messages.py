"""What the two halves of the connector say to each other: plain data that can be pickled, and nothing else.

Scheduler to workers, once a step: `StepPlan`. Workers to scheduler, once a step: `StepReport`. A `message` is
the control plane's own bytes; neither half looks inside. No tensor, handle or path of engine memory ever
crosses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorWorkerMetadata

SKIPPED_BLOCK = -1
"""A block of a chunk that a load must not write: the engine has it already, or has not allocated it."""


@dataclass
class LoadJob:
    """Chunks of one request to bring into its blocks on one worker. Every worker gets a job for the request, and the
    request has its blocks when all have answered."""

    worker: int
    request_id: str
    messages: list[bytes] = field(default_factory=list)
    blocks: list[list[int]] = field(default_factory=list)
    """Block ids of each message's chunk, in order."""
    lost_blocks: list[int] = field(default_factory=list)
    """Blocks promised to the engine that no message covers: reported as failed when the job ends."""


@dataclass
class StoreJob:
    """Whole chunks of one request that one worker stores: their tokens are computed when this step ends."""

    worker: int
    request_id: str
    messages: list[bytes]
    blocks: list[list[int]]


@dataclass
class CopyJob:
    """Chunks on disk that one worker copies to the remote store, no matter which: all see the directories."""

    worker: int
    messages: list[tuple[bytes, bytes]]
    """What is to be read and what is to be written, as `ControlPlane.plan_copies` gives them."""


@dataclass
class StepPlan(KVConnectorMetadata):
    """One for all workers: each takes the jobs that name it, and all the rest."""

    loads: list[LoadJob] = field(default_factory=list)
    stores: list[StoreJob] = field(default_factory=list)
    copies: list[CopyJob] = field(default_factory=list)
    preempted: list[str] = field(default_factory=list)
    """Requests whose blocks may be overwritten in this step."""
    held: list[str] = field(default_factory=list)
    """Finished requests whose blocks the engine keeps until their copies out have ended."""
    abandoned: list[str] = field(default_factory=list)
    """Aborted requests whose load is no longer wanted."""
    computes_nothing: bool = False
    """No token is scheduled in this step, so waiting a moment delays nobody."""
    awaits_answers: bool = False
    """A request waits for what the remote store answers."""
    farewell_folder: str | None = None
    """Where a worker leaves what it could not report before it shut down."""


Outcome = tuple[bytes, str, str]
"""(message, status, reason), as `Transfer.poll` gives it and `ControlPlane.finish` takes it."""

CopyOutcome = tuple[bytes, bytes, str, str]
"""(message read, message written, status, reason), as `ControlPlane.finish_copy` takes it."""


@dataclass
class StepReport(KVConnectorWorkerMetadata):
    outcomes: list[Outcome] = field(default_factory=list)
    copies: list[CopyOutcome] = field(default_factory=list)
    broken: str = ""
    """Why a worker's mover cannot work, if one cannot."""
    figures: dict[int, bytes] = field(default_factory=dict)
    """What movers say of themselves, by worker, now and then."""

    def aggregate(self, other: KVConnectorWorkerMetadata) -> StepReport:
        assert isinstance(other, StepReport)
        return StepReport(
            self.outcomes + other.outcomes,
            self.copies + other.copies,
            self.broken or other.broken,
            self.figures | other.figures,
        )
