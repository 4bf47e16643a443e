"""The rules about where a sequence is cut into calls: the carry is all that passes between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from ..ops import TOKENS
from .checks import Case, Subject
from .execution import Finding, Result, Setup, execute, same_bits, worst_error
from .problem import Problem


def any_split(s: Subject) -> Iterator[Case]:
    """T tokens at once, one by one, and in pieces: the carry is all that passes between calls."""
    for turn, cuts in enumerate(([*range(14)], [0, 1, 2, 9], [0, 5], [0, 13])):
        problem = s.maker.problem(s.maker.sizes(14, turn), s.variant(turn), slots=[1], n_slot=2)
        yield f"{problem.label}, cut at {cuts[1:]}", partial(_run_in_pieces, s, problem, cuts)
    for i, shape in enumerate(s.maker.recipe.shapes[:2]):
        problem = s.maker.problem(s.maker.sizes(150, i, shape), s.maker.usual)
        yield (
            f"{problem.label}, cut at [1, 64, 65, 130]",
            partial(_run_in_pieces, s, problem, [0, 1, 64, 65, 130]),
        )


def _run_in_pieces(s: Subject, problem: Problem, cuts: list[int]) -> float:
    return s.compare(problem, _in_pieces(s, problem, cuts))


def _in_pieces(s: Subject, problem: Problem, cuts: Sequence[int]) -> Result:
    states = problem.states
    pieces = []
    for a, b in zip(cuts, [*cuts[1:], problem.n_token], strict=True):
        result = execute(s.kernel, problem.cut([(0, a, b)]).with_states(states))
        states = result.states
        pieces.append(result.outputs)
    outputs = tuple(
        np.concatenate([piece[i] for piece in pieces], o.dims[0].index(TOKENS) if o.has_tokens else 0)
        for i, o in enumerate(problem.contract.outputs)
    )
    return Result(outputs, states)


def same_bits_for_any_split(s: Subject) -> Iterator[Case]:
    """Whether a split changes bits: an error where it does. A kernel that promises CK_SPLIT_EXACT fails then."""
    singly = [*range(40)]
    small: list[tuple[int, list[int]]] = [
        (40, singly),
        (37, [0, 1, 8, 9, 24, 33]),
        (75, [0, 3, 6, 10, 15, 21, 28, 36, 45, 55, 66]),
        (1100, [0, 1, 513, 1000]),
    ]
    for turn, (n, cuts) in enumerate(small):
        for variant in s.usual_and(turn + 3):
            problem = s.maker.problem(s.maker.sizes(min(n, s.maker.recipe.longest), turn), variant)
            yield _split_case(s, problem, cuts)
    for i, shape in enumerate(s.maker.recipe.shapes):
        problem = s.maker.problem(s.maker.sizes(130, i, shape), s.maker.usual)
        yield _split_case(s, problem, [*singly, 64, 65, 129] if i == 0 else [0, 1, 6, 38, 127])


def _split_case(s: Subject, problem: Problem, cuts: list[int]) -> Case:
    cuts = [c for c in cuts if c < problem.n_token]
    shown = "one by one" if len(cuts) == problem.n_token else f"cut at {cuts[1:]}"
    return f"{problem.label}, {shown}", partial(_bits_or_error, s, problem, cuts)


def _bits_or_error(s: Subject, problem: Problem, cuts: list[int]) -> float | None:
    setup = Setup(s.kernel, problem)
    whole, pieces = setup.run(), _in_pieces(s, problem, cuts)
    pairs = [
        (f"output `{o.name}`", a, b)
        for o, a, b in zip(problem.contract.outputs, whole.outputs, pieces.outputs, strict=True)
    ]
    for operand, c, d in zip(problem.contract.states, whole.states, pieces.states, strict=True):
        pairs.append((f"carry `{operand.name}`", c.stored, d.stored))
    unlike = [(name, a, b) for name, a, b in pairs if not same_bits(a, b)]
    if unlike and (s.split_exact or setup.need.split_exact):
        why = "plan promises CK_SPLIT_EXACT" if setup.need.split_exact else "they were asked to be equal"
        raise Finding(f"{unlike[0][0]} has other bits than in one call; {why}")
    return max((worst_error(a, b.astype(np.float64)) for _, a, b in unlike), default=None)
