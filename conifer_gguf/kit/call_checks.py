"""The rules about calls that the op forbids, and about memory that a kernel keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import psutil
from cffi import FFI

from ..errors import ShapeMismatch
from ..native_api import cdef
from ..native_api.cdef import ffi
from ..native_api.kernels import Call, View
from ..ops import Contract, Operand
from .checks import Case, Subject
from .execution import Finding, Setup, same_bits
from .maker import Maker
from .problem import Problem
from .recipe import Sizes

TEXT_CAPACITIES = (512, 8, 1)
MAX_KEPT = 64 * 1024  # bytes that the process may grow by over RUNS runs; Python's own noise stays far below
RUNS = 200

_libc_ffi: Any = FFI()
_libc_ffi.cdef(
    """struct mallinfo2 { size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost; };
    struct mallinfo2 mallinfo2(void);"""
)
_libc: Any = _libc_ffi.dlopen(None)

Views = tuple[list[View | None], list[View], list[View]]
Change = Callable[[View], View | None]


def wrong_calls_are_refused(s: Subject) -> Iterator[Case]:
    """Operand missing, wrong rank, dtype or size: CK_BAD_SHAPE with text, from supports and from plan."""
    contract = s.maker.contract
    views = _views(s.maker, s.maker.sizes(6))
    groups: tuple[tuple[str, tuple[Operand, ...], Sequence[View | None]], ...] = (
        ("input", contract.inputs, views[0]),
        ("carry", contract.states, views[1]),
        ("output", contract.outputs, views[2]),
    )
    for role, operands, group in groups:
        for i, operand in enumerate(operands):
            for what, change in _changes(operand, group[i]):
                changed = tuple(_replaced(g, i, change) if g is group else g for g in views)
                if _forbidden(contract, changed):
                    yield f"{role} `{operand.name}` {what}", partial(_is_refused, s, _call(s.maker, changed))
    for sizes in s.maker.recipe.refused:
        call = _call(s.maker, _views(s.maker, s.maker.sizes(6, 0, sizes)))
        shown = " ".join(f"{name}={n}" for name, n in sizes.items())
        yield f"sizes {shown}, which the op forbids", partial(_is_refused, s, call)
    for what, count in (("no inputs", "n_input"), ("no outputs", "n_output")):
        call = _call(s.maker, views)
        setattr(call.pointer, count, 0)
        yield what, partial(_is_refused, s, call)
    for i, attribute in enumerate(contract.int_attrs):
        call = _call(s.maker, views)
        call.pointer.int_attr[i] = max(attribute.values.values()) + 1
        yield f"attribute `{attribute.name}` = {call.pointer.int_attr[i]}", partial(_is_not_accepted, s, call)


def _is_not_accepted(s: Subject, call: Call) -> None:
    if s.kernel.ask(call).ok:
        raise Finding("supports answers CK_OK to an attribute's value that the op does not have")


def _is_refused(s: Subject, call: Call) -> None:
    kernel = s.kernel.pointer
    need = ffi.new("ck_need *")
    need.struct_size = ffi.sizeof("ck_need")
    for capacity in TEXT_CAPACITIES:
        memory = ffi.new("char[]", b"\xff" * (capacity + 64))
        memory[0] = b"\0"
        error = ffi.new("ck_error *")
        error.struct_size, error.text_capacity, error.text = ffi.sizeof("ck_error"), capacity, memory
        extra: dict[str, tuple[Any, ...]] = {"supports": (), "plan": (2, need)}
        for name, arguments in extra.items():
            memory[0] = b"\0"
            found = getattr(kernel, name)(kernel.self, call.pointer, *arguments, error)
            if found != cdef.BAD_SHAPE:
                raise Finding(f"{name} answers {cdef.status_name(found)}, CK_BAD_SHAPE was due")
            _judge_text(name, bytes(ffi.buffer(memory)), capacity)


def _judge_text(function: str, memory: bytes, capacity: int) -> None:
    if any(byte != 0xFF for byte in memory[capacity : capacity + 64]):
        raise Finding(f"{function} writes past text_capacity = {capacity}")
    text, end, _ = memory[:capacity].partition(b"\0")
    if not end:
        raise Finding(f"{function}: the text for CK_BAD_SHAPE does not end within text_capacity = {capacity}")
    if not text and capacity > 1:
        raise Finding(f"{function} answers CK_BAD_SHAPE without a text")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        raise Finding(f"{function}: the text for CK_BAD_SHAPE is not UTF-8: {text!r}") from None


def _changes(operand: Operand, view: View | None) -> Iterator[tuple[str, Change]]:
    if view is None:
        return
    if not operand.optional and operand.role in ("activation", "constant"):
        yield "is missing", lambda view: None
    yield "has one axis less", lambda view: View.dense(view.dtype, view.shape[1:], 0, view.constant)
    yield "has one axis more", lambda view: View.dense(view.dtype, (*view.shape, 1), 0, view.constant)
    other = "f16" if "f16" not in operand.dtype else "i8"
    yield f"is {other}", lambda view: View.dense(other, view.shape, 0, view.constant)
    for axis in range(len(view.shape)):
        if operand.role == "state" and axis == 0:
            continue  # a pool has any number of slots
        yield f"is one longer in axis {axis}", partial(_longer, axis)


def _longer(axis: int, view: View) -> View:
    shape = tuple(n + (i == axis) * cdef.BLOCK[view.dtype][0] for i, n in enumerate(view.shape))
    return View.dense(view.dtype, shape, 0, view.constant)


def _forbidden(contract: Contract, views: Sequence[Sequence[View | None]]) -> bool:
    """Whether the op forbids the call: another size may simply be another legal call."""
    inputs, states, outputs = views
    operands = (*contract.inputs, *contract.states, *contract.outputs)
    if any(
        v is not None and v.dtype not in o.dtype
        for o, v in zip(operands, (*inputs, *states, *outputs), strict=True)
    ):
        return True
    found_states = [v.shape[1:] for v in states if v]
    try:
        bound = contract.bind([v.shape if v else None for v in inputs], found_states)
    except (ShapeMismatch, KeyError):
        return True
    found_outputs = [v.shape for v in outputs if v]
    return contract.state_shapes(bound) != found_states or contract.output_shapes(bound) != found_outputs


def _views(maker: Maker, sizes: Sizes) -> Views:
    """The operands of the usual call with these sizes, without data."""

    def view(operand: Operand, leading: tuple[int, ...] = ()) -> View:
        shape = leading + maker.shape(operand, maker.usual, sizes)
        return View.dense(operand.dtype[0], shape, 0, operand.role == "constant")

    contract = maker.contract
    inputs: list[View | None] = [view(o) for o in contract.inputs]
    return inputs, [view(o, (3,)) for o in contract.states], [view(o) for o in contract.outputs]


def _call(maker: Maker, views: Sequence[Sequence[View | None]]) -> Call:
    inputs, states, outputs = views
    carries, results = ([v for v in group if v is not None] for group in (states, outputs))
    ints, reals = maker.contract.attributes(maker.usual.attrs)
    return Call(maker.contract, inputs, carries, results, ints, reals, 3)


def _replaced(group: Sequence[View | None], index: int, change: Change) -> list[View | None]:
    old = group[index]
    return [change(old) if i == index and old is not None else view for i, view in enumerate(group)]


def keeps_no_memory(s: Subject) -> Iterator[Case]:
    problem = s.maker.problem(s.maker.sizes(6), s.maker.usual)
    yield f"{problem.label}, {RUNS} runs", partial(_does_not_grow, s, problem)


def _does_not_grow(s: Subject, problem: Problem) -> None:
    setup = Setup(s.kernel, problem)
    first = setup.run()
    setup.refill()
    last = setup.run()  # two results are alive from here on
    before = _allocated()
    for _ in range(RUNS):
        setup.refill()
        last = setup.run()
    grown = _allocated() - before
    if grown > MAX_KEPT:
        raise Finding(f"the process holds {grown} bytes more after {RUNS} runs: run must not allocate")
    for operand, a, b in zip(problem.contract.outputs, first.outputs, last.outputs, strict=True):
        if not same_bits(a, b):
            raise Finding(f"`{operand.name}` has other bits after {RUNS} runs")


def _allocated() -> int:
    """Bytes that malloc has handed out; where the C library does not tell (glibc before 2.33), resident memory."""
    try:
        info = _libc.mallinfo2()
    except AttributeError:
        return int(psutil.Process().memory_info().rss)
    return int(info.uordblks + info.hblkhd)
