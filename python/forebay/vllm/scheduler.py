"""The deciding half, in the engine's scheduler process: which chunks of a request are read, which are
written.

Owns the control plane (directory, index, journal) and per request no more than keys, a pin and the messages
in flight. It promises the engine: a hit it reports is pinned until it is planned or given up; every load it
plans is answered by the worker, whatever happens; a finished request's blocks are held only while a copy from
them may still be running. It never waits: what the control plane does not know at once is a miss. It never
touches engine memory.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import forebay

from .farewell import Mailbox
from .incidents import Incidents
from .messages import SKIPPED_BLOCK, LoadJob, Outcome, StepPlan, StepReport, StoreJob

if TYPE_CHECKING:
    from .layout import KvLayout
    from .settings import Settings

logger = logging.getLogger("forebay.vllm")

# Failures of the environment: the engine runs on without a cache. Every other kind is a mistake to be put
# right.
_ENVIRONMENT_KINDS = frozenset({"io", "no_space", "locked", "format"})
# A lookup that is still being answered delays its request by at most this many scheduling rounds.
_PENDING_ASKS_MAX = 32
# The engine is kept stepping for stores in flight as long as one of them ended within this time.
_STORES_SILENT_MAX_S = 20.0
# The mover's reason for what ended because we no longer wanted it.
_CANCELLED = "cancelled"


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
    namespace: forebay.Namespace
    keys: list[bytes] = field(default_factory=list)
    pin: forebay.Lookup | None = None
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
    pending_asks: int = 0


@dataclass(frozen=True)
class _Flight:
    """A message the worker has to answer, and the chunk of the request it is about."""

    request_id: str
    chunk: int
    is_load: bool


class SchedulerHalf:
    def __init__(
        self,
        settings: Settings,
        layout: KvLayout,
        plane: forebay.ControlPlane | None,
        namespaces: Any,
        incidents: Incidents,
        *,
        loads: bool = True,
        stores: bool = True,
    ) -> None:
        """`namespaces` gives the namespace of a request (adapters have their own)."""
        self._settings = settings
        self._layout = layout
        self._plane = plane
        self._namespace_of = namespaces
        self._incidents = incidents
        self._loads = loads
        self._stores = stores
        self._requests: dict[str, _Request] = {}
        self._flights: dict[bytes, _Flight] = {}
        self._open_stores = 0
        self._last_progress_s = time.monotonic()
        self._plan = StepPlan()
        self._mailbox = Mailbox() if plane is not None else None
        self._told_mailbox = False

    # Lookup and load ----------------------------------------------------------------------------------------

    def matched_tokens(self, request: Any, local_tokens: int) -> tuple[int | None, bool]:
        if self._plane is None or not self._loads:
            return 0, False
        state = self._state(request)
        self._release_pin(state)
        if state.load_failed or request.skip_reading_prefix_cache:
            return 0, False
        block_tokens, chunk_tokens = self._layout.block_tokens, self._layout.chunk_tokens
        # The engine must compute one token at least to have something to sample from, and a load is whole
        # blocks.
        wanted_tokens = (request.num_tokens - 1) // block_tokens * block_tokens
        first = local_tokens // chunk_tokens
        keys = self._keys(state)[: -(-wanted_tokens // chunk_tokens)]
        if wanted_tokens <= local_tokens or len(keys) <= first:
            return 0, False
        pin, chunks = self._lookup(keys, first)
        if pin.status == "pending" and state.pending_asks < _PENDING_ASKS_MAX:
            state.pending_asks += 1
            pin.release()
            return None, False
        if pin.status in ("pending", "busy"):
            self._incidents.counts[f"lookup_{pin.status}"] += 1
        hit_tokens = min(chunks * chunk_tokens, wanted_tokens)
        if hit_tokens <= local_tokens:
            pin.release()
            return 0, False
        state.pin, state.hit_tokens, state.local_tokens = pin, hit_tokens, local_tokens
        return hit_tokens - local_tokens, True

    def _lookup(self, keys: list[bytes], first: int) -> tuple[forebay.Lookup, int]:
        """The pinned hit and how many chunks from the beginning it reaches.

        All keys are asked for, although the engine has the first ones itself: a prefix must not grow older
        than what hangs on it. Only if it is gone is the rest asked for alone."""
        assert self._plane is not None
        pin = self._plane.lookup(keys)
        if first == 0 or pin.chunks > first or pin.status in ("pending", "busy"):
            return pin, pin.chunks
        pin.release()
        pin = self._plane.lookup(keys[first:])
        return pin, first + pin.chunks

    def allocated(self, request: Any, block_ids: list[int], external_tokens: int) -> None:
        """The engine has blocks for the hit (or changed its mind: 0). A load promised here must reach the
        worker, or the request would wait for ever, so whatever fails here becomes a load of lost blocks."""
        state = self._requests.get(request.request_id)
        if state is None:
            return
        if external_tokens == 0:
            self._release_pin(state)
            return
        first_block = state.local_tokens // self._layout.block_tokens
        end_block = (state.local_tokens + external_tokens) // self._layout.block_tokens
        job = LoadJob(request.request_id)
        covered = first_block
        try:
            covered = self._plan_load(state, job, block_ids, first_block, end_block)
        except Exception as error:
            self._incidents.note("plan_load_failed", error)
        job.lost_blocks = block_ids[covered:end_block]
        self._plan.loads.append(job)
        state.loading = True
        self._release_pin(state)

    def _plan_load(self, state: _Request, job: LoadJob, block_ids: list[int], first_block: int, end_block: int) -> int:
        """Fills the job and returns the first block it does not cover."""
        assert self._plane is not None
        per_chunk = self._layout.blocks_per_chunk
        first = first_block // per_chunk
        plans = self._plane.plan_load(state.keys[first : -(-end_block // per_chunk)])
        covered = first_block
        contiguous = True
        for chunk, plan in enumerate(plans, start=first):
            contiguous = contiguous and plan.status == "read"
            if plan.message is None:
                continue
            if not contiguous:  # of no use without the chunk before it
                self._plane.finish(plan.message, "failed", "not wanted")
                continue
            blocks = [
                block_ids[block] if first_block <= block < end_block else SKIPPED_BLOCK
                for block in range(chunk * per_chunk, (chunk + 1) * per_chunk)
            ]
            self._flights[plan.message] = _Flight(job.request_id, chunk, is_load=True)
            job.messages.append(plan.message)
            job.blocks.append(blocks)
            covered = min((chunk + 1) * per_chunk, end_block)
        # What is loaded is on the tiers already; storing is considered from the first chunk that is not.
        state.next_store = max(state.next_store, first + len(job.messages))
        return covered

    # Store --------------------------------------------------------------------------------------------------

    def plan_step(self, scheduled_tokens: dict[str, int], preempted: Iterable[str], block_ids_of: Any) -> StepPlan:
        """`block_ids_of(request_id)`: all block ids of a scheduled request. Ends the plan of this step."""
        plan, self._plan = self._plan, StepPlan()
        plan.computes_nothing = not scheduled_tokens
        if self._plane is None:
            return plan
        if self._mailbox is not None and not self._told_mailbox:
            plan.farewell_path, self._told_mailbox = self._mailbox.path, True
        for request_id in preempted:
            plan.preempted.append(request_id)
            if (state := self._requests.get(request_id)) is not None:
                state.unsettled.clear()
        if self._stores:
            for request_id, tokens in scheduled_tokens.items():
                try:
                    self._plan_stores(plan, request_id, tokens, block_ids_of)
                except Exception as error:
                    self._incidents.note("plan_store_failed", error)
        return plan

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
        keys = self._keys(state)[:end]
        first, state.next_store = state.next_store, len(keys)
        if first >= len(keys):
            return
        assert self._plane is not None
        parent = keys[first - 1] if first else None
        plans = self._plane.plan_store(keys[first:], self._layout.chunk_bytes, parent)
        writes = [(chunk, p.message) for chunk, p in enumerate(plans, first) if p.message is not None]
        self._incidents.counts["stores_refused"] += sum(p.status == "refused" for p in plans)
        if not writes:
            return
        messages = [message for _, message in writes]
        if self._open_stores == 0:
            self._last_progress_s = time.monotonic()
        self._flights.update({message: _Flight(request_id, chunk, is_load=False) for chunk, message in writes})
        self._open_stores += len(writes)
        try:
            block_ids = block_ids_of(request_id)
            per_chunk = self._layout.blocks_per_chunk
            blocks = [block_ids[chunk * per_chunk : (chunk + 1) * per_chunk] for chunk, _ in writes]
            if len(blocks[-1]) != per_chunk:
                raise RuntimeError(f"{request_id} has {len(block_ids)} blocks, too few for {end} chunks")
        except Exception:
            self._settle([(message, "failed", "no blocks") for message in messages])
            raise
        state.unsettled.update(messages)
        plan.stores.append(StoreJob(request_id, messages, blocks))

    # Outcomes and ends --------------------------------------------------------------------------------------

    def take_report(self, report: StepReport) -> None:
        self._settle(report.outcomes)
        if report.broken and self._plane is not None:
            logger.error("Forebay's mover does not work; inference goes on without the cache: %s", report.broken)
            self._shut_plane()

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

    def _load_settled(self, flight: _Flight, state: _Request | None, status: str, reason: str) -> None:
        self._incidents.counts["chunks_loaded" if status == "loaded" else "chunks_lost"] += 1
        if status == "loaded":
            return
        if reason != _CANCELLED:
            self._incidents.note("load_failed", f"chunk {flight.chunk} of {flight.request_id}: {status} {reason}")
        if state is not None:  # it is computed now, and stored again
            state.load_failed = True
            state.next_store = min(state.next_store, flight.chunk)

    def _store_settled(self, message: bytes, flight: _Flight, state: _Request | None, status: str, reason: str) -> None:
        self._open_stores -= 1
        self._incidents.counts["chunks_stored" if status == "written" else "chunks_not_stored"] += 1
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

    def request_finished(self, request_id: str) -> bool:
        """True if the engine must keep the request's blocks until the worker says they are free."""
        state = self._requests.pop(request_id, None)
        if state is None:
            return False
        self._release_pin(state)
        if state.loading:  # the engine holds the blocks by itself until the load is reported
            self._plan.abandoned.append(request_id)
            return False
        if not state.unsettled:
            return False
        self._plan.held.append(request_id)
        return True

    def stores_in_flight(self) -> bool:
        """Bounded: a mover that reports nothing for long keeps the engine awake no longer."""
        if self._open_stores == 0 or self._plane is None:
            return False
        if time.monotonic() - self._last_progress_s < _STORES_SILENT_MAX_S:
            return True
        self._incidents.note("stores_stuck", f"{self._open_stores} stores were not reported in time")
        return False

    def stats(self) -> dict[str, Any]:
        return {
            **{f"connector_{kind}": count for kind, count in sorted(self._incidents.counts.items())},
            "connector_requests": len(self._requests),
            "connector_loads_open": len(self._flights) - self._open_stores,
            "connector_stores_open": self._open_stores,
            **(self._plane.stats() if self._plane is not None else {}),
        }

    def shutdown(self) -> dict[str, Any]:
        """Commits what the worker finished last; returns the final statistics."""
        if self._mailbox is not None:
            self._settle(self._mailbox.close())
            self._mailbox = None
        for state in self._requests.values():
            self._release_pin(state)
        stats = self.stats()
        self._shut_plane()
        return stats

    def _shut_plane(self) -> None:
        plane, self._plane = self._plane, None
        if plane is not None:
            plane.close()

    # Requests -----------------------------------------------------------------------------------------------

    def _state(self, request: Any) -> _Request:
        state = self._requests.get(request.request_id)
        if state is None:
            state = _Request(request, self._namespace_of(request))
            self._requests[request.request_id] = state
        return state

    def _keys(self, state: _Request) -> list[bytes]:
        """Keys of the request's whole chunks. They are chained, so they are computed anew when there are more
        of them: once for a prompt, and once a chunk while a request decodes."""
        per_chunk = self._layout.hashes_per_chunk
        hashes = state.request.block_hashes
        whole = len(hashes) // per_chunk
        if whole > len(state.keys):
            state.keys = forebay.chunk_keys_from_blocks(
                [bytes(block_hash) for block_hash in hashes[: whole * per_chunk]], per_chunk, state.namespace
            )
        return state.keys

    @staticmethod
    def _release_pin(state: _Request) -> None:
        if state.pin is not None:
            state.pin.release()
            state.pin = None


def warn_of_unstable_hashes(algorithm: str) -> None:
    if not algorithm.startswith("sha256") and os.environ.get("PYTHONHASHSEED") is None:
        logger.warning(
            "prefix_caching_hash_algo %s gives other hashes in every process, so nothing will be found after "
            "a restart; use sha256 (the default), or set PYTHONHASHSEED",
            algorithm,
        )
