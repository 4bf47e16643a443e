"""On a quantised file the hybrid runtime agrees with llama.cpp as closely as llama.cpp agrees with that file's own weights."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp import llama_cpp as lib
from test_hybrids_match_hugging_face import CASES, HERE, reference_of, relative_rms

from conifer_gguf.arch import architectures
from conifer_gguf.gguf import read_header
from conifer_gguf.runtimes.hybrid import HybridRuntime
from conifer_gguf.runtimes.llama import LlamaRuntime

SETTINGS = {"n_ctx": 256, "n_threads": 2, "cache_type": "f32"}
# Axes too short for the 256 of the K types fall to the types of 32 and to halves, which are products of their own, too.
FTYPES = {"q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_k_m": lib.LLAMA_FTYPE_MOSTLY_Q4_K_M}
EXPANDED = lib.LLAMA_FTYPE_ALL_F32


def requantised(source: Path, target: Path, ftype: int) -> Path:
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = ftype, True
    assert lib.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(params)) == 0
    return target


def logits(runtime: Any, tokens: list[int]) -> Any:
    try:
        return runtime.advance({runtime.open(): tokens}, logits="all").popitem()[1]
    finally:
        runtime.shutdown()


@pytest.mark.parametrize("quant", FTYPES)
@pytest.mark.parametrize("case", CASES)
def test_logits_are_as_close_as_llama_cpps_own_rounding(
    case: str, quant: str, plain_kernels: tuple[str, ...], tmp_path: Path
) -> None:
    file = requantised(HERE / case / "model-f32.gguf", tmp_path / f"{quant}.gguf", FTYPES[quant])
    weights = requantised(file, tmp_path / "expanded.gguf", EXPANDED)
    tokens, *_ = reference_of(case)
    header = read_header(file)
    ours = logits(HybridRuntime(header, architectures()[header.architecture], **SETTINGS), tokens)
    theirs = logits(LlamaRuntime(file, **SETTINGS), tokens)
    exact = logits(LlamaRuntime(weights, **SETTINGS), tokens)
    rounding = relative_rms(theirs, exact)
    assert rounding > 1e-4  # something was quantised
    # Our product rounds activations as accurately, but not in step with ggml's: two errors of that size.
    apart = np.sqrt(2) if "conifer.qmatmul/1" in plain_kernels else 1
    assert relative_rms(ours, theirs) <= apart * rounding
    assert relative_rms(ours, exact) <= 1.1 * rounding
    assert np.isfinite(ours).all()
