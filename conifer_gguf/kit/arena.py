"""Memory for one run, in which every byte that a kernel may not touch shows it.

Each operand gets pages of its own between two that cannot be read or written, as close to one of them as its alignment
allows. What is left around and inside a strided operand is filled with a canary: NaN as a float, so that a value read
there spreads, and compared afterwards, so that a write there is found.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from cffi import FFI
from numpy.typing import NDArray

from ..native_api.call import dense_strides
from ..native_api.cdef import BLOCK
from .values import CANARY, element_type

PAGE = mmap.PAGESIZE
ALIGNMENT = 64  # of scratch and packed memory
MAX_SPARE = 32  # pages of the largest block that leaves them to a later one

_libc_ffi: Any = FFI()
_libc_ffi.cdef("int mprotect(void *address, size_t size, int protection);")
_libc: Any = _libc_ffi.dlopen(None)
# Looked up once: the kit makes thousands of blocks.
_ADDRESS, _POINTER = _libc_ffi.typeof("uintptr_t"), _libc_ffi.typeof("void *")

Edge = Literal["start", "end"]


class _Pages:
    """`n` pages between two that can neither be read nor written."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._map = mmap.mmap(-1, (n + 2) * PAGE)
        base = int(_libc_ffi.cast(_ADDRESS, _libc_ffi.from_buffer(self._map)))
        for forbidden in (base, base + (n + 1) * PAGE):
            if _libc.mprotect(_libc_ffi.cast(_POINTER, forbidden), PAGE, 0) != 0:
                raise OSError("mprotect refused to guard a page")
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)[PAGE : (n + 1) * PAGE]
        self.address = base + PAGE


# By their number. Guarding new ones takes longer than most runs of a kernel.
_spare: dict[int, list[_Pages]] = {}


class Block:
    """Bytes between two forbidden pages, against the one at `edge`; a later block may get the pages of this object."""

    def __init__(self, size: int, alignment: int, edge: Edge) -> None:
        n_page = max(1, -(-size // PAGE))
        spare = _spare.get(n_page)
        self._pages = spare.pop() if spare else _Pages(n_page)
        self._pages.bytes[:] = CANARY
        room = n_page * PAGE - size
        self._start = room // alignment * alignment if edge == "end" else 0
        self._size = size
        self.bytes: NDArray[np.uint8] = self._pages.bytes[self._start : self._start + size]
        self.address = self._pages.address + self._start

    def __del__(self) -> None:
        if self._pages.n <= MAX_SPARE:
            _spare.setdefault(self._pages.n, []).append(self._pages)

    def surroundings_touched(self) -> bool:
        """Whether a byte between the operand and a forbidden page has changed."""
        inner = self._pages.bytes
        before, after = inner[: self._start], inner[self._start + self._size :]
        return bool((before != CANARY).any() or (after != CANARY).any())


@dataclass(frozen=True)
class Spacing:
    """How operands lie: `gap` elements between rows of every outer axis, `offset` elements before the first."""

    gap: int = 0
    offset: int = 0
    edge: Edge = "end"


class Placed:
    """One operand in memory: its own elements through `view`, everything else a canary."""

    def __init__(
        self, dtype: str, shape: tuple[int, ...], spacing: Spacing, gaps_in_rows: bool, gap_after_slot: bool
    ) -> None:
        element = BLOCK[dtype][1]
        self.dtype, self.shape = dtype, shape
        self.stride_bytes = strides(dtype, shape, spacing.gap, gaps_in_rows, gap_after_slot)
        span = sum((n - 1) * s for n, s in zip(stored_shape(dtype, shape), self.stride_bytes, strict=True))
        size = 0 if 0 in shape else span + element
        offset = spacing.offset * element
        # One element is all the alignment that a kernel may count on; quantised blocks are aligned to 2 bytes.
        alignment = element if BLOCK[dtype][0] == 1 else 2
        self._block = Block(size + offset, alignment, spacing.edge)
        self.address = self._block.address + offset
        self._all = self._block.bytes
        self.view = self._elements(self._all, offset)
        self._mine = np.zeros(self._all.shape, bool)
        self._elements(self._mine.view(np.uint8), offset)[...] = 1 if element == 1 else _ones(self.view.dtype)

    def _elements(self, memory: NDArray[np.uint8], offset: int) -> NDArray[Any]:
        kind = element_type(self.dtype)
        shape = stored_shape(self.dtype, self.shape)
        step: tuple[int, ...] = self.stride_bytes
        if kind.itemsize == 1 and BLOCK[self.dtype][1] > 1:
            shape, step = (*shape, BLOCK[self.dtype][1]), (*step, 1)
        return np.ndarray(shape, kind, memory.data, offset, step)

    def canaries_touched(self) -> bool:
        return self._block.surroundings_touched() or bool((self._all[~self._mine] != CANARY).any())


def strides(
    dtype: str, shape: Sequence[int], gap: int, gaps_in_rows: bool, gap_after_slot: bool
) -> tuple[int, ...]:
    """Dense strides, widened by `gap` elements at every outer axis, or only at the first one."""
    dense = list(dense_strides(dtype, shape))
    element = BLOCK[dtype][1]
    if gap and gaps_in_rows:
        for axis in reversed(range(len(shape) - 1)):
            dense[axis] = dense[axis + 1] * stored_shape(dtype, shape)[axis + 1] + gap * element
    elif gap and gap_after_slot and len(shape) > 1:
        dense[0] += gap * element
    return tuple(dense)


def stored_shape(dtype: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape in blocks: the last axis of a quantised operand counts blocks."""
    elements = BLOCK[dtype][0]
    return (*shape[:-1], -(-shape[-1] // elements)) if shape else ()


def _ones(kind: np.dtype[Any]) -> Any:
    return np.frombuffer(b"\x01" * kind.itemsize, kind)[0]
