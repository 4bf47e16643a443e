"""The hybrid runtime on the bundled product: neither a cut of the prompt nor another sequence changes a bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import plain_kernels
import pytest

from conifer_gguf.arch import architectures
from conifer_gguf.engine import product
from conifer_gguf.engine.blocks import OP as ATTENTION
from conifer_gguf.engine.compute import Built
from conifer_gguf.engine.product import EXPERTS, OP
from conifer_gguf.gguf import read_header
from conifer_gguf.runtimes import hybrid
from conifer_gguf.runtimes.choose import Choice
from conifer_gguf.runtimes.hybrid import HybridRuntime
from conifer_gguf.runtimes.tuning import Tuning
from conifer_gguf.settings import packaged_models_dir
from conifer_gguf.worker import load as worker_load

HERE = Path(__file__).parent


def load(monkeypatch: pytest.MonkeyPatch, *accelerators: str) -> HybridRuntime:
    supply = plain_kernels.bundled(*accelerators)
    monkeypatch.setattr(hybrid, "registered_supply", plain_kernels.supply)
    monkeypatch.setattr(hybrid, "accelerators", lambda ops: supply)
    header = read_header(HERE / "granite_moe" / "model-f32.gguf")
    return HybridRuntime(
        header, architectures()[header.architecture], n_ctx=256, n_threads=2, max_sequences=2
    )


@pytest.fixture(name="model")
def on_our_product(monkeypatch: pytest.MonkeyPatch) -> Iterator[HybridRuntime]:
    model = load(monkeypatch, "attention", "qmatmul")
    yield model
    model.shutdown()


def some_tokens(n: int, n_vocab: int) -> list[int]:
    return [int(t) for t in np.random.default_rng(0).integers(0, n_vocab, n)]


def test_the_runtime_says_whose_products_they_are(model: HybridRuntime) -> None:
    assert model.info.accelerators[OP] == model.info.accelerators[EXPERTS] == "org.conifer.qmatmul"


def dependent(monkeypatch: pytest.MonkeyPatch, *accelerators: str) -> set[str]:
    model = load(monkeypatch, *accelerators)
    model.shutdown()
    assert not model.info.split_exact
    return set(model.info.split_dependent)


SCANS = {
    "conifer.causal_conv/1",
    "conifer.ssd_scan/1",
}  # the plain ones keep no bit in particular, and say so


def test_the_runtime_names_kernels_that_do_not_promise_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dependent(monkeypatch, "attention", "qmatmul") == SCANS


def test_the_runtime_names_what_is_left_to_ggml(monkeypatch: pytest.MonkeyPatch) -> None:
    without_product = dependent(monkeypatch, "attention")
    assert {"blk.1.attn_q.weight", "blk.2.ffn_down_exps.weight", "output.weight"} <= without_product
    assert ATTENTION not in without_product
    assert dependent(monkeypatch, "qmatmul") == {*SCANS, ATTENTION}


def test_the_runtime_names_float32_weights_that_are_too_large_for_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(product, "LARGE_F32", 20_479)
    found = dependent(monkeypatch, "attention", "qmatmul") - SCANS
    assert found == {"output.weight", "blk.0.ssm_in.weight", "blk.2.ssm_in.weight"}


def test_the_runtime_names_an_op_that_another_kernel_computes_for_single_tokens() -> None:
    mine = plain_kernels.kernels()["conifer.ssd_scan/1"]
    other = replace(mine, plugin="org.example.other")
    built = Built((mine,), frozenset({"b"}))
    assert hybrid._split_dependent(built, Built((mine,), frozenset({"a"}))) == ("a", "b")
    assert hybrid._split_dependent(built, Built((other,), frozenset())) == ("b", "conifer.ssd_scan/1")


def test_every_weight_goes_through_the_kernel(model: HybridRuntime) -> None:
    sequence = model.open()
    tokens = np.array(some_tokens(3, model.info.n_vocab), np.int32)
    operations = {t.operation for t in model.measure(hybrid.Share(sequence, 0, 3), tokens)}
    assert not operations & {"MUL_MAT", "MUL_MAT_ID"}


def test_a_type_that_ggml_multiplies_faster_here_goes_to_ggml(model: HybridRuntime) -> None:
    header = read_header(HERE / "granite_moe" / "model-f32.gguf")
    other = HybridRuntime(
        header, architectures()[header.architecture], n_ctx=256, n_threads=2, by_ggml=("f32",)
    )
    sequence = other.open()
    tokens = np.array(some_tokens(3, other.info.n_vocab), np.int32)
    operations = [t.operation for t in other.measure(hybrid.Share(sequence, 0, 3), tokens)]
    assert "MUL_MAT" in operations
    assert "MUL_MAT_ID" not in operations  # of gathered experts nothing was measured
    assert (model.info.by_ggml, other.info.by_ggml) == ((), ("f32",))
    other.shutdown()


@pytest.mark.usefixtures("model")
def test_loading_a_file_follows_what_was_measured_unless_it_is_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_load, "require", lambda *_: Choice("hybrid", "for the test"))
    monkeypatch.setattr(worker_load.tune, "for_loading", lambda header: Tuning(3, ("f32",)))
    path = HERE / "granite_moe" / "model-f32.gguf"
    for asked, n_threads in ((None, 3), (1, 1)):
        opened = worker_load.open_runtime(path, "granite", n_ctx=64, n_threads=asked).runtime
        assert (opened.info.n_threads, opened.info.by_ggml) == (n_threads, ("f32",))
        opened.shutdown()


def test_norms_and_gates_before_quantised_products_are_part_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    supply = plain_kernels.bundled("attention", "qmatmul")
    monkeypatch.setattr(hybrid, "registered_supply", plain_kernels.supply)
    monkeypatch.setattr(hybrid, "accelerators", lambda ops: supply)
    header = read_header(packaged_models_dir() / "conifer-demo-Q8_0.gguf")
    model = HybridRuntime(header, architectures()[header.architecture], n_ctx=256, n_threads=2)
    sequence = model.open()
    tokens = np.array(some_tokens(3, model.info.n_vocab), np.int32)
    operations = {t.operation for t in model.measure(hybrid.Share(sequence, 0, 3), tokens)}
    model.shutdown()
    assert "CUSTOM" in operations
    assert not operations & {"RMS_NORM", "SWIGLU"}


def test_a_cut_of_the_prompt_changes_no_bit(model: HybridRuntime) -> None:
    tokens = some_tokens(60, model.info.n_vocab)
    whole, pieces = model.open(), model.open()
    expected = model.advance({whole: tokens}, logits="all")[whole]
    got = [model.advance({pieces: tokens[a:b]}, logits="all")[pieces] for a, b in ((0, 1), (1, 3), (3, 60))]
    assert np.array_equal(np.concatenate(got), expected)


def test_another_sequence_in_the_step_changes_no_bit(model: HybridRuntime) -> None:
    tokens = some_tokens(70, model.info.n_vocab)
    first, other = model.open(), model.open()
    together = model.advance({first: tokens[:31], other: tokens[31:]})
    model.close(other)
    alone = model.open()
    assert np.array_equal(model.advance({alone: tokens[31:]})[alone], together[other])
