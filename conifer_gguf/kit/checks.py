"""The rules of the kernel contract that are about results: each check yields cases, each case runs the kernel.

A case returns the largest relative error that it saw, or None where bits are compared; it raises Finding when a rule is
broken. Guard pages, canaries, unchanged inputs and foreign slots are watched in every run (`execution.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..native_api.kernels import Kernel
from ..ops import TOKENS, Operand
from .arena import Spacing
from .execution import Finding, Result, execute, same_bits, worst_error
from .maker import USUAL_RANGE, Maker, Shaper, Variant
from .problem import Problem, token_rows
from .recipe import Sizes
from .values import Float64

Case = tuple[str, Callable[[], float | None]]


@dataclass(frozen=True)
class Depth:
    """How much the kit tries. `remainders` are sizes of every dimension, in floats of every vector width and unrolling."""

    name: str
    variants: int
    remainders: tuple[int, ...]
    token_counts: tuple[int, ...]
    long_lengths: tuple[int, ...]
    shape_lengths: tuple[int, ...]
    longest: tuple[int, ...]
    repeats: int


BRIEF = Depth(  # for where a kernel runs slowly: instrumented or emulated
    "brief",
    16,
    (*range(1, 19), 31, 33, 65),
    (*range(1, 19), 33, 65),
    (1100,),
    (33,),
    (2100,),
    1,
)
QUICK = Depth(
    "quick",
    48,
    tuple(range(1, 68)),
    (*range(1, 34), 47, 63, 64, 65, 129),
    (1100, 2300),
    (70, 300),
    (8300, 2100),
    1,
)
FULL = Depth(
    "full",
    96,
    (*range(1, 68), 96, *range(112, 130), 192, 255, 257),
    (*range(1, 68), *range(125, 195, 3), 257),
    (1100, 4500, 8300),
    (1, 66, 300, 600),
    (33000, 8300),
    3,
)
DEPTHS = {depth.name: depth for depth in (BRIEF, QUICK, FULL)}


@dataclass(frozen=True)
class Subject:
    """What a check works on: one kernel, and everything that its op's contract gives."""

    kernel: Kernel
    maker: Maker
    reference: Callable[[Problem], tuple[list[Float64], list[Float64]]]
    depth: Depth
    rtol: float
    split_exact: bool = False  # whether the same bits for any split are required, promised or not

    def variant(self, turn: int) -> Variant:
        return self.maker.variants[
            turn * 7 % len(self.maker.variants)
        ]  # 7: neighbours differ in more than one thing

    def variant_for(self, shape: Sizes | None, turn: int) -> Variant:
        """A real model's shape goes with the usual variant."""
        return self.maker.usual if shape else self.variant(turn)

    def usual_and(self, turn: int) -> tuple[Variant, Variant]:
        """The variant for which a kernel is made fast, and another one."""
        return self.maker.usual, self.variant(turn)

    def compare(self, problem: Problem, result: Result) -> float:
        """The worst error of outputs and carries against the specification. Raises Finding over the tolerance."""
        outputs, states = self.reference(problem)
        pairs = [
            (f"output `{o.name}`", found, expected)
            for o, found, expected in zip(problem.contract.outputs, result.outputs, outputs, strict=True)
        ]
        for i, (operand, state, expected) in enumerate(
            zip(problem.contract.states, result.states, states, strict=True)
        ):
            live = problem.changing_rows(i)
            pairs.append((f"carry `{operand.name}`", state.value[live], expected[live]))
        worst = 0.0
        for name, found, expected in pairs:
            error = worst_error(found, expected)
            if not error <= self.rtol:
                raise Finding(
                    f"{name} {_where(found, expected)}: relative error {error:.3g}, allowed {self.rtol:g}"
                )
            worst = max(worst, error)
        return worst

    def solve_and_compare(self, problem: Problem, spacing: Spacing | None = None, n_part: int = 1) -> float:
        return self.compare(problem, execute(self.kernel, problem, spacing, n_part))


def agrees_with_reference(s: Subject) -> Iterator[Case]:
    variants = s.maker.variants
    step = max(1, len(variants) // s.depth.variants)
    for turn, variant in enumerate(variants[::step]):
        problem = s.maker.problem(s.maker.sizes(6, turn), variant)
        yield problem.label, partial(s.solve_and_compare, problem, None, 1 + turn % 3)


def any_size(s: Subject) -> Iterator[Case]:
    """Every dimension through every vector remainder: the others small and unlike, then those of a real model."""
    for i, name in enumerate(d for d in s.maker.contract.dims if d != TOKENS):
        for shape in (None, *s.maker.recipe.shapes[:1]):
            for n in _sizes_of(s, name):
                sizes = s.maker.sizes(4, i, {**s.maker.without_dependents(shape or {}, name), name: n})
                for variant in s.usual_and(n):
                    problem = s.maker.problem(sizes, variant)
                    spacing = Spacing(edge="start" if n % 2 else "end")
                    yield problem.label, partial(s.solve_and_compare, problem, spacing)


def any_length(s: Subject) -> Iterator[Case]:
    """Every number of tokens, past the blocks that a kernel may work in."""
    for n in s.depth.token_counts:
        for variant in s.usual_and(n):
            problem = s.maker.problem(s.maker.sizes(n, n), variant)
            yield problem.label, partial(s.solve_and_compare, problem, None, 2)
        for shape in s.maker.recipe.shapes[:1]:
            problem = s.maker.problem(s.maker.sizes(n, n, shape), s.maker.usual)
            yield problem.label, partial(s.solve_and_compare, problem, None, 2)


def _sizes_of(s: Subject, name: str) -> tuple[int, ...]:
    """Sizes to try of one dimension; one with a recipe takes the plain numbers listed there."""
    if name in s.maker.free:
        return s.depth.remainders
    return tuple(n for n in s.maker.recipe.sizes[name] if isinstance(n, int))


def shapes_of_real_models(s: Subject) -> Iterator[Case]:
    for i, shape in enumerate(s.maker.recipe.shapes):
        for n in s.depth.shape_lengths:
            for variant in s.usual_and(i):
                problem = s.maker.problem(s.maker.sizes(n, i, shape), variant)
                yield problem.label, partial(s.solve_and_compare, problem, None, 2)


def long_sequences(s: Subject) -> Iterator[Case]:
    """Lengths past any block that a kernel may work in, at small sizes and at the first real shape.

    The longest is compared with pieces of lengths that were compared with the specification: that is fast enough.
    """
    for n in (n for n in s.depth.long_lengths if n <= s.maker.recipe.longest):
        shapes = [None, *s.maker.recipe.shapes[:1]] if n < 2000 else [None]
        for i, shape in enumerate(shapes):
            for variant in s.usual_and(i):
                problem = s.maker.problem(s.maker.sizes(n, i, shape), variant)
                yield problem.label, partial(s.solve_and_compare, problem, None, 1 + i)
    for i, (n, shape) in enumerate(zip(s.depth.longest, (None, *s.maker.recipe.shapes[:1]), strict=False)):
        if n > s.maker.recipe.longest:
            continue
        problem = s.maker.problem(s.maker.sizes(n, i, shape), s.maker.usual)
        yield f"{problem.label}, against pieces of 1000", partial(_equals_pieces, s, problem)


def _equals_pieces(s: Subject, problem: Problem) -> float:
    whole = execute(s.kernel, problem)
    states, worst = problem.states, 0.0
    for first in range(0, problem.n_token, 1000):
        end = min(first + 1000, problem.n_token)
        piece = execute(s.kernel, problem.cut([(0, first, end)]).with_states(states))
        states = piece.states
        for operand, ours, theirs in zip(problem.contract.outputs, whole.outputs, piece.outputs, strict=True):
            part = ours[token_rows(operand, first, end)]
            error = worst_error(part, theirs.astype(np.float64))
            if not error <= s.rtol:
                where = _where(part, theirs.astype(np.float64))
                raise Finding(
                    f"`{operand.name}`, counted from token {first}, {where} by the pieces: {error:.3g}"
                )
            worst = max(worst, error)
    return worst


def magnitudes(s: Subject) -> Iterator[Case]:
    """Operands without a range of their own, a thousand times larger and a million times smaller than usual."""
    for factor in (1e3, 1e-6):

        def scaled(operand: Operand, value: Float64, factor: float = factor) -> Float64:
            return value * factor if operand.range == USUAL_RANGE else value

        yield from _shaped(s, f"times {factor:g}", scaled)


def ends_of_ranges(s: Subject) -> Iterator[Case]:
    """Each operand at both ends of its range, where decays come near 0 and 1, and far outside it."""
    for operand in (*s.maker.contract.inputs, *s.maker.contract.states):
        values = [*s.maker.recipe.extreme.get(operand.name, ())]
        if operand.range != USUAL_RANGE:
            values += operand.range
        for value in values:

            def pinned(o: Operand, drawn: Float64, name: str = operand.name, value: float = value) -> Float64:
                mask = np.random.default_rng(drawn.size).random(drawn.shape) < 0.5
                return np.where(mask, value, drawn) if o.name == name else drawn

            yield from _shaped(s, f"half of {operand.name} is {value:g}", pinned, needs=operand.name)


def _shaped(s: Subject, label: str, shaper: Shaper, needs: str = "") -> Iterator[Case]:
    """In several variants: a clamp or an absent operand may hide what another shows."""
    every = [s.maker.usual, *s.maker.variants]
    usable = [v for v in every if needs not in v.absent and needs not in s.maker.ranges(v)]
    for turn, variant in enumerate(usable[:: max(1, len(usable) // 5)]):
        problem = s.maker.problem(s.maker.sizes(9, turn), variant, shaper=shaper, label=label)
        yield problem.label, partial(s.solve_and_compare, problem)


def several_sequences(s: Subject) -> Iterator[Case]:
    """Sequences of different lengths in one call give the bits of separate calls, whatever slots they own."""
    real = s.maker.recipe.shapes[0] if s.maker.recipe.shapes else None
    mixes: tuple[tuple[list[int], list[int], Sizes | None], ...] = (
        ([4, 0, 1, 6], [3, -1, 0, 2], None),
        ([1, 1, 1], [4, 1, 2], None),
        ([0, 17, 3], [-1, 1, 0], None),
        ([70, 5], [0, 3], None),
        ([3, 2], [16, 9], None),
        ([1] * 40, [*range(0, 40, 2), *range(1, 40, 2)], None),
        ([1, 70, 2], [3, 2, 0], real),
        ([1, 1, 1, 1], [1, 0, 4, 3], real),
    )
    for turn, (lengths, slots, shape) in enumerate(mixes):
        sizes = s.maker.sizes(sum(lengths) + 2, turn, shape)
        label = f"sequences {lengths} in {slots}"
        variant = s.variant_for(shape, turn)
        problem = s.maker.problem(sizes, variant, lengths, slots, max(slots) + 2, label=label)
        yield problem.label, partial(_equals_separate_calls, s, problem)


def _equals_separate_calls(s: Subject, problem: Problem) -> float:
    spacing = Spacing(gap=1, offset=1)
    together = execute(s.kernel, problem, spacing, 2)
    for i in range(len(problem.slot)):
        start, stop = problem.seq_start[i : i + 2]
        if start == stop:
            continue
        alone = execute(s.kernel, problem.cut([(i, 0, stop - start)]))
        for operand, ours, theirs in zip(
            problem.contract.outputs, together.outputs, alone.outputs, strict=True
        ):
            if not same_bits(ours[token_rows(operand, start, stop)], theirs):
                raise Finding(f"`{operand.name}` of sequence {i} has other bits than in a call of its own")
        for k, (operand, ours_s, theirs_s) in enumerate(
            zip(problem.contract.states, together.states, alone.states, strict=True)
        ):
            rows = problem.rows_of(k, i)
            if not same_bits(ours_s.stored[rows], theirs_s.stored[rows]):
                raise Finding(
                    f"carry `{operand.name}` of sequence {i} has other bits than in a call of its own"
                )
    return s.compare(problem, together)


def strided_operands(s: Subject) -> Iterator[Case]:
    spacings = (Spacing(1, 1), Spacing(3, 5, "start"), Spacing(64, 0), Spacing(17, 2), Spacing(9, 3))
    for turn, spacing in enumerate(spacings):
        shape = s.maker.recipe.shapes[0] if turn == len(spacings) - 1 and s.maker.recipe.shapes else None
        sizes, variant = s.maker.sizes(8, turn, shape), s.variant_for(shape, turn)
        problem = s.maker.problem(sizes, variant, [5, 2], [2, 0], 4)
        label = f"{problem.label}, gaps of {spacing.gap}, offset {spacing.offset}"
        yield label, partial(s.solve_and_compare, problem, spacing, 2)


def padding_rows(s: Subject) -> Iterator[Case]:
    """Rows past the last sequence hold NaN in, come out as 0, and change no bit of the others."""
    cases: list[tuple[int, int, Sizes | None]] = [(5, 3, None), (1, 15, None), (0, 4, None)]
    cases += [(n, 31, shape) for n in (1, 33) for shape in s.maker.recipe.shapes[:1]]
    for turn, (n_token, padding, shape) in enumerate(cases):
        sizes = s.maker.sizes(max(n_token, 1), turn, shape)
        whole = s.maker.problem(sizes, s.variant_for(shape, turn), slots=[1], n_slot=2)
        padded = whole.cut([(0, 0, n_token)] if n_token else [], padding)
        yield f"{padded.label}, {padding} rows of padding", partial(_padding_is_zero, s, padded)


def _padding_is_zero(s: Subject, padded: Problem) -> float:
    result = execute(s.kernel, padded, None, 2)
    n = padded.seq_start[-1]
    bare = execute(s.kernel, padded.cut([(0, 0, n)] if n else []))
    for operand, output, without in zip(padded.contract.outputs, result.outputs, bare.outputs, strict=True):
        if operand.has_tokens and output[token_rows(operand, n, padded.n_token)].any():
            raise Finding(f"`{operand.name}` is not 0 in the rows past the last sequence")
        if not same_bits(output[token_rows(operand, 0, n)], without):
            raise Finding(f"`{operand.name}` has other bits than without rows of padding")
    return s.compare(padded, result)


def empty_calls(s: Subject) -> Iterator[Case]:
    for lengths, slots in (([0], [-1]), ([], []), ([0, 0, 0], [-1, -1, -1])):
        problem = s.maker.problem(s.maker.sizes(1), s.maker.usual, [1], [0], 2)
        nothing = problem.cut([])
        empty = Problem(**{**vars(nothing), "seq_start": (0,) * (len(lengths) + 1), "slot": tuple(slots)})
        yield f"{problem.label}, {len(lengths)} empty sequences", partial(_changes_no_carry, s, empty)


def _changes_no_carry(s: Subject, problem: Problem) -> None:
    execute(s.kernel, problem, None, 2)  # foreign slots are all slots here, and are watched


def nan_stays_in_its_sequence(s: Subject) -> Iterator[Case]:
    for turn, operand in enumerate(o for o in s.maker.contract.inputs if o.role == "activation"):
        for value in (np.nan, np.inf):

            def spoiled(
                o: Operand, drawn: Float64, name: str = operand.name, value: float = value
            ) -> Float64:
                if o.name == name:
                    drawn[(slice(None),) * o.dims[0].index(TOKENS) + (4,)] = value
                return drawn

            if operand.dtype[0] not in ("f32", "f16", "bf16") or not operand.has_tokens:
                continue
            variant = next(v for v in s.maker.variants if operand.name not in v.absent)
            sizes, label = s.maker.sizes(9, turn), f"{value} in {operand.name}"
            problem = s.maker.problem(sizes, variant, [3, 4, 2], [2, 0, 1], 4, spoiled, label)
            yield problem.label, partial(_others_are_untouched, s, problem)


def _others_are_untouched(s: Subject, problem: Problem) -> None:
    """Without judging the numbers of the sequence that holds the NaN."""
    together = execute(s.kernel, problem, None, 2)
    for i in (0, 2):
        start, stop = problem.seq_start[i : i + 2]
        alone = execute(s.kernel, problem.cut([(i, 0, stop - start)]))
        for operand, ours, theirs in zip(
            problem.contract.outputs, together.outputs, alone.outputs, strict=True
        ):
            if not same_bits(ours[token_rows(operand, start, stop)], theirs):
                raise Finding(f"`{operand.name}` of sequence {i} changed, the value stands in sequence 1")


def _where(found: Float64, expected: Float64) -> str:
    """The index of the worst element, with both numbers."""
    with np.errstate(invalid="ignore"):
        difference = np.nan_to_num(np.abs(found.astype(np.float64) - expected), nan=np.inf)
    index = tuple(int(i) for i in np.unravel_index(int(difference.argmax()), difference.shape))
    return f"at {list(index)} is {found[index]:.9g}, expected {expected[index]:.9g}"
