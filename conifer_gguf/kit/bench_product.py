"""Times conifer.qmatmul/1 against ggml's product on the same blocks, as they lie in the file.

Both sides are nodes of a ggml graph, turn by turn. For few tokens there are copies of the weight, so that a run reads them from
memory as decoding does. Errors are against float64 with the numbers that the blocks mean.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..native_api import host
from ..native_api.call import Role
from ..native_api.kernels import Call, Kernel, View
from ..native_api.memory import Region
from ..ops import Contract
from .bench import Backend, Float32, turn_by_turn
from .values import Array, Float64, store

OP = "conifer.qmatmul/1"
FEW, COPIED_BYTES, MOST_COPIES = 8, 256 << 20, 64
CHECKED = 4  # rows of the output whose error is taken


@dataclass(frozen=True)
class Matrix:
    """Outputs and inputs of a weight, and which models have it."""

    label: str
    n_out: int
    n_in: int


MATRICES = (
    Matrix("granite-4.0-h-1b", 4096, 1536),
    Matrix("qwen3.5-0.8b", 3584, 1024),
)


@dataclass(frozen=True)
class ProductTiming:
    """Medians in microseconds of one product; the ratio is ggml's time over ours, with the middle half of the rounds."""

    model: str
    n_out: int
    n_in: int
    dtype: str
    n_tokens: int
    n_threads: int
    us: float
    ggml_us: float
    ratio: float
    ratio_low: float
    ratio_high: float
    products_per_s: float
    bytes_per_s: float
    error: float
    ggml_error: float

    def to_json(self) -> dict[str, Any]:
        """Its own fields and those that every row has."""
        return {
            "op": OP,
            "shape": f"{self.n_out} x {self.n_in} {self.dtype}",
            "us_per_token": self.us / self.n_tokens,
            "ggml_us_per_token": self.ggml_us / self.n_tokens,
            **asdict(self),
        }


def time_product(
    contract: Contract,
    kernel: Kernel,
    matrix: Matrix,
    dtype: str,
    n_tokens: int,
    n_threads: int,
    seconds: float = 1.0,
) -> ProductTiming:
    """Time `n_tokens` rows through one weight."""
    rng = np.random.default_rng(0)
    weight = store(dtype, rng.standard_normal((matrix.n_out, matrix.n_in)))
    x = rng.standard_normal((n_tokens, matrix.n_in)).astype(np.float32)
    size = weight.stored.nbytes
    copies = max(1, min(MOST_COPIES, COPIED_BYTES // size)) if n_tokens <= FEW else 1
    with Backend(n_threads, copies) as backend:
        sides = Sides(backend, contract, kernel, x, weight)
        sides.ours()
        sides.theirs()
        expected = x[-CHECKED:].astype(np.float64) @ weight.value.T
        errors = [_error(rows, expected) for rows in sides.outputs()]
        mine, its = turn_by_turn(sides.ours, sides.theirs, 2 * seconds)
    ratios = sorted(b / a for a, b in zip(mine, its, strict=True))
    one = statistics.median(mine) / copies
    return ProductTiming(
        matrix.label,
        matrix.n_out,
        matrix.n_in,
        dtype,
        n_tokens,
        n_threads,
        one * 1e6,
        statistics.median(its) / copies * 1e6,
        statistics.median(ratios),
        ratios[len(ratios) // 4],
        ratios[(3 * len(ratios)) // 4],
        n_tokens * matrix.n_out * matrix.n_in / one,
        size / one,
        *errors,
    )


def _error(found: Float32, expected: Float64) -> float:
    """Root mean square, relative to that of what was expected."""
    return float(np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean()))


class Sides:
    """Both products of the same tensors; only ggml's without a kernel."""

    def __init__(
        self, backend: Backend, contract: Contract, kernel: Kernel | None, x: Float32, weight: Array
    ) -> None:
        self.backend, self.kernel = backend, kernel
        self.shape = (len(x), weight.shape[0])
        activations = backend.tensor(x.shape)
        weights = [backend.tensor(weight.shape, weight.dtype) for _ in range(backend.copies)]
        self._failure = host.ffi.new("int32_t[2]")
        self._tasks: list[Any] = []
        self._calls = [product_call(contract, x, weight) for _ in weights] if kernel else []
        self._ours = self._nodes(kernel) if kernel else []
        self._theirs = [backend.lib.ggml_mul_mat(backend.context, w, activations) for w in weights]
        self._graphs = [backend.graph(nodes) for nodes in (self._ours, self._theirs)]
        backend.allocate()
        backend.set(activations, x)
        for w in weights:
            backend.set(w, weight.stored)
        for w, call, output in zip(weights, self._calls, self._ours, strict=bool(kernel)):
            places: tuple[tuple[Role, int, Any], ...] = (
                ("input", 0, activations),
                ("input", 1, w),
                ("output", 0, output),
            )
            for role, i, tensor in places:
                call.set_data(role, i, host.address(backend.lib.ggml_get_data(tensor)))
            call.set_sequences([0, len(x)], [0])

    def _nodes(self, kernel: Kernel) -> list[Any]:
        backend = self.backend
        need = kernel.plan(self._calls[0], backend.n_threads)
        self._scratch = Region(max(1, need.scratch_bytes))
        return [
            backend.custom_node(
                kernel, call, need.n_phase, self.shape, self._failure, self._scratch, self._tasks
            )
            for call in self._calls
        ]

    def ours(self) -> None:
        assert self.kernel is not None
        self.backend.compute(self._graphs[0])
        if self._failure[0]:
            raise self.kernel.failed(self._failure[0], "while it was timed")

    def theirs(self) -> None:
        self.backend.compute(self._graphs[1])

    def outputs(self) -> list[Float32]:
        """The last rows of each side's first product."""
        return [self.backend.values(nodes[0], self.shape)[-CHECKED:] for nodes in (self._ours, self._theirs)]


def product_call(contract: Contract, x: Float32, weight: Array) -> Call:
    """A call without addresses, to ask a kernel or to build a graph with."""
    return Call(
        contract,
        [View.dense("f32", x.shape), View.dense(weight.dtype, weight.shape, constant=True), None, None],
        [],
        [View.dense("f32", (len(x), weight.shape[0]))],
        *contract.attributes({}),
    )
