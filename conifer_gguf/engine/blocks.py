"""The attention cache in blocks: full ones are shared by sequences, snapshots and forks, and a table says whose they are.

One table serves all layers: block 7 of every layer's pool holds the same positions of the same tokens. Blocks that only
snapshots hold stay where they are until a sequence needs room; then they are copied out, oldest snapshot first.
"""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..native_api.kernels import Call, View
from ..native_api.memory import Region
from .supply import Supply
from .tensor import Shape, row_bytes

OP = "conifer.attention/1"
BLOCK = 64  # positions
Rows = NDArray[np.uint8]


@dataclass(frozen=True)
class KV:
    """The attention cache that one layer asks for. With `latent`, values are the first `d_v` elements of the keys."""

    n_head_kv: int
    d_k: int
    d_v: int
    latent: bool = False

    @property
    def elements(self) -> int:
        """Values that a token costs."""
        return self.n_head_kv * (self.d_k + (0 if self.latent else self.d_v))


@dataclass(frozen=True)
class Pool:
    """Memory of a state as a kernel gets it: rows [n, *shape]."""

    dtype: str
    shape: Shape
    address: int


class Kept:
    """What a snapshot has of the cache: the full blocks, in the pools or (`copies`) moved out of them, and copies of the rows
    behind those. Both lists are cache by cache, pool by pool."""

    def __init__(self, blocks: Sequence[int], tail: list[list[Rows]]) -> None:
        self.blocks, self.tail = tuple(blocks), tail
        self.copies: list[list[Rows]] | None = None
        self.let_go: Any = None  # a weakref.finalize: with the snapshot go its claims

    @property
    def nbytes(self) -> int:
        """Of its own: blocks in the pools are counted there."""
        return sum(rows.nbytes for cache in (*self.tail, *(self.copies or ())) for rows in cache)


class BlockTable:
    """Which blocks hold the positions of each slot, int32 [n_slot, n_of_slot], and how many hold on to each block."""

    def __init__(self, n_slot: int, n_row: int) -> None:
        self.shape = (n_slot, -(-n_row // BLOCK))
        self.n_block = n_slot * self.shape[1]
        self._region = Region(4 * self.n_block)
        self.pool = Pool("i32", self.shape, self._region.address)
        self._length = [0] * n_slot  # blocks of each slot
        self._users = [0] * self.n_block
        self._free = list(
            range(self.n_block)
        )  # a heap: low ones first, so that memory is touched only as needed

    @property
    def n_free(self) -> int:
        return len(self._free)

    def blocks(self, slot: int) -> list[int]:
        return [int(b) for b in self._rows()[slot, : self._length[slot]]]

    def lacks(self, slot: int, n_tokens: int) -> int:
        """Blocks that the slot still needs for its first `n_tokens` positions."""
        return max(0, -(-n_tokens // BLOCK) - self._length[slot])

    def extend(self, slot: int, n_tokens: int) -> None:
        """Give the slot room for its first `n_tokens` positions; enough blocks must be free."""
        for _ in range(self.lacks(slot, n_tokens)):
            self.append(slot, heapq.heappop(self._free))

    def append(self, slot: int, block: int) -> None:
        self._rows()[slot, self._length[slot]] = block
        self._length[slot] += 1
        self._users[block] += 1

    def hold(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            self._users[block] += 1

    def let_go(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            self._users[block] -= 1
            if not self._users[block]:
                heapq.heappush(self._free, block)

    def clear(self, slot: int) -> None:
        self.let_go(self.blocks(slot))
        self._length[slot] = 0

    def _rows(self) -> NDArray[np.int32]:
        return self._region.array(np.int32, self.shape)

    def close(self) -> None:
        self._region.close()


class BlockCache:
    """Keys and values of one layer, [n_block, n_head_kv, BLOCK, d]; a latent layer has a pool of values without blocks."""

    def __init__(self, spec: KV, table: BlockTable, dtype: str) -> None:
        self.spec = spec
        self.table = table.pool
        sizes = [spec.d_k] if spec.latent else [spec.d_k, spec.d_v]
        self._shapes = [(table.n_block, spec.n_head_kv, BLOCK, row_bytes(dtype, d)) for d in sizes]
        self._regions = [Region(int(np.prod(shape))) for shape in self._shapes]
        self.keys, self.values = (
            Pool(dtype, (n, spec.n_head_kv, BLOCK, d), region.address)
            for n, d, region in (
                (table.n_block, spec.d_k, self._regions[0]),
                (0 if spec.latent else table.n_block, spec.d_v, self._regions[-1]),
            )
        )

    def take(self, blocks: Sequence[int], n_row: int = BLOCK) -> list[Rows]:
        """Copies of the first `n_row` positions of blocks."""
        return [pool[list(blocks), :, :n_row] for pool in self._pools()]

    def put(self, blocks: Sequence[int], held: Sequence[Rows]) -> None:
        """Write what `take` returned into other blocks."""
        for pool, rows in zip(self._pools(), held, strict=True):
            pool[list(blocks), :, : rows.shape[2]] = rows

    def _pools(self) -> list[Rows]:
        return [r.array(np.uint8, s) for r, s in zip(self._regions, self._shapes, strict=True)]

    def close(self) -> None:
        for region in self._regions:
            region.close()


class Blocks:
    """The table and what its blocks hold in every layer. One thread."""

    def __init__(self, n_slot: int, n_row: int) -> None:
        self.table = BlockTable(n_slot, n_row)
        self._caches: list[BlockCache] = []
        self._kept: weakref.WeakValueDictionary[int, Kept] = weakref.WeakValueDictionary()
        self._count = itertools.count()

    def cache(self, spec: KV, dtype: str) -> BlockCache:
        """The cache of one more layer."""
        self._caches.append(BlockCache(spec, self.table, dtype))
        return self._caches[-1]

    def grow(self, slot: int, n_tokens: int) -> None:
        """Make room for the first `n_tokens` positions of a slot, if need be where only snapshots hold on."""
        while self.table.n_free < self.table.lacks(slot, n_tokens):
            self._move_out(
                self._kept[min(i for i, kept in self._kept.items() if kept.blocks and not kept.copies)]
            )
        self.table.extend(slot, n_tokens)

    def clear(self, slot: int) -> None:
        self.table.clear(slot)

    def save(self, slot: int, n_tokens: int) -> Kept:
        full, rest = divmod(n_tokens, BLOCK)
        blocks = self.table.blocks(slot)
        tail = [cache.take(blocks[full : full + 1], rest) for cache in self._caches] if rest else []
        kept = Kept(blocks[:full], tail)
        self.table.hold(kept.blocks)
        kept.let_go = weakref.finalize(kept, self.table.let_go, kept.blocks)
        kept.let_go.atexit = False
        self._kept[next(self._count)] = kept
        return kept

    def load(self, slot: int, kept: Kept, n_tokens: int) -> None:
        """Continue from a snapshot in an empty slot."""
        if kept.copies is None:
            for block in kept.blocks:
                self.table.append(slot, block)
        self.grow(slot, n_tokens)
        blocks = self.table.blocks(slot)
        for i, cache in enumerate(self._caches):
            if kept.copies is not None:
                cache.put(blocks[: len(kept.blocks)], kept.copies[i])
            if kept.tail:
                cache.put(blocks[-1:], kept.tail[i])

    def fork(self, source: int, target: int, n_tokens: int) -> None:
        """Give an empty slot the positions of another: full blocks are shared, the last one is copied."""
        full, rest = divmod(n_tokens, BLOCK)
        blocks = self.table.blocks(source)
        for block in blocks[:full]:
            self.table.append(target, block)
        self.grow(target, n_tokens)
        if rest:
            for cache in self._caches:
                cache.put(self.table.blocks(target)[-1:], cache.take(blocks[full : full + 1], rest))

    def _move_out(self, kept: Kept) -> None:
        kept.copies = [cache.take(kept.blocks) for cache in self._caches]
        kept.let_go()

    def close(self) -> None:
        for cache in self._caches:
            cache.close()
        self.table.close()


def supported(attention: Supply, spec: KV, dtype: str) -> bool:
    """Whether a registered kernel takes this layer's calls."""
    shape, d_v = (1, spec.n_head_kv, spec.d_k), spec.d_v
    inputs = [View.dense("f32", shape), View.dense("f32", shape)]
    values = None if spec.latent else View.dense("f32", (1, spec.n_head_kv, d_v))
    states = [
        View.dense("i32", (1, 1)),
        View.dense(dtype, (1, spec.n_head_kv, BLOCK, spec.d_k)),
        View.dense(dtype, (0 if spec.latent else 1, spec.n_head_kv, BLOCK, d_v)),
    ]
    ints, reals = attention.contract.attributes({})
    call = Call(
        attention.contract,
        [*inputs, values, View.dense("i32", (1,))],
        states,
        [View.dense("f32", (1, spec.n_head_kv, d_v))],
        ints,
        reals,
    )
    return any(kernel.ask(call).ok for kernel in attention.kernels)
