"""The harness behind docs/benchmarks.md measures, keeps and writes its tables, on tiny models under the big ones' names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import GOLDEN

ROOT = GOLDEN.parents[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_command_measures_and_another_writes_the_page(tmp_path: Path, registered: Path) -> None:
    models, results = tmp_path / "models", tmp_path / "results"
    models.mkdir()
    for name, case in {
        "granite-4.0-h-1b": "granite",
        "llama-3.2-1b": "lfm2",  # llama.cpp runs it, too
    }.items():
        shutil.copy(GOLDEN / case / "model-f32.gguf", models / f"{name}-q4_k_m.gguf")
    (results / "home").mkdir(parents=True)
    shutil.copytree(registered / "plugins", results / "home" / "plugins")
    where = ("--results", str(results))
    # As a person runs a script: the modules beside it are found, the package is the installed one.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    script = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--models", str(models)]
    subprocess.run([*script, *where, "--only", "context", "--quick"], check=True, env=env)
    rows = json.loads((results / "context.json").read_text())
    measured = {(r["model"].split("-")[0], r["setting"], r["depth"]) for r in rows}
    assert measured - {m for m in measured if m[1] == "defaults"} == {  # those crash on some CPUs
        (model, setting, depth)
        for depth in (0, 256, 512)
        for model, setting in (("granite", "ours"), ("granite", "plain"), ("llama", "plain"))
    }
    assert (results / "context.png").read_bytes().startswith(b"\x89PNG")
    page = tmp_path / "benchmarks.md"
    shutil.copy(ROOT / "docs" / "benchmarks.md", page)
    report = [sys.executable, str(ROOT / "benchmarks" / "report.py"), "--page", str(page)]
    subprocess.run([*report, *where], check=True, env=env)
    text = page.read_text("utf-8")
    assert "| granite-4.0-h-1b-q4_k_m | 256 | decode |" in text
    assert text.count("<!-- context -->") == 2
    before = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    assert text.partition("<!-- context -->")[0] == before.partition("<!-- context -->")[0]


def test_the_page_says_what_the_kept_results_say(tmp_path: Path) -> None:
    """All parts of them, those of kernels that are timed in other ways, too."""
    page = tmp_path / "benchmarks.md"
    shutil.copy(ROOT / "docs" / "benchmarks.md", page)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    report = [sys.executable, str(ROOT / "benchmarks" / "report.py"), "--page", str(page)]
    subprocess.run(report, check=True, env=env)
    text = page.read_text("utf-8")
    assert text == (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    for op in ("attention", "causal_conv", "gated_delta", "qmatmul", "selective_scan", "ssd_scan"):
        assert f"| conifer.{op}/1 |" in text
