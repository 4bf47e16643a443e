"""The hybrid runtime on the attention kernel: snapshots and forks share what is cached, and one graph decodes at any depth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import plain_kernels
import pytest

from conifer_gguf.arch import architectures
from conifer_gguf.engine.blocks import BLOCK, OP
from conifer_gguf.gguf import read_header
from conifer_gguf.runtimes import hybrid
from conifer_gguf.runtimes.hybrid import HybridRuntime

HERE = Path(__file__).parent


def load(monkeypatch: pytest.MonkeyPatch, **settings: object) -> HybridRuntime:
    monkeypatch.setattr(hybrid, "registered_supply", plain_kernels.supply)
    header = read_header(HERE / "granite" / "model-f32.gguf")
    merged = {"n_ctx": 512, "n_threads": 2, "max_sequences": 2, **settings}
    return HybridRuntime(header, architectures()[header.architecture], **merged)  # type: ignore[arg-type]


@pytest.fixture(name="model")
def on_our_attention(monkeypatch: pytest.MonkeyPatch) -> Iterator[HybridRuntime]:
    monkeypatch.setattr(hybrid, "accelerators", lambda ops: plain_kernels.bundled("attention"))
    model = load(monkeypatch)
    yield model
    model.shutdown()


def some_tokens(n: int, n_vocab: int) -> list[int]:
    return [int(t) for t in np.random.default_rng(0).integers(0, n_vocab, n)]


def test_the_runtime_says_whose_attention_it_is(
    model: HybridRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model.info.accelerators == {OP: "org.conifer.attention"}
    monkeypatch.setattr(hybrid, "accelerators", lambda ops: {})
    other = load(monkeypatch)
    assert other.info.accelerators == {}
    other.shutdown()


def test_one_graph_decodes_at_any_depth(model: HybridRuntime) -> None:
    tokens = some_tokens(300, model.info.n_vocab)
    sequence = model.open()
    model.advance({sequence: tokens[:250]})
    model.advance({sequence: tokens[250:251]})
    graphs = model._executor._arenas["last"].graphs
    before = list(graphs)
    for token in tokens[251:]:
        model.advance({sequence: [token]})
    assert list(graphs) == before


def test_a_snapshot_of_a_long_sequence_is_no_larger_than_of_a_short_one(model: HybridRuntime) -> None:
    tokens = some_tokens(2 * BLOCK + 3 * BLOCK + 9, model.info.n_vocab)
    sequence = model.open()
    model.advance({sequence: tokens[: 2 * BLOCK + 9]})
    short = model.snapshot(sequence)
    model.advance({sequence: tokens[2 * BLOCK + 9 :]})
    assert model.snapshot(sequence).nbytes == short.nbytes


def test_a_fork_and_its_origin_go_on_as_if_alone(model: HybridRuntime) -> None:
    tokens = some_tokens(200, model.info.n_vocab)
    first = model.open()
    model.advance({first: tokens[:100]})
    other = model.fork(first)
    ours = model.advance({first: tokens[100:170]})[first]
    theirs = model.advance({other: tokens[130:200]})[other]
    model.close(first)
    model.close(other)
    for middle, expected in ((tokens[100:170], ours), (tokens[130:200], theirs)):
        alone = model.open()
        model.advance({alone: tokens[:100]})
        assert np.array_equal(model.advance({alone: middle})[alone], expected)
        model.close(alone)


def test_snapshots_survive_when_their_room_is_needed(model: HybridRuntime) -> None:
    tokens = some_tokens(512, model.info.n_vocab)
    first = model.open()
    model.advance({first: tokens[:300]})
    snapshot = model.snapshot(first)
    expected = model.advance({first: tokens[300:310]})[first]
    model.close(first)
    size = snapshot.nbytes
    for sequence in (model.open(), model.open()):
        model.advance({sequence: tokens})
        assert model.length(sequence) == 512
    assert snapshot.nbytes > size
    model.close(0)
    restored = model.restore(snapshot)
    assert np.array_equal(model.advance({restored: tokens[300:310]})[restored], expected)
