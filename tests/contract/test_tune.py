"""Measuring products on the bundled kernel: what is tried, and what happens when time or patience is short."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from conifer_gguf.engine.product import OP
from conifer_gguf.engine.supply import Supply
from conifer_gguf.errors import KernelFailed
from conifer_gguf.gguf import read_header
from conifer_gguf.native_api.kernels import load_library
from conifer_gguf.native_api.known import resolve
from conifer_gguf.ops import contracts
from conifer_gguf.runtimes import tune, tuning

GRANITE = Path(__file__).parent.parent / "golden" / "granite" / "model-f32.gguf"
# Small enough to be reached however busy the machine is.
TINY = dataclasses.replace(tune.BRIEF, shape=(32, 256), n_rows=(1, 4), copies=2, trial_s=0.001, total_s=60.0)


@pytest.fixture
def our_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the bundled product were registered, and two cores could be used."""
    (kernel,) = (k for k in load_library(resolve("qmatmul").library).kernels if k.op == OP)
    monkeypatch.setattr(tune, "accelerators", lambda ops: {OP: Supply(contracts()[OP], (kernel,))})
    monkeypatch.setattr(tune, "default_threads", lambda: 2)


@pytest.mark.usefixtures("our_product")
def test_every_type_is_tried_with_one_row_and_with_many_and_threads_with_the_first_type() -> None:
    told: list[str] = []
    found = tune.measure(TINY, tell=told.append)
    tried = [(t.option, t.value, t.instead_of, t.n_rows) for t in found.trials]
    kernel = "org.conifer.qmatmul"
    assert tried == [
        *[trial for n in (1, 4) for trial in (("threads", "1", "2", n), ("product", "q4_k", kernel, n))],
        *[("product", dtype, kernel, n) for dtype in tune.TYPES[1:] for n in (1, 4)],
    ]
    assert all(0 < t.low <= t.ratio <= t.high and t.turns >= 3 for t in found.trials)
    assert found.untried == ()
    assert told[:2] == ["Q4_K weights, 1 row", "Q4_K weights, 4 rows"]


@pytest.mark.usefixtures("our_product")
def test_what_the_time_does_not_reach_keeps_its_default_and_is_named() -> None:
    found = tune.measure(dataclasses.replace(TINY, total_s=0.0))
    assert (found.trials, found.untried) == ((), tune.TYPES)
    assert (found.n_threads, found.by_ggml) == (2, ())


def test_without_a_registered_product_only_threads_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "accelerators", lambda ops: {})
    monkeypatch.setattr(tune, "default_threads", lambda: 2)
    assert {(t.option, t.value) for t in tune.measure(TINY).trials} == {("threads", "1")}
    monkeypatch.setattr(tune, "default_threads", lambda: 1)
    assert tune.measure(TINY).trials == ()


def test_a_kernel_that_fails_while_it_is_timed_does_not_keep_a_model_from_loading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise KernelFailed("org.example", OP, "CK_INTERNAL", "it broke")

    monkeypatch.setattr(tune, "measure", fails)
    assert tune.for_loading(read_header(GRANITE)).n_threads == tune.default_threads()
    assert tuning.remembered() is None


def test_a_home_that_cannot_be_written_does_not_keep_a_model_from_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("CONIFER_GGUF_HOME", str(file / "home"))
    monkeypatch.setattr(tune, "measure", lambda *_: tuning.Tuning(3))
    assert tune.for_loading(read_header(GRANITE)).n_threads == 3


def test_the_types_of_the_model_that_is_loaded_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def note(effort: tune.Effort, types: list[str]) -> tuning.Tuning:
        asked.extend(types)
        return tuning.Tuning(1)

    monkeypatch.setattr(tune, "measure", note)
    header = read_header(Path(__file__).parents[2] / "conifer_gguf" / "models" / "conifer-demo-Q8_0.gguf")
    tune.for_loading(header)
    assert asked[0] == "q8_0"
    assert sorted(asked) == sorted(tune.TYPES)
