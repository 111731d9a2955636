"""Types of the native module. Sizes are bytes unless a name says otherwise; keys are 32 bytes."""

from collections.abc import Awaitable, Callable, Generator, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from typing_extensions import Buffer

__version__: str

def run_cli(arguments: list[str]) -> int: ...

class Error(Exception):
    """Base of every exception this package raises; `kind` is a stable short name of what went wrong.

    Besides it there are Python's own: an argument of a wrong type raises `TypeError`, a number that does not fit
    `OverflowError`, a text that is not Unicode `ValueError`, and a wait that is over `TimeoutError`."""

    kind: str

class Config:
    """Settings by the names LMCache's users know (sizes in GiB). Bad input raises `Error`, naming key and remedy."""

    def __init__(self, **keys: Any) -> None: ...
    @staticmethod
    def load(path: str | None = None, **keys: Any) -> Config:
        """File (if any), then environment (`FOREBAY_*`, else `LMCACHE_*`), then `keys`; later ones win."""
    def to_dict(self) -> dict[str, Any]:
        """Every key with its value in force; secrets are hidden."""
    @property
    def cache_salt(self) -> str:
        """The secret itself, which `to_dict` hides: for who makes namespaces of it. Not to be shown."""
    @property
    def warnings(self) -> list[str]: ...

class Namespace:
    """Whose bytes a chunk holds. Every field takes part in every key."""

    def __init__(
        self,
        model: str,
        revision: str = "",
        kv_dtype: str = "",
        layout: str = "",
        tp_rank: int = 0,
        tp_size: int = 1,
        pp_rank: int = 0,
        pp_size: int = 1,
        salt: str = "",
    ) -> None: ...
    @property
    def digest(self) -> bytes:
        """32 bytes; the first 8 stand at the front of every chunk key of this namespace."""

def chunk_keys(
    tokens: Sequence[int] | Buffer,
    chunk_size: int = 256,
    namespace: Namespace = ...,
    extra: Sequence[bytes] | None = None,
) -> list[bytes]:
    """Keys of the whole chunks of a prompt, in order. A trailing part of a chunk has no key.

    `extra` are further things the content depends on (LoRA, image hashes, a request's salt)."""

def chunk_keys_from_blocks(block_hashes: Sequence[bytes], blocks_per_chunk: int, namespace: Namespace) -> list[bytes]:
    """Keys from an engine's own chained block hashes (vLLM's), `blocks_per_chunk` of them to a chunk."""

class StoreOutcome:
    key: bytes
    status: Literal["stored", "present", "refused", "failed"]
    reason: str
    tiers: dict[str, str]

class LoadOutcome:
    key: bytes
    status: Literal["loaded", "miss", "failed"]
    reason: str
    tier: str | None

class Handle(Awaitable[list[Any]]):
    """A batch under way. Waiting for it gives one outcome a chunk, in the order of the keys."""

    def done(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> list[Any]:
        """Raises `TimeoutError` after `timeout` seconds; the batch goes on."""
    def cancel(self) -> None:
        """Ends what has not begun as "failed" (reason "cancelled")."""
    def __await__(self) -> Generator[Any, None, list[Any]]: ...
    def _on_done(self, then: Callable[[], object]) -> None: ...

class Lookup:
    """The answer to a lookup; its chunks stay pinned until it is released (or the block ends)."""

    chunks: int
    status: Literal["hit", "miss", "pending", "busy"]
    def release(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

class Event:
    """One chunk has come onto a tier, or has left it."""

    tier: Literal["memory", "disk", "remote"]
    key: bytes
    change: Literal["stored", "removed"]
    reason: Literal["", "capacity", "unsound", "cleared", "gone"]
    """Why it was removed."""

class Events:
    """A subscription: of each tier, in order, what lookups find from now on and what they find no more."""

    def take(self, timeout: float | None = 0.0) -> list[Event]:
        """What has happened since the last call. Waits for something to happen for at most `timeout` seconds."""
    lost: int
    """How many were lost so far, since they were not taken in time: what one has listed may be wrong then."""
    closed: bool
    """Whether the cache is closed: no more is waited for."""
    def listen(self, callback: Callable[[list[Event], int], object]) -> Listener:
        """Has `callback` called with what happens, as it happens, on a forebay thread: a list of events, and how many
        before them were lost. Instead of `take`."""

class Listener:
    """Hears events until it is closed or goes."""

    def close(self, timeout: float = 10.0) -> None:
        """Waits for its last call for at most `timeout` seconds."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

class Cache:
    """Catalog and mover in one process."""

    def __init__(self, config: Config, chunk_bytes: int, namespace: Namespace | None = None) -> None: ...
    def store(
        self,
        keys: Sequence[bytes],
        buffers: Sequence[Buffer],
        on_complete: Callable[[bytes, StoreOutcome], object] | None = None,
        parent: bytes | None = None,
    ) -> Handle: ...
    def lookup(self, keys: Sequence[bytes]) -> Lookup: ...
    def load(
        self,
        keys: Sequence[bytes],
        buffers: Sequence[Buffer],
        on_complete: Callable[[bytes, LoadOutcome], object] | None = None,
    ) -> Handle: ...
    def clear(self, namespace: Namespace | None = None) -> int:
        """Takes all chunks out of memory and disk, or those of a namespace; says how many copies that were. Loads that
        are under way end as they would have; what is being written or copied stays. A remote store is left alone."""
    def events(self) -> Events:
        """What comes onto a tier and what leaves it from now on."""
    def pin(self, keys: Sequence[bytes] | None = None, namespace: Namespace | None = None) -> tuple[int, int]:
        """Keeps chunks on disk from being evicted until they are unpinned: these, those of a namespace, or all.
        Each is pinned together with those it continues. Half of the capacity may be pinned. Says how many of the
        chunks asked for are pinned now, and how many are not: not there, or without room. What is stored later is
        not pinned, and a restart knows of no pins."""
    def unpin(self, keys: Sequence[bytes] | None = None, namespace: Namespace | None = None) -> int:
        """Lets chunks be evicted again: these, those of a namespace, or all; says how many were pinned. What they
        continue stays pinned, and so does what others that are pinned continue."""
    def set_disk_capacity(self, capacity_bytes: int) -> int:
        """Gives the disk so many bytes, all files of all directories together, until the next start; says how many of
        them chunks may take then. What does not fit any more is evicted, never what is in use. An `Error` where that
        cannot be: see `ControlPlane::set_disk_capacity` in Rust."""
    def stats(self) -> dict[str, Any]: ...
    @property
    def http_address(self) -> str | None:
        """Where metrics, health and the page are shown (`http_listen`); None where they are not."""
    def close(self, timeout: float = 10.0) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

class ChunkPlan:
    """What was decided on one chunk of a store or a load."""

    key: bytes
    status: Literal["write", "present", "read", "miss", "refused"]
    reason: str
    message: bytes | None
    """What the mover needs, when the status is "write" or "read"."""

class ControlPlane:
    """The deciding half: owns the directory (lock, journal, index). For an engine's scheduler process."""

    def __init__(self, config: Config, chunk_bytes: int, namespace: Namespace | None = None) -> None: ...
    def lookup(self, keys: Sequence[bytes], settle: bool = False) -> Lookup:
        """Does not wait: while a remote store is asked the status is "pending". With `settle` it is not asked, and what
        is known now is the answer."""
    def ask_again(self, key: bytes) -> None:
        """Forgets that the remote store did not have this chunk: it is on its way there."""
    def plan_store(self, keys: Sequence[bytes], length: int, parent: bytes | None = None) -> list[ChunkPlan]:
        """`keys` follow each other in a prompt; `parent` is the chunk before the first of them.
        Every "write" must be answered by one `finish`."""
    def plan_load(self, keys: Sequence[bytes], length: int | None = None) -> list[ChunkPlan]:
        """Of chunks of `length` payload bytes each, `chunk_bytes` unless said. Each that is on disk is pinned until its
        `finish`."""
    def plan_copies(self) -> list[tuple[bytes, bytes]]:
        """The next chunks to be copied from disk to the remote store, a few at a time: what is to be read and what is
        to be written, for `Mover.copy`. Each must be answered by one `finish_copy`."""
    def finish_copy(self, read: bytes, write: bytes, status: str, reason: str = "") -> bool:
        """Takes a mover's result: "copied", "miss" or "failed". False when that copy was finished before."""
    def has_copies(self) -> bool:
        """Whether chunks wait to be copied to the remote store, or are being."""
    def finish(self, message: bytes, status: str, reason: str = "") -> bool:
        """Takes a mover's result: "written", "loaded", "miss" or "failed". Commits, aborts, unpins or drops.
        False when that message was finished before. After "written" returns True the chunk is committed, unless home's
        file system stands: then it is committed when that has written it down, if it can."""
    def clear(self, namespace: Namespace | None = None) -> int:
        """Takes all chunks out of memory and disk, or those of a namespace; says how many copies that were. Loads that
        are under way end as they would have; what is being written or copied stays. A remote store is left alone."""
    def events(self) -> Events:
        """What comes onto a tier and what leaves it from now on."""
    def pin(self, keys: Sequence[bytes] | None = None, namespace: Namespace | None = None) -> tuple[int, int]:
        """Keeps chunks on disk from being evicted until they are unpinned: these, those of a namespace, or all.
        Each is pinned together with those it continues. Half of the capacity may be pinned. Says how many of the
        chunks asked for are pinned now, and how many are not: not there, or without room. What is stored later is
        not pinned, and a restart knows of no pins."""
    def unpin(self, keys: Sequence[bytes] | None = None, namespace: Namespace | None = None) -> int:
        """Lets chunks be evicted again: these, those of a namespace, or all; says how many were pinned. What they
        continue stays pinned, and so does what others that are pinned continue."""
    def set_disk_capacity(self, capacity_bytes: int) -> int:
        """Gives the disk so many bytes, all files of all directories together, until the next start; says how many of
        them chunks may take then. What does not fit any more is evicted, never what is in use. An `Error` where that
        cannot be: see `ControlPlane::set_disk_capacity` in Rust."""
    def stats(self) -> dict[str, Any]: ...
    def note_mover(self, worker: int, figures: bytes) -> None:
        """Notes what the mover of this number said of itself (`Mover.figures`), to be shown over HTTP. One that is in
        this process is asked itself from then on, until it is closed."""
    @property
    def http_address(self) -> str | None:
        """Where metrics, health and the page are shown (`http_listen`); None where they are not."""
    def close(self) -> None: ...

class Source(Protocol):
    """Engine memory of any kind (a GPU's): called on a forebay thread, with the GIL, for each part of the chunk in
    order: the bytes from `offset` on, as many as the view has. The view is a staging slot, lent for the call: what is
    made from it (a tensor, an array) must not be used after the call has returned."""

    def fill(self, offset: int, view: memoryview) -> None: ...

class Sink(Protocol):
    def drain(self, offset: int, view: memoryview) -> None: ...

class PageBuffer:
    """`length` bytes, zeroed, on huge pages where there are any, for chunks that are stored often. A chunk that is all
    of one, and a multiple of 4 KiB, is not copied when it is stored: the drive reads the memory where it lies. It is a
    writable buffer (`memoryview`, `numpy.frombuffer`). Leave it alone while it is stored or loaded."""

    def __init__(self, length: int) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class PagedMemory:
    """Host KV memory of an engine: `layers` runs of `blocks` pages. Page (l, b) is the `page_bytes` bytes at
    `address + layer_offsets[l] + b * block_stride`. `owner` is kept alive for as long as this or a transfer is."""

    def __init__(
        self,
        owner: object,
        address: int,
        size: int,
        layer_offsets: Sequence[int],
        block_stride: int,
        page_bytes: int,
    ) -> None: ...
    def chunk(self, block_ids: Sequence[int]) -> PagedChunk:
        """The pages of these blocks, layer by layer. A block of -1 is not written to by a load (stores refuse it)."""

class PagedChunk:
    def __len__(self) -> int: ...

class Transfer:
    """Chunks a mover is working on."""

    def done(self) -> bool: ...
    def released(self) -> bool:
        """True once no engine memory is read or written any more (a store's disk writes may still go on)."""
    def wait_released(self, timeout: float) -> bool: ...
    def poll(self) -> list[tuple[bytes, str, str]]:
        """(message, status, reason) of the chunks that ended since the last call."""
    def wait(self, timeout: float | None = None) -> None: ...
    def cancel(self) -> None:
        """Ends what has not begun as "failed" (reason "cancelled") and lets go of its memory. What has begun lets
        go of it when its copy is done, a load at the latest after `load_timeout_s`. Does not wait."""

class Mover:
    """The doing half: staging buffer and I/O, for an engine's worker process. By its first transfer the directory
    must be open in a `ControlPlane` (of this or another process), whose messages it carries out."""

    def __init__(self, config: Config, chunk_bytes: int) -> None: ...
    def store(self, messages: Sequence[bytes], sources: Sequence[Buffer | PagedChunk | Source]) -> Transfer: ...
    def load(self, messages: Sequence[bytes], sinks: Sequence[Buffer | PagedChunk | Sink]) -> Transfer: ...
    def copy(self, messages: Sequence[tuple[bytes, bytes]]) -> Transfer:
        """From disk to the remote store. `Transfer.poll` names what was read, with "copied", "miss" or "failed"."""
    def staging_memory(self) -> tuple[int, int]:
        """Address and length of the memory that all views of sources and sinks lie in, to be pinned."""
    def figures(self) -> bytes:
        """What it says of itself, for `ControlPlane.note_mover`."""
    def stats(self) -> dict[str, Any]: ...
    def close(self, timeout: float = 10.0) -> None: ...
