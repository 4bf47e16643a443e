"""How the kit makes its inputs and judges errors; no library is loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conifer_gguf.errors import PluginRefused
from conifer_gguf.kit.arena import Placed, Spacing
from conifer_gguf.kit.execution import worst_error
from conifer_gguf.kit.maker import Maker, Variant
from conifer_gguf.kit.problem import solve
from conifer_gguf.kit.recipe import read_recipe
from conifer_gguf.kit.values import read, store
from conifer_gguf.native_api.call import dense_strides
from conifer_gguf.native_api.cdef import declarations, ffi, macro
from conifer_gguf.ops import contracts


def maker(op: str) -> Maker:
    contract = contracts()[op]
    return Maker(contract, read_recipe(contract.folder))


@pytest.mark.parametrize("op", sorted(contracts()))
def test_the_same_problem_comes_again(op: str) -> None:
    first, second = (m.problem(m.sizes(6, 1), m.variants[-1], [4], [1], 3) for m in (maker(op), maker(op)))
    assert first.label == second.label
    for a, b in zip(first.inputs, second.inputs, strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or np.array_equal(a.stored, b.stored)


@pytest.mark.parametrize("op", sorted(contracts()))
@pytest.mark.parametrize("turn", range(5))
def test_sizes_fit_the_contract_and_free_ones_are_unlike(op: str, turn: int) -> None:
    m = maker(op)
    sizes = m.sizes(6, turn)
    problem = m.problem(sizes, m.usual)
    bound = m.contract.bind([a.shape if a is not None else None for a in problem.inputs])
    assert bound == {k: v for k, v in sizes.items() if k in bound}
    free = [sizes[name] for name in (*m.free, "T")]
    assert len(set(free)) == len(free)


def test_variants_are_legal_and_cover_every_alternative() -> None:
    m = maker("conifer.gated_delta/1")
    assert all("dt_bias" in v.absent or "A" not in v.absent for v in m.variants)
    assert all(v.form["gate"] == v.form["dt_bias"] for v in m.variants)
    assert {v.form["gate"] for v in m.variants} == {0, 1}
    for attribute in m.contract.int_attrs:
        assert {v.attrs[attribute.name] for v in m.variants} == set(attribute.values)


def test_the_usual_variant_has_everything_and_the_defaults() -> None:
    usual = maker("conifer.ssd_scan/1").usual
    assert usual == Variant(attrs={"dt_softplus": "yes"})


def test_an_attribute_changes_the_inputs_that_it_must() -> None:
    m = maker("conifer.gated_delta/1")
    variant = next(v for v in m.variants if v.attrs["qk_norm"] == "none" and v.attrs["beta_act"] == "none")
    q, k, _, _, beta, *_ = m.problem(m.sizes(9), variant).inputs
    assert q is not None
    assert k is not None
    assert beta is not None
    assert np.allclose((q.value**2).sum(-1), 1)
    assert np.allclose((k.value**2).sum(-1), 1)
    assert (beta.value >= 0).all()
    assert (beta.value <= 1).all()


def test_foreign_slots_and_padding_hold_nan() -> None:
    m = maker("conifer.ssd_scan/1")
    problem = m.problem(m.sizes(5), m.usual, slots=[2], n_slot=4)
    pool = problem.states[0].stored
    assert np.isnan(pool[[0, 1, 3]]).all()
    assert np.isfinite(pool[2]).all()
    padded = problem.cut([(0, 1, 4)], padding=2)
    x = padded.inputs[0]
    assert x is not None
    assert np.isfinite(x.stored[:3]).all()
    assert np.isnan(x.stored[3:]).all()
    assert (padded.seq_start, padded.slot, padded.n_token) == ((0, 3), (2,), 5)


def test_the_reference_gives_zero_for_padding_and_leaves_the_problem_alone() -> None:
    m = maker("conifer.causal_conv/1")
    problem = m.problem(m.sizes(5), m.usual, [3], [1], 2)
    before = problem.states[0].value.copy()
    (y,), (pool,) = solve(problem, m.contract.reference())
    assert not y[3:].any()
    assert y[:3].any()
    assert np.array_equal(problem.states[0].value, before, equal_nan=True)
    assert not np.array_equal(pool[1], before[1])


@pytest.mark.parametrize(
    ("dtype", "error"),
    [("f32", 1e-7), ("f16", 1e-3), ("bf16", 1e-2), ("q8_0", 1e-2), ("q4_0", 0.3), ("i32", 0.5)],
)
def test_stored_numbers_mean_what_the_reference_gets(dtype: str, error: float) -> None:
    value = np.random.default_rng(0).uniform(-2, 2, (3, 64))
    array = store(dtype, value)
    assert np.abs(array.value - value).max() <= error
    assert np.array_equal(read(dtype, array.stored, (3, 64)), array.value)


@pytest.mark.parametrize("dtype", ["q4_k", "q5_k", "q6_k"])
def test_blocks_of_the_k_types_are_sane_numbers(dtype: str) -> None:
    array = store(dtype, np.zeros((3, 512)))
    assert array.stored.shape[-1] == dense_strides(dtype, (3, 512))[0]
    assert np.isfinite(array.value).all()
    assert 1e-3 < np.abs(array.value).max() < 10


def test_gaps_and_offsets_keep_the_elements_apart() -> None:
    placed = Placed("f32", (3, 4, 5), Spacing(gap=2, offset=1), gaps_in_rows=True, gap_after_slot=False)
    assert placed.stride_bytes == ((4 * 7 + 2) * 4, 7 * 4, 4)
    placed.view[...] = 1.0
    assert not placed.canaries_touched()
    whole = np.lib.stride_tricks.as_strided(placed.view, (3, 4, 6), placed.stride_bytes)
    whole[1, 2, 5] = 1.0
    assert placed.canaries_touched()


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([[1.0, 2.0]], [[1.0, 2.0]], 0.0),
        ([[1.0, 2.2]], [[1.0, 2.0]], 0.1),
        ([[1e-9, 2.0]], [[0.0, 2.0]], 5e-10),
        ([[np.nan, 2.0]], [[1.0, 2.0]], np.inf),
        ([[np.inf, 2.0]], [[np.inf, 2.0]], 0.0),
    ],
)
def test_errors_are_relative_to_the_row(
    found: list[list[float]], expected: list[list[float]], error: float
) -> None:
    assert worst_error(np.array(found), np.array(expected)) == pytest.approx(error)


def test_a_recipe_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "op.toml").write_text("[kit]\nrtoll = 1e-5\n", "utf-8")
    with pytest.raises(PluginRefused, match=r"`kit\.rtoll`"):
        read_recipe(tmp_path)


def test_declarations_leave_out_what_cffi_cannot_read() -> None:
    header = """/* a
    comment */
#define CK_CALL
#define CK_HAS(p, f) \\
    ((p)->f)
#define CK_LIMIT 7u
#ifdef __cplusplus
extern "C" {
#endif
CK_EXPORT int CK_CALL f(void);
"""
    assert declarations(header).split() == ["int", "f(void);"]
    assert macro(header, "CK_LIMIT") == 7
    with pytest.raises(LookupError, match="CK_OTHER"):
        macro(header, "CK_OTHER")


def test_the_header_of_this_package_has_its_entry() -> None:
    assert ffi.sizeof("ck_call") == 96
