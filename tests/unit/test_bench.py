"""What `bench` and `compare` count, add up and keep, without measuring anything."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest

from conifer_gguf.cli.bench import Depths, accelerated
from conifer_gguf.cli.compare import Split
from conifer_gguf.engine.memory import CACHE_BYTES
from conifer_gguf.gguf import read_header
from conifer_gguf.runtimes import tuning
from conifer_gguf.service import bench, compare
from conifer_gguf.service.bench import Wish
from conifer_gguf.store import results
from conifer_gguf.store.library import LocalModel
from conifer_gguf.store.results import Measured

GOLDEN = Path(__file__).parent.parent / "golden"
GRANITE = GOLDEN / "granite" / "model-f32.gguf"
POINT = Measured(
    model="m",
    file="m.gguf",
    content_id="0123456789abcdef",
    architecture="granitehybrid",
    runtime="hybrid",
    setting="ours",
    is_default=True,
    depth=0,
    n_prompt=512,
    n_decode=32,
    rounds=3,
    n_threads=2,
    cache_type="f16",
    ttft_s=2.0,
    prefill_tps=256.0,
    prefill_tps_rounds=(250.0, 256.0, 260.0),
    decode_tps=30.0,
    decode_tps_rounds=(10.0, 30.0, 33.0),
    rss_bytes=1000,
    load_s=0.5,
    bandwidth_share=0.5,
    read_bandwidth=1e10,
    interleaved=True,
    machine="cpu",
    version="0",
    date="2026-11-25",
)


@pytest.mark.parametrize(
    ("text", "depths"), [("0", (0,)), ("16k,0,4K", (0, 4096, 16384)), ("500, 500", (500,))]
)
def test_depths_are_read_in_tokens_or_thousands(text: str, depths: tuple[int, ...]) -> None:
    assert Depths().convert(text, None, None) == depths


@pytest.mark.parametrize("text", ["", "4m", "-1", "0;4k", "1.5k"])
def test_what_is_no_list_of_depths_is_a_mistake_of_usage(text: str) -> None:
    with pytest.raises(click.BadParameter, match="0,4k,16k"):
        Depths().convert(text, None, None)


@pytest.mark.parametrize("text", ["", "0", "5,,1", "one"])
def test_what_is_no_split_is_a_mistake_of_usage(text: str) -> None:
    with pytest.raises(click.BadParameter, match="100,1"):
        Split().convert(text, None, None)


@pytest.mark.parametrize(
    ("n", "split", "expected"),
    [(8, (), (8,)), (8, (5, 1), (5, 1, 1, 1)), (7, (3,), (3, 3, 1)), (2, (5, 1), (2,))],
)
def test_a_split_repeats_its_last_number(n: int, split: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert compare.pieces(n, split) == expected


def test_the_same_logits_differ_by_nothing_and_others_by_what_the_definitions_say() -> None:
    theirs = np.log(np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]], np.float32))
    same = compare.differences(theirs, theirs)
    assert (same["rms_relative"], same["top1_agreement"], same["kl"]) == (0, 1, 0)
    ours = theirs.copy()
    ours[0] = np.log([0.25, 0.5, 0.25])
    found = compare.differences(ours, theirs)
    assert found["top1_agreement"] == 0.5
    # 0.5 ln 2 + 0.25 ln 1/2 in the first row, nothing in the second
    assert found["kl_max"] == pytest.approx(0.25 * np.log(2), rel=1e-6)
    assert found["kl"] == pytest.approx(0.125 * np.log(2), rel=1e-6)
    assert found["max_difference"] == pytest.approx(np.log(2), rel=1e-6)
    assert found["max_relative"] == pytest.approx(np.log(2) / np.log(8), rel=1e-6)
    rms = np.sqrt(2 * np.log(2) ** 2 / np.square(theirs.astype(float)).sum())
    assert found["rms_relative"] == pytest.approx(rms, rel=1e-6)


def test_more_rows_than_one_block_are_all_counted() -> None:
    theirs = np.random.default_rng(0).standard_normal((2 * compare.ROWS + 3, 5)).astype(np.float32)
    ours = theirs.copy()
    ours[-1] = np.roll(theirs[-1], 1)
    found = compare.differences(ours, theirs)
    assert found["top1_agreement"] == pytest.approx(1 - 1 / len(theirs))
    assert found["max_difference"] == pytest.approx(float(np.abs(ours - theirs).max()))


def test_decoding_reads_the_weights_it_uses_the_cache_and_the_carry_twice() -> None:
    header = read_header(GRANITE)
    every = sum(t.nbytes for t in header.tensors.values())
    shape = bench.geometry(header)
    assert "output.weight" not in header.tensors  # tied: the embedding is read as the output matrix
    at_zero = bench.decode_bytes(header, 0, "f16")
    assert at_zero == every + 2 * shape.carry_bytes
    assert bench.decode_bytes(header, 100, "q8_0") - at_zero == pytest.approx(
        100 * shape.cache_elements * CACHE_BYTES["q8_0"]
    )


def test_decoding_a_mixture_reads_only_the_experts_that_are_chosen() -> None:
    header = read_header(GOLDEN / "granite_moe" / "model-f32.gguf")
    experts = sum(t.nbytes for name, t in header.tensors.items() if "_exps." in name)
    assert "output.weight" in header.tensors  # not tied: of the embedding one row is read
    every = sum(t.nbytes for name, t in header.tensors.items() if name != "token_embd.weight")
    used, count = header.get(".expert_used_count"), header.get(".expert_count")
    assert 0 < used < count
    carry = bench.geometry(header).carry_bytes
    read = bench.decode_bytes(header, 0, "f16") - 2 * carry
    assert read == pytest.approx(every - experts * (1 - used / count))


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    theirs = [
        dataclasses.replace(POINT, setting="defaults", decode_tps_rounds=(10.0, 10.0, 11.0)),
        dataclasses.replace(POINT, setting="no-repack", decode_tps_rounds=(5.0, 20.0, 33.0)),
        dataclasses.replace(POINT, setting="plain", decode_tps_rounds=(4.0, 4.0, 4.0)),
        dataclasses.replace(POINT, setting="defaults", depth=9),
    ]
    (prefill, decode) = bench.ratios([POINT, *theirs])
    assert (prefill.phase, decode.phase, decode.depth) == ("prefill", "decode", 0)
    assert decode.defaults == 3.0  # of 1, 3, 3
    assert decode.equal_layout == 1.5  # no-repack: of 2, 1.5, 1; plain is slower
    assert (decode.best, decode.best_setting) == (1.5, "no-repack")
    assert bench.ratios([POINT]) == []


def test_the_progress_of_a_wish_counts_every_token_once() -> None:
    wish = Wish(depths=(0, 100), n_prompt=10, n_decode=2, rounds=3)
    assert wish.tokens(n_lanes=2) == 2 * (100 + 2 * 3 * 12)


def test_results_are_kept_by_content_and_a_repeated_one_replaces_its_former_self(tmp_path: Path) -> None:
    file = tmp_path / "copy.gguf"
    file.write_bytes(GRANITE.read_bytes())
    mine = dataclasses.replace(POINT, content_id=results.content_id(read_header(GRANITE)))
    assert results.results(GRANITE) == ()
    results.keep([mine, dataclasses.replace(mine, depth=7)])
    results.keep([dataclasses.replace(mine, decode_tps=99.0)])
    found = results.results(file)
    assert {p.depth: p.decode_tps for p in found} == {0: 99.0, 7: 30.0}
    assert results.results(GOLDEN / "jamba" / "model-f32.gguf") == ()


def test_another_file_of_the_same_header_has_another_id(tmp_path: Path) -> None:
    longer = tmp_path / "longer.gguf"
    longer.write_bytes(GRANITE.read_bytes() + b"\0" * 64)
    assert results.content_id(read_header(longer)) != results.content_id(read_header(GRANITE))


def test_results_that_cannot_be_read_are_none(home: Path) -> None:
    mine = dataclasses.replace(POINT, content_id=results.content_id(read_header(GRANITE)))
    results.keep([mine])
    (kept,) = home.glob("bench/*/*.json")
    kept.write_text('[{"model": "m"}]')
    assert results.results(GRANITE) == ()


def test_a_row_says_who_computed_products_and_attention() -> None:
    ours = dataclasses.replace(POINT, accelerators={"conifer.qmatmul/1": "org.conifer.qmatmul"})
    assert accelerated(ours) == "attention by ggml, products by org.conifer.qmatmul"
    partly = dataclasses.replace(ours, by_ggml=("f16", "bf16"))
    assert accelerated(partly).endswith("those with F16, BF16 weights by ggml, which is faster here")


def test_every_lane_has_the_threads_that_a_hybrid_is_loaded_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench.status, "require_ready", lambda *_: SimpleNamespace(runtime="hybrid"))
    model = LocalModel("granite", GRANITE, GRANITE.stat().st_size, None, None, "file", None)
    tuning.remember(tuning.Tuning(5))
    lanes = bench.lanes_of(model, Wish(n_prompt=16, n_decode=4, settings=("plain",)))
    assert [lane.subject.n_threads for lane in lanes] == [5, 5]
    asked = bench.lanes_of(model, Wish(n_prompt=16, n_decode=4, n_threads=3))
    assert [lane.subject.n_threads for lane in asked] == [3]
