"""The README is true: its commands and snippets run, its figures are those of the catalog and of the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_hub import Hub

from conifer_gguf.arch import architectures
from conifer_gguf.settings import VARIABLES, format_bytes
from conifer_gguf.store.catalog import HubSource, PackageSource, catalog

from .console import BLOCK, commands_of, environment, type_in

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
TINY_GRANITE = ROOT / "tests/golden/granite/model-f32.gguf"


@pytest.fixture
def reader(
    home: Path, tmp_path: Path, real_models: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """The environment of somebody who follows the README; the hub is here, and serves a tiny Granite as the real one."""
    shutil.copytree(real_models / "models", home / "models", copy_function=os.link)
    granite = catalog().resolve("granite-4.0-h-1b")[0].source(None)
    assert isinstance(granite, HubSource)
    with Hub(granite.repo, granite.file, TINY_GRANITE.read_bytes()).running() as hub:
        yield environment(tmp_path / "bin", home, HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1")


@pytest.mark.slow
@pytest.mark.real_model
def test_its_commands_do_what_it_says(reader: dict[str, str], tmp_path: Path) -> None:
    commands = commands_of(README)
    assert len(commands) >= 9
    for command, expected in commands:
        type_in(command, expected, tmp_path, reader)


@pytest.mark.slow
@pytest.mark.real_model
def test_its_snippets_run(reader: dict[str, str], tmp_path: Path) -> None:
    load, client = [body for kind, body in BLOCK.findall(README) if kind == "python"]
    paths = f"import sys\nsys.path[:0] = {sys.path!r}\n"
    server = subprocess.Popen(
        ["conifer-gguf", "serve", "--port", "0", "--ctx", "1024", "smollm2-135m"],
        env=reader,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        for snippet in (load, client.replace("http://127.0.0.1:8080", url)):
            done = subprocess.run(
                [sys.executable, "-c", paths + snippet],
                cwd=tmp_path,
                env=reader,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert len(done.stdout) > 5
    finally:
        server.terminate()
        server.communicate(timeout=20)


def test_the_two_commands_of_its_first_lines_exist() -> None:
    first = next(body for kind, body in BLOCK.findall(README) if kind == "sh")
    targets = re.findall(r"^make (\w+)", first, re.MULTILINE)
    assert targets == ["serve", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets)


def test_its_table_of_windows_is_the_catalogs() -> None:
    rows = re.findall(r"^\| ([\w.\-]+) \(.*\) \| (\d+) of (\d+) \| (.+) \| (.+) \|$", README, re.MULTILINE)
    assert len(rows) == 3
    for name, attention, layers, short, long in rows:
        shape = catalog().resolve(name)[0].shape
        cost = [format_bytes(n * shape.kv_bytes_per_token + shape.carry_bytes) for n in (10_000, 100_000)]
        assert (int(attention), int(layers), [short, long]) == (shape.attention, shape.layers, cost)


def test_its_settings_are_those_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+ \| .+) \|$", README, re.MULTILINE))
    assert rows == {v.name: f"{v.meaning} | {v.default}" for v in VARIABLES}


def test_every_architecture_that_our_engine_runs_is_named_in_it() -> None:
    (row,) = [line for line in README.splitlines() if "on our engine |" in line]
    flat = row.lower().replace(" ", "").replace("-", "").replace(".", "")
    published = [e for e in catalog().entries if not isinstance(e.source(None), PackageSource)]
    names = {e.family for e in published if e.architecture in architectures()}
    assert [name for name in names if re.split(r"[-.]?\d", name)[0].replace("-", "") not in flat] == []


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
