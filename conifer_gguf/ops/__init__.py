"""The contracts of the operators that plugins supply: one folder an op, `op.toml` and `reference.py`.

`op.toml` says which operands an op has, in which order, with which symbolic dimensions; the graph's shape check, the
kit's inputs and the header docs all come from it. `reference.py` is the specification in NumPy float64.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import operator
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ShapeMismatch

Dims = tuple[str, ...]
Shape = tuple[int, ...]
TOKENS = "T"  # the symbol of the axis that seq_start cuts into sequences


@dataclass(frozen=True)
class Operand:
    """One input, state or output. `dims` are alternatives; most operands have one. A state's dims are per slot."""

    name: str
    role: Literal["activation", "constant", "state", "output"]
    dtype: tuple[str, ...]
    dims: tuple[Dims, ...]
    optional: bool
    range: tuple[float, float]
    text: str

    @property
    def has_tokens(self) -> bool:
        return TOKENS in self.dims[0]


@dataclass(frozen=True)
class IntAttribute:
    name: str
    values: Mapping[str, int]
    default: int
    text: str


@dataclass(frozen=True)
class RealAttribute:
    name: str
    default: float
    text: str


@dataclass(frozen=True)
class Table:
    """How an op finds the cache rows of a sequence: pools whose dims name `block` hold blocks of so many positions, and the
    state `state` lists, slot by slot, which blocks are whose. `position` is the input with each token's position."""

    state: str
    position: str
    block: str


class Reference(Protocol):
    """The specification of an op: float64 in, float64 out; `state` arrays [n_slot, ...] are updated in place."""

    def __call__(
        self,
        inputs: Sequence[NDArray[np.float64] | None],
        state: Sequence[NDArray[np.float64]],
        int_attr: Sequence[int],
        real_attr: Sequence[float],
        seq_start: Sequence[int],
        slot: Sequence[int],
    ) -> list[NDArray[np.float64]]: ...


@dataclass(frozen=True, eq=False)  # by identity: what depends on one is remembered by it
class Contract:
    """What every kernel of one op receives and returns, in the order of `ck_call`."""

    op: str
    title: str
    equation: str
    source: str
    dims: Mapping[str, str]
    inputs: tuple[Operand, ...]
    states: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    int_attrs: tuple[IntAttribute, ...]
    real_attrs: tuple[RealAttribute, ...]
    table: Table | None
    layers: str  # what layers that call this op are called; empty for an op that several kinds share
    folder: Path

    def bind(self, shapes: Sequence[Shape | None], states: Sequence[Shape] = ()) -> dict[str, int]:
        """Values of the symbolic dims, from the input shapes in order (None is an absent operand), and from the shapes of
        the states, per slot or block, where they are known.

        Raises ShapeMismatch naming the operand whose shape contradicts an earlier one.
        """
        if len(shapes) != len(self.inputs):
            raise ShapeMismatch(self.op, "inputs", f"{len(self.inputs)} operands", f"{len(shapes)} operands")
        bound: dict[str, int] = {}
        known = zip(self.states, states, strict=bool(states))
        for operand, shape in (*zip(self.inputs, shapes, strict=True), *known):
            if shape is None:
                if not operand.optional:
                    raise ShapeMismatch(self.op, operand.name, _show(operand.dims), "absent")
            elif not any(_unify(dims, shape, bound) for dims in operand.dims):
                values = ", ".join(f"{k} = {v}" for k, v in bound.items())
                raise ShapeMismatch(
                    self.op, operand.name, _show(operand.dims) + f" with {values}", str(list(shape))
                )
        return bound

    def output_shapes(self, bound: Mapping[str, int]) -> list[Shape]:
        return [_evaluate_all(o.dims[0], bound) for o in self.outputs]

    def state_shapes(self, bound: Mapping[str, int]) -> list[Shape]:
        """Per slot, or per block: the pool of state i is [n_slot, *shape], or [n_block, *shape] where a table leads to it."""
        return [_evaluate_all(s.dims[0], bound) for s in self.states]

    def in_blocks(self, state: Operand) -> bool:
        """Whether the table says which rows of this state's pool belong to a sequence, and not its slot."""
        return self.table is not None and self.table.block in state.dims[0]

    def attributes(self, given: Mapping[str, str | int | float]) -> tuple[list[int], list[float]]:
        """Attribute arrays in `ck_call` order; what is not given takes its default. Raises KeyError on a typo."""
        unknown = set(given) - {a.name for a in self.int_attrs} - {a.name for a in self.real_attrs}
        if unknown:
            raise KeyError(f"{self.op} has no attribute {sorted(unknown)}")
        ints = [_int_value(a, given.get(a.name, a.default)) for a in self.int_attrs]
        reals = [float(given.get(a.name, a.default)) for a in self.real_attrs]
        return ints, reals

    def reference(self) -> Reference:
        """The function `reference` of the folder's reference.py."""
        spec = importlib.util.spec_from_file_location(
            f"reference_{self.folder.name}", self.folder / "reference.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function: Reference = module.reference
        return function


@functools.cache
def contracts() -> Mapping[str, Contract]:
    """The ops of this package by id, found by listing this folder."""
    found = (read_contract(path.parent) for path in sorted(Path(__file__).parent.glob("*/op.toml")))
    return {contract.op: contract for contract in found}


def read_contract(folder: Path) -> Contract:
    """Read `op.toml` of one folder; a plugin that brings a new op ships such a folder."""
    data = tomllib.loads((folder / "op.toml").read_text("utf-8"))
    return Contract(
        op=data["op"],
        title=data["title"],
        equation=data["equation"].strip(),
        source=data["source"],
        dims=data["dims"],
        inputs=tuple(_operand(o, o["role"]) for o in data["input"]),
        states=tuple(_operand(o, "state") for o in data.get("state", ())),
        outputs=tuple(_operand(o, "output") for o in data["output"]),
        int_attrs=tuple(
            IntAttribute(a["name"], a["values"], a["values"][a["default"]], a.get("text", ""))
            for a in data.get("int_attr", ())
        ),
        real_attrs=tuple(
            RealAttribute(a["name"], a["default"], a.get("text", "")) for a in data.get("real_attr", ())
        ),
        table=Table(**data["table"]) if "table" in data else None,
        layers=data.get("layers", ""),
        folder=folder,
    )


def _operand(data: dict[str, Any], role: Literal["activation", "constant", "state", "output"]) -> Operand:
    dims = data["dims"]
    alternatives = dims if dims and isinstance(dims[0], list) else [dims]
    low, high = data.get("range", (-2.0, 2.0))
    return Operand(
        name=data["name"],
        role=role,
        dtype=tuple(data.get("dtype", ["f32"])),
        dims=tuple(tuple(d) for d in alternatives),
        optional=data.get("optional", False),
        range=(low, high),
        text=data.get("text", ""),
    )


def _int_value(attribute: IntAttribute, value: str | int | float) -> int:
    return attribute.values[value] if isinstance(value, str) else int(value)


def _unify(dims: Dims, shape: Shape, bound: dict[str, int]) -> bool:
    """Bind plain names on first sight, compare everything else; `bound` changes only on success."""
    if len(dims) != len(shape):
        return False
    trial = dict(bound)
    for dim, size in zip(dims, shape, strict=True):
        if dim.isidentifier() and dim not in trial:
            trial[dim] = size
        elif evaluate(dim, trial) != size:
            return False
    bound.update(trial)
    return True


def _evaluate_all(dims: Dims, bound: Mapping[str, int]) -> Shape:
    return tuple(evaluate(dim, bound) for dim in dims)


def _show(alternatives: tuple[Dims, ...]) -> str:
    return " or ".join(f"[{', '.join(dims)}]" for dims in alternatives)


_OPERATORS: dict[type[ast.operator], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def evaluate(expression: str, bound: Mapping[str, int]) -> int:
    """A dimension such as `K-1` or `2*H*P`: names, integers, + - * // and nothing else."""
    if expression in bound:  # nearly all are
        return bound[expression]

    def walk(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(value)):
                return value
            case ast.Name(id=name):
                return bound[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return int(_OPERATORS[type(op)](walk(left), walk(right)))
            case _:
                raise ValueError(f"dimension `{expression}` uses more than names, integers and + - * //")

    return walk(_parse(expression))


@functools.cache
def _parse(expression: str) -> ast.expr:
    return ast.parse(expression, mode="eval").body
