"""`compare` and `bench`, as processes, on tiny random hybrids."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from .conftest import GOLDEN, TINY

Cli = Callable[..., CompletedProcess[str]]
GRANITE = GOLDEN / "granite" / "model-f32.gguf"
QUICK = ("--prompt", "24", "--decode", "4", "--rounds", "2", "--threads", "1")


@pytest.mark.usefixtures("registered")
def test_compare_finds_the_two_runtimes_alike(cli: Cli, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("The river rose when the snow melted. " * 20)
    done = cli(
        "compare", str(GRANITE), "--text", str(text), "--tokens", "70", "--split", "40,7,1",
        "--cache-type", "f32", "--threads", "1", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rms_relative"] < 1e-5  # float32 sums in another order
    assert found["top1_agreement"] == 1
    assert found["kl"] < 1e-9
    assert found["n_tokens"] == sum(found["split"]) == 70
    assert found["split"][:3] == [40, 7, 1]
    assert [side["runtime"] for side in found["sides"]] == ["hybrid", "llama.cpp"]
    for side in found["sides"]:
        assert side["n_threads"] == 1
        assert min(side["tokens_per_s"], side["decode_tps"], side["load_s"], side["rss_bytes"]) > 0


@pytest.mark.usefixtures("registered")
def test_compare_shows_a_table(cli: Cli) -> None:
    shown = cli("compare", str(GRANITE), "--tokens", "20").stdout
    for words in ("rms relative difference", "top-1 agreement", "KL divergence", "hybrid", "llama.cpp plain"):
        assert words in shown


def test_compare_ends_with_1_where_a_runtime_cannot_load(cli: Cli) -> None:
    gated = cli("compare", str(GRANITE))
    assert (gated.returncode, gated.stdout) == (1, "")
    assert "no registered plugin supplies conifer.ssd_scan/1" in gated.stderr
    dense = cli("compare", str(TINY))
    assert dense.returncode == 1
    assert "no architecture file here answers to `lfm2`" in dense.stderr
    assert cli("compare", str(GRANITE), "--split", "0").returncode == 2


@pytest.mark.usefixtures("registered")
def test_bench_measures_every_setting_at_every_depth_and_keeps_it(cli: Cli, tmp_path: Path) -> None:
    picture = tmp_path / "flat.png"
    cli("pull", str(GRANITE))
    done = cli(
        "bench", "model-f32", str(TINY), "--vs", "llama.cpp", "--settings", "no-repack,plain", "--depths", "40,0",
        *QUICK, "--json", "--plot", str(picture),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    keys = [(r["architecture"], r["runtime"], r["setting"], r["depth"]) for r in rows]
    hybrid = ("granitehybrid", "hybrid", "ours")
    assert keys == [
        key
        for depth in (0, 40)
        for key in (
            (*hybrid, depth),
            ("granitehybrid", "llama.cpp", "no-repack", depth),
            ("granitehybrid", "llama.cpp", "plain", depth),
        )
    ] + [("lfm2", "llama.cpp", s, depth) for depth in (0, 40) for s in ("no-repack", "plain")]
    for row in rows:
        assert min(row["ttft_s"], row["prefill_tps"], row["decode_tps"], row["bandwidth_share"]) > 0
        assert row["rss_bytes"] > 10_000_000
        assert len(row["decode_tps_rounds"]) == row["rounds"] == 2
        assert (row["n_prompt"], row["n_threads"], row["interleaved"]) == (24, 1, True)
    assert picture.read_bytes().startswith(b"\x89PNG")
    again = json.loads(cli("bench", "model-f32", *QUICK, "--json").stdout)
    assert [r["setting"] for r in again] == ["ours"]


def test_a_dense_model_is_measured_as_it_is_run(cli: Cli) -> None:
    (row,) = json.loads(cli("bench", str(TINY), *QUICK, "--json").stdout)
    assert (row["runtime"], row["setting"], row["is_default"]) == ("llama.cpp", "ours", True)


def test_bench_says_what_stands_in_its_way_before_it_measures(cli: Cli) -> None:
    gated = cli("bench", str(GRANITE))
    assert (gated.returncode, gated.stdout) == (1, "")
    assert "hint: conifer-gguf plugins register ssd_scan causal_conv" in gated.stderr
    deep = cli("bench", str(TINY), "--depths", "9000k")
    assert deep.returncode == 2
    assert "was made for" in deep.stderr
    assert (
        "defaults, no-repack, no-flash, plain"
        in cli("bench", str(TINY), "--vs", "llama.cpp", "--settings", "best").stderr
    )


def test_a_plot_without_matplotlib_names_the_extra(cli: Cli, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'matplotlib' else find(name, *more)\n"
    )
    path = os.pathsep.join(filter(None, (str(hidden), os.environ.get("PYTHONPATH"))))
    done = cli("bench", str(TINY), "--plot", "x.png", env={"PYTHONPATH": path})
    assert done.returncode == 1
    assert "hint: pip install 'conifer-gguf[plot]'" in done.stderr
