"""A node of a graph as Python sees it: shape in paper order, strides, type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..gguf import TENSOR_TYPES

Shape = tuple[int, ...]
BLOCKS = {kind.name.lower(): kind for kind in TENSOR_TYPES.values()}


@dataclass(frozen=True, eq=False)
class Tensor:
    """`shape` and `strides` (bytes) slowest axis first; `pointer` is ggml's; `constant` marks a weight."""

    pointer: Any
    shape: Shape
    strides: Shape
    dtype: str = "f32"
    constant: bool = False
    name: str = ""

    @property
    def dense(self) -> bool:
        """No gaps between rows, planes and so on."""
        return self.strides == dense_strides(self.dtype, self.shape)


def row_bytes(dtype: str, n: int) -> int:
    """Bytes of a row of `n` elements, which must be whole blocks."""
    kind = BLOCKS[dtype]
    return n // kind.block_size * kind.block_bytes


def dense_strides(dtype: str, shape: Shape) -> Shape:
    """Strides without gaps; of a quantised type the last one is a block."""
    strides = [BLOCKS[dtype].block_bytes]
    size = row_bytes(dtype, shape[-1]) if shape else 0
    for length in reversed(shape[:-1]):
        strides.append(size)
        size *= length
    return tuple(reversed(strides))
