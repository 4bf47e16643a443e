"""Makes problems from the contract of an op and its recipe: sizes, variants and random numbers, the same every time."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from ..native_api.cdef import BLOCK
from ..ops import TOKENS, Contract, IntAttribute, Operand, evaluate
from .blocks import Addresses, addresses
from .problem import Problem
from .recipe import Recipe, Sizes, When
from .values import CANARY, Array, Float64, read, store

USUAL_RANGE = (-2.0, 2.0)  # what Contract gives an operand that states no range
SIZES = (5, 7, 3, 11, 6, 13, 9)  # of dimensions without a recipe: no two of one call are equal
MAX_VARIANTS = 96

Shaper = Callable[[Operand, Float64], Float64]  # changes the numbers of one operand


@dataclass(frozen=True)
class Variant:
    """One way to call an op: absent operands, which alternative of its dims and dtypes an operand uses, attributes."""

    absent: frozenset[str] = frozenset()
    form: Mapping[str, int] = field(default_factory=dict)
    dtype: Mapping[str, str] = field(default_factory=dict)
    attrs: Mapping[str, str] = field(default_factory=dict)
    reals: Mapping[str, float] = field(default_factory=dict)

    def label(self) -> str:
        parts = [f"without {name}" for name in sorted(self.absent)]
        parts += [f"{name} as form {i + 1}" for name, i in self.form.items() if i]
        parts += [f"{name} in {dtype}" for name, dtype in self.dtype.items()]
        parts += [f"{name}={value}" for name, value in self.attrs.items()]
        parts += [f"{name}={value:g}" for name, value in self.reals.items()]
        return ", ".join(parts)


T = TypeVar("T")


def _products(choices: Sequence[Sequence[dict[str, T]]]) -> list[dict[str, T]]:
    """Every way to take one dict of each list, merged."""
    return [{k: v for part in parts for k, v in part.items()} for parts in itertools.product(*choices)]


class Maker:
    def __init__(self, contract: Contract, recipe: Recipe) -> None:
        self.contract = contract
        self.recipe = recipe
        self.free = [d for d in contract.dims if d != TOKENS and d not in recipe.sizes]
        # As models mostly call it: everything present, attributes at their defaults.
        self.usual = Variant(attrs={a.name: _default_name(a) for a in contract.int_attrs})
        self.variants = self._variants()

    # --- sizes ---------------------------------------------------------------------------------------------------

    def sizes(self, n_token: int, turn: int = 0, fixed: Mapping[str, int] | None = None) -> Sizes:
        """Sizes of all dimensions, no two equal where the recipe allows; `turn` takes others."""
        sizes = {TOKENS: n_token, **(fixed or {})}
        pool = [n for n in SIZES[turn % len(SIZES) :] + SIZES[: turn % len(SIZES)] if n not in sizes.values()]
        for name in self.free:
            if name not in sizes:
                sizes[name] = pool.pop(0)
        waiting = [name for name in self.recipe.sizes if name not in sizes]
        while waiting:
            ready = [n for n in waiting if self._known(n, sizes)]
            if not ready:
                raise ValueError(
                    f"{self.contract.op}: the sizes of {', '.join(waiting)} depend on each other"
                )
            name = ready[0]
            choices = [evaluate(str(c), sizes) for c in self.recipe.sizes[name]]
            unlike = [c for c in choices if c not in sizes.values()] or choices
            sizes[name] = unlike[turn % len(unlike)]
            waiting.remove(name)
        return sizes

    def without_dependents(self, shape: Sizes, name: str) -> Sizes:
        """Those sizes of a shape that stay as they are when dimension `name` changes."""

        def depends(other: str) -> bool:
            words = " ".join(str(choice) for choice in self.recipe.sizes.get(other, ()))
            return name in re.findall(r"[A-Za-z_]\w*", words)

        return {k: v for k, v in shape.items() if not depends(k)}

    def _known(self, name: str, sizes: Sizes) -> bool:
        try:
            return bool([evaluate(str(c), sizes) for c in self.recipe.sizes[name]])
        except KeyError:
            return False

    # --- variants ------------------------------------------------------------------------------------------------

    def _variants(self) -> list[Variant]:
        """All legal combinations; a fixed choice of them when many."""
        optional = [o.name for o in self.contract.inputs if o.optional]
        absences = [
            frozenset(c) for n in range(len(optional) + 1) for c in itertools.combinations(optional, n)
        ]
        absences = [
            a for a in absences if all(name in a or need not in a for name, need in self.recipe.needs.items())
        ]
        forms = _products(self._form_groups())
        dtypes = _products([[{o.name: d} for d in o.dtype] for o in self._operands() if len(o.dtype) > 1])
        attrs = _products([[{a.name: v} for v in a.values] for a in self.contract.int_attrs])
        every = [Variant(*parts) for parts in itertools.product(absences, forms, dtypes, attrs)]
        if len(every) > MAX_VARIANTS:
            order = np.random.default_rng(0).permutation(len(every) - 1)[: MAX_VARIANTS - 1]
            every = [every[0], *(every[i + 1] for i in sorted(order))]
        return [replace(v, reals=self._reals(i)) for i, v in enumerate(every)]

    def _form_groups(self) -> list[list[dict[str, int]]]:
        """For each group of operands that change form together, one choice per form."""
        grouped = list(self.recipe.same_form)
        alone = [
            [o.name] for o in self._operands() if len(o.dims) > 1 and not any(o.name in g for g in grouped)
        ]
        count = {o.name: len(o.dims) for o in self._operands()}
        return [[dict.fromkeys(group, i) for i in range(count[group[0]])] for group in (*grouped, *alone)]

    def _reals(self, turn: int) -> dict[str, float]:
        return {name: values[turn % len(values)] for name, values in self.recipe.real.items()}

    def _operands(self) -> tuple[Operand, ...]:
        return (*self.contract.inputs, *self.contract.states, *self.contract.outputs)

    @staticmethod
    def shape(operand: Operand, variant: Variant, sizes: Sizes) -> tuple[int, ...]:
        """Of a carry: of one slot."""
        dims = operand.dims[variant.form.get(operand.name, 0)]
        return tuple(evaluate(d, sizes) for d in dims)

    def ranges(self, variant: Variant) -> dict[str, tuple[float, float]]:
        """Ranges of operands that this variant replaces."""
        return {k: v for when in self.when(variant) for k, v in when.range.items()}

    def when(self, variant: Variant) -> list[When]:
        return [w for w in self.recipe.when if all(variant.attrs.get(k) == v for k, v in w.attr.items())]

    # --- problems ------------------------------------------------------------------------------------------------

    def problem(
        self,
        sizes: Sizes,
        variant: Variant,
        lengths: Sequence[int] | None = None,
        slots: Sequence[int] | None = None,
        n_slot: int = 1,
        shaper: Shaper | None = None,
        label: str = "",
    ) -> Problem:
        """A call whose sequences have `lengths` (default: one of all tokens); rows that they leave are padding."""
        lengths = [sizes[TOKENS]] if lengths is None else lengths
        slots = list(range(len(lengths))) if slots is None else slots
        variant = self._fitting(variant, sizes)
        shown = " ".join(f"{k}={v}" for k, v in sizes.items())
        label = ", ".join(part for part in (shown, label, variant.label()) if part)
        rng = np.random.default_rng(zlib.crc32(label.encode()))
        ints, reals = self.contract.attributes({**variant.attrs, **variant.reals})
        held = addresses(self.contract, sizes, lengths, slots, n_slot, rng)
        draw = _Draw(variant, self.when(variant), sizes, rng, shaper, held, self._stored_as(variant))
        inputs = tuple(None if o.name in variant.absent else draw(o, ()) for o in self.contract.inputs)
        used = [slot for slot, length in zip(slots, lengths, strict=True) if length]
        states = []
        for operand in self.contract.states:
            if held is not None and self.contract.in_blocks(operand):
                axis = operand.dims[0].index(held.block) + 1
                states.append(_poison_unheld(draw(operand, (held.n_block,)), axis, held.length))
            else:
                states.append(_poison_unused(draw(operand, (n_slot,)), used))
        starts = [0, *itertools.accumulate(lengths)]
        return Problem(
            label,
            self.contract,
            sizes,
            inputs,
            tuple(states),
            tuple(ints),
            tuple(reals),
            tuple(starts),
            tuple(slots),
        )

    def _fitting(self, variant: Variant, sizes: Sizes) -> Variant:
        """Without dtypes whose blocks do not fit into a row of these sizes."""
        dtype = dict(variant.dtype)
        for operand in self._operands():
            if (
                operand.name in dtype
                and self.shape(operand, variant, sizes)[-1] % BLOCK[dtype[operand.name]][0]
            ):
                dtype[operand.name] = operand.dtype[0]
        return replace(variant, dtype=dtype)

    def _stored_as(self, variant: Variant) -> dict[str, str]:
        """For operands that must be `representable`: the dtype that holds their numbers."""
        first = {o.name: o.dtype[0] for o in self._operands()}
        return {
            name: variant.dtype.get(other, first[other]) for name, other in self.recipe.representable.items()
        }


def _default_name(attribute: IntAttribute) -> str:
    return next(name for name, value in attribute.values.items() if value == attribute.default)


class _Draw:
    """Random numbers for the operands of one problem."""

    def __init__(
        self,
        variant: Variant,
        when: Sequence[When],
        sizes: Sizes,
        rng: np.random.Generator,
        shaper: Shaper | None,
        addresses: Addresses | None,
        stored_as: Mapping[str, str],
    ) -> None:
        self.variant, self.when, self.sizes, self.rng, self.shaper = variant, when, sizes, rng, shaper
        self.given = addresses.numbers if addresses else {}
        self.stored_as = stored_as

    def __call__(self, operand: Operand, leading: tuple[int, ...]) -> Array:
        if operand.name in self.given:
            return store(operand.dtype[0], self.given[operand.name])
        shape = leading + Maker.shape(operand, self.variant, self.sizes)
        low, high = operand.range
        for when in self.when:
            low, high = when.range.get(operand.name, (low, high))
        value = self.rng.uniform(low, high, shape)
        if self.shaper is not None:
            value = self.shaper(operand, value)
        if any(operand.name in when.unit_rows for when in self.when):
            value = value / np.maximum(np.sqrt((value**2).sum(-1, keepdims=True)), 1e-30)
        if operand.name in self.stored_as:
            value = store(self.stored_as[operand.name], value).value
        return store(self.variant.dtype.get(operand.name, operand.dtype[0]), value)


def _poison_unused(pool: Array, used: Sequence[int]) -> Array:
    """Slots that no sequence of the call owns hold NaN, or -1, so that it shows when one is read."""
    stored = pool.stored.copy()
    unused = [i for i in range(len(stored)) if i not in used]
    for slot in unused:
        stored[slot : slot + 1].view(np.uint8)[...] = CANARY
    return Array(pool.dtype, stored, read(pool.dtype, stored, pool.shape))


def _poison_unheld(pool: Array, axis: int, length: Sequence[int]) -> Array:
    """Rows of blocks past what they hold are NaN; `axis` counts the rows of a block."""
    stored = pool.stored.copy()
    for block, n in enumerate(length):
        np.moveaxis(stored[block], axis - 1, 0)[n:] = np.frombuffer(
            bytes([CANARY]) * stored.itemsize, stored.dtype
        )[0]
    return Array(pool.dtype, stored, read(pool.dtype, stored, pool.shape))
