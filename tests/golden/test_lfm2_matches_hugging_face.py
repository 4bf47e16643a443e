"""LFM2 through llama.cpp gives the logits that Hugging Face transformers computes in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import conifer_gguf

HERE = Path(__file__).parent
CASES = ["lfm2", "lfm2_moe"]
RMS = 2e-6  # float32 sums against float64: 3e-7 is typical, and 2 % noise on one tensor gives 1e-2


def relative_rms(a: Any, b: Any) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Path:
    return HERE / str(request.param)


@pytest.mark.parametrize("threads", [1, 2])
def test_logits_of_all_positions_equal_hugging_face(case: Path, threads: int) -> None:
    reference = np.load(case / "ref.npz")
    with conifer_gguf.load(
        case / "model-f32.gguf", n_ctx=512, n_threads=threads, cache_type="f32"
    ) as session:
        got = session.logits(reference["tokens"])
    assert got.shape == reference["hf_logits"].shape
    assert relative_rms(got, reference["hf_logits"]) <= RMS
    assert (got.argmax(1) == reference["hf_logits"].argmax(1)).all()


def test_one_token_at_a_time_agrees_with_the_whole_prompt(case: Path) -> None:
    reference = np.load(case / "ref.npz")
    with conifer_gguf.load(case / "model-f32.gguf", n_ctx=512, cache_type="f32") as session:
        got = np.stack([session.eval([token]) for token in reference["tokens"]])
    assert relative_rms(got, reference["hf_logits"]) <= RMS


def test_greedy_continuation_is_that_of_hugging_face(case: Path) -> None:
    reference = np.load(case / "ref.npz")
    with conifer_gguf.load(case / "model-f32.gguf", n_ctx=512, cache_type="f32") as session:
        logits = session.eval(reference["tokens"])
        written = []
        for _ in reference["greedy"]:
            written.append(int(logits.argmax()))
            logits = session.eval(written[-1:])
    assert written == reference["greedy"].tolist()


def test_a_restored_snapshot_gives_the_logits_of_then(case: Path) -> None:
    tokens = np.load(case / "ref.npz")["tokens"]
    with conifer_gguf.load(case / "model-f32.gguf", n_ctx=512) as session:
        session.eval(tokens[:77])
        snapshot = session.snapshot()
        first = session.eval(tokens[77:91])
        session.eval(tokens[91:])
        session.restore(snapshot)
        again = session.eval(tokens[77:91])
    assert np.array_equal(first, again)


def test_tokenizer_gives_the_ids_of_hugging_face(case: Path) -> None:
    tests = json.loads((case / "meta.json").read_text())["tokenizer_tests"]
    with conifer_gguf.load(case / "model-f32.gguf", n_ctx=512) as session:
        for test in tests:
            text, ids = test["text"], test["ids_hf"]
            assert session.tokenize(text, add_special=False, parse_special=True) == ids, text
