"""qmatmul keeps the contract of its op; the cases come from the kit, the tolerance from op.toml. What the kit cannot see: that
nothing but the rounding of activations is inexact, and that it is no less exact than ggml's product."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from conifer_gguf import kit
from conifer_gguf.kit.bench import Backend
from conifer_gguf.kit.values import Array, store
from conifer_gguf.native_api.call import Call, View
from conifer_gguf.native_api.kernels import Kernel, load_library
from conifer_gguf.ops import contracts

OP = "conifer.qmatmul/1"
ROUNDED = {"q4_k": 256, "q5_k": 256, "q6_k": 256, "q8_0": 32, "q4_0": 32, "q5_0": 32}  # inputs of one scale
EXACT = ["f32", "f16", "bf16"]
Float32 = NDArray[np.float32]


@pytest.mark.parametrize("isa", kit.instruction_sets(dot8=True))
def test_qmatmul_keeps_its_contract_on_every_instruction_set(isa: str) -> None:
    """A set that this processor lacks is not taken: the best one is checked again then."""
    kit.check(
        Path(__file__).parent, depth="quick", split_exact=True, environment={"CONIFER_ISA": isa}
    ).require()


def test_qmatmul_keeps_its_contract_under_the_sanitizers() -> None:
    kit.check(Path(__file__).parent, depth="quick", split_exact=True, sanitize=True).require()


@cache
def library() -> Path:
    return kit.build(Path(__file__).parent).library


@cache
def best_kernel() -> Kernel:
    return load_library(library()).kernels[0]


def product(x: Float32, weight: Array, kernel: Kernel | None = None) -> Float32:
    kernel = kernel or best_kernel()
    contract = contracts()[OP]
    stored = np.ascontiguousarray(weight.stored)
    y = np.zeros((len(x), len(weight.value)), np.float32)
    inputs = [
        View.dense("f32", x.shape, x.ctypes.data),
        View.dense(weight.dtype, weight.shape, stored.ctypes.data, constant=True),
        None,
        None,
    ]
    call = Call(contract, inputs, [], [View.dense("f32", y.shape, y.ctypes.data)], *contract.attributes({}))
    call.set_sequences([0, len(x)], [0])
    need = kernel.plan(call, 1)
    scratch = np.zeros(need.scratch_bytes + 1, np.uint8)
    for phase in range(need.n_phase):
        kernel.run(call, phase, scratch=scratch.ctypes.data)
    return y


def ggml_product(x: Float32, weight: Array) -> Float32:
    with Backend(1) as backend:
        w, v = backend.tensor(weight.shape, weight.dtype), backend.tensor(x.shape)
        made = backend.lib.ggml_mul_mat(backend.context, w, v)
        graph = backend.graph([made])
        backend.allocate()
        backend.set(w, weight.stored)
        backend.set(v, x)
        backend.compute(graph)
        return backend.values(made, (len(x), len(weight.value)))


def rounded(x: Float32, n: int) -> NDArray[np.float64]:
    """To 255 steps, with one scale for n neighbours."""
    blocks = x.reshape(len(x), -1, n).astype(np.float64)
    d = np.abs(blocks).max(-1, keepdims=True) / 127
    whole = np.rint((blocks / np.where(d > 0, d, 1)).astype(np.float32))
    values: NDArray[np.float64] = (whole * d).reshape(x.shape)
    return values


def drawn(dtype: str, n: int, n_out: int, n_in: int) -> tuple[Float32, Array]:
    rng = np.random.default_rng(n_in)
    x, weight = (
        rng.standard_normal((n, n_in)).astype(np.float32),
        store(dtype, rng.standard_normal((n_out, n_in))),
    )
    # All as large as can be, of one sign or of a weight's: sums of products leave 16 bits.
    x[n // 2, :256] = 0.5
    x[n // 3, :256] = 0.5 * np.sign(weight.value[0, :256])
    return x, weight


def error(found: Float32, expected: NDArray[np.float64]) -> float:
    """Root mean square, relative to that of what was expected."""
    return float(np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean()))


@pytest.mark.parametrize("isa", kit.instruction_sets(dot8=True))
@pytest.mark.parametrize("dtype", [*ROUNDED, *EXACT])
def test_only_the_rounding_of_activations_is_inexact(
    dtype: str, isa: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CONIFER_ISA", isa)  # read at a library's first call: a copy reads it again
    kernel = load_library(Path(shutil.copy(library(), tmp_path / "qmatmul.so"))).kernels[0]
    x, weight = drawn(dtype, 13, 99, 1536)
    as_used = rounded(x, ROUNDED[dtype]) if dtype in ROUNDED else x.astype(np.float64)
    expected = as_used @ weight.value.T
    for found, row in zip(product(x, weight, kernel), expected, strict=True):
        assert error(found, row) <= 1e-6  # float32 sums of 1536 terms at most


@pytest.mark.parametrize("dtype", [*ROUNDED, *EXACT])
@pytest.mark.parametrize("n", [1, 37])
def test_it_is_no_less_exact_than_ggmls_product(dtype: str, n: int) -> None:
    x, weight = drawn(dtype, n, 70, 2048)
    expected = x.astype(np.float64) @ weight.value.T
    ours, theirs = error(product(x, weight), expected), error(ggml_product(x, weight), expected)
    assert (
        ours <= 1.05 * theirs + 2e-7
    )  # both round activations alike; the rest is chance, and float32's own error


@pytest.mark.parametrize("dtype", ROUNDED)
def test_activations_that_are_not_numbers_spoil_their_row_alone(dtype: str) -> None:
    x, weight = drawn(dtype, 7, 41, 512)
    x[3, 300] = np.nan
    x[5, 20] = np.inf
    y = product(x, weight)
    assert np.isfinite(y).all(1).tolist() == [True, True, True, False, True, False, True]


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("n", [1, 7])
def test_activations_too_small_for_a_factor_count_as_zeros(dtype: str, n: int) -> None:
    x, weight = drawn(dtype, n, 41, 512)
    x[0] = np.where(np.arange(512) % 3, 1e-38, 0)
    assert not product(x, weight)[0].any()
