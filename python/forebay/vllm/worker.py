"""The doing half, in an engine worker: carries out a step's loads and stores with the mover.

It promises: every load job is reported once, with the blocks that hold nothing usable; blocks of a finished
request are reported free only when no copy reads them any more; a chunk that was copied out of blocks the
engine took back is never reported as written; every copy to the remote store is reported once, and touches no
engine memory. It decides nothing, and every wait in it is bounded.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import forebay

from . import farewell
from .device import Pages
from .incidents import Incidents
from .messages import SKIPPED_BLOCK, CopyJob, CopyOutcome, LoadJob, Outcome, StepPlan, StepReport, StoreJob

logger = logging.getLogger("forebay.vllm")

J = TypeVar("J", LoadJob, StoreJob, CopyJob)

# Copies that have begun take milliseconds; what has not begun is cancelled. This is for a machine that stands
# still.
_PREEMPTION_WAIT_MAX_S = 5.0
# A load that takes longer than this is given up, and its request computed.
_LOAD_MAX_S = 60.0
# While the engine has nothing to compute it would ask a thousand times a second; waiting here costs nobody
# anything.
_IDLE_WAIT_S = 0.003
# How often a worker says what its mover does, if it is watched.
_FIGURES_EVERY_S = 0.5
# vLLM gives its workers five seconds to shut down before it kills them.
_SHUTDOWN_WAIT_MAX_S = 4.0


@dataclass
class _Load:
    job: LoadJob
    transfer: forebay.Transfer | None
    started_s: float
    ended: dict[bytes, str] = field(default_factory=dict)
    given_up: bool = False

    def failed_blocks(self) -> set[int]:
        """Blocks from the first chunk that did not arrive: what follows it is of no use to the engine."""
        failed: set[int] = set(self.job.lost_blocks)
        whole = True
        for message, blocks in zip(self.job.messages, self.job.blocks, strict=True):
            whole = whole and self.ended.get(message) == "loaded"
            if not whole:
                failed.update(block for block in blocks if block != SKIPPED_BLOCK)
        return failed


@dataclass
class _Store:
    request_id: str
    messages: list[bytes]
    transfer: forebay.Transfer
    spoilt: bool = False
    """The engine took the blocks back before they were copied: the bytes may be another request's."""
    ended: set[bytes] = field(default_factory=set)


@dataclass
class _Copies:
    transfer: forebay.Transfer
    open: dict[bytes, bytes]
    """What is written, by what is read, of each that has not ended."""


class WorkerHalf:
    def __init__(
        self, index: int, open_mover: Callable[[], forebay.Mover], incidents: Incidents, is_watched: bool = False
    ) -> None:
        """`index` is this worker's place among the engine's (`layout.worker_index`). `open_mover` is called once, when
        the engine's memory is known: all staging memory is taken then. With `is_watched` the mover's figures go to the
        scheduler, who shows them."""
        self._index = index
        self._open_mover = open_mover
        self._mover: forebay.Mover | None = None
        self._broken = ""
        self._told_broken = False
        self._incidents = incidents
        self._pages: Pages | None = None
        self._loads: dict[str, _Load] = {}
        self._stores: list[_Store] = []
        self._copies: list[_Copies] = []
        self._held: set[str] = set()
        self._outcomes: list[Outcome] = []
        self._copy_outcomes: list[CopyOutcome] = []
        self._failed_blocks: set[int] = set()
        self._farewell_folder: str | None = None
        self._is_watched = is_watched
        self._told_figures_at_s = -math.inf

    def register(self, pages: Pages) -> None:
        self._pages = pages
        try:
            self._ready()
        except Exception as error:  # said to the scheduler with the next report; every job is refused
            self._incidents.note("mover_refused", error)

    # One step, in the engine's order ------------------------------------------------------------------------

    def before_overwriting(self, plan: StepPlan) -> None:
        """Ends every copy out of blocks that this step may overwrite."""
        taken = set(plan.preempted)
        hit = [store for store in self._stores if store.request_id in taken and not store.transfer.released()]
        for store in hit:
            store.transfer.cancel()
        deadline_s = time.monotonic() + _PREEMPTION_WAIT_MAX_S
        for store in hit:
            if not store.transfer.wait_released(max(0.0, deadline_s - time.monotonic())):
                store.spoilt = True
                self._incidents.note(
                    "preemption_wait", "blocks were reused while being copied; those chunks are dropped"
                )

    def start_loads(self, plan: StepPlan) -> None:
        self._farewell_folder = plan.farewell_folder or self._farewell_folder
        for job in self._own(plan.loads):
            load = _Load(job, None, time.monotonic())
            self._loads[job.request_id] = load
            try:
                if job.messages:
                    mover, pages = self._ready()
                    pages.fence()
                    load.transfer = mover.load(job.messages, [pages.chunk(blocks) for blocks in job.blocks])
            except Exception as error:
                self._refuse(job.messages, error)
        for request_id in plan.abandoned:
            if (load := self._loads.get(request_id)) is not None and load.transfer is not None:
                load.transfer.cancel()

    def start_stores(self, plan: StepPlan) -> None:
        self._held.update(plan.held)
        jobs = self._own(plan.stores)
        if jobs and self._pages is not None:
            self._pages.fence()
        for job in jobs:
            self._start_store(job)

    def _start_store(self, job: StoreJob) -> None:
        try:
            mover, pages = self._ready()
            transfer = mover.store(job.messages, [pages.chunk(blocks) for blocks in job.blocks])
        except Exception as error:
            self._refuse(job.messages, error)
        else:
            self._stores.append(_Store(job.request_id, job.messages, transfer))

    def start_copies(self, plan: StepPlan) -> None:
        for job in self._own(plan.copies):
            try:
                self._copies.append(_Copies(self._ready()[0].copy(job.messages), dict(job.messages)))
            except Exception as error:
                self._incidents.note("mover_refused", error)
                self._copy_outcomes.extend((read, write, "failed", str(error)) for read, write in job.messages)

    def finished(self, plan: StepPlan) -> tuple[set[str], set[str]]:
        """(requests whose blocks are free, requests whose load has ended)."""
        if plan.computes_nothing:
            self._wait_a_moment(plan.awaits_answers)
        self._poll_stores()
        self._poll_copies()
        busy = {store.request_id for store in self._stores if not store.transfer.released()}
        free = self._held - busy
        self._held -= free
        arrived = {request_id for request_id, load in self._loads.items() if self._load_ended(load)}
        for request_id in arrived:
            self._failed_blocks |= self._loads.pop(request_id).failed_blocks()
        return free, arrived

    def take_failed_blocks(self) -> set[int]:
        failed, self._failed_blocks = self._failed_blocks, set()
        return failed

    def take_report(self) -> StepReport | None:
        broken = "" if self._told_broken else self._broken
        figures = self._figures_if_due()
        if not self._outcomes and not self._copy_outcomes and not broken and not figures:
            return None
        report = StepReport(self._outcomes, self._copy_outcomes, broken, figures)
        self._outcomes, self._copy_outcomes, self._told_broken = [], [], bool(self._broken)
        return report

    # Parts --------------------------------------------------------------------------------------------------

    def _figures_if_due(self) -> dict[int, bytes]:
        now_s = time.monotonic()
        if not self._is_watched or self._mover is None or now_s - self._told_figures_at_s < _FIGURES_EVERY_S:
            return {}
        self._told_figures_at_s = now_s
        return {self._index: self._mover.figures()}

    def _own(self, jobs: list[J]) -> list[J]:
        return [job for job in jobs if job.worker == self._index]

    def _ready(self) -> tuple[forebay.Mover, Pages]:
        if self._broken:
            raise RuntimeError(self._broken)
        if self._pages is None:
            raise RuntimeError("the engine has not registered its KV cache")
        if self._mover is None:
            try:
                self._mover = self._open_mover()
                self._pages.pin(self._mover)
            except Exception as error:
                self._broken = str(error) or type(error).__name__
                raise
        return self._mover, self._pages

    def _refuse(self, messages: Iterable[bytes], error: Exception) -> None:
        self._incidents.note("mover_refused", error)
        self._outcomes.extend((message, "failed", str(error)) for message in messages)

    def _wait_a_moment(self, awaits_answers: bool) -> None:
        transfers = [each.transfer for each in (*self._loads.values(), *self._stores, *self._copies)]
        waiting = next((transfer for transfer in transfers if transfer is not None), None)
        if waiting is not None:
            with contextlib.suppress(TimeoutError):
                waiting.wait(_IDLE_WAIT_S)
        elif awaits_answers:
            time.sleep(_IDLE_WAIT_S)

    def _poll_stores(self) -> None:
        for store in self._stores:
            done = store.transfer.done()  # asked first: what ends in between is polled
            for message, status, reason in store.transfer.poll():
                store.ended.add(message)
                outcome = (message, "failed", "blocks were reused") if store.spoilt else (message, status, reason)
                self._outcomes.append(outcome)
            if done:  # a transfer that forgets a chunk must not leave its extent reserved for ever
                forgotten = set(store.messages) - store.ended
                self._outcomes.extend((message, "failed", "no outcome") for message in forgotten)
                store.ended |= forgotten
        self._stores = [store for store in self._stores if len(store.ended) < len(store.messages)]

    def _poll_copies(self) -> None:
        for copies in self._copies:
            done = copies.transfer.done()
            for read, status, reason in copies.transfer.poll():
                self._copy_outcomes.append((read, copies.open.pop(read), status, reason))
            if done:
                self._copy_outcomes.extend((*messages, "failed", "no outcome") for messages in copies.open.items())
                copies.open.clear()
        self._copies = [copies for copies in self._copies if copies.open]

    def _load_ended(self, load: _Load) -> bool:
        if load.transfer is None:
            return True
        done = load.transfer.done()
        for message, status, reason in load.transfer.poll():
            load.ended[message] = status
            self._outcomes.append((message, status, reason))
            if status != "loaded":
                load.transfer.cancel()  # the rest is of no use without it
        if done:
            forgotten = [message for message in load.job.messages if message not in load.ended]
            self._outcomes.extend((message, "failed", "no outcome") for message in forgotten)
            return True
        if not load.given_up and time.monotonic() - load.started_s > _LOAD_MAX_S:
            load.given_up = True
            self._incidents.note("load_too_slow", f"a load took more than {_LOAD_MAX_S:.0f} s and was cancelled")
            load.transfer.cancel()
        return False

    def stats(self) -> dict[str, Any]:
        return {
            "worker_loads_open": len(self._loads),
            "worker_stores_open": len(self._stores),
            "worker_copies_open": sum(len(copies.open) for copies in self._copies),
            "worker_requests_held": len(self._held),
            **{f"worker_{kind}": count for kind, count in sorted(self._incidents.counts.items())},
            **(self._mover.stats() if self._mover is not None else {}),
        }

    def shutdown(self) -> dict[str, Any]:
        """Waits a bounded time for stores and copies in flight and leaves their outcomes where the scheduler looks
        for them."""
        deadline_s = time.monotonic() + _SHUTDOWN_WAIT_MAX_S
        for load in self._loads.values():
            if load.transfer is not None:
                load.transfer.cancel()
        while (self._stores or self._copies) and time.monotonic() < deadline_s:
            self._poll_stores()
            self._poll_copies()
            if self._stores or self._copies:
                time.sleep(0.002)
        for load in self._loads.values():
            self._load_ended(load)
        stats = self.stats()
        if self._mover is not None:
            self._mover.close(max(0.1, deadline_s - time.monotonic()))
            self._poll_stores()
            self._poll_copies()
            self._mover = None
        report = self.take_report()
        if self._farewell_folder is not None and report is not None:
            farewell.leave(self._farewell_folder, self._index, report)
        return stats
