"""The connector's two halves on their own, against planes and movers that misbehave on purpose: what an
engine would see rarely or never. Guarantees 4 and 9 of docs/DESIGN.md: nothing leaks, and the cache never
fails inference."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from forebay.vllm import worker as worker_module
from forebay.vllm.incidents import Incidents
from forebay.vllm.layout import KvLayout, Shard
from forebay.vllm.messages import SKIPPED_BLOCK, LoadJob, StepPlan, StepReport, StoreJob
from forebay.vllm.scheduler import SchedulerHalf
from forebay.vllm.settings import read_settings
from forebay.vllm.worker import WorkerHalf

LAYOUT = KvLayout("LBHNC", ("l0",), (0,), 100, 100, 6400, block_tokens=4, hash_tokens=4, chunk_tokens=8)
ONE_SHARD = (Shard(tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, workers=(0,)),)
KEYS = [bytes([index]) * 32 for index in range(16)]


class Pin:
    def __init__(self, plane: Plane, chunks: int, status: str) -> None:
        self.plane, self.chunks, self.status = plane, chunks, status
        plane.pins += 1

    def release(self) -> None:
        self.plane.pins -= 1


class Plane:
    """A control plane that has the first `has` chunks of every prompt."""

    def __init__(self, has: int = 0, status: str = "hit", plan_error: Exception | None = None) -> None:
        self.has, self.status, self.plan_error = has, status, plan_error
        self.pins = 0
        self.finished: list[tuple[bytes, str]] = []
        self.stored: list[tuple[list[bytes], bytes | None]] = []
        self.to_copy: list[tuple[bytes, bytes]] = []
        self.copied: list[tuple[bytes, bytes, str]] = []
        self.asked_again: list[bytes] = []

    def lookup(self, keys: list[bytes], settle: bool = False) -> Pin:
        self.asked_to_settle = settle
        chunks = sum(key in KEYS[: self.has] for key in keys) if self.status == "hit" else 0
        return Pin(self, chunks, self.status)

    def plan_load(self, keys: list[bytes]) -> list[Any]:
        if self.plan_error is not None:
            raise self.plan_error
        return [SimpleNamespace(status="read", message=b"load" + key, reason="") for key in keys]

    def plan_store(self, keys: list[bytes], length: int, parent: bytes | None = None) -> list[Any]:
        assert length == LAYOUT.chunk_bytes
        self.stored.append((list(keys), parent))
        return [SimpleNamespace(status="write", message=b"store" + key, reason="") for key in keys]

    def finish(self, message: bytes, status: str, reason: str = "") -> bool:
        self.finished.append((message, status))
        return True

    def ask_again(self, key: bytes) -> None:
        self.asked_again.append(key)

    def plan_copies(self) -> list[tuple[bytes, bytes]]:
        planned, self.to_copy = self.to_copy[:2], self.to_copy[2:]
        return planned

    def finish_copy(self, read: bytes, write: bytes, status: str, reason: str = "") -> bool:
        self.copied.append((read, write, status))
        return True

    def has_copies(self) -> bool:
        return bool(self.to_copy)

    def stats(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self.closed = True


class Move:
    """A transfer that does what the test says."""

    def __init__(self, messages: list[bytes]) -> None:
        self.messages, self.free, self.over, self.cancelled = messages, False, False, False
        self.news: list[tuple[bytes, str, str]] = []

    def done(self) -> bool:
        return self.over

    def released(self) -> bool:
        return self.free or self.over

    def wait_released(self, timeout: float) -> bool:
        return self.released()

    def wait(self, timeout: float | None = None) -> None:
        if not self.over:
            raise TimeoutError

    def poll(self) -> list[tuple[bytes, str, str]]:
        news, self.news = self.news, []
        return news

    def cancel(self) -> None:
        self.cancelled = True

    def end(self, status: str, reason: str = "") -> None:
        self.news = [(message, status, reason) for message in self.messages]
        self.over = True


class Mover:
    def __init__(self) -> None:
        self.moves: list[Move] = []

    def store(self, messages: list[bytes], sources: list[Any]) -> Move:
        self.moves.append(Move(messages))
        return self.moves[-1]

    load = store

    def copy(self, messages: list[tuple[bytes, bytes]]) -> Move:
        self.moves.append(Move([read for read, _ in messages]))
        return self.moves[-1]

    def stats(self) -> dict[str, Any]:
        return {}

    def close(self, timeout: float = 10.0) -> None:
        pass


class Pages:
    def pin(self, mover: Any) -> None:
        self.pinned = mover

    def fence(self) -> None:
        pass

    def chunk(self, block_ids: list[int]) -> list[int]:
        return block_ids


def request(tokens: int, prompt_tokens: int | None = None, name: str = "r") -> Any:
    return SimpleNamespace(
        request_id=name,
        num_tokens=tokens,
        num_prompt_tokens=prompt_tokens or tokens,
        num_computed_tokens=0,
        num_output_tokens=0,
        block_hashes=[bytes([index]) * 32 for index in range(tokens // LAYOUT.hash_tokens)],
        skip_reading_prefix_cache=False,
    )


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "forebay.chunk_keys_from_blocks",
        lambda hashes, per_chunk, namespace: KEYS[: len(hashes) // per_chunk],
    )


def scheduler(plane: Plane, *, stores: bool = True, **settings: Any) -> SchedulerHalf:
    values = SimpleNamespace(**{"save_decode_cache": False, "lookup_wait_s": 0.05, "has_remote": False, **settings})
    return SchedulerHalf(
        values,  # type: ignore[arg-type]
        LAYOUT,
        ONE_SHARD,
        plane,  # type: ignore[arg-type]
        lambda request: [None],  # type: ignore[list-item]
        incidents=Incidents(),
        stores=stores,
    )


def worker(mover: Mover) -> WorkerHalf:
    half = WorkerHalf(0, lambda: mover, Incidents())  # type: ignore[arg-type,return-value]
    half.register(Pages())
    return half


def step(half: WorkerHalf, plan: StepPlan) -> tuple[set[str], set[str], set[int], StepReport | None]:
    half.before_overwriting(plan)
    half.start_loads(plan)
    half.start_stores(plan)
    half.start_copies(plan)
    free, arrived = half.finished(plan)
    return free, arrived, half.take_failed_blocks(), half.take_report()


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("tokens", "local", "has", "external"),
    [
        (20, 0, 2, 16),  # whole chunks
        (16, 0, 2, 12),  # the prompt ends on a chunk's border: one block is left to compute
        (20, 8, 2, 8),  # the engine has the first chunk
        (20, 12, 2, 4),  # and half of the second
        (20, 16, 2, 0),  # and all of it
        (7, 0, 2, 0),  # shorter than a chunk
        (20, 0, 0, 0),  # nothing stored
    ],
)
def test_a_hit_is_whole_blocks_and_leaves_a_token_to_compute(tokens: int, local: int, has: int, external: int) -> None:
    plane = Plane(has)
    half = scheduler(plane)
    asked = request(tokens)
    assert half.matched_tokens(asked, local) == (external, external > 0)
    assert plane.pins == (1 if external else 0)
    if not external:
        return
    block_ids = list(range(100, 100 + tokens // 4))
    half.allocated(asked, block_ids, external)
    [job] = half.plan_step({}, (), lambda name: block_ids).loads
    written = [block for blocks in job.blocks for block in blocks if block != SKIPPED_BLOCK]
    assert written == block_ids[local // 4 : (local + external) // 4]
    assert not job.lost_blocks
    assert plane.pins == 0, "the plan holds the chunks now"


@pytest.mark.usefixtures("keys")
def test_a_load_that_cannot_be_planned_is_answered_with_failed_blocks_and_not_asked_for_again() -> None:
    plane = Plane(2, plan_error=RuntimeError("no"))
    half, asked = scheduler(plane), request(20)
    half.matched_tokens(asked, 0)
    half.allocated(asked, [7, 8, 9, 10], 16)
    plan = half.plan_step({}, (), lambda name: [])
    assert plan.loads[0].lost_blocks == [7, 8, 9, 10]
    free, arrived, failed, _ = step(worker(Mover()), plan)
    assert (free, arrived, failed) == (set(), {"r"}, {7, 8, 9, 10})
    assert plane.pins == 0


@pytest.mark.usefixtures("keys")
def test_after_a_failed_load_the_request_is_computed_and_its_chunk_stored_again() -> None:
    plane = Plane(2)
    half, asked = scheduler(plane), request(20)
    half.matched_tokens(asked, 0)
    half.allocated(asked, [7, 8, 9, 10], 16)
    plan = half.plan_step({}, (), lambda name: [])
    mover = Mover()
    engine = worker(mover)
    assert step(engine, plan)[1] == set()
    mover.moves[0].news = [(b"load" + KEYS[0], "loaded", ""), (b"load" + KEYS[1], "miss", "checksum")]
    mover.moves[0].over = True
    _, arrived, failed, report = step(engine, StepPlan())
    assert (arrived, failed) == ({"r"}, {9, 10})
    assert report is not None
    half.take_report(report)
    half.load_reported(arrived)
    assert half.matched_tokens(asked, 8) == (0, False)
    asked.num_computed_tokens = 8
    plan = half.plan_step({"r": 12}, (), lambda name: [7, 8, 9, 10, 11])
    assert plan.stores[0].blocks == [[9, 10]]
    assert plane.stored == [([KEYS[1]], KEYS[0])]


@pytest.mark.usefixtures("keys")
def test_a_lookup_that_is_still_being_answered_is_asked_again_until_its_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("forebay.vllm.scheduler.time", SimpleNamespace(monotonic=lambda: now[0]))
    plane = Plane(2, "pending")
    half, asked = scheduler(plane, lookup_wait_s=1.0), request(20)
    for now[0] in (100.0, 100.5, 100.9):
        assert half.matched_tokens(asked, 0) == (None, False)
        assert not plane.asked_to_settle
    now[0] = 101.0
    assert half.matched_tokens(asked, 0) == (0, False)
    assert plane.asked_to_settle, "what is known at the deadline must do"
    assert half.stats()["connector_lookups_out_of_time"] == 1
    plane.status = "hit"
    assert half.matched_tokens(asked, 0) == (16, True)
    half.request_finished("r")
    assert plane.pins == 0


@pytest.mark.usefixtures("keys")
def test_a_lookup_that_is_refused_is_a_miss_at_once() -> None:
    plane = Plane(2, "busy")
    half = scheduler(plane)
    assert half.matched_tokens(request(20), 0) == (0, False)
    assert plane.pins == 0 and half.stats()["connector_lookups_busy"] == 1


@pytest.mark.usefixtures("keys")
def test_blocks_of_a_finished_request_are_held_until_they_are_copied_and_no_longer() -> None:
    half, asked, mover = scheduler(Plane()), request(20), Mover()
    engine = worker(mover)
    half.matched_tokens(asked, 0)
    step(engine, half.plan_step({"r": 20}, (), lambda name: [1, 2, 3, 4, 5]))
    assert half.request_finished("r") is True
    assert step(engine, half.plan_step({}, (), lambda name: []))[0] == set()
    mover.moves[0].free = True
    free, *_ = step(engine, StepPlan())
    assert free == {"r"}
    assert step(engine, StepPlan())[0] == set(), "reported once"
    assert half.work_in_flight() is True
    mover.moves[0].end("written")
    report = step(engine, StepPlan())[3]
    assert report is not None
    half.take_report(report)
    assert half.work_in_flight() is False


@pytest.mark.usefixtures("keys")
def test_stores_that_are_never_answered_keep_the_engine_awake_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half, asked = scheduler(Plane()), request(20)
    half.matched_tokens(asked, 0)
    half.plan_step({"r": 20}, (), lambda name: [1, 2, 3, 4, 5])
    assert half.work_in_flight() is True
    monkeypatch.setattr("forebay.vllm.scheduler._SILENT_MAX_S", -1.0)
    assert half.work_in_flight() is False


def test_a_chunk_whose_blocks_were_taken_while_it_was_copied_is_never_reported_as_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "_PREEMPTION_WAIT_MAX_S", 0.01)
    mover = Mover()
    half = worker(mover)
    step(half, StepPlan(stores=[StoreJob(0, "r", [b"m"], [[1, 2]])]))
    step(half, StepPlan(preempted=["r"]))
    assert mover.moves[0].cancelled
    mover.moves[0].end("written")
    report = step(half, StepPlan())[3]
    assert report is not None and [outcome[:2] for outcome in report.outcomes] == [(b"m", "failed")]


def test_a_load_that_takes_too_long_is_cancelled_and_its_blocks_stay_out_of_use_until_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "_LOAD_MAX_S", -1.0)
    mover = Mover()
    half = worker(mover)
    _, arrived, _, _ = step(half, StepPlan(loads=[LoadJob(0, "r", [b"m"], [[1, SKIPPED_BLOCK]])]))
    assert arrived == set() and mover.moves[0].cancelled
    mover.moves[0].end("failed", "cancelled")
    _, arrived, failed, _ = step(half, StepPlan())
    assert (arrived, failed) == ({"r"}, {1})


def test_an_aborted_load_is_cancelled_and_still_reported_once() -> None:
    mover = Mover()
    half = worker(mover)
    step(half, StepPlan(loads=[LoadJob(0, "r", [b"m"], [[1, 2]])]))
    step(half, StepPlan(abandoned=["r"]))
    assert mover.moves[0].cancelled
    mover.moves[0].end("failed", "cancelled")
    assert step(half, StepPlan())[1] == {"r"}
    assert step(half, StepPlan())[1] == set()


@pytest.mark.usefixtures("keys")
def test_a_mover_that_cannot_start_turns_the_cache_off_and_answers_every_job() -> None:
    def refuse() -> Any:
        raise OSError("no memory for staging")

    engine = WorkerHalf(0, refuse, Incidents())
    engine.register(Pages())
    plan = StepPlan(
        loads=[LoadJob(0, "a", [b"load"], [[1, 2]])], stores=[StoreJob(0, "b", [b"store"], [[3, 4]])], held=["b"]
    )
    free, arrived, failed, report = step(engine, plan)
    assert (free, arrived, failed) == ({"b"}, {"a"}, {1, 2})
    assert report is not None and "no memory" in report.broken
    assert {outcome[0] for outcome in report.outcomes} == {b"load", b"store"}
    half = scheduler(Plane(2))
    half.take_report(report)
    assert half.matched_tokens(request(20), 0) == (0, False)
    assert step(engine, StepPlan())[3] is None, "said once"


def test_what_a_worker_finished_while_shutting_down_reaches_the_scheduler() -> None:
    plane = Plane()
    half = scheduler(plane)
    mover = Mover()
    engine = worker(mover)
    step(engine, half.plan_step({}, (), lambda name: []))
    step(engine, StepPlan(stores=[StoreJob(0, "r", [b"m"], [[1, 2]])]))
    half._flights[b"m"] = SimpleNamespace(request_id="r", chunk=0, is_load=False)  # type: ignore[assignment]
    mover.moves[0].end("written")
    engine.shutdown()
    half.shutdown()
    assert plane.finished == [(b"m", "written")] and plane.closed


@pytest.mark.usefixtures("keys")
def test_copies_keep_the_engine_stepping_until_each_is_reported_or_none_is_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plane, mover = Plane(), Mover()
    plane.to_copy = [(b"read%d" % chunk, b"write%d" % chunk) for chunk in range(3)]
    half, engine = scheduler(plane), worker(mover)
    assert half.work_in_flight() is True
    assert step(engine, half.plan_step({}, (), lambda name: []))[3] is None
    assert mover.moves[0].messages == [b"read0", b"read1"]
    step(engine, half.plan_step({}, (), lambda name: []))
    assert half.work_in_flight() is True, "nothing waits any more, and three are under way"
    mover.moves[0].end("copied")
    mover.moves[1].end("failed", "remote: refused")
    report = step(engine, StepPlan())[3]
    assert report is not None
    with monkeypatch.context() as patch:
        patch.setattr("forebay.vllm.scheduler._SILENT_MAX_S", -1.0)
        assert half.work_in_flight() is False
    half.take_report(report)
    assert half.work_in_flight() is False
    assert plane.copied == [
        (b"read0", b"write0", "copied"),
        (b"read1", b"write1", "copied"),
        (b"read2", b"write2", "failed"),
    ]
    assert half.stats()["connector_chunks_copied"] == 2 and half.stats()["connector_copies_open"] == 0
    assert step(engine, StepPlan())[3] is None, "reported once"


@pytest.mark.usefixtures("keys")
def test_copies_that_no_mover_takes_or_ends_are_reported_as_failed() -> None:
    def refuse() -> Any:
        raise OSError("no memory for staging")

    plane = Plane()
    plane.to_copy = [(b"read0", b"write0"), (b"read1", b"write1")]
    half = scheduler(plane)
    plan = half.plan_step({}, (), lambda name: [])
    engine = WorkerHalf(0, refuse, Incidents())
    engine.register(Pages())
    report = step(engine, plan)[3]
    assert report is not None and report.broken
    half.take_report(report)
    assert [copied[2] for copied in plane.copied] == ["failed", "failed"] and not half.work_in_flight()
    mover = Mover()
    forgetful = worker(mover)
    step(forgetful, plan)
    mover.moves[0].over = True
    report = step(forgetful, StepPlan())[3]
    assert report is not None and [copy[2:] for copy in report.copies] == [("failed", "no outcome")] * 2


def test_a_copy_that_ends_while_the_worker_shuts_down_reaches_the_scheduler() -> None:
    plane, mover = Plane(), Mover()
    plane.to_copy = [(b"read", b"write")]
    half, engine = scheduler(plane), worker(mover)
    step(engine, half.plan_step({}, (), lambda name: []))
    news: Any = iter([[], [], [(b"read", "copied", "")]])
    mover.moves[0].poll = lambda: next(news)  # type: ignore[method-assign]
    engine.shutdown()
    half.shutdown()
    assert plane.copied == [(b"read", b"write", "copied")]


@pytest.mark.usefixtures("keys")
def test_a_consumer_waits_for_chunks_on_their_way_and_asks_for_them_anew_but_not_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("forebay.vllm.scheduler.time", SimpleNamespace(monotonic=lambda: now[0]))
    plane = Plane(1)
    consumer, asked = scheduler(plane, stores=False, has_remote=True, lookup_wait_s=1.0), request(20)
    for now[0] in (100.0, 100.01, 100.04, 100.06, 100.07):
        assert consumer.matched_tokens(asked, 0) == (None, False)
    assert plane.asked_again == [KEYS[1], KEYS[1]] and plane.pins == 0
    assert consumer.plan_step({}, (), lambda name: []).awaits_answers
    plane.has = 2
    assert consumer.matched_tokens(asked, 0) == (16, True)
    plane.has, now[0] = 1, 200.0
    assert consumer.matched_tokens(asked, 0) == (None, False), "what was whole may be asked for anew"
    now[0] = 201.0
    assert consumer.matched_tokens(asked, 0) == (8, True)
    assert plane.asked_to_settle and consumer.stats()["connector_lookups_out_of_time"] == 1
    now[0] = 300.0
    assert consumer.matched_tokens(asked, 0) == (8, True), "a request waits in vain once"
    consumer.request_finished("r")
    for others in ({"stores": True, "has_remote": True}, {"stores": False, "has_remote": False}):
        half = scheduler(Plane(1), lookup_wait_s=1.0, **others)
        assert half.matched_tokens(request(20), 0) == (8, True), "nobody else brings the rest"


@pytest.mark.usefixtures("keys")
def test_a_lookup_that_may_not_wait_settles_at_once() -> None:
    plane = Plane(2, "pending")
    half = scheduler(plane, lookup_wait_s=0.0)
    assert half.matched_tokens(request(20), 0) == (0, False)
    assert plane.asked_to_settle and plane.pins == 0


def test_each_salt_is_its_own_and_is_not_shown(tmp_path) -> None:
    disk = {"local_disk": str(tmp_path), "max_local_disk_size": 1}
    salts = ("", "alice", "bob")
    settings = [read_settings({**disk, "cache_salt": salt}) for salt in salts]
    assert [each.cache_salt for each in settings] == list(salts)
    assert not any(salt in f"{each!r}{each.config!r}" for salt, each in zip(salts[1:], settings[1:], strict=True))


def test_several_workers_have_no_memory_tier(tmp_path) -> None:
    disk = {"local_disk": str(tmp_path), "max_local_disk_size": 1}
    assert [read_settings(disk, workers).config.to_dict()["local_cpu"] for workers in (1, 2)] == [True, False]
