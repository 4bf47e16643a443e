"""The rules about how work is shared: parts, phases, threads, and one run after another."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checks import Case, Subject
from .execution import Finding, Result, Setup, execute, same_bits
from .problem import Problem
from .values import CANARY

# Two fill patterns that differ in every bit: a write that leaves one of them as it was shows on the other.
PATTERNS = (0x00, CANARY)


def any_number_of_parts(s: Subject) -> Iterator[Case]:
    for problem in _problems(s):
        yield problem.label, partial(_same_bits_for_all_parts, s, problem)


def _same_bits_for_all_parts(s: Subject, problem: Problem) -> float:
    one = execute(s.kernel, problem)
    for n_part in (2, 3, 7, 16):
        _require_same(problem, one, execute(s.kernel, problem, None, n_part), f"in {n_part} parts as in one")
    backwards = Setup(s.kernel, problem, None, 7).run(3, order=[2, 1, 0])
    _require_same(problem, one, backwards, "in 3 of at most 7 parts, last one first,")
    return s.compare(problem, one)


def parts_own_what_they_write(s: Subject) -> Iterator[Case]:
    """Each part of each phase alone, on two fill patterns: no byte written twice, every output element once."""
    for problem in _problems(s):
        for n_part in (3, 7):
            yield f"{problem.label}, {n_part} parts", partial(_disjoint_and_covering, s, problem, n_part)


def _disjoint_and_covering(s: Subject, problem: Problem, n_part: int) -> None:
    setups = [Setup(s.kernel, problem, None, n_part, fill) for fill in PATTERNS]
    for setup, fill in zip(setups, PATTERNS, strict=True):
        setup.scratch.bytes[:] = fill
    names = _memory_names(setups[0])
    covered: list[NDArray[np.bool_]] = [np.zeros(0, bool)] * len(names)
    for phase in range(setups[0].need.n_phase):
        written = [_written_by_parts(setup, phase, n_part) for setup in setups]
        for i, name in enumerate(names):
            by_part = [a[i] | b[i] for a, b in zip(*written, strict=True)]
            twice = np.sum(by_part, axis=0) > 1
            if twice.any():
                first = int(twice.argmax())
                raise Finding(f"two of {n_part} parts write element {first} of {name} in phase {phase}")
            now = np.any(by_part, axis=0)
            covered[i] = now if phase == 0 else covered[i] | now
    for i, operand in enumerate(problem.contract.outputs):
        if not covered[i].all():
            element = int((~covered[i]).argmax())
            raise Finding(f"no part of {n_part} writes element {element} of output `{operand.name}`")
    _require_same(
        problem, execute(s.kernel, problem), setups[0].result(), f"when each of {n_part} parts runs alone"
    )


def _written_by_parts(setup: Setup, phase: int, n_part: int) -> list[list[NDArray[np.bool_]]]:
    """For each part, which elements of each memory it changed; leaves all parts' changes in place."""
    memories = _memories(setup)
    before = [m.copy() for m in memories]
    merged = [m.copy() for m in memories]
    written = []
    for part in range(n_part):
        for memory, old in zip(memories, before, strict=True):
            memory[...] = old
        setup.run_part(phase, part, n_part)
        setup.verify()
        masks = []
        for memory, old, new in zip(memories, before, merged, strict=True):
            changed = _bits(memory) != _bits(old)
            np.copyto(new, memory, where=changed)
            masks.append(changed.reshape(-1))
        written.append(masks)
    for memory, new in zip(memories, merged, strict=True):
        memory[...] = new
    return written


def parts_at_the_same_time(s: Subject) -> Iterator[Case]:
    for problem in _problems(s):
        yield f"{problem.label}, on 4 threads", partial(_same_bits_on_threads, s, problem)


def _same_bits_on_threads(s: Subject, problem: Problem) -> None:
    one = execute(s.kernel, problem)
    setup = Setup(s.kernel, problem, None, 4)
    for _ in range(4 * s.depth.repeats):
        setup.refill()
        _require_same(problem, one, setup.run(4, threads=True), "on 4 threads")


def one_run_after_another(s: Subject) -> Iterator[Case]:
    """A kernel keeps nothing between runs but what is in the carry."""
    for turn in range(2):
        a = s.maker.problem(s.maker.sizes(7, turn), s.variant(turn), [4, 3], [2, 0], 3, label="first")
        b = s.maker.problem(s.maker.sizes(12, turn + 1), s.variant(turn + 1), label="another")
        yield f"{a.label}, then {b.label}, then the first", partial(_unmoved_by, s, a, b)
        small = a.cut([(1, 0, 2)])
        yield f"{small.label}, within the plan of {a.label}", partial(_smaller_run, s, a, small)


def _unmoved_by(s: Subject, a: Problem, b: Problem) -> float:
    setup = Setup(s.kernel, a, None, 2)
    first = setup.run(2)
    execute(s.kernel, b, None, 3)
    for again in range(2 + 4 * s.depth.repeats):
        setup.refill()
        _require_same(a, first, setup.run(2), f"at run {again + 2}")
    return s.compare(a, first)


def _smaller_run(s: Subject, large: Problem, small: Problem) -> float:
    planned = Setup(s.kernel, large, None, 7)
    planned.run(7)
    few = s.compare(small, Setup(s.kernel, small, None, 2, plan_of=planned).run(2))
    # Few tokens with all the parts: scratch for each part may be more than the larger call has in all.
    return max(few, s.compare(small, Setup(s.kernel, small, None, 7, plan_of=planned).run(7)))


def _problems(s: Subject) -> list[Problem]:
    """Small ones with several sequences and padding, and one of a real shape."""
    made = [
        s.maker.problem(
            s.maker.sizes(11, turn), s.variant(turn), [6, 0, 3], [1, -1, 2], 4, label="3 sequences"
        )
        for turn in range(2)
    ]
    for i, shape in enumerate(s.maker.recipe.shapes[: s.depth.repeats]):
        made.append(s.maker.problem(s.maker.sizes(66, i, shape), s.maker.usual, [65], [0], 1))
    return made


def _require_same(problem: Problem, expected: Result, found: Result, how: str) -> None:
    for operand, a, b in zip(problem.contract.outputs, expected.outputs, found.outputs, strict=True):
        if not same_bits(a, b):
            raise Finding(f"`{operand.name}` does not have the same bits {how}")
    for operand, c, d in zip(problem.contract.states, expected.states, found.states, strict=True):
        if not same_bits(c.stored, d.stored):
            raise Finding(f"carry `{operand.name}` does not have the same bits {how}")


def _memories(setup: Setup) -> list[NDArray[Any]]:
    return [*(p.view for p in setup.outputs), *(p.view for p in setup.states), setup.scratch.bytes]


def _memory_names(setup: Setup) -> list[str]:
    contract = setup.problem.contract
    outputs = [f"output `{o.name}`" for o in contract.outputs]
    return [*outputs, *(f"carry `{o.name}`" for o in contract.states), "scratch (in bytes)"]


def _bits(memory: NDArray[Any]) -> NDArray[Any]:
    """Integers to compare: a NaN equals itself."""
    return np.ascontiguousarray(memory).view(f"u{memory.dtype.itemsize}")
