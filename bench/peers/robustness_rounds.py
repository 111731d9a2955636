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
import shlex
import shutil
import signal
import socket
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
OPEN_MAX_S = 600
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


class Program:
    """A cache's program, which forks a process for each case."""

    def __init__(self, entry: Entry, log: Path) -> None:
        ours, theirs = socket.socketpair()
        self._control, self._numbers = ours, ours.makefile("r")
        self._log = log.open("a")
        environment = {"PYTHONHASHSEED": "0", "PYTHONPATH": str(HERE / "disk"), "OMP_NUM_THREADS": str(os.cpu_count())}
        self._process = subprocess.Popen(
            [PYTHON, str(HERE / "robustness" / entry.program), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **environment},
        )
        theirs.close()

    def fork(self, asked: dict[str, Any]) -> tuple[socket.socket, int]:
        """The line to a new process, and its pid. The one before must have ended."""
        ours, theirs = socket.socketpair()
        socket.send_fds(self._control, [json.dumps(asked).encode()], [theirs.fileno(), self._log.fileno()])
        theirs.close()
        return ours, int(self._numbers.readline())

    def status(self) -> int:
        """How the process ended; waits for it."""
        return int(self._numbers.readline())

    def end(self) -> None:
        self._numbers.close()
        self._control.close()
        self._process.kill()
        self._process.wait()
        self._log.close()


class Subject:
    """A cache in its process."""

    def __init__(self, program: Program, asked: dict[str, Any], limit_s: float) -> None:
        self._program, self._limit_s = program, limit_s
        self._line, self._pid = program.fork(asked)
        self._status: int | None = None
        self._rest = b""
        self._answer(OPEN_MAX_S)

    def _answer(self, limit_s: float) -> Any:
        deadline_s = time.monotonic() + limit_s
        while b"\n" not in self._rest:
            self._line.settimeout(max(0.001, deadline_s - time.monotonic()))
            try:
                piece = self._line.recv(1 << 16)
            except TimeoutError:
                self.kill()
                raise Gone(f"hang ({limit_s:g} s)") from None
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise Gone(_ended(self._wait()))
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        if "raised" in answer:
            raise Raised(answer["raised"])
        return answer["answer"]

    def _wait(self) -> int:
        if self._status is None:
            self._status = self._program.status()
        return self._status

    def send(self, do: str, **arguments: Any) -> None:
        try:
            self._line.settimeout(self._limit_s)
            self._line.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            raise Gone(_ended(self._wait())) from None

    def ask(self, do: str, **arguments: Any) -> Any:
        self.send(do, **arguments)
        return self._answer(self._limit_s)

    def kill(self) -> None:
        if self._status is None:
            os.kill(self._pid, signal.SIGKILL)
            self._wait()

    def end(self) -> None:
        """Ends it, politely if it still can be."""
        if self._status is None:
            with contextlib.suppress(Gone, Raised):
                self.ask("close")
        self.kill()
        self._line.close()


def _ended(status: int) -> str:
    return f"crash ({signal.Signals(-status).name})" if status < 0 else f"ended (status {status})"


class Case:
    """What a case has to work with, and what it saw: phases in their order, each with counts of outcomes."""

    def __init__(self, entry: Entry, program: Program, place: Path, salt: int, limit_s: float) -> None:
        self.directory = place / "cache"
        self.salt = salt
        self._mode, self._program, self._limit_s = entry.mode, program, limit_s
        self.seen: dict[str, dict[str, int]] = {}
        self._open: list[Subject] = []

    def start(self, mount: str = "") -> Subject:
        options = {
            "directory": str(self.directory),
            "chunk_bytes": CHUNK_BYTES,
            "chunks": CHUNKS,
            "batch": STAGING_CHUNKS,
            "staging_bytes": STAGING_CHUNKS * CHUNK_BYTES,
            "threads": 4,
            "salt": self.salt,
            "mode": self._mode,
        }
        subject = Subject(self._program, {"options": options, "mount": mount}, self._limit_s)
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
    # All at once, as an engine asks for a prompt.
    case.ask(subject, "stored before", "get", FIRST)
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


def run_case(entry: Entry, program: Program, name: str, salt: int, options: argparse.Namespace) -> dict[str, Any]:
    place = Path(tempfile.mkdtemp(prefix=f"robustness-{entry.key}-", dir=options.directory)).resolve()
    case = Case(entry, program, place, salt, options.limit)
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
    programs: dict[str, Program] = {}
    try:
        for entry in ENTRIES:
            if options.peers and entry.key not in options.peers:
                continue
            if entry.program not in programs:
                programs[entry.program] = Program(entry, log)
            for number in range(options.rounds):
                for name in options.cases or CASES:
                    yield run_case(entry, programs[entry.program], name, number + 1, options)
    finally:
        for program in programs.values():
            program.end()


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
