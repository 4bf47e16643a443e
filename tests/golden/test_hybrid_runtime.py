"""The hybrid runtime keeps the contract of `Runtime`: sequences apart, failures typed, nothing left behind."""

from __future__ import annotations

import ctypes
import gc
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import plain_kernels
import psutil
import pytest
from rewriting import rewritten

from conifer_gguf.arch import architectures
from conifer_gguf.engine.weights import WeightFile
from conifer_gguf.errors import (
    BadModelFile,
    BadRequest,
    BrokenSequence,
    Cancelled,
    KernelFailed,
    KernelMissing,
    ModelLoadGated,
    PromptTooLong,
    RuntimeFailure,
)
from conifer_gguf.gguf import read_header
from conifer_gguf.native_api.memory import Region
from conifer_gguf.runtimes import hybrid
from conifer_gguf.runtimes.hybrid import HybridRuntime

HERE = Path(__file__).parent
CASES = ["granite_moe", "falcon_h1", "jamba", "qwen3_5", "kimi_linear"]  # every op, every kind of cache
CLOSE = 1e-5  # rms, relative: float32 weights and cache, where other splits only reorder sums
GIVE_UP_AT = 13


def load(case: str = "granite_moe", **settings: Any) -> HybridRuntime:
    header = read_header(HERE / case / "model-f32.gguf")
    options = {"n_ctx": 300, "n_threads": 2, "cache_type": "f32", "max_sequences": 4, **settings}
    return HybridRuntime(header, architectures()[header.architecture], **options)


@pytest.fixture
def runtime(plain_kernels: None) -> Iterator[HybridRuntime]:
    made = load()
    yield made
    made.shutdown()


def prompt(case: str = "granite_moe") -> list[int]:
    return [int(t) for t in np.load(HERE / case / "ref.npz")["tokens"]]


def truth(case: str) -> Any:
    return np.load(HERE / case / "ref.npz")["hf_logits"]


def relative_rms(a: Any, b: Any) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def test_a_kernel_that_went_between_the_choice_and_the_load_is_named() -> None:
    with pytest.raises(ModelLoadGated) as refused:  # nothing is registered in a fresh home
        load("granite_moe")
    assert set(refused.value.needs) == {"conifer.causal_conv/1", "conifer.ssd_scan/1"}


def test_an_op_that_an_architecture_did_not_announce_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = plain_kernels.supply(["conifer.causal_conv/1"])
    monkeypatch.setattr(hybrid, "registered_supply", lambda ops: found)
    with pytest.raises(KernelMissing, match=r"conifer\.ssd_scan/1"):
        load("granite_moe")


class Story:
    """What one sequence should hold: the first `n` tokens of the prompt."""

    def __init__(self, sequence: int, n: int = 0) -> None:
        self.sequence, self.n = sequence, n


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("plain_kernels")
def test_sequences_that_come_fork_and_go_at_random_are_each_as_if_alone(case: str, seed: int) -> None:
    """Every logit of every step is that of Hugging Face at this position, whoever else is in the step."""
    draw, tokens, expected = random.Random(seed), prompt(case), truth(case)
    model = load(case, n_ctx=len(tokens))
    open_ones: list[Story] = []
    snapshots: list[tuple[Any, int]] = []
    try:
        for _ in range(25):
            action = draw.choice(
                ["open", "advance", "advance", "advance", "fork", "snapshot", "restore", "close"]
            )
            room = len(open_ones) < 4
            if action == "open" and room:
                open_ones.append(Story(model.open()))
            elif action == "fork" and room and open_ones:
                parent = draw.choice(open_ones)
                open_ones.append(Story(model.fork(parent.sequence), parent.n))
            elif action == "snapshot" and open_ones:
                parent = draw.choice(open_ones)
                snapshots.append((model.snapshot(parent.sequence), parent.n))
            elif action == "restore" and room and snapshots:
                saved, n = draw.choice(snapshots)
                open_ones.append(Story(model.restore(saved), n))
            elif action == "close" and open_ones:
                model.close(open_ones.pop(draw.randrange(len(open_ones))).sequence)
            elif open_ones:
                moving = [s for s in open_ones if s.n < len(tokens) and draw.random() < 0.8]
                ends = {s.sequence: min(len(tokens), s.n + draw.choice([1, 1, 2, 9, 40])) for s in moving}
                got = model.advance({s.sequence: tokens[s.n : ends[s.sequence]] for s in moving})
                for story in moving:
                    story.n = ends[story.sequence]
                    assert relative_rms(got[story.sequence], expected[story.n - 1 : story.n]) < CLOSE
            assert [model.length(s.sequence) for s in open_ones] == [s.n for s in open_ones]
    finally:
        model.shutdown()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("plain_kernels")
def test_fork_and_snapshot_continue_bit_for_bit(case: str) -> None:
    tokens = prompt(case)
    model = load(case)
    first = model.open()
    model.advance({first: tokens[:57]})
    saved = model.snapshot(first)
    fork = model.fork(first)
    model.advance({first: tokens[90:99]})  # what the original does next changes nothing for the others
    restored = model.restore(saved)
    a = model.advance({fork: tokens[57:60]})[fork]
    b = model.advance({restored: tokens[57:60]})[restored]
    assert np.array_equal(a, b)
    assert np.array_equal(
        model.advance({fork: tokens[60:61]})[fork], model.advance({restored: tokens[60:61]})[restored]
    )
    model.shutdown()


def test_every_row_of_a_step_with_several_sequences_can_be_asked_for(runtime: HybridRuntime) -> None:
    tokens, expected = prompt(), truth("granite_moe")
    a, b = runtime.open(), runtime.open()
    got = runtime.advance({a: tokens[:3], b: tokens[:70]}, logits="all")
    assert relative_rms(got[a], expected[:3]) < CLOSE
    assert relative_rms(got[b], expected[:70]) < CLOSE


def test_a_cancelled_step_tears_its_sequences_and_no_other(runtime: HybridRuntime) -> None:
    tokens, expected = prompt(), truth("granite_moe")
    torn, whole = runtime.open(), runtime.open()
    runtime.advance({torn: tokens[:5], whole: tokens[:5]})
    saved = runtime.snapshot(torn)
    stop = threading.Event()

    def cancel_again_and_again() -> None:
        while not stop.is_set():
            runtime.cancel()

    def go_on_until_cancelled() -> None:
        for _ in range(1000):
            runtime.advance({torn: tokens[5:25]})
            runtime.close(torn)
            assert runtime.restore(saved) == torn  # the lowest free one

    other = threading.Thread(target=cancel_again_and_again)
    other.start()
    try:
        with pytest.raises(Cancelled):
            go_on_until_cancelled()
    finally:
        stop.set()
        other.join()
    with pytest.raises(BrokenSequence):
        runtime.advance({torn: tokens[5:6]})
    with pytest.raises(BrokenSequence):
        runtime.snapshot(torn)
    runtime.close(torn)
    again = runtime.restore(saved)
    got = runtime.advance({again: tokens[5:40], whole: tokens[5:6]})
    assert relative_rms(got[again], expected[39:40]) < CLOSE
    assert relative_rms(got[whole], expected[5:6]) < CLOSE


def test_a_kernel_that_fails_in_the_middle_of_a_graph_is_named_and_the_model_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    definition = f"-DGIVE_UP_AT={GIVE_UP_AT}"
    monkeypatch.setattr(hybrid, "registered_supply", lambda ops: plain_kernels.supply(ops, definition))
    tokens, expected = prompt("falcon_h1"), truth("falcon_h1")
    model = load("falcon_h1")
    torn, whole = model.open(), model.open()
    model.advance({whole: tokens[:20]})
    with pytest.raises(KernelFailed) as caught:
        model.advance({torn: tokens[:GIVE_UP_AT]})
    assert (caught.value.op, caught.value.plugin) == ("conifer.ssd_scan/1", "org.example.plain")
    assert "CK_INTERNAL" in caught.value.fact
    with pytest.raises(BrokenSequence):
        model.advance({torn: tokens[:1]})
    assert relative_rms(model.advance({whole: tokens[20:34]})[whole], expected[33:34]) < CLOSE
    model.shutdown()


def test_limits_are_told_before_anything_is_fed(runtime: HybridRuntime) -> None:
    tokens = prompt()
    sequence = runtime.open()
    runtime.advance({sequence: tokens[:7]})
    with pytest.raises(PromptTooLong):
        runtime.advance({sequence: [5] * 294})
    with pytest.raises(BadRequest, match="token 320 is not in the vocabulary of 320"):
        runtime.advance({sequence: [3, 320]})
    with pytest.raises(BadRequest):
        runtime.advance({sequence: []})
    for _ in range(3):
        runtime.open()
    with pytest.raises(BadRequest, match="4 sequences are open"):
        runtime.open()
    assert relative_rms(runtime.advance({sequence: tokens[7:9]})[sequence], truth("granite_moe")[8:9]) < CLOSE


@pytest.mark.usefixtures("plain_kernels")
def test_two_models_in_one_process_do_not_see_each_other() -> None:
    cases = ("jamba", "qwen3_next")
    models = {case: load(case) for case in cases}
    sequences = {case: models[case].open() for case in cases}
    for at, n in ((0, 30), (30, 1), (31, 40)):
        for case in cases:
            got = models[case].advance({sequences[case]: prompt(case)[at : at + n]})[sequences[case]]
            assert relative_rms(got, truth(case)[at + n - 1 : at + n]) < CLOSE
    models["jamba"].shutdown()
    got = models["qwen3_next"].advance({sequences["qwen3_next"]: prompt("qwen3_next")[71:90]})
    assert relative_rms(got[sequences["qwen3_next"]], truth("qwen3_next")[89:90]) < CLOSE
    models["qwen3_next"].shutdown()


@pytest.mark.usefixtures("plain_kernels")
def test_loading_and_closing_fifty_times_leaves_nothing_behind() -> None:
    process, tokens = psutil.Process(), prompt()

    def once() -> None:
        model = load(n_ctx=2048)
        sequence = model.open()
        model.advance({sequence: tokens})
        model.advance({sequence: tokens[:1]})
        model.fork(sequence)
        model.shutdown()
        gc.collect()

    def resident() -> int:
        ctypes.CDLL(None).malloc_trim(0)  # what malloc keeps for itself is not left behind
        return process.memory_info().rss

    for _ in range(5):
        once()
    memory, files = resident(), process.num_fds()
    for _ in range(50):
        once()
    assert process.num_fds() == files
    # One model left open would be 5 MB of cache and graphs each time.
    assert resident() - memory < 2 << 20


@pytest.mark.usefixtures("plain_kernels")
def test_a_load_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    process = psutil.Process()
    opened: list[WeightFile] = []
    closed: list[WeightFile] = []
    start, end = WeightFile.__init__, WeightFile.close
    monkeypatch.setattr(
        WeightFile, "__init__", lambda self, header: (opened.append(self), start(self, header))[1]
    )
    monkeypatch.setattr(WeightFile, "close", lambda self: (closed.append(self), end(self))[1])
    monkeypatch.setattr(hybrid, "load_vocabulary", _refuse)
    files = process.num_fds()
    with pytest.raises(BadModelFile, match="no vocabulary"):
        load()
    assert opened == closed
    assert process.num_fds() == files


def _refuse(path: Path) -> None:
    raise BadModelFile(str(path), "no vocabulary")


@pytest.mark.usefixtures("plain_kernels")
def test_memory_that_the_system_refuses_is_a_typed_error() -> None:
    with pytest.raises(RuntimeFailure, match=r"taking \d+ bytes of memory"):
        load(n_ctx=1 << 50, max_sequences=1)
    with pytest.raises(RuntimeFailure):
        Region(1 << 60)


@pytest.mark.parametrize("kind", ["F64", "Q8_K", "I8"])
@pytest.mark.usefixtures("plain_kernels")
def test_a_matrix_type_that_ggml_has_no_product_for_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = retyped(tmp_path / "odd.gguf", "blk.0.ssm_in.weight", gguf.GGMLQuantizationType[kind])
    with pytest.raises(BadModelFile, match=rf"`blk\.0\.ssm_in\.weight` is {kind}"):
        _open(path)


@pytest.mark.usefixtures("plain_kernels")
def test_a_vector_type_that_nothing_expands_is_refused_by_name(tmp_path: Path) -> None:
    path = retyped(tmp_path / "odd.gguf", "blk.0.attn_norm.weight", gguf.GGMLQuantizationType.I8)
    with pytest.raises(BadModelFile, match=r"`blk\.0\.attn_norm\.weight` is I8"):
        _open(path)


@pytest.mark.usefixtures("plain_kernels")
def test_a_tensor_that_nothing_reads_stops_the_load(tmp_path: Path) -> None:
    path = retyped(tmp_path / "odd.gguf", "blk.0.stranger.weight", gguf.GGMLQuantizationType.F32, add=True)
    with pytest.raises(BadModelFile, match=r"nothing reads 1 of its tensors \(`blk\.0\.stranger\.weight`\)"):
        _open(path)


def _open(path: Path) -> HybridRuntime:
    header = read_header(path)
    return HybridRuntime(header, architectures()[header.architecture], n_ctx=256, n_threads=1)


def retyped(path: Path, name: str, kind: gguf.GGMLQuantizationType, add: bool = False) -> Path:
    """The granite case with one tensor of zeros in another type, or one tensor more."""
    source = HERE / "granite" / "model-f32.gguf"
    if add:
        return rewritten(source, path, {name: np.zeros(32, np.float32)})
    shape = read_header(source).tensors[name].shape
    block, size = gguf.GGML_QUANT_SIZES[kind]
    zeros = np.zeros((*shape[:-1], -(-shape[-1] // block) * size), np.uint8)
    return rewritten(source, path, {name: zeros}, raw_dtype=kind)
