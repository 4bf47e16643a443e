"""The example of a packaged plugin: built into a wheel, installed, found by its entry point, registered and used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import conifer_gguf
from conifer_gguf import kit

HERE = Path(__file__).parent


def test_the_plain_convolution_keeps_its_contract() -> None:
    kit.check(HERE / "conifer_plain_conv", depth="quick").require()


@pytest.mark.slow
def test_the_package_is_installed_registered_and_supplies_its_op(tmp_path: Path) -> None:
    source = shutil.copytree(
        HERE, tmp_path / "source", ignore=shutil.ignore_patterns("*.so", "build", "*.egg-info")
    )
    site = _environment_beside_ours(tmp_path / "env")
    env = {**os.environ, "CONIFER_GGUF_HOME": str(tmp_path / "home"), "PYTHONPATH": _our_path()}
    python = str(tmp_path / "env" / "bin" / "python")
    pip = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        str(source),
    ]
    subprocess.run(pip, env=env, check=True)
    assert list(site.glob("conifer_plain_conv/*.so")), "the wheel holds the compiled kernel"

    def conifer(*words: str) -> str:
        command = [python, "-P", "-m", "conifer_gguf", *words]
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout

    assert "supplies conifer.causal_conv/1" in conifer("plugins", "register", "plain_conv")
    rows = {row["name"]: row for row in json.loads(conifer("plugins", "list", "--json"))}
    assert (rows["plain_conv"]["status"], rows["plain_conv"]["source"]) == ("registered", "installed")
    needs = {row["name"]: row["needs"] for row in json.loads(conifer("catalog", "--json"))}
    assert needs["granite-4.0-h-350m"] == ["conifer.ssd_scan/1"]


def _environment_beside_ours(folder: Path) -> Path:
    """A fresh environment that can also import what ours has: the wheels that it would download."""
    venv.create(folder, with_pip=True)
    return next((folder / "lib").glob("python*")) / "site-packages"


def _our_path() -> str:
    package = Path(conifer_gguf.__file__).resolve().parents[1]
    return os.pathsep.join([str(package), *(p for p in sys.path if p.endswith("site-packages"))])
