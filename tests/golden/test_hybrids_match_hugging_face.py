"""Every hybrid architecture gives the logits that Hugging Face transformers computes in float64.

The files are random models of the real architectures, made by tools/reference. The kernels are plain ones, so that a
fault is the architecture's or the engine's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rewriting import fused_kimi

from conifer_gguf.arch import architectures
from conifer_gguf.gguf import read_header
from conifer_gguf.runtimes.hybrid import HybridRuntime
from conifer_gguf.runtimes.llama import LlamaRuntime

HERE = Path(__file__).parent
CASES = [
    "falcon_h1",
    "falcon_mamba",
    "granite",
    "granite_moe",
    "jamba",
    "kimi_linear",
    "mamba",
    "mamba2",
    "nemotron_h",
    "nemotron_h_moe",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_next",
]
ATTENDING = [case for case in CASES if "mamba" not in case]
RMS = 2e-6  # float32 sums against float64: 1e-7 to 6e-7 is typical, and 2 % noise on one tensor gives 1e-2
# Of a single row: where experts are nearly tied, rounding alone moves one by 5e-6, another sequence's tokens by 1e-2.
ROW_RMS = 1e-5
CHUNKS = [
    1,
    2,
    67,
    30,
    29,
    500,
]  # across the boundaries of 64 and 128 where kernels and attention change path


def relative_rms(a: Any, b: Any) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def reference_of(case: str) -> tuple[list[int], Any, list[int]]:
    """Tokens, logits [T, n_vocab] and the greedy continuation."""
    arrays = np.load(HERE / case / "ref.npz")
    return arrays["tokens"].tolist(), arrays["hf_logits"], arrays["greedy"].tolist()


@contextmanager
def runtime(case: str, **settings: Any) -> Iterator[HybridRuntime]:
    header = read_header(HERE / case / "model-f32.gguf")
    options = {"n_ctx": 256, "n_threads": 2, "cache_type": "f32", **settings}
    model = HybridRuntime(header, architectures()[header.architecture], **options)
    try:
        yield model
    finally:
        model.shutdown()


def in_pieces(model: Any, pieces: Sequence[list[int]]) -> Any:
    sequence = model.open()
    rows = [model.advance({sequence: piece}, logits="all")[sequence] for piece in pieces if piece]
    model.close(sequence)
    return np.concatenate(rows)


def cut(tokens: list[int]) -> list[list[int]]:
    ends = np.cumsum(CHUNKS)
    return [tokens[end - n : end] for n, end in zip(CHUNKS, ends, strict=True)]


def continued(model: Any, tokens: list[int], n: int) -> list[int]:
    sequence, written = model.open(), []
    step = tokens
    for _ in range(n):
        written.append(int(model.advance({sequence: step})[sequence][-1].argmax()))
        step = written[-1:]
    return written


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("plain_kernels")
class TestOnPlainKernels:
    @pytest.mark.parametrize("threads", [1, 2])
    def test_a_whole_prompt_gives_the_logits_of_hugging_face(self, case: str, threads: int) -> None:
        tokens, expected, _ = reference_of(case)
        with runtime(case, n_threads=threads) as model:
            got = in_pieces(model, [tokens])
        assert relative_rms(got, expected) <= RMS
        assert (got.argmax(1) == expected.argmax(1)).all()

    def test_uneven_chunks_give_them_too(self, case: str) -> None:
        tokens, expected, _ = reference_of(case)
        with runtime(case) as model:
            got = in_pieces(model, cut(tokens))
        assert relative_rms(got, expected) <= RMS
        assert (got.argmax(1) == expected.argmax(1)).all()

    def test_one_token_at_a_time_gives_them_too(self, case: str) -> None:
        tokens, expected, _ = reference_of(case)
        with runtime(case) as model:
            got = in_pieces(model, [[t] for t in tokens])
        assert relative_rms(got, expected) <= RMS
        assert (got.argmax(1) == expected.argmax(1)).all()

    def test_the_greedy_continuation_is_that_of_hugging_face(self, case: str) -> None:
        tokens, _, greedy = reference_of(case)
        with runtime(case) as model:
            assert continued(model, tokens, len(greedy)) == greedy

    def test_sequences_of_one_step_do_not_see_each_other(self, case: str) -> None:
        tokens, expected, _ = reference_of(case)
        with runtime(case, max_sequences=3) as model:
            a, b, c = (model.open() for _ in range(3))
            model.advance({b: tokens[100:120], a: tokens[:41]})
            got = model.advance({a: tokens[41:50], c: tokens[:7], b: tokens[3:4]})
        assert relative_rms(got[a], expected[49:50]) <= ROW_RMS
        assert relative_rms(got[c], expected[6:7]) <= ROW_RMS

    def test_a_restored_snapshot_continues_with_the_same_bits(self, case: str) -> None:
        tokens, *_ = reference_of(case)
        with runtime(case, max_sequences=2) as model:
            first = model.open()
            model.advance({first: tokens[:77]})
            snapshot = model.snapshot(first)
            then = model.advance({first: tokens[77:91]})[first]
            model.advance({first: tokens[91:]})
            model.close(first)
            restored = model.restore(snapshot)
            assert np.array_equal(model.advance({restored: tokens[77:91]})[restored], then)


@pytest.mark.usefixtures("plain_kernels")
def test_a_kimi_file_with_one_matrix_for_keys_and_values_gives_them_too(tmp_path: Path) -> None:
    tokens, expected, _ = reference_of("kimi_linear")
    file = fused_kimi(HERE / "kimi_linear" / "model-f32.gguf", tmp_path / "fused.gguf")
    header = read_header(file)
    model = HybridRuntime(
        header, architectures()[header.architecture], n_ctx=256, n_threads=2, cache_type="f32"
    )
    got = in_pieces(model, cut(tokens))
    model.shutdown()
    assert relative_rms(got, expected) <= RMS


@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("case", ATTENDING)
@pytest.mark.usefixtures("plain_kernels")
def test_an_f16_cache_costs_no_more_than_with_llama_cpp(case: str, flash: bool) -> None:
    tokens, expected, _ = reference_of(case)
    pieces = [tokens[:80], *([t] for t in tokens[80:])]
    with runtime(case, cache_type="f16") as model:
        ours = relative_rms(in_pieces(model, pieces), expected)
    theirs = LlamaRuntime(
        HERE / case / "model-f32.gguf", n_ctx=256, n_threads=2, cache_type="f16", flash=flash
    )
    try:
        other = relative_rms(in_pieces(theirs, pieces), expected)
    finally:
        theirs.shutdown()
    assert ours <= 1.05 * other
