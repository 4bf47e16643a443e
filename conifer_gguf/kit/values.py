"""Numbers in the dtypes of the ABI: stored bytes for the kernel, float64 for the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

from ..native_api.cdef import BLOCK

Float64 = NDArray[np.float64]
CANARY = 0xFF  # four such bytes are a NaN, and -1 as an integer

_STORED = {"f32": np.float32, "f16": np.float16, "i8": np.int8, "i32": np.int32, "i64": np.int64}
_INTEGERS = ("i8", "i32", "i64")


@dataclass(frozen=True)
class Array:
    """`value` is exactly what `stored` means; `stored` is dense, of a quantised dtype one uint8 row per row."""

    dtype: str
    stored: NDArray[np.generic]
    value: Float64

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    def rows(self, axis: int, start: int, stop: int) -> Array:
        """A slice of one axis; not the last one of a quantised array."""
        index = (slice(None),) * axis + (slice(start, stop),)
        return Array(self.dtype, self.stored[index], self.value[index])


def store(dtype: str, value: Float64) -> Array:
    """Round to the dtype, and note what the rounded numbers are."""
    if dtype in _INTEGERS:
        value = np.rint(value)
    if dtype in _STORED:
        stored: NDArray[np.generic] = np.ascontiguousarray(value.astype(_STORED[dtype]))
        return Array(dtype, stored, stored.astype(np.float64))
    if dtype == "bf16":
        wide = np.ascontiguousarray(value.astype(np.float32)).view(np.uint32)
        stored = ((wide + 0x7FFF + (wide >> 16 & 1)) >> 16).astype(np.uint16)  # to nearest even
        return Array(dtype, stored, (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64))
    stored = _quantise(dtype, value)
    return Array(dtype, stored, read(dtype, stored, value.shape))


def read(dtype: str, stored: NDArray[np.generic], shape: tuple[int, ...]) -> Float64:
    """The numbers that stored elements mean."""
    if dtype in _STORED:
        return stored.reshape(shape).astype(np.float64)
    if dtype == "bf16":
        wide = stored.reshape(shape).astype(np.uint32) << 16
        return wide.view(np.float32).astype(np.float64)
    if stored.size == 0:
        return np.zeros(shape)
    kind = GGMLQuantizationType[_gguf_name(dtype)]
    value: Float64 = quants.dequantize(stored, kind).reshape(shape).astype(np.float64)
    return value


def element_type(dtype: str) -> np.dtype[np.generic]:
    """What one element of a memory block is read as; quantised blocks are bytes."""
    return np.dtype(_STORED.get(dtype, np.uint16 if dtype == "bf16" else np.uint8))


def _quantise(dtype: str, value: Float64) -> NDArray[np.generic]:
    rows = value.astype(np.float32)
    if dtype in ("q8_0", "q4_0", "q5_0"):
        quantised: NDArray[np.generic] = quants.quantize(rows, GGMLQuantizationType[_gguf_name(dtype)])
        return quantised
    # gguf cannot quantise to the K types: random bits are valid blocks once their float16 scales are sane.
    elements, size = BLOCK[dtype]
    n_block = value.size // elements
    rng = np.random.default_rng(n_block)
    blocks = rng.integers(0, 256, (n_block, size), dtype=np.uint8)
    scale_at = {"q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (size - 2,)}[dtype]
    for at in scale_at:
        scales = rng.uniform(1e-4, 4e-4, n_block).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(n_block, 2)
    return blocks.reshape(*value.shape[:-1], -1)


def _gguf_name(dtype: str) -> str:
    return dtype.upper()
