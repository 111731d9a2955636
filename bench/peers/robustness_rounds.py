"""What a cache does when its files are damaged, its disk is full, its process is killed or a prompt is too long for it.

Each case of each cache is its own process (`robustness/act.py`), in a directory of its own, told what to do line by
line; an answer that does not come within the limit is a hang, and the process is killed. What is noted is only what was
seen: bytes compared with those stored, exit statuses, times. No layout of files is assumed: a chunk is found in them by
its bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PYTHON = str(HERE / ".venv" / "bin" / "python")
MIB = 1 << 20
CHUNK_BYTES = 2 * MIB
STAGING_CHUNKS = 8
BATCH = 4
CHUNKS = 64
BLOCK = 4096
OPEN_MAX_S = 180
SMALL_DISK_MIB = 512
FIRST = list(range(8))


@dataclass(frozen=True)
class Entry:
    key: str
    name: str
    program: str
    mode: str = ""


ENTRIES = (
    Entry("forebay", "Forebay", "forebay_asked.py"),
    Entry("lmcache", "LMCache, buffered", "lmcache_asked.py", "buffered"),
    Entry("lmcache-direct", "LMCache, O_DIRECT", "lmcache_asked.py", "direct"),
    Entry("lmcache-async", "LMCache, O_DIRECT, asynchronous loading", "lmcache_asked.py", "direct-async"),
    Entry("vllm-fs", "vLLM `fs` tier", "vllm_asked.py"),
)


class Gone(Exception):
    """The cache did not answer in time, or its process ended. `how` says which."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Raised(Exception):
    """The cache raised; it is still there."""


class Subject:
    """A cache in its process."""

    def __init__(self, entry: Entry, directory: Path, *, salt: int, limit_s: float, log: Path, mount: str) -> None:
        self._limit_s = limit_s
        self._log = log.open("a")
        command = [PYTHON, str(HERE / "robustness" / entry.program), "--mode", entry.mode]
        command += ["--directory", str(directory), "--chunk-bytes", str(CHUNK_BYTES), "--chunks", str(CHUNKS)]
        command += ["--batch", str(STAGING_CHUNKS), "--staging-bytes", str(STAGING_CHUNKS * CHUNK_BYTES)]
        command += ["--threads", "4", "--salt", str(salt)]
        if mount:
            own = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
            command = ["unshare", *own, "sh", "-c", f"{mount} && exec {shlex.join(command)}"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={
                **os.environ,
                "PYTHONHASHSEED": "0",
                "PYTHONPATH": str(HERE / "disk"),
                "OMP_NUM_THREADS": str(os.cpu_count() or 1),
            },
        )
        self._rest = b""
        try:
            self._answer(OPEN_MAX_S)
        except BaseException:
            self.kill()
            raise

    def _answer(self, limit_s: float) -> Any:
        out = self._process.stdout
        assert out is not None
        deadline_s = time.monotonic() + limit_s
        with selectors.DefaultSelector() as ready:
            ready.register(out, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not ready.select(max(0, deadline_s - time.monotonic())):
                    self.kill()
                    raise Gone(f"hang ({limit_s:g} s)")
                piece = os.read(out.fileno(), 1 << 16)
                if not piece:
                    raise Gone(_ended(self._process.wait(10)))
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        if "raised" in answer:
            raise Raised(answer["raised"])
        return answer["answer"]

    def send(self, do: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Gone(_ended(self._process.wait(10))) from None

    def ask(self, do: str, **arguments: Any) -> Any:
        self.send(do, **arguments)
        return self._answer(self._limit_s)

    def answer(self) -> Any:
        return self._answer(self._limit_s)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def end(self) -> None:
        """Ends it, politely if it still can be."""
        with contextlib.suppress(Gone, Raised):
            if self._process.poll() is None:
                self.ask("close")
        if self._process.poll() is None:
            self.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(OSError):
                pipe.close()


def _ended(status: int) -> str:
    return f"crash ({signal.Signals(-status).name})" if status < 0 else f"ended (status {status})"


class Case:
    """What a case has to work with, and what it saw: phases in their order, each with counts of outcomes."""

    def __init__(self, entry: Entry, place: Path, salt: int, limit_s: float, log: Path) -> None:
        self.directory = place / "cache"
        self.salt = salt
        self.seen: dict[str, dict[str, int]] = {}
        self._start = lambda mount="": Subject(entry, self.directory, salt=salt, limit_s=limit_s, log=log, mount=mount)
        self._open: list[Subject] = []

    def start(self, mount: str = "") -> Subject:
        subject = self._start(mount)
        self._open.append(subject)
        return subject

    def end(self) -> None:
        for subject in self._open:
            subject.end()

    def note(self, phase: str, outcomes: list[str] | str) -> None:
        """Counts outcomes to a phase."""
        counts = Counter(self.seen.get(phase, {}))
        counts.update([outcomes] if isinstance(outcomes, str) else outcomes)
        self.seen[phase] = dict(counts)

    def ask(self, subject: Subject, phase: str, do: str, chunks: list[int]) -> list[str]:
        """Asks, and counts the answers, a hang or crash as well; then there is no further phase."""
        try:
            outcomes = subject.ask(do, chunks=chunks)
        except Raised as error:
            outcomes = [f"error ({error})"] * len(chunks)
        except Gone as gone:
            self.note(phase, gone.how)
            raise
        self.note(phase, outcomes)
        return outcomes

    def put(self, subject: Subject, chunks: list[int], phase: str) -> None:
        for at in range(0, len(chunks), BATCH):
            self.ask(subject, phase, "put", chunks[at : at + BATCH])

    def get(self, subject: Subject, chunks: list[int], phase: str) -> None:
        """One at a time, so that one that is damaged does not stand for others."""
        for chunk in chunks:
            self.ask(subject, phase, "get", [chunk])

    def where(self, subject: Subject, chunk: int) -> tuple[Path, int]:
        """The file and the place in it where a chunk's bytes begin."""
        sample = bytes.fromhex(subject.ask("sample", chunks=[chunk])[0])
        for file in sorted(path for path in self.directory.rglob("*") if path.is_file()):
            with file.open("rb") as opened:
                # The bytes of a chunk begin at a border of 64 in every cache seen; the search does not need that.
                data = opened.read()
            if (at := data.find(sample)) >= 0:
                return file, at
        raise RuntimeError(f"the bytes of a stored chunk are in no file of {self.directory}")


def _write(file: Path, at: int, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())


def _damaged(case: Case, damage: Callable[[Subject], int]) -> None:
    subject = case.start()
    case.put(subject, FIRST, "before")
    hit = damage(subject)
    case.get(subject, [hit], "damaged chunk")
    case.get(subject, [chunk for chunk in FIRST if chunk != hit], "others")
    if "miss" in case.seen["damaged chunk"]:
        case.put(subject, [hit], "stored anew")
        case.get(subject, [hit], "then")


def truncated(case: Case) -> None:
    def damage(subject: Subject) -> int:
        hit = 1 + case.salt % 6
        file, at = case.where(subject, hit)
        os.truncate(file, at + CHUNK_BYTES // 2)
        return hit

    _damaged(case, damage)


def flipped(case: Case) -> None:
    def damage(subject: Subject) -> int:
        hit = random.Random(case.salt).choice(FIRST)
        file, at = case.where(subject, hit)
        at += random.Random(case.salt).randrange(CHUNK_BYTES)
        with file.open("rb") as opened:
            opened.seek(at)
            (byte,) = opened.read(1)
        _write(file, at, bytes([byte ^ 1 << case.salt % 8]))
        return hit

    _damaged(case, damage)


def exchanged(case: Case) -> None:
    """Another chunk's bytes, with what lies behind them up to the next block, in the place of this one's."""

    def damage(subject: Subject) -> int:
        source, target = random.Random(case.salt).sample(FIRST, 2)
        file, at = case.where(subject, source)
        with file.open("rb") as opened:
            opened.seek(at)
            data = opened.read(CHUNK_BYTES + BLOCK)
        file, at = case.where(subject, target)
        _write(file, at, data)
        return target

    _damaged(case, damage)


def removed(case: Case) -> None:
    subject = case.start()
    case.put(subject, FIRST, "before")
    shutil.rmtree(case.directory)
    case.get(subject, FIRST, "stored before")
    new = list(range(8, 12))
    case.put(subject, new, "new stores")
    case.get(subject, new, "new")
    subject.end()
    again = case.start()
    case.get(again, [*FIRST, *new], "after a restart")


def long_prompt(case: Case) -> None:
    """Three times what the staging memory holds, stored piece by piece, loaded as one prompt."""
    subject = case.start()
    chunks = list(range(3 * STAGING_CHUNKS))
    case.put(subject, chunks, "before")
    case.ask(subject, "one that fits", "prompt", FIRST)
    case.ask(subject, "prompt", "prompt", chunks)
    case.get(subject, [0], "afterwards")


def full_disk(case: Case) -> None:
    place = case.directory.parent
    image, mount = shlex.quote(str(place / "image")), shlex.quote(str(place / "small"))
    (place / "small").mkdir()
    script = (
        f"truncate -s {SMALL_DISK_MIB}M {image} && mkfs.ext4 -q -m 0 {image} && mount -o loop {image} {mount} || "
        f"mount -t tmpfs -o size={SMALL_DISK_MIB}m tmpfs {mount}"
    )
    case.directory = place / "small" / "cache"
    subject = case.start(f"{{ {script}; }}")
    case.note("file system", subject.ask("file_system"))
    case.put(subject, FIRST, "before")
    subject.ask("fill")
    new = list(range(8, 24))
    case.put(subject, new, "stores")
    case.get(subject, new, "those")
    case.get(subject, FIRST, "stored before")
    subject.ask("free")
    later = list(range(24, 32))
    case.put(subject, later, "stores after space was freed")
    case.get(subject, later, "those after")


def killed(case: Case) -> None:
    """Killed after some batches were reported as stored, while the next is on its way."""
    subject = case.start()
    chance = random.Random(case.salt)
    batches = chance.randrange(4, CHUNKS // BATCH - 1)
    reported: list[int] = []
    for batch in range(batches):
        chunks = list(range(batch * BATCH, (batch + 1) * BATCH))
        answers = case.ask(subject, "before", "put", chunks)
        reported += [chunk for chunk, answer in zip(chunks, answers, strict=True) if answer == "stored"]
    subject.send("put", chunks=list(range(batches * BATCH, (batches + 1) * BATCH)))
    time.sleep(chance.uniform(0, 0.008))
    subject.kill()
    again = case.start()
    case.get(again, reported, "reported as stored")
    case.get(again, list(range(batches * BATCH, (batches + 1) * BATCH)), "on their way")
    if set(case.seen["reported as stored"]) == {"miss"}:
        held = sum(path.stat().st_size for path in case.directory.rglob("*") if path.is_file())
        case.note("files left", f"{round(held / MIB)} MiB")


CASES: dict[str, tuple[str, Callable[[Case], None]]] = {
    "truncated": ("a file is truncated in the middle of a chunk", truncated),
    "flipped": ("one bit of a stored chunk is flipped", flipped),
    "exchanged": ("another chunk's bytes in the place of a chunk's", exchanged),
    "long": ("a prompt three times as long as the staging memory", long_prompt),
    "full": ("a full disk", full_disk),
    "killed": ("`kill -9` while storing, then a restart", killed),
    "removed": ("the directory is removed", removed),
}


def run_case(entry: Entry, name: str, salt: int, options: argparse.Namespace, log: Path) -> dict[str, Any]:
    place = Path(tempfile.mkdtemp(prefix=f"robustness-{entry.key}-", dir=options.directory)).resolve()
    case = Case(entry, place, salt, options.limit, log)
    result: dict[str, Any] = {"peer": entry.key, "case": name, "round": salt}
    began_s = time.monotonic()
    try:
        CASES[name][1](case)
    except Gone as gone:
        result["ended"] = gone.how
        # Also what no phase was asked for: a cache that does not open.
        if not any(gone.how in counts for counts in case.seen.values()):
            case.note("start", gone.how)
    except Raised as error:
        result["ended"] = f"error ({error})"
        case.note("start", f"error ({error})")
    finally:
        case.end()
        shutil.rmtree(place, ignore_errors=True)
    return result | {"seen": case.seen, "seconds": round(time.monotonic() - began_s, 1)}


def _shared_memory() -> set[Path]:
    return set(Path("/dev/shm").glob("vllm_offload*"))


def results(options: argparse.Namespace, log: Path) -> Iterator[dict[str, Any]]:
    log.write_text("")
    for number in range(options.rounds):
        for name in options.cases or CASES:
            for entry in ENTRIES:
                if not options.peers or entry.key in options.peers:
                    yield run_case(entry, name, number + 1, options, log)


def run(options: argparse.Namespace, file: Path) -> list[dict[str, Any]]:
    before = _shared_memory()
    seen = []
    with file.open("w") as out:
        for result in results(options, file.with_suffix(".log")):
            print(f"  {result}", file=sys.stderr, flush=True)
            out.write(json.dumps(result) + "\n")
            out.flush()
            seen.append(result)
    # What a killed vLLM leaves behind would be taken for memory in use.
    for left in _shared_memory() - before:
        left.unlink(missing_ok=True)
    return seen
