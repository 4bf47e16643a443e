"""One call that a kernel has to solve: operands, attributes, sequences and carry pools, for the kernel and the reference alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..ops import TOKENS, Contract, Operand, Reference
from .values import CANARY, Array, Float64


@dataclass(frozen=True)
class Problem:
    """`seq_start` and `slot` as in ck_call; rows past `seq_start[-1]` are padding. States are whole pools."""

    label: str
    contract: Contract
    sizes: Mapping[str, int]
    inputs: tuple[Array | None, ...]
    states: tuple[Array, ...]
    ints: tuple[int, ...]
    reals: tuple[float, ...]
    seq_start: tuple[int, ...]
    slot: tuple[int, ...]

    @property
    def n_token(self) -> int:
        return self.sizes[TOKENS]

    @property
    def n_slot(self) -> int:
        return self.states[0].shape[0] if self.states else 0

    def rows_of(self, state: int, sequence: int) -> list[int]:
        """Rows of a pool that a sequence may change: its slot, or the blocks in which its new positions lie."""
        start, stop = self.seq_start[sequence : sequence + 2]
        table = self.contract.table
        if start == stop:
            return []
        if table is None or not self.contract.in_blocks(self.contract.states[state]):
            return [self.slot[sequence]]
        names = [o.name for o in self.contract.inputs]
        position = self.inputs[names.index(table.position)]
        assert position is not None
        first, last = (int(position.value[t]) // self.sizes[table.block] for t in (start, stop - 1))
        blocks = self.states[[o.name for o in self.contract.states].index(table.state)]
        return [int(b) for b in blocks.value[self.slot[sequence], first : last + 1]]

    def changing_rows(self, state: int) -> list[int]:
        """`rows_of` all sequences, in their order."""
        return [row for sequence in range(len(self.slot)) for row in self.rows_of(state, sequence)]

    def output_shapes(self) -> list[tuple[int, ...]]:
        return self.contract.output_shapes(self.sizes)

    def with_states(self, states: Sequence[Array]) -> Problem:
        return replace(self, states=tuple(states))

    def cut(self, pieces: Sequence[tuple[int, int, int]], padding: int = 0) -> Problem:
        """The call that holds tokens [a, b) of sequence s for each (s, a, b), and then `padding` rows of anything."""
        rows = [(self.seq_start[s] + a, self.seq_start[s] + b) for s, a, b in pieces]
        n = sum(b - a for a, b in rows)
        inputs = [
            _take(array, operand, rows, padding) if array is not None else None
            for array, operand in zip(self.inputs, self.contract.inputs, strict=True)
        ]
        starts = np.cumsum([0, *(b - a for a, b in rows)])
        return replace(
            self,
            sizes={**self.sizes, TOKENS: n + padding},
            inputs=tuple(inputs),
            seq_start=tuple(int(i) for i in starts),
            slot=tuple(self.slot[s] for s, _, _ in pieces),
        )


def solve(problem: Problem, reference: Reference) -> tuple[list[Float64], list[Float64]]:
    """Outputs and states as the specification has them; padding rows of the outputs are 0."""
    states = [array.value.copy() for array in problem.states]
    inputs = [
        _without_padding(array, operand, problem.seq_start[-1]) if array is not None else None
        for array, operand in zip(problem.inputs, problem.contract.inputs, strict=True)
    ]
    outputs = reference(inputs, states, problem.ints, problem.reals, problem.seq_start, problem.slot)
    padded = []
    for shape, found, operand in zip(problem.output_shapes(), outputs, problem.contract.outputs, strict=True):
        whole = np.zeros(shape)
        whole[token_rows(operand, 0, problem.seq_start[-1])] = found
        padded.append(whole)
    return padded, states


def _take(array: Array, operand: Operand, rows: Sequence[tuple[int, int]], padding: int) -> Array:
    if not operand.has_tokens:
        return array
    axis = _token_axis(operand, len(array.shape))
    pieces = [array.rows(axis, a, b) for a, b in rows]
    pieces.append(array.rows(axis, 0, 0) if not padding else _poison(array.rows(axis, 0, 1), axis, padding))
    return Array(
        array.dtype,
        np.ascontiguousarray(np.concatenate([p.stored for p in pieces], axis)),
        np.concatenate([p.value for p in pieces], axis),
    )


def _poison(row: Array, axis: int, count: int) -> Array:
    """Padding that shows when it is read."""
    stored = np.repeat(row.stored, count, axis)
    stored.view(np.uint8)[...] = CANARY
    return Array(row.dtype, stored, np.repeat(row.value, count, axis))


def _without_padding(array: Array, operand: Operand, n: int) -> Float64:
    if not operand.has_tokens:
        return array.value.copy()
    return array.rows(_token_axis(operand, len(array.shape)), 0, n).value.copy()


def _token_axis(operand: Operand, rank: int) -> int:
    return next(dims.index(TOKENS) for dims in operand.dims if len(dims) == rank)


def token_rows(operand: Operand, start: int, stop: int) -> tuple[slice, ...]:
    """Indexes tokens [start, stop) of an output; everything of one without a token axis."""
    if not operand.has_tokens:
        return ()
    return (slice(None),) * operand.dims[0].index(TOKENS) + (slice(start, stop),)
