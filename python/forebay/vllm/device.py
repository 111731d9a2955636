"""The copy between the engine's KV pages and a staging slot, and nothing else.

`open_pages` gives the direct path for host memory (Rust, one copy, no GIL) and plain PyTorch for every other
device. Both promise the same bytes in the same order: layer by layer, and in a layer block by block. A block
of `SKIPPED_BLOCK` is left alone by a load. The caller keeps the blocks' owner from reusing them until the
transfer is released.

The CUDA branch (a side stream, pinned staging memory) could not be run where this was written;
the same class on the CPU device is tested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

import forebay

from .messages import SKIPPED_BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .layout import KvLayout


class Pages(Protocol):
    def fence(self) -> None:
        """Everything the engine has submitted so far comes before the copies of chunks made after this
        call."""

    def pin(self, mover: forebay.Mover) -> None:
        """Makes the mover's staging memory known to the device. Called once, before the first copy."""

    def chunk(self, block_ids: list[int]) -> Any:
        """A source and sink for `Mover.store` and `Mover.load`."""


def open_pages(layout: KvLayout, kv_caches: dict[str, torch.Tensor]) -> Pages:
    first = kv_caches[layout.layers[0]]
    storage = first.untyped_storage()
    for layer, offset in zip(layout.layers, layout.layer_offsets, strict=True):
        tensor = kv_caches[layer]
        if tensor.untyped_storage().data_ptr() != storage.data_ptr() or (
            tensor.data_ptr() - storage.data_ptr() != offset
        ):
            raise ValueError(f"the KV cache of layer {layer} does not lie where vLLM's configuration says")
    if storage.nbytes() < layout.size_bytes:
        raise ValueError(f"the KV cache holds {storage.nbytes()} bytes, {layout.size_bytes} were announced")
    return HostPages(layout, first) if first.device.type == "cpu" else DevicePages(layout, first)


class HostPages:
    """Host memory: the mover's own threads copy, without the GIL."""

    def __init__(self, layout: KvLayout, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self._memory = forebay.PagedMemory(
            owner=storage,
            address=storage.data_ptr(),
            size=storage.nbytes(),
            layer_offsets=list(layout.layer_offsets),
            block_stride=layout.block_stride,
            page_bytes=layout.page_bytes,
        )

    def fence(self) -> None:
        """The host's forward pass is over when the connector is called."""

    def pin(self, mover: forebay.Mover) -> None:
        """The host needs no such thing."""

    def chunk(self, block_ids: list[int]) -> forebay.PagedChunk:
        return self._memory.chunk(block_ids)


class DevicePages:
    """Any device PyTorch knows."""

    def __init__(self, layout: KvLayout, tensor: torch.Tensor) -> None:
        cache_bytes = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
        last_page = layout.size_bytes - max(layout.layer_offsets) - layout.page_bytes
        blocks = last_page // layout.block_stride + 1
        self.device = tensor.device
        self.page_bytes = layout.page_bytes
        self.layers = [
            cache_bytes.as_strided((blocks, layout.page_bytes), (layout.block_stride, 1), offset)
            for offset in layout.layer_offsets
        ]
        self._cuda = tensor.device.type == "cuda"
        self.stream = torch.cuda.Stream(tensor.device) if self._cuda else None
        self.submitted: torch.cuda.Event | None = None

    def fence(self) -> None:
        if self._cuda:
            self.submitted = torch.cuda.Event()
            self.submitted.record(torch.cuda.current_stream(self.device))

    def chunk(self, block_ids: list[int]) -> DeviceChunk:
        return DeviceChunk(self, block_ids)

    def pin(self, mover: forebay.Mover) -> None:
        """The slots never move, so all their memory is registered with the driver, once; a refusal only costs speed."""
        if self._cuda:
            torch.cuda.cudart().cudaHostRegister(*mover.staging_memory(), 0)


class Piece(NamedTuple):
    """A run of a part of a chunk that lies in one layer."""

    layer: torch.Tensor
    start: int  # in the part, in bytes
    length: int  # bytes
    first: int  # position of its first block
    count: int  # whole pages; 0 for what is less than one
    skip: int  # bytes of the page before it

    @property
    def whole(self) -> bool:
        return self.count > 0


class DeviceChunk:
    """The pages of some blocks; `fill` and `drain` are called on a forebay thread, with the GIL, for each part of the
    chunk: where in it the part begins, and its memory."""

    def __init__(self, pages: DevicePages, block_ids: list[int]) -> None:
        self._pages = pages
        self._after = pages.submitted
        self._block_ids = block_ids
        self._blocks = torch.tensor(block_ids, dtype=torch.int64)
        self._kept = self._blocks != SKIPPED_BLOCK
        self._block_count = len(block_ids)

    def __len__(self) -> int:
        return len(self._pages.layers) * self._block_count * self._pages.page_bytes

    def fill(self, offset: int, view: memoryview) -> None:
        if not bool(self._kept.all()):
            raise ValueError("a chunk to be stored has pages without memory")
        staging = torch.frombuffer(view, dtype=torch.uint8)
        with torch.inference_mode(), torch.cuda.stream(self._pages.stream):
            self._wait_for_engine()
            for piece in self._pieces(offset, len(staging)):
                target = staging[piece.start : piece.start + piece.length]
                if piece.whole:
                    blocks = self._blocks[piece.first : piece.first + piece.count].to(self._pages.device)
                    target.view(piece.count, -1).copy_(piece.layer.index_select(0, blocks), non_blocking=True)
                else:
                    page = piece.layer[self._block_ids[piece.first]]
                    target.copy_(page[piece.skip : piece.skip + piece.length], non_blocking=True)
            self._finish()

    def drain(self, offset: int, view: memoryview) -> None:
        staging = torch.frombuffer(view, dtype=torch.uint8)
        with torch.inference_mode(), torch.cuda.stream(self._pages.stream):
            self._wait_for_engine()
            for piece in self._pieces(offset, len(staging)):
                source = staging[piece.start : piece.start + piece.length]
                if piece.whole:
                    kept = self._kept[piece.first : piece.first + piece.count]
                    blocks = self._blocks[piece.first : piece.first + piece.count][kept]
                    pages = source.view(piece.count, -1)
                    wanted = pages if bool(kept.all()) else pages[kept]
                    piece.layer.index_copy_(
                        0, blocks.to(self._pages.device), wanted.to(self._pages.device, non_blocking=True)
                    )
                elif self._block_ids[piece.first] != SKIPPED_BLOCK:
                    page = piece.layer[self._block_ids[piece.first]]
                    page[piece.skip : piece.skip + piece.length].copy_(source, non_blocking=True)
            self._finish()

    def _pieces(self, offset: int, length: int) -> Iterator[Piece]:
        """Cuts a part of the chunk into runs of whole pages of one layer, and what is left of pages at its ends."""
        page_bytes, at, end = self._pages.page_bytes, offset, offset + length
        while at < end:
            page, skip = divmod(at, page_bytes)
            layer, first = divmod(page, self._block_count)
            count = min((end - at) // page_bytes, self._block_count - first) if skip == 0 else 0
            taken = count * page_bytes or min(page_bytes - skip, end - at)
            yield Piece(self._pages.layers[layer], at - offset, taken, first, count, skip)
            at += taken

    def _wait_for_engine(self) -> None:
        if self._pages.stream is not None and self._after is not None:
            self._pages.stream.wait_event(self._after)

    def _finish(self) -> None:
        """The slot is given away and the blocks are reported the moment we return."""
        if self._pages.stream is not None:
            self._pages.stream.synchronize()
