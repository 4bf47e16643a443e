"""How our child processes are started: on the parent's package, and never on what lies in the working directory."""

from __future__ import annotations

import sys
from pathlib import Path


def python_command(module: str) -> list[str]:
    """A command that runs `main()` of a module of this package in a fresh interpreter.

    Not `python -m`: that puts the working directory first on the path, where a stray json.py would be imported.
    """
    package_root = str(Path(__file__).resolve().parents[1])
    code = (
        f"import importlib, sys; root = {package_root!r}; root in sys.path or sys.path.insert(0, root); "
        "importlib.import_module(sys.argv[1]).main()"
    )
    return [sys.executable, "-P", "-c", code, module]  # the name stands apart, so that `ps` shows it
