"""A file whose keys and tensors do not fit its architecture ends in a typed error, before ggml sees a wrong shape.

Every tensor is left out, and cut short along every axis; every key is left out, and made larger. Only headers change,
nothing is computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import plain_kernels
import pytest

from conifer_gguf.arch import architectures
from conifer_gguf.arch.api import Keys, Weights
from conifer_gguf.engine.carry import Pools
from conifer_gguf.engine.graph import Graph, Share
from conifer_gguf.engine.weights import WeightFile
from conifer_gguf.errors import BadModelFile, ShapeMismatch
from conifer_gguf.gguf import Header, read_header

HERE = Path(__file__).parent
CASES = sorted(
    path.parent.name for path in HERE.glob("*/model-f32.gguf") if not path.parent.name.startswith("lfm2")
)
# Without these the file is another, sound variant: tied embeddings, convolutions without a bias, no norm in Falcon-H1.
OPTIONAL = {"output.weight", "ssm_conv1d.bias"}
OPTIONAL_IN = {"falcon_h1": {"ssm_norm.weight"}}
# A shorter one of these is a smaller vocabulary.
ANY_LENGTH = {"token_embd.weight", "output.weight"}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def header(case: str) -> Header:
    return read_header(HERE / case / "model-f32.gguf")


def build(header: Header) -> list[str]:
    """Build the graph of a step of three tokens; returns the tensors that nothing read."""
    architecture = architectures()[header.architecture]
    hp = architecture.Hyper.read(Keys(header))
    weights = WeightFile(header)
    pools = graph = None
    try:
        pools = Pools(architecture.carry(hp), n_slot=1, n_ctx=256, dtype="f32")
        graph = Graph(
            [Share(0, 0, 3)], [256], "last", plain_kernels.supply(architecture.KERNELS), weights, n_threads=1
        )
        architecture.forward(graph, hp, Weights(weights), pools.layers)
        return weights.unread()
    finally:
        for part in (graph, pools, weights):
            if part is not None:
                part.close()


def refused(header: Header) -> bool:
    """True when something tells that the header is not sound; any other exception fails the test."""
    try:
        return bool(build(header))
    except (BadModelFile, ShapeMismatch):
        return True


def short(name: str) -> str:
    """`blk.3.ssm_a` as `ssm_a`."""
    return name.split(".", 2)[2] if name.startswith("blk.") else name


def without(header: Header, name: str) -> Header:
    return dataclasses.replace(header, tensors={k: v for k, v in header.tensors.items() if k != name})


def cut(header: Header) -> Iterator[tuple[str, int, Header]]:
    for name, info in header.tensors.items():
        for axis, size in enumerate(info.shape):
            if size > 1:
                shape = tuple(n - (i == axis) for i, n in enumerate(info.shape))
                shorter = dataclasses.replace(info, shape=shape)
                yield name, axis, dataclasses.replace(header, tensors={**header.tensors, name: shorter})


def test_a_sound_file_is_read_to_the_last_tensor(header: Header) -> None:
    assert build(header) == []


def test_a_missing_tensor_is_noticed(case: str, header: Header) -> None:
    optional = OPTIONAL | OPTIONAL_IN.get(case, set())
    if header.architecture in ("mamba", "jamba"):
        optional = optional - {"ssm_conv1d.bias"}
    names = [name for name in header.tensors if short(name) not in optional]
    assert [name for name in names if not refused(without(header, name))] == []


def test_a_tensor_nobody_knows_is_noticed(header: Header) -> None:
    stranger = next(iter(header.tensors.values()))
    for name in ("blk.0.stranger.weight", "stranger"):
        assert build(dataclasses.replace(header, tensors={**header.tensors, name: stranger})) == [name]


def test_a_tensor_of_another_shape_is_noticed(header: Header) -> None:
    accepted = [(name, axis) for name, axis, wrong in cut(header) if not refused(wrong)]
    assert [pair for pair in accepted if pair not in {(name, 0) for name in ANY_LENGTH}] == []


def test_a_missing_key_is_an_error_or_has_a_meaning(header: Header) -> None:
    prefix = header.architecture + "."
    for key in [key for key in header.metadata if key.startswith(prefix)]:
        changed = {k: v for k, v in header.metadata.items() if k != key}
        refused(dataclasses.replace(header, metadata=changed))  # no other exception, no abort


def test_a_missing_key_is_named_with_its_file() -> None:
    header = read_header(HERE / "qwen3_5" / "model-f32.gguf")
    changed = {k: v for k, v in header.metadata.items() if k != "qwen35.ssm.inner_size"}
    with pytest.raises(
        BadModelFile, match=r"qwen3_5/model-f32\.gguf: key `qwen35\.ssm\.inner_size` is missing"
    ):
        build(dataclasses.replace(header, metadata=changed))


def test_a_key_of_another_value_never_reaches_ggml_as_a_wrong_shape(header: Header) -> None:
    prefix = header.architecture + "."
    for key, value in header.metadata.items():
        if key.startswith(prefix) and isinstance(value, int) and not isinstance(value, bool):
            for other in (value + 1, 2 * value + 2, 0):
                changed = {**header.metadata, key: other}
                refused(dataclasses.replace(header, metadata=changed))  # no other exception, no abort
