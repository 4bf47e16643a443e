"""What the guides tell people to type is typed here, and what they say comes out does come out.

Console blocks are those of console.py. A block with a path after its language, such as ```python check.py, is a file that the
reader writes, or goes on with.
"""

from __future__ import annotations

import os
import re
import sys
import venv
from pathlib import Path

import pytest

import conifer_gguf

from .console import type_in

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w+)(?: ([\w./-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Step:
    """A command with the lines that it is to print, or a file to write."""

    def __init__(self, command: str = "", path: str = "", body: str = "") -> None:
        self.command, self.path, self.body = command, path, body
        self.expected: list[str] = []


def steps_of(text: str) -> list[Step]:
    found: list[Step] = []
    for kind, path, body in BLOCK.findall(text):
        if path:
            found.append(Step(path=path, body=body))
        for line in body.splitlines() if kind == "console" else ():
            if line.startswith("$ "):
                found.append(Step(command=line[2:]))
            else:
                found[-1].expected.append(line)
    return found


def write(folder: Path, step: Step) -> None:
    target = folder / step.path
    target.parent.mkdir(parents=True, exist_ok=True)
    before = target.read_text("utf-8") + "\n\n" if target.exists() else ""
    target.write_text(before + step.body, "utf-8")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A reader's environment: `conifer-gguf`, `python` and `pip` of a fresh one that can import what ours has."""
    venv.create(tmp_path / "env", symlinks=True)
    bin_folder = tmp_path / "env" / "bin"
    site = next((tmp_path / "env" / "lib").glob("python*")) / "site-packages"
    package = str(Path(conifer_gguf.__file__).resolve().parents[1])
    paths = [package, *(p for p in sys.path if p.endswith("site-packages"))]
    (site / "ours.pth").write_text("\n".join(paths) + "\n")
    for name, code in (
        ("conifer-gguf", "from conifer_gguf.cli.main import main; main()"),
        ("pip", "from pip._internal.cli.main import main; raise SystemExit(main())"),
    ):
        (bin_folder / name).write_text(f"#!{bin_folder / 'python'} -P\n{code}\n")
        (bin_folder / name).chmod(0o755)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
    return {
        **inherited,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "CONIFER_GGUF_HOME": str(tmp_path / "home"),
        "COLUMNS": "200",
        # A reader's pip fetches the build tools; here they are installed.
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


@pytest.mark.slow
@pytest.mark.parametrize("guide", sorted(p.name for p in (DOCS / "guides").glob("*.md")))
def test_the_commands_of_a_guide_do_what_it_says(guide: str, tmp_path: Path, env: dict[str, str]) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "examples").symlink_to(ROOT / "examples")
    steps = steps_of((DOCS / "guides" / guide).read_text("utf-8"))
    assert any(step.command for step in steps)
    for step in steps:
        if step.path:
            write(work, step)
            continue
        type_in(step.command, step.expected, work, env)


def test_the_guide_to_an_architecture_writes_the_files_of_the_example(tmp_path: Path) -> None:
    for step in steps_of((DOCS / "guides" / "add-an-architecture.md").read_text("utf-8")):
        if step.path:
            write(tmp_path, step)
    for name in ("conifer_ripple/__init__.py", "conifer_ripple/catalog.toml", "pyproject.toml"):
        assert (tmp_path / name).read_text("utf-8") == (
            ROOT / "examples" / "conifer-ripple" / name
        ).read_text("utf-8")


def test_the_reference_in_the_guide_is_that_of_the_template() -> None:
    guide = (DOCS / "guides" / "write-a-kernel.md").read_text("utf-8")
    (shown,) = [body for kind, _, body in BLOCK.findall(guide) if kind == "python"]
    template = (ROOT / "plugins/TEMPLATE/reference.py").read_text("utf-8")
    for line in shown.splitlines()[1:]:
        essence = line.strip().removesuffix(":").split(", strict")[0].rstrip(")")
        assert essence in template, line
