"""Who watches the scheduler half, counts for vLLM's metrics and tells routers, and has no part in what is done.

It promises: none of its methods raises, but is noted as an incident; what it knows of a request ends with the request.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec

from .announce import Announcements
from .incidents import Incidents
from .metrics import PrefillRate, Tally

P = ParamSpec("P")


@dataclass
class _Seen:
    """Of one request."""

    was_counted: bool = False
    """Its lookup is in the tally."""
    load_began_s: float = 0.0
    load_tokens: int = 0
    """Tokens of the load that is under way."""
    prefill_began_s: float | None = None
    """When its first step began, until its first token is there."""
    prefill_tokens: int = 0
    """Tokens of the prompt that it had to compute then."""


def _harmless(watch: Callable[Concatenate[Onlooker, P], None]) -> Callable[Concatenate[Onlooker, P], None]:
    @functools.wraps(watch)
    def watched(self: Onlooker, *arguments: P.args, **named: P.kwargs) -> None:
        try:
            watch(self, *arguments, **named)
        except Exception as error:
            self._incidents.note("observation_failed", error)

    return watched


class Onlooker:
    def __init__(self, incidents: Incidents, announcements: Announcements | None) -> None:
        self._incidents = incidents
        self._announcements = announcements
        self._tally = Tally()
        self._prefill_rate = PrefillRate()
        self._requests: dict[str, _Seen] = {}

    @_harmless
    def looked_up(self, request: Any, found_tokens: int, chunks: int, keys: Sequence[Sequence[bytes]]) -> None:
        """A lookup has found the first `chunks` chunks on every shard (`keys`: of each), `found_tokens` of them beyond
        what the engine has itself."""
        if self._announcements is not None:
            self._announcements.found(request, chunks, keys)
        seen = self._seen(request.request_id)
        if not seen.was_counted:  # it is asked again each time there is no room for it
            seen.was_counted = True
            self._tally.add("prompt_tokens", request.num_tokens)
            self._tally.add("hit_tokens", found_tokens)

    @_harmless
    def load_planned(self, request_id: str, tokens: int) -> None:
        seen = self._seen(request_id)
        seen.load_began_s, seen.load_tokens = time.monotonic(), tokens

    @_harmless
    def load_ended(self, request_id: str, has_failed: bool) -> None:
        seen = self._seen(request_id)
        seconds = time.monotonic() - seen.load_began_s
        self._tally.sample_load(seconds)
        if has_failed:
            self._tally.add("failed_loads")
            self._count_saved(-seconds)
        else:
            self._tally.add("loaded_tokens", seen.load_tokens)
            self._count_saved(self._prefill_rate.loaded(seen.load_tokens, seconds))

    @_harmless
    def stores_planned(self, request: Any, chunks: range, keys: Sequence[Sequence[bytes]]) -> None:
        """These chunks of a request are to be stored. `keys`: of each shard, from its first chunk on."""
        if self._announcements is not None:
            for chunk in chunks:
                self._announcements.planned(request, chunk, [of_shard[chunk] for of_shard in keys])

    @_harmless
    def store_ended(self, is_stored: bool) -> None:
        self._tally.add("stored_chunks" if is_stored else "unstored_chunks")

    @_harmless
    def step_planned(self, requests: Iterable[Any]) -> None:
        """These requests have tokens in the step that begins."""
        now_s = time.monotonic()
        for request in requests:
            seen = self._seen(request.request_id)
            if seen.prefill_began_s is not None:
                self._note_first_token(seen, request, now_s)
            elif request.num_output_tokens == 0 and not seen.prefill_tokens:
                seen.prefill_began_s = now_s
                seen.prefill_tokens = request.num_prompt_tokens - request.num_computed_tokens

    @_harmless
    def preempted(self, request_id: str) -> None:
        """It computes its prompt anew."""
        seen = self._seen(request_id)
        seen.prefill_began_s, seen.prefill_tokens = None, 0

    @_harmless
    def finished(self, request: Any) -> None:
        if (seen := self._requests.pop(request.request_id, None)) is not None:
            self._note_first_token(seen, request, time.monotonic())

    def take_tally(self) -> Tally | None:
        """What has been counted since the last call."""
        if self._tally.is_empty():
            return None
        tally, self._tally = self._tally, Tally()
        return tally

    def take_events(self) -> list[Any]:
        """vLLM's KV events since the last call."""
        return self._announcements.take() if self._announcements is not None else []

    def _seen(self, request_id: str) -> _Seen:
        return self._requests.setdefault(request_id, _Seen())

    def _note_first_token(self, seen: _Seen, request: Any, now_s: float) -> None:
        """If it is there, the prompt was computed."""
        if seen.prefill_began_s is not None and request.num_output_tokens > 0:
            seconds, seen.prefill_began_s = now_s - seen.prefill_began_s, None
            self._count_saved(self._prefill_rate.computed(seen.prefill_tokens, seconds))

    def _count_saved(self, seconds: float) -> None:
        self._tally.add("first_token_saved_seconds" if seconds > 0 else "first_token_lost_seconds", abs(seconds))
