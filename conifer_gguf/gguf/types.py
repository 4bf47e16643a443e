"""The tensor types of GGUF: number, name, elements and bytes of a block. Sizes come from the gguf package."""

from __future__ import annotations

from dataclasses import dataclass

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType


@dataclass(frozen=True)
class TensorType:
    """One ggml type; a row is a whole number of blocks."""

    number: int
    name: str
    block_size: int  # elements
    block_bytes: int


TENSOR_TYPES: dict[int, TensorType] = {
    int(kind): TensorType(int(kind), kind.name, *GGML_QUANT_SIZES[kind])
    for kind in GGMLQuantizationType
    if kind in GGML_QUANT_SIZES
}
