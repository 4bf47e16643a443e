"""`plugins bench` times kernels against ggml's operators and says so in a table, in JSON and in a picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conifer_gguf.kit import bench

QUICK = ("--seconds", "0.001", "--threads", "1")
FIELDS = {"op", "shape", "n_tokens", "us_per_token", "ggml_us_per_token", "ratio"}


def plugins_bench(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "conifer_gguf", "plugins", "bench", *QUICK, *words]
    env = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, check=False)
    assert done.returncode == code, done.stderr
    return done


def test_every_op_of_ggml_is_timed_at_the_shapes_of_the_catalog() -> None:
    rows = json.loads(plugins_bench("--tokens", "1", "--depth", "8", "--weights", "q4_k", "--json").stdout)
    scans = [row for row in rows if row["op"] in bench.OPS]
    assert {row["op"] for row in scans} == set(bench.OPS)
    assert {row["op"] for row in rows} == {*bench.OPS, "conifer.attention/1", "conifer.qmatmul/1"}
    assert all(row.keys() >= FIELDS and row["ratio"] > 0 for row in rows)
    for row in scans:
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert min(row["us_per_token"], row["ggml_us_per_token"], row["ratio"]) > 0
        assert row["largest_difference"] < bench.AGREEMENT
        assert (row["peak_share"] > 0) == (row["mac_per_token"] > 0)
    shapes = {row["shape"] for row in scans}
    assert {"H=48 P=64 N=128 G=1", "M=5120 N=16", "H=32 J=32 I=128 V=128 per channel"} <= shapes


def test_a_picture_is_drawn_besides_the_table(tmp_path: Path) -> None:
    done = plugins_bench("--op", "selective_scan", "--tokens", "1,16", "--plot", str(tmp_path / "ratio.png"))
    assert "RATIO" in done.stdout
    assert done.stdout.count("M=5120 N=16") == 2
    assert "GMAC/s" in done.stderr
    assert (tmp_path / "ratio.png").read_bytes().startswith(b"\x89PNG")


def test_attention_has_no_picture(tmp_path: Path) -> None:
    done = plugins_bench("attention", "--plot", str(tmp_path / "x.png"), code=2)
    assert "--plot draws scans and convolutions" in done.stderr


def test_a_forced_instruction_set_is_taken() -> None:
    def rates(isa: str) -> float:
        words = ("--op", "selective_scan", "--tokens", "16", "--isa", isa, "--json")
        return min(row["us_per_token"] for row in json.loads(plugins_bench(*words).stdout))

    assert "avx9" in plugins_bench("--isa", "avx9", code=2).stderr
    if Path("/proc/cpuinfo").is_file() and " avx2" in Path("/proc/cpuinfo").read_text("ascii"):
        assert rates("scalar") > 1.2 * rates("avx2")


def test_the_peak_is_that_of_the_set_that_kernels_take(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "from conifer_gguf.native_api.host import multiply_adds; print(multiply_adds(0.05))"

    def peak(isa: str) -> float:
        monkeypatch.setenv("CONIFER_ISA", isa)
        return float(subprocess.check_output([sys.executable, "-c", script], text=True))

    assert peak("scalar") > 1e8
    if Path("/proc/cpuinfo").is_file() and " avx2" in Path("/proc/cpuinfo").read_text("ascii"):
        assert peak("avx2") > 1.5 * peak("scalar")
