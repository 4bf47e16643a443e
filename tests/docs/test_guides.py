"""What the guides tell people to type is typed here, and what they say comes out does come out.

In a ```console block a line with `$ ` is a command, the lines below it appear in its output, in this order and each within one
line; `…` stands for anything.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands_of(text: str) -> list[tuple[str, list[str]]]:
    """Every command of the console blocks, with the lines that it is to print."""
    found: list[tuple[str, list[str]]] = []
    for kind, body in BLOCK.findall(text):
        for line in body.splitlines() if kind == "console" else ():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def require_lines(expected: list[str], output: str, command: str) -> None:
    lines = iter(output.splitlines())
    for wanted in expected:
        pattern = ".*".join(re.escape(part.strip()) for part in wanted.split("…"))
        assert any(re.search(pattern, line) for line in lines), (
            f"{command}\nprints no {wanted!r} in\n{output}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("guide", sorted(p.name for p in (DOCS / "guides").glob("*.md")))
def test_the_commands_of_a_guide_do_what_it_says(guide: str, tmp_path: Path) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    script = bin_folder / "conifer-gguf"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = {sys.path!r}\nfrom conifer_gguf.cli.main import main\nmain()\n"
    )
    script.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    env = {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "CONIFER_GGUF_HOME": str(tmp_path / "home"),
        "COLUMNS": "200",
    }
    commands = commands_of((DOCS / "guides" / guide).read_text("utf-8"))
    assert commands
    for command, expected in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=work,
            env=env,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        require_lines(expected, done.stdout, command)


def test_the_reference_in_the_guide_is_that_of_the_template() -> None:
    guide = (DOCS / "guides" / "write-a-kernel.md").read_text("utf-8")
    (shown,) = [body for kind, body in BLOCK.findall(guide) if kind == "python"]
    template = (DOCS.parent / "plugins/TEMPLATE/reference.py").read_text("utf-8")
    for line in shown.splitlines()[1:]:
        essence = line.strip().removesuffix(":").split(", strict")[0].rstrip(")")
        assert essence in template, line
