"""The deciding half, in the engine's scheduler process: which chunks of a request are read, which are
written.

Owns the control plane (directory, index, journal) and per request no more than keys, pins and the messages in
flight. A chunk of a prompt is one chunk of the control plane for each shard (`layout.Shard`), with a key of its
own: it is a hit if every shard has it, and a message is for one worker. It promises the engine: a hit it
reports is pinned until it is planned or given up; every load it plans is answered by every worker, whatever
happens; a finished request's blocks are held only while a copy from them may still be running; it asks for a
moment more while chunks are on their way to the remote store, and for a bounded time. It never waits: a lookup
that is not answered yet is asked again in a later step, for `lookup_wait_s` at most, and then what is known must
do. It never touches engine memory.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, takewhile
from typing import TYPE_CHECKING, Any

import forebay

from .announce import Announcements
from .farewell import Mailbox
from .incidents import Incidents
from .messages import SKIPPED_BLOCK, CopyJob, CopyOutcome, LoadJob, Outcome, StepPlan, StepReport, StoreJob
from .onlooker import Onlooker

if TYPE_CHECKING:
    from .layout import KvLayout, Shard
    from .settings import Settings

logger = logging.getLogger("forebay.vllm")

# Failures of the environment: the engine runs on without a cache. Every other kind is a mistake to be put
# right.
_ENVIRONMENT_KINDS = frozenset({"io", "no_space", "locked", "format"})
# The engine is kept stepping for stores and copies as long as one of them ended within this time.
_SILENT_MAX_S = 20.0
# The remote store is not asked more often for a chunk that a request waits for.
_ASK_AGAIN_S = 0.05
# The mover's reason for what ended because we no longer wanted it, and for what a remote store no longer has.
_CANCELLED = "cancelled"
_NOT_THERE = "not there"


def open_control_plane(
    settings: Settings, layout: KvLayout, namespace: forebay.Namespace
) -> forebay.ControlPlane | None:
    """None, with one clear error in the log, if the cache's place cannot be used right now."""
    try:
        return forebay.ControlPlane(settings.config, layout.chunk_bytes, namespace)
    except forebay.Error as error:
        if error.kind not in _ENVIRONMENT_KINDS:
            raise
        logger.error("Forebay's cache cannot be opened; inference goes on without it: %s", error)
        return None


@dataclass
class _Request:
    """What is known about one request of the engine, from its arrival to its end."""

    request: Any
    namespaces: Sequence[forebay.Namespace]
    """One for each shard."""
    keys: list[list[bytes]]
    """Of each shard, those of the request's whole chunks."""
    pins: list[forebay.Lookup] = field(default_factory=list)
    hit_tokens: int = 0
    """Tokens from the prompt's beginning that the pinned hit covers, a whole number of blocks."""
    local_tokens: int = 0
    """Tokens the engine had itself when it asked."""
    loading: bool = False
    load_failed: bool = False
    """After one failed load the rest is computed: asking again could fail for ever."""
    next_store: int = 0
    """Index of the first chunk that was not yet considered for storing."""
    unsettled: set[bytes] = field(default_factory=set)
    """Stores planned since the request last (re)started whose outcome is not known."""
    lookup_deadline_s: float | None = None
    """Set by the first lookup whose answer was open, and kept until one is not: a request waits once."""
    asked_again_s: float = float("-inf")


@dataclass(frozen=True)
class _Flight:
    """A message a worker has to answer, and the chunk of the request it is about."""

    request_id: str
    chunk: int
    is_load: bool


class SchedulerHalf:
    def __init__(
        self,
        settings: Settings,
        layout: KvLayout,
        shards: Sequence[Shard],
        plane: forebay.ControlPlane | None,
        namespaces: Callable[[Any], Sequence[forebay.Namespace]],
        *,
        incidents: Incidents,
        loads: bool = True,
        stores: bool = True,
        announces: bool = False,
    ) -> None:
        """`namespaces` gives a request's namespace for each shard (adapters have their own)."""
        self._settings = settings
        self._layout = layout
        self._shards = shards
        self._plane = plane
        self._serving = plane is not None
        """False once a mover does not work: nothing is looked up or planned any more."""
        self._namespaces_of = namespaces
        self._incidents = incidents
        self._loads = loads
        self._stores = stores
        self._awaits_others = loads and not stores and settings.has_remote
        """Whether what a prompt lacks may be on its way from another instance."""
        self._requests: dict[str, _Request] = {}
        self._flights: dict[bytes, _Flight] = {}
        self._open_stores = 0
        self._open_copies: set[bytes] = set()
        self._copiers = cycle(shard.workers[0] for shard in shards)
        self._last_progress_s = time.monotonic()
        self._plan = StepPlan()
        self._mailbox = Mailbox() if plane is not None else None
        self._told_mailbox = False
        announcements = None
        if announces and plane is not None:
            tier = "disk" if settings.has_disk else "remote"
            announcements = Announcements(plane.events(), layout.hashes_per_chunk, layout.chunk_tokens, tier)
        self.onlooker = Onlooker(incidents, announcements)

    # Lookup and load ----------------------------------------------------------------------------------------

    def matched_tokens(self, request: Any, local_tokens: int) -> tuple[int | None, bool]:
        if not self._serving:
            return 0, False
        state = self._state(request)  # stores need it too
        self._release_pins(state)
        if not self._loads or state.load_failed or request.skip_reading_prefix_cache:
            return 0, False
        block_tokens, chunk_tokens = self._layout.block_tokens, self._layout.chunk_tokens
        # The engine must compute one token at least to have something to sample from, and a load is whole
        # blocks.
        wanted_tokens = (request.num_tokens - 1) // block_tokens * block_tokens
        first = local_tokens // chunk_tokens
        keys = [of_shard[: -(-wanted_tokens // chunk_tokens)] for of_shard in self._keys(state)]
        if wanted_tokens <= local_tokens or len(keys[0]) <= first:
            return 0, False
        chunks = self._find(state, keys, first)
        if chunks is None:
            self._release_pins(state)
            self._plan.awaits_answers = True
            return None, False
        hit_tokens = min(chunks * chunk_tokens, wanted_tokens)
        self.onlooker.looked_up(request, max(0, hit_tokens - local_tokens), chunks, keys)
        if hit_tokens <= local_tokens:
            self._release_pins(state)
            return 0, False
        state.hit_tokens, state.local_tokens = hit_tokens, local_tokens
        return hit_tokens - local_tokens, True

    def _find(self, state: _Request, keys: list[list[bytes]], first: int) -> int | None:
        """How many chunks from the beginning are there, pinned. None if the answer is open and the request has time."""
        now_s = time.monotonic()
        overdue = state.lookup_deadline_s is not None and now_s >= state.lookup_deadline_s
        chunks, status = self._lookup(state, keys, first, settle=overdue)
        is_open = status == "pending" or (self._awaits_others and status != "busy" and chunks < len(keys[0]))
        if is_open and not overdue:
            if state.lookup_deadline_s is None:
                state.lookup_deadline_s = now_s + self._settings.lookup_wait_s
            if now_s < state.lookup_deadline_s:
                if status != "pending":
                    self._ask_again(state, keys, chunks, now_s)
                return None
            overdue = True  # it has no time at all
            self._release_pins(state)
            chunks, status = self._lookup(state, keys, first, settle=True)
        if overdue and chunks < len(keys[0]):
            self._incidents.counts["lookups_out_of_time"] += 1
        elif status == "busy":
            self._incidents.counts["lookups_busy"] += 1
        else:
            state.lookup_deadline_s = None
        return chunks

    def _ask_again(self, state: _Request, keys: list[list[bytes]], found: int, now_s: float) -> None:
        assert self._plane is not None
        if now_s - state.asked_again_s >= _ASK_AGAIN_S:
            state.asked_again_s = now_s
            for of_shard in keys:
                self._plane.ask_again(of_shard[found])

    def _lookup(self, state: _Request, keys: list[list[bytes]], first: int, *, settle: bool) -> tuple[int, str]:
        """How many chunks from the beginning every shard has, pinned, and how far the answer can be trusted."""
        reach, answer = len(keys[0]), "hit"
        for of_shard in keys:
            chunks, status = self._lookup_shard(state, of_shard, first, settle=settle)
            if status != "pending" and chunks <= first:  # whatever the others have
                return chunks, status
            reach = min(reach, chunks)
            answer = status if status == "pending" else answer
        return reach, answer

    def _lookup_shard(self, state: _Request, keys: list[bytes], first: int, *, settle: bool) -> tuple[int, str]:
        """All keys are asked for, although the engine has the first chunks itself: a prefix must not grow older than
        what hangs on it. Only if it is gone is the rest asked for alone."""
        assert self._plane is not None
        pin = self._plane.lookup(keys, settle)
        state.pins.append(pin)
        if first == 0 or pin.chunks > first or pin.status in ("pending", "busy"):
            return pin.chunks, pin.status
        state.pins.pop().release()
        pin = self._plane.lookup(keys[first:], settle)
        state.pins.append(pin)
        return first + pin.chunks, pin.status

    def allocated(self, request: Any, block_ids: list[int], external_tokens: int) -> None:
        """The engine has blocks for the hit (or changed its mind: 0). A load promised here must reach every worker, or
        the request would wait for ever, so whatever fails here becomes a load of lost blocks."""
        state = self._requests.get(request.request_id)
        if state is None:
            return
        if external_tokens == 0:
            self._release_pins(state)
            return
        first_block = state.local_tokens // self._layout.block_tokens
        end_block = (state.local_tokens + external_tokens) // self._layout.block_tokens
        jobs = {worker: LoadJob(worker, request.request_id) for shard in self._shards for worker in shard.workers}
        covered = first_block
        try:
            covered = self._plan_load(state, jobs, block_ids, first_block, end_block)
        except Exception as error:
            self._incidents.note("plan_load_failed", error)
        for job in jobs.values():
            job.lost_blocks = block_ids[covered:end_block]
        self._plan.loads.extend(jobs.values())
        state.loading = True
        self.onlooker.load_planned(request.request_id, external_tokens)
        self._release_pins(state)

    def _plan_load(
        self, state: _Request, jobs: dict[int, LoadJob], block_ids: list[int], first_block: int, end_block: int
    ) -> int:
        """Fills the jobs and returns the first block they do not cover."""
        assert self._plane is not None
        per_chunk = self._layout.blocks_per_chunk
        first, end = first_block // per_chunk, -(-end_block // per_chunk)
        plans: dict[int, list[forebay.ChunkPlan]] = {}
        readable = 0
        try:
            for shard, keys in zip(self._shards, state.keys, strict=True):
                for worker in shard.workers:
                    plans[worker] = self._plane.plan_load(keys[first:end])
            readable = min(_readable(of_worker) for of_worker in plans.values())
        finally:
            # A chunk is of no use without those before it, nor where another worker cannot read it.
            for of_worker in plans.values():
                self._give_back(of_worker[readable:])
        blocks = [
            [
                block_ids[block] if first_block <= block < end_block else SKIPPED_BLOCK
                for block in range(chunk * per_chunk, (chunk + 1) * per_chunk)
            ]
            for chunk in range(first, first + readable)
        ]
        for worker, of_worker in plans.items():
            messages = [plan.message for plan in of_worker[:readable] if plan.message is not None]
            for chunk, message in enumerate(messages, first):
                self._flights[message] = _Flight(state.request.request_id, chunk, is_load=True)
            jobs[worker].messages, jobs[worker].blocks = messages, blocks
        # What is loaded is on the tiers already; storing is considered from the first chunk that is not.
        state.next_store = max(state.next_store, first + readable)
        return min((first + readable) * per_chunk, end_block) if readable else first_block

    def _give_back(self, plans: Iterable[forebay.ChunkPlan]) -> None:
        assert self._plane is not None
        for plan in plans:
            if plan.message is not None:
                self._plane.finish(plan.message, "failed", "not wanted")

    # Store --------------------------------------------------------------------------------------------------

    def plan_step(self, scheduled_tokens: dict[str, int], preempted: Iterable[str], block_ids_of: Any) -> StepPlan:
        """`block_ids_of(request_id)`: all block ids of a scheduled request. Ends the plan of this step."""
        plan, self._plan = self._plan, StepPlan()
        plan.computes_nothing = not scheduled_tokens
        if self._plane is None:
            return plan
        if self._mailbox is not None and not self._told_mailbox:
            plan.farewell_folder, self._told_mailbox = self._mailbox.folder, True
        for request_id in preempted:
            plan.preempted.append(request_id)
            if (state := self._requests.get(request_id)) is not None:
                state.unsettled.clear()
                self.onlooker.preempted(request_id)
        self.onlooker.step_planned(
            self._requests[request_id].request for request_id in scheduled_tokens if request_id in self._requests
        )
        if self._serving and self._stores:
            for request_id, tokens in scheduled_tokens.items():
                try:
                    self._plan_stores(plan, request_id, tokens, block_ids_of)
                except Exception as error:
                    self._incidents.note("plan_store_failed", error)
        if self._serving:
            try:
                self._plan_copies(plan)
            except Exception as error:
                self._incidents.note("plan_copies_failed", error)
        return plan

    def _plan_copies(self, plan: StepPlan) -> None:
        assert self._plane is not None
        messages = self._plane.plan_copies()
        if not messages:
            return
        if not self._in_flight():
            self._last_progress_s = time.monotonic()
        self._open_copies.update(read for read, _ in messages)
        plan.copies.append(CopyJob(next(self._copiers), messages))

    def _plan_stores(self, plan: StepPlan, request_id: str, tokens: int, block_ids_of: Any) -> None:
        state = self._requests.get(request_id)
        if state is None:
            return
        request = state.request
        computed_tokens = request.num_computed_tokens + tokens
        if not self._settings.save_decode_cache:
            computed_tokens = min(computed_tokens, request.num_prompt_tokens)
        end = computed_tokens // self._layout.chunk_tokens
        if end <= state.next_store:
            return
        keys = [of_shard[:end] for of_shard in self._keys(state)]
        first, state.next_store = state.next_store, len(keys[0])
        if first >= len(keys[0]):
            return
        block_ids, per_chunk = block_ids_of(request_id), self._layout.blocks_per_chunk
        self.onlooker.stores_planned(request, range(first, len(keys[0])), keys)
        blocks = [block_ids[chunk * per_chunk : (chunk + 1) * per_chunk] for chunk in range(first, len(keys[0]))]
        if len(blocks[-1]) != per_chunk:
            raise RuntimeError(f"{request_id} has {len(block_ids)} blocks, too few for {len(keys[0])} chunks")
        for shard, of_shard in zip(self._shards, keys, strict=True):
            job = StoreJob(shard.workers[0], request_id, [], [])
            self._plan_shard_stores(job, state, of_shard, first, blocks)
            if job.messages:
                plan.stores.append(job)

    def _plan_shard_stores(
        self, job: StoreJob, state: _Request, keys: list[bytes], first: int, blocks: list[list[int]]
    ) -> None:
        """Fills the job with the chunks from `first` on that the shard lacks; `blocks` are those of each of them."""
        assert self._plane is not None
        parent = keys[first - 1] if first else None
        plans = self._plane.plan_store(keys[first:], self._layout.chunk_bytes, parent)
        self._incidents.counts["stores_refused"] += sum(plan.status == "refused" for plan in plans)
        if not self._in_flight():
            self._last_progress_s = time.monotonic()
        for chunk, plan in enumerate(plans, first):
            if plan.message is None:
                continue
            self._flights[plan.message] = _Flight(job.request_id, chunk, is_load=False)
            self._open_stores += 1
            state.unsettled.add(plan.message)
            job.messages.append(plan.message)
            job.blocks.append(blocks[chunk - first])

    # Outcomes and ends --------------------------------------------------------------------------------------

    def take_report(self, report: StepReport) -> None:
        self._settle(report.outcomes)
        self._settle_copies(report.copies)
        if report.broken and self._serving and self._plane is not None:
            logger.error("A mover of Forebay's does not work; inference goes on without the cache: %s", report.broken)
            self._serving = False
            self._plane.close()  # it takes the outcomes of other workers' movers all the same
        if self._plane is not None:
            for worker, figures in report.figures.items():
                self._plane.note_mover(worker, figures)

    def _settle(self, outcomes: Iterable[Outcome]) -> None:
        for message, status, reason in outcomes:
            self._last_progress_s = time.monotonic()
            flight = self._flights.pop(message, None)
            if flight is None:
                self._incidents.note("outcome_unexpected", f"{status} {reason}")
                continue
            state = self._requests.get(flight.request_id)
            if flight.is_load:
                self._load_settled(flight, state, status, reason)
            else:
                self._store_settled(message, flight, state, status, reason)
            if self._plane is None:
                continue
            try:
                self._plane.finish(message, status, reason)
            except Exception as error:
                self._incidents.note("finish_failed", error)

    def _settle_copies(self, outcomes: Iterable[CopyOutcome]) -> None:
        for read, write, status, reason in outcomes:
            self._last_progress_s = time.monotonic()
            if read not in self._open_copies:
                self._incidents.note("outcome_unexpected", f"{status} {reason}")
                continue
            self._open_copies.discard(read)
            self._incidents.counts["chunks_copied" if status == "copied" else "chunks_not_copied"] += 1
            if status != "copied" and reason != _CANCELLED:
                self._incidents.note("copy_failed", f"{status} {reason}")
            if self._plane is None:
                continue
            try:
                self._plane.finish_copy(read, write, status, reason)
            except Exception as error:
                self._incidents.note("finish_failed", error)

    def _load_settled(self, flight: _Flight, state: _Request | None, status: str, reason: str) -> None:
        self._incidents.counts["chunks_loaded" if status == "loaded" else "chunks_lost"] += 1
        if status == "loaded":
            return
        if reason == _NOT_THERE:  # a shared store drops what it likes
            self._incidents.counts["chunks_gone"] += 1
        elif reason != _CANCELLED:
            self._incidents.note("load_failed", f"chunk {flight.chunk} of {flight.request_id}: {status} {reason}")
        if state is not None:  # it is computed now, and stored again
            state.load_failed = True
            state.next_store = min(state.next_store, flight.chunk)

    def _store_settled(self, message: bytes, flight: _Flight, state: _Request | None, status: str, reason: str) -> None:
        self._open_stores -= 1
        self._incidents.counts["chunks_stored" if status == "written" else "chunks_not_stored"] += 1
        self.onlooker.store_ended(status == "written")
        if status != "written" and reason != _CANCELLED:
            self._incidents.note("store_failed", f"chunk {flight.chunk} of {flight.request_id}: {reason}")
        if state is None:
            return
        state.unsettled.discard(message)
        if reason == _CANCELLED:  # by a preemption: the chunk is computed again, so it can be stored again
            state.next_store = min(state.next_store, flight.chunk)

    def load_reported(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            if (state := self._requests.get(request_id)) is not None:
                state.loading = False
                self.onlooker.load_ended(request_id, state.load_failed)

    def clear(self) -> bool:
        """Takes all chunks out of memory and disk. Whether nothing is found any more: a remote store is left alone."""
        if self._plane is not None:
            self._plane.clear()
        return not self._settings.has_remote

    def request_finished(self, request_id: str) -> bool:
        """True if the engine must keep the request's blocks until the worker says they are free."""
        state = self._requests.pop(request_id, None)
        if state is None:
            return False
        self._release_pins(state)
        self.onlooker.finished(state.request)
        if state.loading:  # the engine holds the blocks by itself until the load is reported
            self._plan.abandoned.append(request_id)
            return False
        if not state.unsettled:
            return False
        self._plan.held.append(request_id)
        return True

    def work_in_flight(self) -> bool:
        """Whether stores or copies wait for a step. Bounded: a mover that reports nothing for long keeps the engine
        awake no longer."""
        if self._plane is None or not (self._in_flight() or (self._serving and self._plane.has_copies())):
            return False
        if time.monotonic() - self._last_progress_s < _SILENT_MAX_S:
            return True
        if self._in_flight():
            stuck = f"{self._open_stores} stores and {len(self._open_copies)} copies were not reported in time"
            self._incidents.note("stores_stuck", stuck)
        return False

    def _in_flight(self) -> bool:
        return self._open_stores > 0 or bool(self._open_copies)

    def stats(self) -> dict[str, Any]:
        return {
            **{f"connector_{kind}": count for kind, count in sorted(self._incidents.counts.items())},
            "connector_requests": len(self._requests),
            "connector_loads_open": len(self._flights) - self._open_stores,
            "connector_stores_open": self._open_stores,
            "connector_copies_open": len(self._open_copies),
            **(self._plane.stats() if self._plane is not None else {}),
        }

    def shutdown(self) -> dict[str, Any]:
        """Commits what the worker finished last; returns the final statistics."""
        if self._mailbox is not None:
            for report in self._mailbox.close():
                self._settle(report.outcomes)
                self._settle_copies(report.copies)
            self._mailbox = None
        for state in self._requests.values():
            self._release_pins(state)
        stats = self.stats()
        plane, self._plane, self._serving = self._plane, None, False
        if plane is not None:
            plane.close()
        return stats

    # Requests -----------------------------------------------------------------------------------------------

    def _state(self, request: Any) -> _Request:
        state = self._requests.get(request.request_id)
        if state is None:
            state = _Request(request, self._namespaces_of(request), [[] for _ in self._shards])
            self._requests[request.request_id] = state
        return state

    def _keys(self, state: _Request) -> list[list[bytes]]:
        """Of each shard, the keys of the request's whole chunks. They are chained, so they are computed anew when there
        are more of them: once for a prompt, and once a chunk while a request decodes."""
        per_chunk = self._layout.hashes_per_chunk
        hashes = state.request.block_hashes
        whole = len(hashes) // per_chunk
        if whole > len(state.keys[0]):
            plain = [bytes(block_hash) for block_hash in hashes[: whole * per_chunk]]
            state.keys = [forebay.chunk_keys_from_blocks(plain, per_chunk, each) for each in state.namespaces]
        return state.keys

    @staticmethod
    def _release_pins(state: _Request) -> None:
        while state.pins:
            state.pins.pop().release()


def _readable(plans: Iterable[forebay.ChunkPlan]) -> int:
    """How many chunks from the first can be read."""
    return sum(1 for _ in takewhile(lambda plan: plan.status == "read", plans))


def warn_of_unstable_hashes(algorithm: str) -> None:
    if not algorithm.startswith("sha256") and os.environ.get("PYTHONHASHSEED") is None:
        logger.warning(
            "prefix_caching_hash_algo %s gives other hashes in every process, so nothing will be found after "
            "a restart; use sha256 (the default), or set PYTHONHASHSEED",
            algorithm,
        )
