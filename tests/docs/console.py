"""Types what a document tells people to type, and compares what comes out with what it says.

In a ```console block a line with `$ ` is a command, the lines below it appear in its output, in this order and each within one
line; `…` stands for anything.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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


def environment(folder: Path, home: Path, **more: str) -> dict[str, str]:
    """Where `conifer-gguf` is this checkout's and lines are long enough not to be cut."""
    script = folder / "conifer-gguf"
    script.parent.mkdir(exist_ok=True)
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = {sys.path!r}\nfrom conifer_gguf.cli.main import main\nmain()\n"
    )
    script.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "CONIFER_GGUF_HOME": str(home), "COLUMNS": "200", **more}


def type_in(command: str, expected: list[str], cwd: Path, env: dict[str, str]) -> None:
    """Run one command; it succeeds and prints what was expected."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    require_lines(expected, done.stdout, command)


def require_lines(expected: list[str], output: str, command: str) -> None:
    lines = iter(output.splitlines())
    for wanted in expected:
        pattern = ".*".join(re.escape(part.strip()) for part in wanted.split("…"))
        assert any(re.search(pattern, line) for line in lines), (
            f"{command}\nprints no {wanted!r} in\n{output}"
        )
