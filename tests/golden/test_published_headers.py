"""What the catalog says of a hybrid agrees with its file's header, and its graph can be built from that header."""

from __future__ import annotations

import math
from pathlib import Path

import plain_kernels
import published_headers
import pytest

from conifer_gguf.arch import architectures
from conifer_gguf.arch.api import KV, Keys, Weights
from conifer_gguf.engine import memory
from conifer_gguf.engine.carry import Pools
from conifer_gguf.engine.graph import Graph, Share
from conifer_gguf.engine.weights import WeightFile
from conifer_gguf.gguf import Header, read_header
from conifer_gguf.store.catalog import Entry, catalog

# conifer-demo comes with its file, which other tests read whole.
ENTRIES = [
    entry
    for entry in catalog().entries
    if entry.architecture in published_headers.FAMILIES and entry.name != "conifer-demo"
]
STORED_TWICE = {"jamba-reasoning-3b": 65536 * 2560}  # tied in the configuration, two matrices in the file


@pytest.fixture(params=ENTRIES, ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> Entry:
    found: Entry = request.param
    return found


@pytest.fixture
def header(entry: Entry, tmp_path: Path) -> Header:
    return read_header(published_headers.write(entry, tmp_path / f"{entry.name}.gguf"))


def test_every_row_that_an_architecture_here_runs_has_a_header() -> None:
    ours = {entry.name for entry in catalog().entries if entry.architecture in architectures()}
    assert ours - {"conifer-demo"} == set(published_headers.ROWS)


def test_the_tensors_hold_the_published_number_of_parameters(entry: Entry) -> None:
    _, shapes = published_headers.header_of(entry)
    stored = published_headers.parameters(shapes, leave_out=[f"blk.{entry.shape.layers}."])
    # Some cards round to four digits.
    assert stored - STORED_TWICE.get(entry.name, 0) == pytest.approx(entry.parameters, rel=2e-3)


def test_memory_is_planned_from_the_header_as_from_the_catalog(entry: Entry, header: Header) -> None:
    shape = memory.geometry(header)
    expected = entry.geometry(shape.weight_bytes)
    assert shape.carry_bytes == entry.shape.carry_bytes
    assert shape.kv_bytes_per_token == entry.shape.kv_bytes_per_token
    assert sorted(shape.layer_kinds) == sorted(expected.layer_kinds)
    assert shape.n_vocab == entry.shape.n_vocab
    assert shape.n_ctx_train in (entry.context, published_headers.LONG)


def test_the_architecture_remembers_what_memory_was_planned_for(entry: Entry, header: Header) -> None:
    architecture = architectures()[header.architecture]
    parts = [
        part for layer in architecture.carry(architecture.Hyper.read(Keys(header))) for part in layer.values()
    ]
    rows = [kv.n_head_kv * (kv.d_k + (0 if kv.latent else kv.d_v)) for kv in parts if isinstance(kv, KV)]
    states = [math.prod(shape) for shape in parts if not isinstance(shape, KV)]
    assert 2 * sum(rows) == entry.shape.kv_bytes_per_token
    assert 4 * sum(states) == entry.shape.carry_bytes


def test_the_graph_reads_every_tensor_but_those_of_prediction_blocks(entry: Entry, header: Header) -> None:
    architecture = architectures()[header.architecture]
    hp = architecture.Hyper.read(Keys(header))
    weights = WeightFile(header)
    pools = Pools(architecture.carry(hp), n_slot=1, n_ctx=256, dtype="f16")
    supply = plain_kernels.supply(architecture.KERNELS)
    graph = Graph([Share(0, 0, 3)], [256], "last", supply, weights, n_threads=2)
    try:
        logits = architecture.forward(graph, hp, Weights(weights), pools.layers)
        assert logits.shape == (1, entry.shape.n_vocab)
        prediction = f"blk.{entry.shape.layers}."
        assert [name for name in weights.unread() if not name.startswith(prediction)] == []
        assert {node.kernel.op for node in graph.kernel_nodes} == set(architecture.KERNELS)
    finally:
        graph.close()
        pools.close()
        weights.close()
