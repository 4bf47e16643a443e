"""Compiles the C fixtures of this folder once a run, and makes plugin folders of them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conifer_gguf.settings import include_dir

HERE = Path(__file__).parent
FLAGS = ["-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
INCLUDE = [f"-I{include_dir()}", f"-I{HERE / 'kernels'}"]

Compile = Callable[[str], Path]
MakeFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """`compiled("broken/crashes")` is the library of that source, compiled at its first use."""
    folder = tmp_path_factory.mktemp("compiled")
    made: dict[str, Path] = {}

    def compile_source(name: str) -> Path:
        if name not in made:
            library = folder / f"{name.replace('/', '-')}.so"
            source = HERE / f"{name}.c"
            subprocess.run(["cc", *FLAGS, *INCLUDE, str(source), "-o", str(library), "-lm"], check=True)
            made[name] = library
        return made[name]

    return compile_source


@pytest.fixture
def plugin_folder(tmp_path: Path, compiled: Compile) -> MakeFolder:
    """Makes a plugin's folder: its library from one of our sources, its manifest with `changes`."""

    def make(kernel: str = "kernels/plain_ssd_scan", name: str = "my_scan", **changes: object) -> Path:
        folder = tmp_path / "plugins" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.so").write_bytes(compiled(kernel).read_bytes())
        keys = {
            "id": "org.example.plain-ssd-scan",
            "version": "1.0.0",
            "abi": 1,
            "ops": ["conifer.ssd_scan/1"],
            "licence": "MIT",
            "author": "somebody",
            **changes,
        }
        lines = [f"{key} = {value!r}".replace("'", '"') for key, value in keys.items() if value is not None]
        (folder / "plugin.toml").write_text("\n".join(lines) + "\n", "utf-8")
        return folder

    return make
