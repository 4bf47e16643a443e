"""Valid block tables and positions, for ops that find their cache rows through a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ops import TOKENS, Contract
from .recipe import Sizes
from .values import Float64


@dataclass(frozen=True)
class Addresses:
    """`numbers` of the table and of the positions; `length` counts the positions that each block of a pool holds, `block`
    is the dimension that says how many it may hold."""

    numbers: Mapping[str, Float64]
    length: tuple[int, ...]
    block: str

    @property
    def n_block(self) -> int:
        return len(self.length)


def addresses(
    contract: Contract,
    sizes: Sizes,
    lengths: Sequence[int],
    slots: Sequence[int],
    n_slot: int,
    rng: np.random.Generator,
) -> Addresses | None:
    """Sequences that hold anything from nothing to all but what the call adds, in blocks at random places of the pools.

    A first block that is full is shared by all sequences that can. None for an op without a table.
    """
    if contract.table is None:
        return None
    names = [o.name for o in contract.states]
    (per_slot,) = contract.state_shapes(sizes)[names.index(contract.table.state)]
    rows = sizes[contract.table.block]
    n_block = n_slot * per_slot + 1  # one belongs to nobody
    table = rng.permutation(n_block)[: n_slot * per_slot].reshape(n_slot, per_slot)
    position, length = np.full(sizes[TOKENS], -1.0), np.zeros(n_block, int)
    at, shared = 0, None
    for n, slot in zip(lengths, slots, strict=True):
        if not n:
            continue
        start = int(rng.integers(0, per_slot * rows - n + 1))
        if start >= rows:
            shared = table[slot, 0] if shared is None else shared
            table[slot, 0] = shared
        position[at : at + n] = np.arange(start, start + n)
        length[table[slot]] = np.clip(start - rows * np.arange(per_slot), 0, rows)
        at += n
    numbers = {contract.table.state: table.astype(float), contract.table.position: position}
    return Addresses(numbers, tuple(int(n) for n in length), contract.table.block)
