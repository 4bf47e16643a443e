"""A plugin's kernel as nodes of a graph: shapes from the op's contract, one node a phase, data pointers after allocation."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import KernelFailed, KernelMissing, ShapeMismatch
from ..native_api import ggml, host
from ..native_api.kernels import Call, Kernel, Need, View
from ..ops import Contract
from .blocks import Pool
from .carry import State
from .tensor import Shape, Tensor, dense_strides

if TYPE_CHECKING:
    from .graph import Graph


# Types by their C name, looked up once: a graph has hundreds of nodes.
_TASK, _MEMORY, _STATUS = (host.ffi.typeof(t) for t in ("struct conifer_task *", "void *", "int32_t *"))
_SOURCES, _USER = (ggml.ffi.typeof(t) for t in ("struct ggml_tensor *[]", "void *"))
NO_ATTRIBUTES: Mapping[str, str | float] = MappingProxyType({})


class KernelNode:
    """One call of one kernel in one graph, and every C struct that it needs."""

    def __init__(
        self, kernel: Kernel, call: Call, need: Need, operands: list[Tensor | None], output: Tensor
    ) -> None:
        self.kernel = kernel
        self.call = call
        self.need = need
        self.tasks: list[Any] = []
        self._operands = operands
        self._output = output
        self.constants = tuple(t.name for t in operands if t is not None and t.constant)

    def bind(self) -> None:
        """Point the call at the memory that ggml has allocated meanwhile."""
        lib = ggml.library()
        for i, operand in enumerate(self._operands):
            if operand is not None:
                self.call.set_data("input", i, host.address(lib.ggml_get_data(operand.pointer)))
        self.call.set_data("output", 0, host.address(lib.ggml_get_data(self._output.pointer)))

    def set_memory(self, scratch: int, packed: int) -> None:
        for task in self.tasks:
            task.scratch, task.packed = host.ffi.cast(_MEMORY, scratch), host.ffi.cast(_MEMORY, packed)


def add(
    g: Graph,
    op: str,
    operands: Sequence[Tensor | None],
    states: Sequence[State | Pool],
    attributes: Mapping[str, str | int | float],
) -> Tensor:
    """Append the nodes of one call to `g`; returns the output. Raises KernelMissing for an op that nobody supplies."""
    if op not in g.kernels:
        raise KernelMissing(op)
    kernels = g.kernels[op]
    contract = kernels.contract
    operands = [*operands, *[None] * (len(contract.inputs) - len(operands))]
    prepared = [
        _constant(g, contract, i, x) if x is not None and x.constant else x for i, x in enumerate(operands)
    ]
    starts = [0]
    for share in g.shares:
        starts.append(starts[-1] + share.n)
    call, shape = _call(contract, prepared, states, attributes, starts, [share.slot for share in g.shares])
    return _append(g, kernels.choose(call), call, prepared, shape, op)


def offer(
    g: Graph,
    op: str,
    operands: Sequence[Tensor | None],
    n_row: int,
    name: str,
    attributes: Mapping[str, str | float] = NO_ATTRIBUTES,
) -> Tensor | None:
    """Append a call without states whose `n_row` rows belong to no sequence; None where no kernel takes it."""
    kernels = g.kernels[op]
    known = zip(kernels.contract.inputs, operands, strict=True)
    if any(x is not None and x.dtype not in operand.dtype for operand, x in known):
        return None
    call, shape = _call(kernels.contract, operands, (), attributes, (0, n_row), (0,))
    kernel = kernels.willing(call)
    return _append(g, kernel, call, operands, shape, name) if kernel else None


def _call(
    contract: Contract,
    operands: Sequence[Tensor | None],
    states: Sequence[State | Pool],
    attributes: Mapping[str, str | int | float],
    starts: Sequence[int],
    slots: Sequence[int],
) -> tuple[Call, Shape]:
    """The call, and the shape of its output."""
    shapes = tuple(x.shape if x is not None else None for x in operands)
    shape = _output_shape(contract, shapes, tuple(s.shape[1:] for s in states))
    ints, reals = contract.attributes(attributes)
    call = Call(
        contract,
        [_view(x) for x in operands],
        [View.dense(s.dtype, s.shape, s.address) for s in states],
        [View.dense("f32", shape)],
        ints,
        reals,
        max_sequences=len(slots),
    )
    call.set_sequences(starts, slots)
    return call, shape


@functools.lru_cache(maxsize=1024)  # most layers of a model ask the same
def _output_shape(contract: Contract, shapes: tuple[Shape | None, ...], states: tuple[Shape, ...]) -> Shape:
    if contract.table is not None:
        (shape,) = contract.output_shapes(contract.bind(shapes, states))
        return shape
    bound = contract.bind(shapes)
    expected = tuple(contract.state_shapes(bound))
    if states != expected:
        names = ", ".join(s.name for s in contract.states)
        raise ShapeMismatch(
            contract.op, f"carry {names}", str([list(s) for s in expected]), str([list(s) for s in states])
        )
    (shape,) = contract.output_shapes(bound)
    return shape


def _append(
    g: Graph, kernel: Kernel, call: Call, operands: Sequence[Tensor | None], shape: Shape, name: str
) -> Tensor:
    op = kernel.op
    need = kernel.plan(call, g.n_threads)
    sources = [x for x in operands if x is not None and not x.constant]
    output, tasks = _nodes(g, kernel, call, need, sources, shape, name)
    node = KernelNode(kernel, call, need, list(operands), output)
    node.tasks = tasks
    g.kernel_nodes.append(node)
    if not need.split_exact:
        g.split_dependent.append(op)
    return output


def _constant(g: Graph, contract: Contract, index: int, x: Tensor) -> Tensor:
    """A weight in the dtype and rank of the contract: files keep some of them as [1, H] or in f16."""
    operand = contract.inputs[index]
    if x.dtype not in operand.dtype:
        x = g.weights.float32(x)
    ranks = {len(dims) for dims in operand.dims}
    if len(x.shape) not in ranks:
        squeezed = tuple(n for n in x.shape if n != 1)
        if len(squeezed) in ranks:
            return g.view(x, squeezed, dense_strides(x.dtype, squeezed), 0)
    return x


def _view(x: Tensor | None) -> View | None:
    if x is None:
        return None
    address = host.address(ggml.library().ggml_get_data(x.pointer)) if x.constant else 0
    return View(x.dtype, x.shape, x.strides, address, x.constant)


@functools.cache
def _run_phase() -> Any:
    """What ggml calls at each node."""
    return ggml.ffi.cast("ggml_custom_op_t", host.address(host.library().conifer_run_phase))


def _nodes(
    g: Graph, kernel: Kernel, call: Call, need: Need, sources: Sequence[Tensor], shape: Shape, name: str
) -> tuple[Tensor, list[Any]]:
    """ggml gives custom ops no barrier of their own, so every phase is a node; later ones work on the first's output."""
    if len(sources) > ggml.MAX_CUSTOM_SOURCES:
        raise KernelFailed(
            kernel.plugin, kernel.op, "CK_UNSUPPORTED",
            f"{len(sources)} computed operands, a graph node takes {ggml.MAX_CUSTOM_SOURCES}",
        )  # fmt: skip
    function = _run_phase()
    arguments = ggml.ffi.new(_SOURCES, [x.pointer for x in sources])
    tasks, pointer = [], None
    for phase in range(need.n_phase):
        task = host.ffi.new(_TASK)
        task.kernel = host.ffi.cast(_MEMORY, host.address(kernel.pointer))
        task.call = host.ffi.cast(_MEMORY, host.address(call.pointer))
        task.failure = host.ffi.cast(_STATUS, host.address(g.failure))
        task.phase, task.index = phase, len(g.kernel_nodes)
        user = ggml.ffi.cast(_USER, host.address(task))
        tasks.append(task)
        if pointer is None:
            dims = ggml.reversed_dims(shape)
            pointer = g.lib.ggml_custom_4d(
                g.context,
                ggml.TYPES_BY_NAME["f32"],
                *dims,
                arguments,
                len(sources),
                function,
                ggml.ALL_THREADS,
                user,
            )
        else:
            pointer = g.lib.ggml_custom_inplace(
                g.context, pointer, arguments, len(sources), function, ggml.ALL_THREADS, user
            )
        if phase < need.n_phase - 1:
            g.names[host.address(pointer)] = f"{name}, phase {phase}"
    return g.made(pointer, shape, name=name), tasks
