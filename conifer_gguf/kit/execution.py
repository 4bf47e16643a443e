"""Runs a kernel on a problem in guarded memory, and finds every byte that it should not have touched."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import KernelFailed
from ..native_api import cdef
from ..native_api.kernels import Call, Kernel, Need, View
from ..ops import Operand
from ..settings import format_bytes
from .arena import ALIGNMENT, Block, Placed, Spacing
from .problem import Problem
from .values import CANARY, Array, read

MAX_SCRATCH = 1 << 28  # bytes; the kit's calls are small


class Finding(Exception):
    """A rule that the kernel breaks: one sentence with the numbers."""


class Unsupported(Exception):
    """The kernel answers CK_UNSUPPORTED, which is allowed; its words."""


@dataclass(frozen=True)
class Result:
    """Dense copies of what a run left behind, in stored dtypes."""

    outputs: tuple[NDArray[Any], ...]
    states: tuple[Array, ...]


class Setup:
    """A problem laid out in memory for a kernel, planned and packed; `run` may be called many times."""

    def __init__(
        self,
        kernel: Kernel,
        problem: Problem,
        spacing: Spacing | None = None,
        max_part: int = 1,
        fill: int = CANARY,
        plan_of: Setup | None = None,
    ) -> None:
        self.kernel, self.problem, self.fill = kernel, problem, fill
        contract, spacing = problem.contract, spacing or Spacing()
        self.inputs = [
            None if a is None else _place(a, o, spacing)
            for a, o in zip(problem.inputs, contract.inputs, strict=True)
        ]
        self.states = [Placed(a.dtype, a.shape, spacing, False, True) for a in problem.states]
        self.outputs = [
            Placed(o.dtype[0], shape, spacing, True, False)
            for o, shape in zip(contract.outputs, problem.output_shapes(), strict=True)
        ]
        self.call = self._make_call()
        self._ask()
        self.need: Need = plan_of.need if plan_of else self._plan(max_part)
        # Memory that another, larger plan asked for is that plan's: a smaller run must get by with it.
        self.scratch: Block = plan_of.scratch if plan_of else Block(self.need.scratch_bytes, ALIGNMENT, "end")
        self.packed: Block = plan_of.packed if plan_of else self._pack(max_part)
        self._packed_before = self.packed.bytes.copy()
        self._set_data()
        self._call_before = self.call.owned_bytes()
        self.refill()

    def run(self, n_part: int = 1, order: Sequence[int] | None = None, threads: bool = False) -> Result:
        """All phases; parts in `order`, or each on a thread of its own. Raises Finding."""
        for phase in range(self.need.n_phase):
            parts = order if order is not None else range(n_part)
            if threads:
                with ThreadPoolExecutor(n_part) as pool:
                    list(pool.map(partial(self._run_part_of, phase, n_part), parts))
            else:
                for part in parts:
                    self.run_part(phase, part, n_part)
        self.verify()
        return self.result()

    def run_part(self, phase: int, part: int, n_part: int) -> None:
        try:
            self.kernel.run(
                self.call, phase, part, n_part, self._address(self.scratch), self._address(self.packed)
            )
        except KernelFailed as error:
            raise Finding(
                f"run returned {error.status} for part {part} of {n_part} in phase {phase}"
            ) from None

    def _run_part_of(self, phase: int, n_part: int, part: int) -> None:
        self.run_part(phase, part, n_part)

    def refill(self) -> None:
        """Carry as at the start, outputs filled with the pattern; scratch keeps what the last run left."""
        for placed, array in zip(self.states, self.problem.states, strict=True):
            placed.view[...] = _as_placed(array, placed)
        for placed in self.outputs:
            _fill(placed.view, self.fill)

    def result(self) -> Result:
        states = []
        for placed, array in zip(self.states, self.problem.states, strict=True):
            stored = placed.view.copy()
            states.append(Array(array.dtype, stored, read(array.dtype, stored, array.shape)))
        return Result(tuple(p.view.copy() for p in self.outputs), tuple(states))

    def verify(self) -> None:
        """Nothing is touched but outputs, the slots of the call's sequences and scratch."""
        contract = self.problem.contract
        for operand, placed, array in zip(contract.inputs, self.inputs, self.problem.inputs, strict=True):
            if placed is not None and array is not None:
                self._verify_canaries(operand, placed)
                if not _same_bytes(placed.view, _as_placed(array, placed)):
                    raise Finding(f"input `{operand.name}` was changed")
        for i, (operand, placed, array) in enumerate(
            zip(contract.states, self.states, self.problem.states, strict=True)
        ):
            self._verify_canaries(operand, placed)
            mine = self.problem.changing_rows(i)
            for row in (r for r in range(len(array.stored)) if r not in mine):
                if not _same_bytes(placed.view[row], _as_placed(array, placed)[row]):
                    what = "block" if contract.in_blocks(operand) else "slot"
                    raise Finding(
                        f"carry `{operand.name}`: {what} {row} of no sequence in the call was written"
                    )
        for operand, placed in zip(contract.outputs, self.outputs, strict=True):
            self._verify_canaries(operand, placed)
        if not _arithmetic_is_usual():
            raise Finding("run leaves the thread's floating-point mode changed")
        if self.call.owned_bytes() != self._call_before:
            raise Finding("the call itself was changed: its sizes, strides, attributes, offsets or slots")
        if self.scratch.surroundings_touched():
            raise Finding(f"wrote outside of its {self.need.scratch_bytes} bytes of scratch")
        if self.packed.surroundings_touched() or not _same_bytes(self.packed.bytes, self._packed_before):
            raise Finding("run wrote to packed memory, or outside of it")

    @staticmethod
    def _verify_canaries(operand: Operand, placed: Placed) -> None:
        if placed.canaries_touched():
            raise Finding(f"wrote outside of `{operand.name}`: a canary beside its elements changed")

    def _make_call(self) -> Call:
        p = self.problem
        inputs = [
            None if placed is None else _view(placed, operand.role == "constant")
            for placed, operand in zip(self.inputs, p.contract.inputs, strict=True)
        ]
        states, outputs = [_view(s) for s in self.states], [_view(o) for o in self.outputs]
        return Call(p.contract, inputs, states, outputs, p.ints, p.reals, len(p.slot))

    def _ask(self) -> None:
        answer = self.kernel.ask(self.call)
        if answer.status == cdef.UNSUPPORTED:
            raise Unsupported(answer.text)
        if not answer.ok:
            raise Finding(f"supports answers {answer.name} to a call that the op allows: {answer.text!r}")

    def _plan(self, max_part: int) -> Need:
        try:
            need = self.kernel.plan(self.call, max_part)
        except KernelFailed as error:
            raise Finding(f"plan answers {error.status}: {error.problem}") from None
        for what, size in (("scratch", need.scratch_bytes), ("packed", need.packed_bytes)):
            if size > MAX_SCRATCH:
                limit = format_bytes(MAX_SCRATCH)
                raise Finding(f"plan asks for {format_bytes(size)} of {what} memory; more than {limit} here")
        return need

    def _pack(self, n_part: int) -> Block:
        """With nothing but the constants in place, as `pack` promises to need."""
        packed = Block(self.need.packed_bytes, ALIGNMENT, "end")
        if self.need.packed_bytes:
            for i, (placed, operand) in enumerate(
                zip(self.inputs, self.problem.contract.inputs, strict=True)
            ):
                if placed is not None and operand.role == "constant":
                    array = self.problem.inputs[i]
                    assert array is not None
                    placed.view[...] = _as_placed(array, placed)
                    self.call.set_data("input", i, placed.address)
            for part in range(n_part):
                try:
                    self.kernel.pack(self.call, packed.address, part, n_part)
                except KernelFailed as error:
                    raise Finding(f"pack returned {error.status} for part {part} of {n_part}") from None
        return packed

    def _set_data(self) -> None:
        for i, (placed, array) in enumerate(zip(self.inputs, self.problem.inputs, strict=True)):
            if placed is not None and array is not None:
                placed.view[...] = _as_placed(array, placed)
                self.call.set_data("input", i, placed.address)
        for i, placed in enumerate(self.states):
            self.call.set_data("state", i, placed.address)
        for i, placed in enumerate(self.outputs):
            self.call.set_data("output", i, placed.address)
        self.call.set_sequences(self.problem.seq_start, self.problem.slot)

    @staticmethod
    def _address(block: Block) -> int:
        return block.address if block.bytes.size else 0


def execute(kernel: Kernel, problem: Problem, spacing: Spacing | None = None, n_part: int = 1) -> Result:
    return Setup(kernel, problem, spacing, max_part=n_part).run(n_part)


def worst_error(found: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """The largest |found - expected|, relative to the largest element of its row (last axis), or to the root mean
    square of everything where the row is smaller: an element that cancels to nothing has no digits of its own.
    Infinite where one is finite and the other is not."""
    if expected.size == 0:
        return 0.0
    value = found.astype(np.float64)
    if not np.array_equal(np.isfinite(value), np.isfinite(expected)):
        return float("inf")
    finite = np.where(np.isfinite(expected), expected, 0.0)
    difference = np.abs(np.where(np.isfinite(value), value, 0.0) - finite)
    scale = np.abs(finite).max(-1, keepdims=True) if finite.ndim else np.abs(finite)
    floor = max(float(np.sqrt((finite**2).mean())), 1e-30)
    return float((difference / np.maximum(scale, floor)).max())


def same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return _same_bytes(a, b)


_TINY, _ONE, _ULP = np.full(1, 1e-40, np.float32), np.ones(1, np.float32), np.float32(2**-23)


def _arithmetic_is_usual() -> bool:
    """Denormal numbers are computed, and a tie is rounded to the even number."""
    return bool((_TINY * _ONE)[0] != 0 and (_ONE + np.float32(1.5) * _ULP)[0] == 1 + 2 * _ULP)


def _place(array: Array, operand: Operand, spacing: Spacing) -> Placed:
    return Placed(array.dtype, array.shape, spacing, operand.role == "activation", False)


def _view(placed: Placed, constant: bool = False) -> View:
    return View(placed.dtype, placed.shape, placed.stride_bytes, 0, constant)


def _as_placed(array: Array, placed: Placed) -> NDArray[Any]:
    return array.stored.reshape(placed.view.shape)


def _same_bytes(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.shape == b.shape and bool(np.array_equal(_bytes_of(a), _bytes_of(b)))


def _bytes_of(a: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(a).reshape(-1).view(np.uint8)


def _fill(view: NDArray[Any], pattern: int) -> None:
    view[...] = np.frombuffer(bytes([pattern]) * view.dtype.itemsize, view.dtype)[0]
