"""Times a kernel against ggml's own operator on the same numbers: one backend, the same threads, turn by turn.

Both sides are nodes of a ggml graph. For few tokens there are `MOST_COPIES` of them, each with its own carry, so that what
starting a graph costs does not drown one token, and a carry is not always in the cache. The outputs are compared before anything is timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import KernelFailed
from ..native_api import ggml, host
from ..native_api.kernels import Call, Kernel, View
from ..native_api.memory import Region
from ..ops import Contract

Float32 = NDArray[np.float32]
MOST_COPIES, FEW = 8, 64  # FEW: tokens up to which a graph holds copies
AGREEMENT = (
    1e-3  # ggml's gated_delta_net and ssm_scan sum in another order, the latter with approximate exponentials
)


@dataclass(frozen=True)
class Shape:
    """One thing to time. `label` names the models that have it; `gate` is the delta rule's."""

    op: str
    label: str
    sizes: Mapping[str, int]
    gate: str = "head"


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds. `mac_per_token` is the op's nominal work, 0 where it is bound by memory."""

    op: str
    shape: str
    model: str
    plugin: str
    n_tokens: int
    n_threads: int
    us_per_token: float
    ggml_us_per_token: float
    ratio: float
    ratio_low: float
    ratio_high: float
    mac_per_token: int
    peak_share: float
    largest_difference: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def time_kernel(
    contract: Contract,
    kernel: Kernel,
    shape: Shape,
    n_tokens: int,
    n_threads: int,
    seconds: float = 1.0,
    peak: float = 0.0,
) -> Timing:
    """Time one op at one shape. `peak` is what this machine reaches, in float32 products a second.

    Raises KernelFailed where the kernel refuses the shape or disagrees with ggml.
    """
    numbers = _NUMBERS[shape.op](n_tokens, shape)
    copies = MOST_COPIES if n_tokens <= FEW else 1
    with Backend(n_threads, copies) as backend:
        ours, theirs = _Ours(backend, contract, kernel, numbers), _Theirs(backend, shape.op, numbers)
        backend.allocate()
        ours.bind()
        theirs.fill()
        for side in (ours, theirs):
            side.run()
        difference = float(np.abs(ours.output() - theirs.output()).max() / np.abs(theirs.output()).max())
        if not difference < AGREEMENT:
            raise KernelFailed(
                kernel.plugin, kernel.op, "CK_OK", f"differs from ggml's operator by {difference:.1e}"
            )
        mine, its = turn_by_turn(ours.run, theirs.run, seconds)
    per_token = 1e6 / (copies * n_tokens)
    ratios = sorted(b / a for a, b in zip(mine, its, strict=True))
    us, work = statistics.median(mine) * per_token, _work(shape)
    return Timing(
        op=shape.op,
        shape=" ".join(f"{k}={v}" for k, v in shape.sizes.items())
        + (" per channel" if shape.gate == "channel" else ""),
        model=shape.label,
        plugin=kernel.plugin,
        n_tokens=n_tokens,
        n_threads=n_threads,
        us_per_token=us,
        ggml_us_per_token=statistics.median(its) * per_token,
        ratio=statistics.median(ratios),
        ratio_low=ratios[len(ratios) // 4],
        ratio_high=ratios[(3 * len(ratios)) // 4],
        mac_per_token=work,
        peak_share=work / (us * 1e-6) / peak if peak and work else 0.0,
        largest_difference=difference,
    )


def peak_products(n_threads: int, seconds: float = 0.3) -> float:
    """float32 multiply-adds a second that `n_threads` reach here together, on the instruction set that kernels take."""
    with ThreadPoolExecutor(n_threads) as pool:
        return sum(pool.map(host.multiply_adds, [seconds] * n_threads))


def turn_by_turn(
    ours: Callable[[], None], theirs: Callable[[], None], seconds: float
) -> tuple[list[float], list[float]]:
    mine: list[float] = []
    its: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(mine) < 5:
        mine.append(timed(ours))
        its.append(timed(theirs))
    return mine, its


def timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _work(shape: Shape) -> int:
    """Multiply-adds a token of the plain recurrence: two products per element of the carry, four for the delta rule."""
    s = shape.sizes
    if shape.op == "conifer.ssd_scan/1":
        return 2 * s["H"] * s["P"] * s["N"]
    if shape.op == "conifer.gated_delta/1":
        return 4 * s["H"] * s["I"] * s["V"]
    return 0


# --- numbers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """Operands in the order of the op's contract; None is absent. The first state's shape is one slot."""

    inputs: tuple[Float32 | None, ...]
    state: tuple[int, ...]
    output: tuple[int, ...]
    attributes: Mapping[str, str | int | float]


def _random(*shape: int, low: float = -1.0, high: float = 1.0) -> Float32:
    return np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)


def _conv(T: int, shape: Shape) -> Numbers:
    C, K = shape.sizes["C"], shape.sizes["K"]
    inputs = (_random(T, C), _random(C, K), None)
    return Numbers(inputs, (K - 1, C), (T, C), {"activation": "none"})


def _ssd(T: int, shape: Shape) -> Numbers:
    H, P, N, G = (shape.sizes[k] for k in "HPNG")
    x, dt, A = _random(T, H, P), _random(T, H, low=-7, high=-2), _random(H, low=-16, high=-1)
    inputs = (x, dt, A, _random(T, G, N), _random(T, G, N), None, None, None)
    return Numbers(inputs, (H, P, N), (T, H, P), {"dt_softplus": "yes"})


def _selective(T: int, shape: Shape) -> Numbers:
    M, N = shape.sizes["M"], shape.sizes["N"]
    x, dt, A = _random(T, M), _random(T, M, low=-7, high=-2), _random(M, N, low=-16, high=-1)
    inputs = (x, dt, A, _random(T, N), _random(T, N), None, None, None)
    return Numbers(inputs, (M, N), (T, M), {"dt_softplus": "yes"})


def _delta(T: int, shape: Shape) -> Numbers:
    H, J, I, V = (shape.sizes[k] for k in "HJIV")  # noqa: E741
    q, k = _random(T, J, I), _random(T, J, I)
    q, k = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
    gate = (
        _random(T, H, I, low=-3, high=-0.01) if shape.gate == "channel" else _random(T, H, low=-3, high=-0.01)
    )
    inputs = (q, k, _random(T, H, V), gate, _random(T, H, low=0), None, None)
    attributes = {"head_map": "tiled", "qk_norm": "none", "beta_act": "none", "scale": I**-0.5}
    return Numbers(inputs, (H, V, I), (T, H, V), attributes)


_NUMBERS: Mapping[str, Callable[[int, Shape], Numbers]] = {
    "conifer.causal_conv/1": _conv,
    "conifer.ssd_scan/1": _ssd,
    "conifer.selective_scan/1": _selective,
    "conifer.gated_delta/1": _delta,
}
OPS = tuple(_NUMBERS)


# --- the two sides ---------------------------------------------------------------------------------------------------


class Backend:
    """A CPU backend with graphs whose tensors live in one buffer."""

    def __init__(self, n_threads: int, copies: int = 1) -> None:
        self.lib = ggml.library()
        self.n_threads, self.copies = n_threads, copies
        self.context = ggml.new_context(512, 1024)
        self.backend = self.lib.ggml_backend_cpu_init()
        self.set_threads(n_threads)
        self.nodes: list[Any] = []
        self._buffer: Any = None

    def set_threads(self, n: int) -> None:
        """Compute with fewer threads than graphs were planned for, or with as many again."""
        self.lib.ggml_backend_cpu_set_n_threads(self.backend, n)

    def tensor(self, shape: Sequence[int], dtype: str = "f32") -> Any:
        return ggml.new_tensor(self.context, dtype, shape)

    def graph(self, nodes: Sequence[Any]) -> Any:
        graph = self.lib.ggml_new_graph_custom(self.context, 256, False)
        for node in nodes:
            self.lib.ggml_build_forward_expand(graph, node)
        return graph

    def custom_node(
        self,
        kernel: Kernel,
        call: Call,
        n_phase: int,
        shape: tuple[int, ...],
        failure: Any,
        scratch: Region,
        tasks: list[Any],
        packed: Region | None = None,
    ) -> Any:
        """A call as the engine runs it, a custom op for each phase; returns the last. `tasks` keeps its C structs alive."""
        pointer = None
        function = ggml.ffi.cast("ggml_custom_op_t", host.address(host.library().conifer_run_phase))
        for phase in range(n_phase):
            task = host.ffi.new("struct conifer_task *")
            task.kernel = host.ffi.cast("void *", host.address(kernel.pointer))
            task.call = host.ffi.cast("void *", host.address(call.pointer))
            task.failure, task.phase = failure, phase
            task.scratch = host.ffi.cast("void *", scratch.address)
            task.packed = host.ffi.cast("void *", packed.address if packed else 0)
            tasks.append(task)
            rest = (ggml.ffi.NULL, 0, function, ggml.ALL_THREADS, ggml.ffi.cast("void *", host.address(task)))
            if pointer is None:
                dims = ggml.reversed_dims(shape)
                pointer = self.lib.ggml_custom_4d(self.context, ggml.TYPES_BY_NAME["f32"], *dims, *rest)
            else:
                pointer = self.lib.ggml_custom_inplace(self.context, pointer, *rest)
        return pointer

    def allocate(self) -> None:
        self._buffer = self.lib.ggml_backend_alloc_ctx_tensors(self.context, self.backend)

    def compute(self, graph: Any) -> None:
        self.lib.ggml_backend_graph_compute(self.backend, graph)

    def set(self, tensor: Any, values: NDArray[Any]) -> None:
        values = np.ascontiguousarray(values)
        self.lib.ggml_backend_tensor_set(tensor, ggml.ffi.from_buffer(values), 0, values.nbytes)

    def values(self, tensor: Any, shape: tuple[int, ...]) -> Float32:
        size = 4 * int(np.prod(shape))
        data = ggml.ffi.buffer(self.lib.ggml_get_data(tensor), size)
        return np.frombuffer(data, np.float32).reshape(shape).copy()

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        if self._buffer is not None:
            self.lib.ggml_backend_buffer_free(self._buffer)
        self.lib.ggml_free(self.context)
        self.lib.ggml_backend_free(self.backend)


class _Ours:
    """The kernel as the engine runs it: a custom op for each phase."""

    def __init__(self, backend: Backend, contract: Contract, kernel: Kernel, numbers: Numbers) -> None:
        self.backend, self.numbers = backend, numbers
        self._kernel, self._contract = kernel, contract
        self._failure = host.ffi.new("int32_t[2]")
        size = int(np.prod(numbers.state))
        self._carry = Region(4 * size * backend.copies)
        self.calls = [self._call(self._carry.address + 4 * size * i) for i in range(backend.copies)]
        need = kernel.plan(self.calls[0], backend.n_threads)
        self._scratch, self._packed = Region(need.scratch_bytes), Region(need.packed_bytes)
        if need.packed_bytes:
            kernel.pack(self.calls[0], self._packed.address)
        self._tasks: list[Any] = []
        self.outputs = [
            backend.custom_node(
                kernel,
                call,
                need.n_phase,
                numbers.output,
                self._failure,
                self._scratch,
                self._tasks,
                self._packed,
            )
            for call in self.calls
        ]
        self._graph = backend.graph(self.outputs)

    def _call(self, carry: int) -> Call:
        n = self.numbers
        constant = {o.name for o in self._contract.inputs if o.role == "constant"}
        inputs = [
            None if a is None else View.dense("f32", a.shape, a.ctypes.data, o.name in constant)
            for a, o in zip(n.inputs, self._contract.inputs, strict=True)
        ]
        ints, reals = self._contract.attributes(n.attributes)
        state = [View.dense("f32", (1, *n.state), carry)]
        call = Call(self._contract, inputs, state, [View.dense("f32", n.output)], ints, reals, 1)
        call.set_sequences([0, n.output[0]], [0])
        return call

    def bind(self) -> None:
        for call, output in zip(self.calls, self.outputs, strict=True):
            call.set_data("output", 0, host.address(self.backend.lib.ggml_get_data(output)))

    def run(self) -> None:
        self.backend.compute(self._graph)
        if self._failure[0]:
            raise self._kernel.failed(self._failure[0], "while it was timed")

    def output(self) -> Float32:
        """Of the first run: carries move on."""
        return self.backend.values(self.outputs[0], self.numbers.output)


class _Theirs:
    """ggml's operator, with the carry as one of its operands; what it returns begins with the output."""

    def __init__(self, backend: Backend, op: str, numbers: Numbers) -> None:
        self.backend, self.numbers = backend, numbers
        self._filled: list[tuple[Any, NDArray[Any]]] = []
        build = getattr(self, op.removeprefix("conifer.").removesuffix("/1"))
        self.outputs = [build() for _ in range(backend.copies)]
        self._graph = backend.graph(self.outputs)

    def _given(self, values: NDArray[Any], dtype: str = "f32") -> Any:
        tensor = self.backend.tensor(values.shape, dtype)
        self._filled.append((tensor, values))
        return tensor

    def _input(self, index: int, *shape: int) -> Any:
        values = self.numbers.inputs[index]
        assert values is not None
        return self._given(values.reshape(shape) if shape else values)

    def _carry(self, *shape: int) -> Any:
        return self._given(np.zeros(shape, np.float32))

    def causal_conv(self) -> Any:
        x = self.numbers.inputs[0]
        assert x is not None
        before = np.zeros((self.numbers.state[0], x.shape[1]), np.float32)
        window = np.concatenate([before, x]).T[None]
        return self.backend.lib.ggml_ssm_conv(self.backend.context, self._given(window), self._input(1))

    def ssd_scan(self) -> Any:
        H, P, N = self.numbers.state
        T, G = self.numbers.output[0], _heads(self.numbers.inputs[3])
        return self._scan(self._carry(1, H, P, N), (1, T, H, P), (1, T, H), (H, 1), (1, T, G, N))

    def selective_scan(self) -> Any:
        M, N = self.numbers.state
        T = self.numbers.output[0]
        return self._scan(self._carry(1, M, 1, N), (1, T, M, 1), (1, T, M), (M, N), (1, T, 1, N))

    def _scan(
        self, carry: Any, x: tuple[int, ...], dt: tuple[int, ...], A: tuple[int, ...], BC: tuple[int, ...]
    ) -> Any:
        operands = [self._input(i, *s) for i, s in enumerate((x, dt, A, BC, BC))]
        ids = self._given(np.zeros(1, np.int32), "i32")
        return self.backend.lib.ggml_ssm_scan(self.backend.context, carry, *operands, ids, 1)

    def gated_delta(self) -> Any:
        n = self.numbers
        H, V, I = n.state  # noqa: E741
        T, J = n.output[0], _heads(n.inputs[0])
        gate = n.inputs[3]
        assert gate is not None
        operands = [
            self._input(0, 1, T, J, I),
            self._input(1, 1, T, J, I),
            self._input(2, 1, T, H, V),
            self._input(3, 1, T, H, gate.shape[2] if gate.ndim == 3 else 1),
            self._input(4, 1, T, H, 1),
            self._carry(1, H, V, I),
        ]
        return self.backend.lib.ggml_gated_delta_net(self.backend.context, *operands, 1)

    def fill(self) -> None:
        for tensor, values in self._filled:
            self.backend.set(tensor, values)

    def run(self) -> None:
        self.backend.compute(self._graph)

    def output(self) -> Float32:
        return self.backend.values(self.outputs[0], self.numbers.output)


def _heads(values: Float32 | None) -> int:
    assert values is not None
    return int(values.shape[1])
