"""How long each node of a graph took, from the clock readings of the host shim."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import RuntimeFailure
from ..native_api import ggml, host
from .graph import Graph

NOTHING_TO_DO = {"NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE"}


@dataclass(frozen=True)
class NodeTime:
    """One node: ggml's name of the operation, the weight or kernel that it applies, and its share of the time."""

    operation: str
    name: str
    seconds: float


class Stopwatch:
    """Readings of one run of one graph. They are the first thread's, taken before it waits for the others: what it
    waits at the end of a node counts for the next one."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        n_node = ggml.library().ggml_graph_n_nodes(graph.nodes)
        self._done = host.ffi.new("int64_t[]", n_node)
        self.pointer: Any = host.ffi.new("struct conifer_stopwatch *")
        self.pointer.failure = host.ffi.cast("int32_t *", host.address(graph.failure))
        self.pointer.done_ns, self.pointer.capacity = self._done, n_node
        self._start = 0

    def start(self) -> None:
        self.pointer.n = 0
        self._start = time.monotonic_ns()

    def times(self) -> list[NodeTime]:
        """One entry for every node that computes something; nodes that ggml fuses are one."""
        nodes, readings = list(self._computed()), self._done[0 : self.pointer.n]
        if len(nodes) != len(readings):
            raise RuntimeFailure(
                "measuring a step", f"ggml computed {len(readings)} nodes, {len(nodes)} were expected"
            )
        before, times = self._start, []
        for (operation, name), done in zip(nodes, readings, strict=True):
            times.append(NodeTime(operation, name, (done - before) / 1e9))
            before = done
        return times

    def _computed(self) -> Iterator[tuple[str, str]]:
        lib, previous = ggml.library(), ""
        for i in range(lib.ggml_graph_n_nodes(self._graph.nodes)):
            node = lib.ggml_graph_node(self._graph.nodes, i)
            operation = ggml.ffi.string(lib.ggml_op_desc(node)).decode()
            fused = (previous, operation) == ("RMS_NORM", "MUL")
            previous = operation
            if operation not in NOTHING_TO_DO and not fused:
                yield operation, self._graph.names.get(host.address(node), "")
