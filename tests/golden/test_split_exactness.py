"""With every op on a bundled kernel, neither a cut of the prompt, nor company, nor a thread changes a bit of any logit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import plain_kernels
import pytest
from llama_cpp import llama_cpp as lib
from rewriting import fused_kimi, rewritten
from test_hybrids_match_hugging_face import CASES, HERE, in_pieces
from test_quantised_files import FTYPES, requantised

from conifer_gguf.arch import architectures
from conifer_gguf.gguf import read_header
from conifer_gguf.runtimes import hybrid
from conifer_gguf.runtimes.hybrid import HybridRuntime
from conifer_gguf.settings import packaged_models_dir

SCANS = ("causal_conv", "selective_scan", "ssd_scan", "gated_delta")
N = 275  # tokens: past a block of the cache (64), a batch of the product (128) and a segment of attention (256)
TYPES = {**FTYPES, "bf16": lib.LLAMA_FTYPE_MOSTLY_BF16}
UNEVEN = [1, 2, 67, 128, 1, 30, 3, 43]
WIDE = (
    "conifer-demo",
    "kimi_linear_wide",
    "kimi_linear_fused",
)  # heads of whole blocks of 32: a q8_0 cache, and rows of K types


@pytest.fixture(autouse=True)
def bundled_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = plain_kernels.bundled(*SCANS)
    rest = plain_kernels.bundled("attention", "qmatmul")
    monkeypatch.setattr(hybrid, "registered_supply", lambda ops: {op: scans[op] for op in ops})
    monkeypatch.setattr(hybrid, "accelerators", lambda ops: rest)


@contextmanager
def runtime(file: Path, **settings: Any) -> Iterator[HybridRuntime]:
    header = read_header(file)
    options = {"n_ctx": 320, "max_sequences": 4, **settings}
    model = HybridRuntime(header, architectures()[header.architecture], **options)
    try:
        yield model
    finally:
        model.shutdown()


def some_tokens(n: int, n_vocab: int, seed: int) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, n_vocab, n)]


def cut(tokens: list[int], sizes: Sequence[int]) -> list[list[int]]:
    ends = list(itertools.accumulate(sizes))
    return [tokens[end - n : end] for n, end in zip(sizes, ends, strict=True)]


def in_company(model: HybridRuntime, tokens: list[int]) -> Any:
    """The logits of `tokens` in steps that three other sequences of other lengths come into and leave."""
    sequence, rows = model.open(), []
    others = {model.open(): some_tokens(n, model.info.n_vocab, n) for n in (5, 200, 131)}
    for piece, share in zip(cut(tokens, [3, 1, 150, 1, 120]), (1, 1, 70, 3, 90), strict=True):
        company = {other: left[:share] for other, left in others.items() if left}
        others = {other: left[share:] for other, left in others.items()}
        rows.append(model.advance({**company, sequence: piece}, logits="all")[sequence])
    for opened in (sequence, *others):
        model.close(opened)
    return np.concatenate(rows)


def after_a_snapshot_and_a_fork(model: HybridRuntime, tokens: list[int]) -> Any:
    """The logits of `tokens`, half of them on another sequence and the rest on a third."""
    first = model.open()
    rows = [model.advance({first: tokens[:97]}, logits="all")[first]]
    snapshot = model.snapshot(first)
    model.close(first)
    second = model.restore(snapshot)
    rows.append(model.advance({second: tokens[97:160]}, logits="all")[second])
    third = model.fork(second)
    model.close(second)
    rows.append(model.advance({third: tokens[160:]}, logits="all")[third])
    model.close(third)
    return np.concatenate(rows)


def first_difference(got: Any, expected: Any) -> int | None:
    """The position whose logits have another bit."""
    rows = (got != expected).any(axis=1).nonzero()[0]
    return int(rows[0]) if len(rows) else None


def wide_kimi(target: Path) -> Path:
    """The case with larger latent attention, random: matrices for each head that ggml would multiply in tiles, if they are rows."""
    draw = np.random.default_rng(1)
    rank, rope, nope, n_head, d_value, d_model = 64, 32, 96, 3, 20, 64
    shapes = {
        "attn_kv_a_norm": (rank,),
        "attn_kv_a_mqa": (rank + rope, d_model),
        "attn_k_b": (n_head, rank, nope),
        "attn_v_b": (n_head, d_value, rank),
        "attn_q": (n_head * (nope + rope), d_model),
    }
    tensors = {
        f"blk.1.{name}.weight": draw.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    keys = {
        "attention.kv_lora_rank": rank,
        "attention.key_length": rank + rope,
        "attention.key_length_mla": nope + rope,
        "rope.dimension_count": rope,
    }
    source = HERE / "kimi_linear" / "model-f32.gguf"
    return rewritten(source, target, tensors, {f"kimi-linear.{key}": n for key, n in keys.items()})


def source_of(case: str, folder: Path) -> Path:
    if case.startswith("kimi_linear_"):
        wide = wide_kimi(folder / "wide.gguf")
        return fused_kimi(wide, folder / "fused.gguf") if case == "kimi_linear_fused" else wide
    if case == "conifer-demo":
        return packaged_models_dir() / "conifer-demo-Q8_0.gguf"
    return HERE / case / "model-f32.gguf"


FILES = [*itertools.product(CASES, ["as it is", *FTYPES]), *itertools.product(WIDE, ["as it is", *TYPES])]


@pytest.mark.parametrize(("case", "quant"), FILES)
def test_logits_have_the_same_bits_however_the_tokens_are_fed(case: str, quant: str, tmp_path: Path) -> None:
    file = source_of(case, tmp_path)
    if quant != "as it is":
        file = requantised(file, tmp_path / "quantised.gguf", TYPES[quant])
    whole: dict[str, Any] = {}
    for cache_type, n_threads in [("f16", 1), ("f16", 2), *([("q8_0", 2)] if case in WIDE else [])]:
        with runtime(file, cache_type=cache_type, n_threads=n_threads) as model:
            tokens = some_tokens(N, model.info.n_vocab, 0)
            expected = whole.setdefault(cache_type, in_pieces(model, [tokens]))
            assert np.isfinite(expected).all()
            assert model.info.split_dependent == ()
            ways = {
                "whole": in_pieces(model, [tokens]),
                "one by one": in_pieces(model, [[t] for t in tokens]),
                "in uneven chunks": in_pieces(model, cut(tokens, UNEVEN)),
                "in company": in_company(model, tokens),
                "after a snapshot and a fork": after_a_snapshot_and_a_fork(model, tokens),
            }
        differ = {way: first_difference(got, expected) for way, got in ways.items()}
        assert differ == dict.fromkeys(ways), f"{cache_type} cache, {n_threads} threads"
