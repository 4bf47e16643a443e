"""What sequences remember between steps: recurrent state and attention rows, in pools with one slot a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadRequest, ShapeMismatch
from ..native_api import ggml
from ..native_api.memory import Region
from .blocks import KV, BlockCache, Blocks, Kept, supported
from .supply import Supply
from .tensor import BLOCKS, Shape, Tensor, dense_strides, row_bytes

CACHE_STEP = 256  # rows; attention reads its cache in multiples of this, so that graphs can be reused


LayerSpec = Mapping[str, Shape | KV]


class State:
    """The pool of one recurrent state: float32 [n_slot, *shape]."""

    dtype = "f32"

    def __init__(self, n_slot: int, shape: Shape) -> None:
        self.shape = (n_slot, *shape)
        self._region = Region(4 * int(np.prod(self.shape)))
        self.address = self._region.address

    @property
    def pool(self) -> NDArray[np.float32]:
        return self._region.array(np.float32, self.shape)

    def clear(self, slot: int) -> None:
        self.pool[slot] = 0

    def save(self, slot: int, n_tokens: int) -> NDArray[Any]:
        return np.array(self.pool[slot])

    def load(self, slot: int, saved: NDArray[Any]) -> None:
        self.pool[slot] = saved

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        self.pool[target] = self.pool[source]

    def close(self) -> None:
        self._region.close()


class AttentionCache:
    """Keys and values of one layer for ggml's attention: rows [n_slot * n_row, width], as ggml tensors `k` and `v`.

    The memory starts zeroed: flash attention reads whole blocks of rows, and a NaN in an unwritten row would spread.
    """

    def __init__(self, spec: KV, n_slot: int, n_row: int, dtype: str, context: Any) -> None:
        self.spec = spec
        self.dtype = dtype
        self.n_row = n_row
        widths = [spec.n_head_kv * spec.d_k] + ([] if spec.latent else [spec.n_head_kv * spec.d_v])
        for d in (spec.d_k, spec.d_v):
            if d % BLOCKS[dtype].block_size:
                raise BadRequest(
                    f"a {dtype} cache needs head sizes in multiples of {BLOCKS[dtype].block_size}, this model has {d}",
                    "cache_type",
                )
        self._n_slot = n_slot
        self._regions = [Region(n_slot * n_row * row_bytes(dtype, w)) for w in widths]
        self._buffers: list[Any] = []
        tensors = [self._tensor(r, w, context) for r, w in zip(self._regions, widths, strict=True)]
        self.k, self.v = tensors[0], tensors[-1]

    def _tensor(self, region: Region, width: int, context: Any) -> Tensor:
        lib = ggml.library()
        shape = (self._n_slot * self.n_row, width)
        pointer = ggml.new_tensor(context, self.dtype, shape)
        address = ggml.ffi.cast("void *", region.address)
        buffer = lib.ggml_backend_cpu_buffer_from_ptr(address, region.nbytes)
        lib.ggml_backend_tensor_alloc(buffer, pointer, address)
        self._buffers.append(buffer)
        return Tensor(pointer, shape, dense_strides(self.dtype, shape), self.dtype)

    def _rows(self, slot: int, n_tokens: int) -> list[NDArray[np.uint8]]:
        n_rows = self._n_slot * self.n_row
        views = [r.array(np.uint8, (self._n_slot, self.n_row, r.nbytes // n_rows)) for r in self._regions]
        return [view[slot, :n_tokens] for view in views]

    def clear(self, slot: int) -> None:
        """Nothing to do: rows past a sequence's length are masked, and what stands there is finite."""

    def save(self, slot: int, n_tokens: int) -> list[NDArray[np.uint8]]:
        return [rows.copy() for rows in self._rows(slot, n_tokens)]

    def load(self, slot: int, saved: Sequence[NDArray[np.uint8]]) -> None:
        for rows, held in zip(self._rows(slot, len(saved[0])), saved, strict=True):
            rows[...] = held

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        self.load(target, self._rows(source, n_tokens))

    def close(self) -> None:
        for buffer in self._buffers:
            ggml.library().ggml_backend_buffer_free(buffer)
        for region in self._regions:
            region.close()


class Carry:
    """What one layer remembers, by the names its architecture gave: `s.conv`, `s.ssm`, `s.kv`."""

    def __init__(self, parts: dict[str, State | AttentionCache | BlockCache]) -> None:
        self._parts = parts

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_parts"][name]
        except KeyError:
            raise AttributeError(f"this layer remembers no `{name}`") from None


@dataclass(frozen=True)
class Saved:
    """Everything one sequence remembers: copies, layer by layer, and `kept` where the cache is in blocks."""

    n_tokens: int
    parts: tuple[Any, ...]
    kept: Kept | None = None

    @property
    def nbytes(self) -> int:
        copied: int = sum(
            a.nbytes for part in self.parts for a in (part if isinstance(part, list) else [part])
        )
        return copied + (self.kept.nbytes if self.kept else 0)


class Pools:
    """The pools of all layers. One thread.

    With an `attention` kernel that takes every attention layer the cache is in blocks, otherwise each slot has its rows in
    one piece, as ggml needs them. `n_row` counts those, and is 0 with blocks or without attention: one graph serves any depth then.
    """

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        n_slot: int,
        n_ctx: int,
        dtype: str,
        attention: Supply | None = None,
    ) -> None:
        n_row = -(-n_ctx // CACHE_STEP) * CACHE_STEP
        self._context = ggml.new_context(2 * len(layers) + 1)
        self._parts: list[State | AttentionCache] = []
        for layer in layers:
            for name, spec in layer.items():
                _check_sizes(name, (spec.n_head_kv, spec.d_k, spec.d_v) if isinstance(spec, KV) else spec)
        specs = [spec for layer in layers for spec in layer.values() if isinstance(spec, KV)]
        in_blocks = (
            bool(specs) and attention is not None and all(supported(attention, s, dtype) for s in specs)
        )
        self.blocks = Blocks(n_slot, n_row) if in_blocks else None
        self.n_row = 0 if self.blocks or not specs else n_row
        try:
            self.layers = [
                Carry({name: self._made(spec, n_slot, dtype) for name, spec in layer.items()})
                for layer in layers
            ]
        except BaseException:
            self.close()
            raise

    def _made(self, spec: Shape | KV, n_slot: int, dtype: str) -> State | AttentionCache | BlockCache:
        if isinstance(spec, KV) and self.blocks is not None:
            return self.blocks.cache(spec, dtype)
        made: State | AttentionCache
        if isinstance(spec, KV):
            made = AttentionCache(spec, n_slot, self.n_row, dtype, self._context)
        else:
            made = State(n_slot, spec)
        self._parts.append(made)
        return made

    def grow(self, slot: int, n_tokens: int) -> None:
        """Before a step: the slot will hold `n_tokens`."""
        if self.blocks is not None:
            self.blocks.grow(slot, n_tokens)

    def clear(self, slot: int) -> None:
        self.release(slot)
        for part in self._parts:
            part.clear(slot)

    def release(self, slot: int) -> None:
        """The slot's sequence is gone; what it shares stays with the others."""
        if self.blocks is not None:
            self.blocks.clear(slot)

    def save(self, slot: int, n_tokens: int) -> Saved:
        kept = self.blocks.save(slot, n_tokens) if self.blocks is not None else None
        return Saved(n_tokens, tuple(part.save(slot, n_tokens) for part in self._parts), kept)

    def load(self, slot: int, saved: Saved) -> None:
        for part, held in zip(self._parts, saved.parts, strict=True):
            part.load(slot, held)
        if self.blocks is not None and saved.kept is not None:
            self.blocks.load(slot, saved.kept, saved.n_tokens)

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        for part in self._parts:
            part.copy(source, target, n_tokens)
        if self.blocks is not None:
            self.blocks.fork(source, target, n_tokens)

    def close(self) -> None:
        for part in self._parts:
            part.close()
        if self.blocks is not None:
            self.blocks.close()
        ggml.library().ggml_free(self._context)


def _check_sizes(name: str, shape: Shape) -> None:
    """A convolution of one tap carries nothing; nothing is ever negative, and an attention cache has a width."""
    if any(n < 0 for n in shape) or (len(shape) == 3 and 0 in shape):
        raise ShapeMismatch("carry", name, "sizes of at least 1", str(list(shape)))
