"""attention keeps the contract of its op; the cases come from the kit, the tolerance from op.toml. What the kit cannot see is
how numbers that a cache's dtype does not hold are rounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from conifer_gguf import kit
from conifer_gguf.native_api.call import Call, View
from conifer_gguf.native_api.kernels import load_library
from conifer_gguf.ops import contracts

OP = "conifer.attention/1"


@pytest.mark.parametrize("isa", kit.instruction_sets())
def test_attention_keeps_its_contract_on_every_instruction_set(isa: str) -> None:
    """A set that this processor lacks is not taken: the best one is checked again then."""
    kit.check(
        Path(__file__).parent, depth="quick", split_exact=True, environment={"CONIFER_ISA": isa}
    ).require()


def test_attention_keeps_its_contract_under_the_sanitizers() -> None:
    kit.check(Path(__file__).parent, depth="brief", split_exact=True, sanitize=True).require()


Stored = NDArray[Any]


def bf16(x: Stored) -> Stored:
    """To nearest even."""
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def q8_0(x: Stored) -> Stored:
    made: Stored = gguf.quants.quantize(x, gguf.GGMLQuantizationType.Q8_0)
    return made


@pytest.mark.parametrize(
    ("dtype", "rounded"),
    [("f16", lambda x: x.astype(np.float16)), ("bf16", bf16), ("q8_0", q8_0), ("f32", lambda x: x)],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_new_rows_are_rounded_to_the_cache_as_everybody_does(
    dtype: str, rounded: Callable[[Stored], Stored]
) -> None:
    n, heads, d, block = 40, 3, 64, 16
    rng = np.random.default_rng(0)
    scale = 2.0 ** rng.integers(-30, 15, (n, heads, 1))  # down to where halves lose digits, and to 0
    k, v = ((scale * rng.standard_normal((n, heads, d))).astype(np.float32) for _ in range(2))
    stored = rounded(k.reshape(-1, d)).reshape(n, heads, -1)
    pools = [np.zeros((3, heads, block, stored.shape[2]), stored.dtype) for _ in range(2)]
    table, position = np.array([[2, 0, 1]], np.int32), np.arange(n, dtype=np.int32)
    y = np.zeros((n, heads, d), np.float32)

    kernel = load_library(kit.build(Path(__file__).parent).library).kernels[0]
    inputs = [
        View.dense(t, a.shape, a.ctypes.data)
        for t, a in (("f32", k), ("f32", k), ("f32", v), ("i32", position))
    ]
    states = [View.dense("i32", table.shape, table.ctypes.data)]
    states += [View.dense(dtype, (3, heads, block, d), pool.ctypes.data) for pool in pools]
    ints, reals = contracts()[OP].attributes({"scale": 0.1})
    call = Call(contracts()[OP], inputs, states, [View.dense("f32", y.shape, y.ctypes.data)], ints, reals)
    call.set_sequences([0, n], [0])
    need = kernel.plan(call, 1)
    scratch = np.zeros(need.scratch_bytes, np.uint8)
    for phase in range(need.n_phase):
        kernel.run(call, phase, scratch=scratch.ctypes.data)

    found = np.concatenate([pools[0][b] for b in table[0]], 1)[:, :n]  # [heads, positions, d]
    assert np.array_equal(found.transpose(1, 0, 2), stored)
