"""Runs graphs: one backend, one buffer for everything between inputs and output, and graphs that are kept for reuse."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import Cancelled, RuntimeFailure
from ..native_api import ggml, host
from ..native_api.kernels import Kernel
from ..native_api.memory import Region
from .carry import CACHE_STEP
from .graph import Graph, Share
from .profile import NodeTime, Stopwatch
from .supply import Supply
from .weights import WeightFile

KEPT_GRAPHS = 12
Wanted = Literal["last", "all"]
Forward = Callable[[Graph], None]


@dataclass(frozen=True)
class GraphKey:
    """Graphs are equal in everything but the positions of their tokens when their keys are."""

    slots: tuple[tuple[int, int, int], ...]  # slot, tokens, cache rows read
    wanted: Wanted


@dataclass(frozen=True)
class Built:
    """What a graph was made of: its kernels in order, and what in it has other bits when tokens come in other steps."""

    kernels: tuple[Kernel, ...]
    split_dependent: frozenset[str]


class Arena:
    """One allocator of ggml, reserved for the largest graph: a graph that outgrew it would move under the others."""

    def __init__(self, backend: Any) -> None:
        self._lib = ggml.library()
        self._pointer = self._lib.ggml_gallocr_new(self._lib.ggml_backend_get_default_buffer_type(backend))
        self.graphs: OrderedDict[GraphKey, Graph] = OrderedDict()

    @property
    def nbytes(self) -> int:
        return int(self._lib.ggml_gallocr_get_buffer_size(self._pointer, 0))

    def place(self, graph: Graph) -> None:
        before = self.nbytes
        if not self._lib.ggml_gallocr_alloc_graph(self._pointer, graph.nodes):
            raise RuntimeFailure("building a graph", "ggml could not allocate its intermediate results")
        if self.nbytes != before:
            self.forget()  # their intermediate results were in the old buffer

    def forget(self) -> None:
        while self.graphs:
            self.graphs.popitem()[1].close()

    def close(self) -> None:
        self.forget()
        self._lib.ggml_gallocr_free(self._pointer)


class Executor:
    """Computes steps of one model. One thread; `stop` may come from another."""

    def __init__(
        self, weights: WeightFile, kernels: Mapping[str, Supply], forward: Forward, n_threads: int, n_row: int
    ) -> None:
        self._lib = ggml.library()
        self._weights = weights
        self._kernels = kernels
        self._forward = forward
        self._n_threads = n_threads
        self._n_row = n_row
        self._backend = self._lib.ggml_backend_cpu_init()
        self._lib.ggml_backend_cpu_set_n_threads(self._backend, n_threads)
        self._arenas: dict[Wanted, Arena] = {}
        self._scratch = Region(64)
        self._packed: dict[tuple[str, ...], Region] = {}
        self._running: Graph | None = None

    def reserve(self, shares: Sequence[Share], wanted: Wanted) -> Built:
        """Make room for the largest step once, so that later ones fit without moving anything."""
        graph = self._graph(shares, wanted)
        return Built(tuple(node.kernel for node in graph.kernel_nodes), frozenset(graph.split_dependent))

    def run(self, shares: Sequence[Share], tokens: NDArray[np.int32], wanted: Wanted) -> NDArray[np.float32]:
        """One step: float32 [rows, n_vocab], a copy.

        Raises Cancelled, KernelFailed or RuntimeFailure; what the sequences remember is torn then.
        """
        graph = self._graph(shares, wanted)
        _fill(graph, shares, tokens, self._n_row)
        library = host.library()
        self._compute(graph, library.conifer_should_stop, graph.failure)
        assert graph.output is not None
        return _values(graph.output).copy()

    def measure(
        self, shares: Sequence[Share], tokens: NDArray[np.int32], wanted: Wanted = "last"
    ) -> list[NodeTime]:
        """Run one step as `run` does and tell how long each node of its graph took."""
        graph = self._graph(shares, wanted)
        _fill(graph, shares, tokens, self._n_row)
        watch = Stopwatch(graph)
        watch.start()
        self._compute(graph, host.library().conifer_note_time, watch.pointer)
        return watch.times()

    def _compute(self, graph: Graph, after_each_node: Any, userdata: Any) -> None:
        graph.failure[0] = 0
        self._lib.ggml_backend_cpu_set_abort_callback(
            self._backend,
            ggml.ffi.cast("ggml_abort_callback", host.address(after_each_node)),
            ggml.ffi.cast("void *", host.address(userdata)),
        )
        self._running = graph
        try:
            status = self._lib.ggml_backend_graph_compute(self._backend, graph.nodes)
        finally:
            self._running = None
        _check(graph, status)

    def stop(self) -> None:
        """End the running step before its next node. Any thread."""
        graph = self._running
        if graph is not None:
            graph.failure[0] = host.STOPPED

    def _graph(self, shares: Sequence[Share], wanted: Wanted) -> Graph:
        reads = [min(self._n_row, -(-(s.start + s.n) // CACHE_STEP) * CACHE_STEP) for s in shares]
        key = GraphKey(tuple((s.slot, s.n, n) for s, n in zip(shares, reads, strict=True)), wanted)
        arena = self._arenas.setdefault(wanted, Arena(self._backend))
        if key in arena.graphs:
            arena.graphs.move_to_end(key)
            return arena.graphs[key]
        graph = Graph(shares, reads, wanted, self._kernels, self._weights, self._n_threads)
        try:
            self._forward(graph)
            arena.place(graph)
            graph.bind()
            self._give_memory(graph)
        except BaseException:
            graph.close()
            raise
        arena.graphs[key] = graph
        if len(arena.graphs) > KEPT_GRAPHS:
            arena.graphs.popitem(last=False)[1].close()
        return graph

    def _give_memory(self, graph: Graph) -> None:
        most = max((node.need.scratch_bytes for node in graph.kernel_nodes), default=0)
        if most > self._scratch.nbytes:
            for arena in self._arenas.values():
                arena.forget()  # they point into the smaller one
            self._scratch.close()
            self._scratch = Region(most)
        for node in graph.kernel_nodes:
            packed = 0
            if node.need.packed_bytes:
                packed = self._pack(node).address
            node.set_memory(self._scratch.address, packed)

    def _pack(self, node: Any) -> Region:
        key = (node.kernel.op, node.kernel.plugin, *node.constants)
        if key not in self._packed:
            region = Region(node.need.packed_bytes)
            node.kernel.pack(node.call, region.address)
            self._packed[key] = region
        return self._packed[key]

    def close(self) -> None:
        for arena in self._arenas.values():
            arena.close()
        self._lib.ggml_backend_free(self._backend)
        for region in (self._scratch, *self._packed.values()):
            region.close()


def _check(graph: Graph, status: int) -> None:
    code, index = graph.failure
    if code == host.STOPPED:
        raise Cancelled()
    if code != 0:
        kernel = graph.kernel_nodes[index].kernel
        raise kernel.failed(code, "while computing a step")
    if status != ggml.SUCCESS:
        raise RuntimeFailure("computing a step", f"ggml returned status {status}")


def _fill(graph: Graph, shares: Sequence[Share], tokens: NDArray[np.int32], n_row: int) -> None:
    """Write the inputs of a step: what changes from run to run of one graph."""
    values: dict[str, NDArray[np.generic]] = {"tokens": tokens}
    positions = np.concatenate([np.arange(s.start, s.start + s.n) for s in shares])
    values["positions"] = positions
    values["cache_rows"] = positions + np.repeat([s.slot * n_row for s in shares], [s.n for s in shares])
    values["wanted"] = np.cumsum([s.n for s in shares]) - 1
    for i, (share, n_kv) in enumerate(zip(shares, graph.n_rows_read, strict=True)):
        if f"mask.{i}" in graph.inputs:
            seen = np.arange(n_kv)[None] <= np.arange(share.start, share.start + share.n)[:, None]
            values[f"mask.{i}"] = np.where(seen, np.float16(0), np.float16(-np.inf))
    values.update(graph.fixed)
    for name, tensor in graph.inputs.items():
        target = _values(tensor)
        target[...] = values[name]


DTYPES = {"f32": np.float32, "f16": np.float16, "i32": np.int32, "i64": np.int64}


def _values(tensor: Any) -> NDArray[Any]:
    """A view of a tensor's memory, valid until the next graph is placed."""
    lib = ggml.library()
    size = int(lib.ggml_nbytes(tensor.pointer))
    data = ggml.ffi.buffer(lib.ggml_get_data(tensor.pointer), size)
    return np.frombuffer(data, DTYPES[tensor.dtype]).reshape(tensor.shape)
