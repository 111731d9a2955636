"""Everything `forebay` takes from Python, each as a function that takes any bytes and raises if a promise is broken.

What may come out of a call is the exceptions that `_native.pyi` names, and what the caller's own objects raise. A
panic, an abort, a wait without end, wrong bytes that are called loaded, a ticket or a slot that is not given back is
none of them.

`run.py` calls these with atheris for long (`make fuzz-python`), `python/tests/test_fuzz.py` for a short time.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from given import Given, Hostile

import forebay

GIB = 1 << 30
CHUNK = 8192
WAIT_S = 30
STEPS_MAX = 40
KEYS = 6

DOCUMENTED = (forebay.Error, TypeError, ValueError, OverflowError, BufferError, Hostile)


class Broken(AssertionError):
    """A promise does not hold."""


def held(promise: object, what: str) -> None:
    if not promise:
        raise Broken(what)


def attempt(call: Callable[[], Any]) -> Any:
    """The call's result, or None where it was refused in one of the documented ways."""
    try:
        return call()
    except DOCUMENTED:
        return None
    except AttributeError as error:
        # Only of the caller's objects, which lack what was asked of them.
        held(not str(error).startswith("'builtins"), f"an attribute of forebay's own is missing: {error}")
        return None


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="forebay-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


CONFIG_KEYS = tuple(forebay.Config(local_disk="/x", max_local_disk_size=1.0).to_dict())


def configuration(data: bytes) -> None:
    """Settings of any kind: a configuration, which can be shown and read back, or a refusal."""
    given = Given(data)
    keys: dict[str, Any] = {"local_disk": "/nowhere", "max_local_disk_size": 1.0} if given.chance(128) else {}
    for _ in range(given.below(5)):
        name = given.one(CONFIG_KEYS) if given.chance(230) else given.text()
        keys[name] = given.anything()
    config = attempt(lambda: forebay.Config(**keys))
    if given.chance(32):
        attempt(lambda: forebay.Config.load(given.anything(), **keys))
    if config is None:
        return
    repr(config)
    held(all(isinstance(line, str) for line in config.warnings), "a warning that is no text")
    shown = config.to_dict()
    held(set(shown) == set(CONFIG_KEYS), "not every setting is shown")


def _reference(tokens: Any) -> list[int] | None:
    """The token ids as plain Python has them, if they are such at all."""
    try:
        ids = [int(np.int64(token)) if isinstance(token, np.integer) else token.__index__() for token in tokens]
    except Exception:
        return None
    return ids if all(0 <= one < 2**32 for one in ids) else None


def keys(data: bytes) -> None:
    """Keys of tokens in arrays of all kinds are those of the same ids in a list, or a refusal."""
    given = Given(data)
    fields: dict[str, Any] = {"model": given.text() if given.chance(230) else given.anything()}
    for name in ("revision", "kv_dtype", "layout", "salt"):
        if given.chance(64):
            fields[name] = given.text() if given.chance(200) else given.anything()
    for name in ("tp_rank", "tp_size", "pp_rank", "pp_size"):
        if given.chance(64):
            fields[name] = given.integer() if given.chance(200) else given.anything()
    namespace = attempt(lambda: forebay.Namespace(**fields))
    if namespace is None:
        namespace = forebay.Namespace(model="m")
    repr(namespace)
    held(len(namespace.digest) == 32, "a digest that is not 32 bytes long")
    size = given.one((1, 2, 3, 16, 256)) if given.chance(200) else given.anything()
    extra = None if given.chance(160) else given.anything() if given.chance(64) else [given.blob()]
    tokens = given.tokens()
    ids = _reference(tokens) if isinstance(tokens, (list, tuple, np.ndarray, memoryview, bytes, range)) else None
    found = attempt(lambda: forebay.chunk_keys(tokens, size, namespace, extra))
    if found is not None:
        held(all(type(key) is bytes and len(key) == 32 for key in found), "a key that is not 32 bytes long")
        if ids is not None:
            held(found == forebay.chunk_keys(ids, size, namespace, extra), "other keys than those of a list")
            held(len(found) == len(ids) // size, "not one key for each whole chunk")
    hashes = given.anything() if given.chance(64) else [given.blob() for _ in range(given.below(12))]
    blocks = given.integer() if given.chance(128) else given.below(5)
    found = attempt(lambda: forebay.chunk_keys_from_blocks(hashes, blocks, namespace))
    held(found is None or all(len(key) == 32 for key in found), "a key that is not 32 bytes long")


def _config(place: Path, **more: Any) -> forebay.Config:
    return forebay.Config(
        **{
            "local_disk": str(place / "kv"),
            "max_local_disk_size": (1 << 20) / GIB,
            "use_only_staging_buffer": True,
            "max_local_cpu_size": 4 * CHUNK / GIB,
            "disk_min_free_size": 0,
            "load_timeout_s": 5,
            "store_timeout_s": 5,
            **more,
        }
    )


ALL_KEYS = forebay.chunk_keys(range(KEYS), 1, forebay.Namespace(model="fuzz"))


def payload(key: bytes) -> bytes:
    return hashlib.sha256(key).digest() * (CHUNK // 32)


class _Copies:
    """Memory that copies for itself, well or badly."""

    def __init__(self, key: bytes, given: Given) -> None:
        self.payload = payload(key)
        self.seen = bytearray(CHUNK)
        self.well = given.chance(160)
        self._how = given.below(5)
        self._kept: list[memoryview] = []

    def _badly(self, view: memoryview) -> None:
        if self._how == 0:
            raise Hostile
        if self._how == 1:
            self._kept.append(view)
        if self._how == 2:
            view.release()
        if self._how == 3:
            raise SystemExit
        # An array's hold on the view, only for the time of the call.
        np.frombuffer(view, np.uint8)

    def fill(self, offset: int, view: memoryview) -> None:
        view[:] = self.payload[offset : offset + len(view)]
        if not self.well:
            self._badly(view)

    def drain(self, offset: int, view: memoryview) -> None:
        self.seen[offset : offset + len(view)] = view
        if not self.well:
            self._badly(view)


def _some_keys(given: Given) -> Any:
    if given.chance(16):
        return given.anything()
    if given.chance(16):
        return [given.blob() for _ in range(given.below(4))]
    first = given.below(KEYS)
    return [ALL_KEYS[(first + at) % KEYS] for at in range(given.below(KEYS) + given.chance(240))]


def _buffers_for(given: Given, wanted: Any, *, right: bool) -> Any:
    """Memory for these keys: right payloads to be stored, or room for them, mostly."""
    if given.chance(16) or not isinstance(wanted, list):
        return given.anything()
    made: list[Any] = []
    for key in wanted:
        if right or given.chance(200):
            buffer = forebay.PageBuffer(CHUNK) if given.chance(96) else bytearray(CHUNK)
            if right and isinstance(key, bytes):
                memoryview(buffer)[:] = payload(key)
            made.append(buffer)
        else:
            made.append(given.buffer(CHUNK))
    if given.chance(16):
        made.append(bytearray(CHUNK))
    return made if given.chance(240) else iter(made)


def _listed(wanted: Any) -> Any:
    """What a call is going to find in these keys, or None where only going through them tells."""
    return wanted[:] if isinstance(wanted, list | tuple) else None


def _waited(handle: Any) -> list[Any]:
    try:
        return handle.wait(WAIT_S)
    except TimeoutError:
        raise Broken("a batch does not end") from None


def _settled(what: str, stats: Callable[[], dict[str, Any]], names: tuple[str, ...]) -> None:
    """Nothing is kept once all has ended; what the I/O threads give back they give back at once."""
    deadline_s = time.monotonic() + WAIT_S
    while any(stats()[name] for name in names):
        held(time.monotonic() < deadline_s, f"{what} is not given back: {stats()}")
        time.sleep(0.001)


class _Facade:
    """A cache and what is under way in it."""

    def __init__(self, cache: Any, given: Given) -> None:
        self.cache, self.given = cache, given
        self.handles: list[tuple[Any, Any, Any]] = []
        self.lookups: list[Any] = []
        # Whether other bytes than a key's own may have been stored under it.
        self.spoiled = False

    def callback(self) -> Any:
        def raising(*_: Any) -> None:
            raise Hostile

        def asking(*_: Any) -> None:
            attempt(lambda: self.cache.lookup(ALL_KEYS).release())
            attempt(self.cache.stats)

        def closing(*_: Any) -> None:
            self.cache.close(0.1)

        kinds = (None, None, raising, asking, closing if self.given.chance(32) else None, print_nothing)
        return self.given.anything() if self.given.chance(16) else self.given.one(kinds)

    def store(self) -> None:
        wanted = _some_keys(self.given)
        right = self.given.chance(255)
        self.spoiled |= not right
        buffers = _buffers_for(self.given, wanted, right=right)
        parent = None if self.given.chance(160) else self.given.one((ALL_KEYS[0], b"", self.given.anything()))
        listed = _listed(wanted)
        self._keep(attempt(lambda: self.cache.store(wanted, buffers, self.callback(), parent)), listed, None)

    def load(self) -> None:
        wanted = _some_keys(self.given)
        buffers = _buffers_for(self.given, wanted, right=False)
        listed = _listed(wanted)
        self._keep(attempt(lambda: self.cache.load(wanted, buffers, self.callback())), listed, buffers)

    def _keep(self, handle: Any, wanted: Any, buffers: Any) -> None:
        if handle is not None:
            self.handles.append((handle, wanted, buffers if isinstance(buffers, list) else None))

    def lookup(self) -> None:
        found = attempt(lambda: self.cache.lookup(_some_keys(self.given)))
        if found is not None:
            held(found.status in ("hit", "miss", "pending", "busy"), found.status)
            self.lookups.append(found)

    def release(self) -> None:
        if self.lookups:
            self.given.one(self.lookups).release()

    def handle(self) -> None:
        if not self.handles:
            return
        one, _, _ = self.given.one(self.handles)
        what = self.given.below(4)
        if what == 0:
            one.cancel()
        elif what == 1:
            one.done()
        elif what == 2:
            attempt(lambda: one._on_done(self.given.anything()))
        else:
            with contextlib.suppress(TimeoutError):
                attempt(lambda: one.wait(min(0.01, self.given.number())))

    def stats(self) -> None:
        attempt(self.cache.stats)

    def close(self) -> None:
        if self.given.chance(48):
            attempt(lambda: self.cache.close(self.given.number()))

    def end(self) -> None:
        for handle, wanted, buffers in self.handles:
            outcomes = _waited(handle)
            repr(outcomes)
            if wanted is None:
                continue
            held(len(outcomes) == len(wanted), "not one outcome for each key")
            for place, (outcome, key) in enumerate(zip(outcomes, wanted, strict=True)):
                held(outcome.key == key, "an outcome of another key")
                if buffers and outcome.status == "loaded" and not self.spoiled:
                    held(bytes(buffers[place]) == payload(key), "other bytes were loaded than were stored")
        for lookup in self.lookups:
            lookup.release()
        if attempt(self.cache.stats) is not None:
            _settled("a ticket or a slot", self.cache.stats, ("open_tickets", "staging_in_use"))


def print_nothing(*_: Any) -> None:
    """A callback that does nothing."""


def cache(data: bytes) -> None:
    """Any calls of the façade, in any order, with any arguments."""
    given = Given(data)
    with folder() as place:
        opened = None
        if given.chance(24):
            namespace = given.anything()
            opened = attempt(lambda: forebay.Cache(_config(place), given.integer(), namespace))
        if opened is None:
            opened = forebay.Cache(_config(place), CHUNK)
            facade = _Facade(opened, given)
            steps = (
                facade.store,
                facade.store,
                facade.load,
                facade.load,
                facade.lookup,
                facade.release,
                facade.handle,
                facade.stats,
                facade.close,
            )
            for _ in range(STEPS_MAX):
                if not given.left():
                    break
                given.one(steps)()
            facade.end()
        opened.close()


class _Planes:
    """Both halves, and the messages between them."""

    def __init__(self, given: Given, place: Path) -> None:
        self.given = given
        self.control = forebay.ControlPlane(_config(place), CHUNK)
        self.mover = forebay.Mover(_config(place), CHUNK)
        self.open: dict[bytes, str] = {}
        """Messages that wait for their `finish`, and whether each is to be written or read."""
        self.old: list[bytes] = []
        self.transfers: list[Any] = []
        self.sinks: list[tuple[bytes, Any]] = []
        self.memory = np.zeros((4, 8, 1024), np.uint8)

    def plan(self) -> None:
        wanted = _some_keys(self.given)
        length = CHUNK if self.given.chance(220) else self.given.integer()
        parent = None if self.given.chance(200) else self.given.one((ALL_KEYS[0], self.given.anything()))
        if self.given.chance(128):
            plans = attempt(lambda: self.control.plan_store(wanted, length, parent))
        else:
            plans = attempt(lambda: self.control.plan_load(wanted, length))
        for one in plans or []:
            held(one.status in ("write", "present", "read", "miss", "refused"), one.status)
            if one.message is not None:
                self.open[one.message] = one.status

    def message(self) -> Any:
        """One that is open, or was, or is spoilt, or is none."""
        known = [*self.open, *self.old[-8:]]
        if not known or self.given.chance(24):
            return self.given.anything()
        message = self.given.one(known)
        if self.given.chance(40):
            at = self.given.below(len(message))
            spoilt = bytearray(message)
            spoilt[at] ^= 1 << self.given.below(8)
            return bytes(spoilt) if self.given.chance(128) else message[:at]
        return message + self.given.one(known) if self.given.chance(16) else message

    def room(self) -> Any:
        kind = self.given.below(6)
        if kind == 0:
            return self.given.anything()
        if kind == 1:
            return self.given.buffer(CHUNK)
        if kind == 2:
            return _Copies(self.given.one(ALL_KEYS), self.given)
        if kind == 3:
            return self.paged()
        if kind == 4:
            return forebay.PageBuffer(CHUNK)
        return bytearray(CHUNK)

    def paged(self) -> Any:
        memory = self.memory
        offsets = [0, 8192, 16384, 24576][: 1 + self.given.below(4)]
        stride, page, size = 1024, 1024, memory.nbytes
        if self.given.chance(64):
            # Within what is there, whatever it is: where the memory lies is the engine's word, and is kept here.
            offsets = self.given.one((offsets, [self.given.integer()], self.given.anything(), [2**64 - 1]))
            stride, page = self.given.integer(), self.given.integer()
            size = self.given.one((size, 0, 1, 1024))
        made = attempt(lambda: forebay.PagedMemory(memory, memory.ctypes.data, size, offsets, stride, page))
        if made is None:
            return None
        blocks: Any = [self.given.one((0, 1, 2, 7, -1)) for _ in range(self.given.below(4))]
        if self.given.chance(32):
            blocks = self.given.one(([self.given.integer()], self.given.anything(), [8], [-2]))
        chunk = attempt(lambda: made.chunk(blocks))
        if chunk is not None:
            attempt(lambda: len(chunk))
        return chunk

    def move(self) -> None:
        count = self.given.below(4)
        messages = [self.message() for _ in range(count)] if self.given.chance(240) else self.given.anything()
        rooms = [self.room() for _ in range(count)] if self.given.chance(240) else self.given.anything()
        kind = self.given.below(5)
        if kind < 2:
            transfer = attempt(lambda: self.mover.store(messages, rooms))
        elif kind < 4:
            transfer = attempt(lambda: self.mover.load(messages, rooms))
        else:
            pairs = [(message, self.message()) for message in messages] if isinstance(messages, list) else messages
            transfer = attempt(lambda: self.mover.copy(pairs))
        if transfer is not None:
            self.transfers.append(transfer)

    def store_well(self) -> None:
        """What an engine does: so that there is something to be loaded, and to be spoilt."""
        for plan in attempt(lambda: self.control.plan_store(ALL_KEYS[:3], CHUNK)) or []:
            if plan.status == "write":
                transfer = attempt(lambda one=plan: self.mover.store([one.message], [payload(one.key)]))
                if transfer is not None:
                    self.wait(transfer)
                    ends = transfer.poll()
                    held(len(ends) == 1 and ends[0][0] == plan.message, "an end of another message")
                    attempt(lambda one=plan, end=ends[0]: self.control.finish(one.message, end[1], end[2]))
                else:
                    self.open[plan.message] = plan.status

    def load_well(self) -> None:
        for plan in attempt(lambda: self.control.plan_load(ALL_KEYS[:3])) or []:
            if plan.status == "read":
                sink = bytearray(CHUNK)
                transfer = attempt(lambda one=plan, into=sink: self.mover.load([one.message], [into]))
                status, reason = "failed", ""
                if transfer is not None:
                    self.wait(transfer)
                    ((_, status, reason),) = transfer.poll()
                if status == "loaded" and not self.badly:
                    held(sink == payload(plan.key), "other bytes were loaded than were stored")
                attempt(lambda one=plan, end=(status, reason): self.control.finish(one.message, *end))

    badly = False
    """Whether bytes of another key may have been stored under one: what the fuzzer itself handed over."""

    def finish(self) -> None:
        message = self.message()
        status = self.given.one(("written", "loaded", "miss", "failed", self.given.text()))
        reason = self.given.one(("", "io: x", "remote: y", "timed_out", "not_there", self.given.text()))
        kind = self.given.below(4)
        if kind == 0:
            attempt(lambda: self.control.finish_copy(message, self.message(), status, reason))
        else:
            attempt(lambda: self.control.finish(message, status, reason))

    def other(self) -> None:
        kind = self.given.below(9)
        if kind == 0:
            attempt(lambda: self.control.lookup(_some_keys(self.given), self.given.chance(128)).release())
        elif kind == 1:
            attempt(lambda: self.control.ask_again(self.given.one((ALL_KEYS[0], self.given.anything()))))
        elif kind == 2:
            self.control.plan_copies()
            self.control.has_copies()
        elif kind == 3:
            attempt(self.mover.staging_memory)
        elif kind == 4 and self.transfers:
            self.given.one(self.transfers).cancel()
        elif kind == 5 and self.transfers:
            transfer = self.given.one(self.transfers)
            transfer.done(), transfer.released(), transfer.poll()
            attempt(lambda: transfer.wait_released(min(0.01, self.given.number())))
        elif kind == 6 and self.given.chance(32):
            self.control.close()
        elif kind == 7 and self.given.chance(32):
            attempt(lambda: self.mover.close(self.given.number()))
        elif kind == 8:
            length = self.given.integer()
            # What would be had, and be zeroed, is left out.
            if not 1 << 22 < length < 1 << 44:
                attempt(lambda: forebay.PageBuffer(length))

    def wait(self, transfer: Any) -> None:
        try:
            transfer.wait(WAIT_S)
        except TimeoutError:
            raise Broken("a transfer does not end") from None
        held(transfer.released(), "a transfer that has ended holds memory")

    def end(self) -> None:
        for transfer in self.transfers:
            self.wait(transfer)
        for message, status in self.open.items():
            # Again, where it was finished before: that is to be told, and to change nothing.
            attempt(lambda one=message: self.control.finish(one, "failed", ""))
            attempt(lambda one=message: held(not self.control.finish(one, "failed", ""), "finished twice"))
            held(status in ("write", "read"), status)
        if attempt(self.control.stats) is not None:
            _settled("a ticket", self.control.stats, ("open_tickets",))
        if attempt(self.mover.stats) is not None:
            _settled("a slot", self.mover.stats, ("staging_in_use",))
        self.mover.close()
        self.control.close()


def planes(data: bytes) -> None:
    """Any calls of the two halves, with messages that are right, old, spoilt, of the other kind, or none."""
    given = Given(data)
    with folder() as place:
        both = _Planes(given, place)
        steps = (
            both.plan,
            both.plan,
            both.move,
            both.move,
            both.finish,
            both.store_well,
            both.load_well,
            both.other,
            both.other,
        )
        for _ in range(STEPS_MAX):
            if not given.left():
                break
            step = given.one(steps)
            both.badly = both.badly or step == both.move
            step()
        both.end()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "configuration": configuration,
    "keys": keys,
    "cache": cache,
    "planes": planes,
}
