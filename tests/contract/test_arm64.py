"""arm64, run by an emulator, against the reference in float64: the bundled plugins, cross-compiled, and the libraries that were
compiled for it long ago.

The kit itself needs an arm64 Python; here a small C program takes the kit's problems one by one.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from conifer_gguf import settings
from conifer_gguf.ops import contracts

from . import foreign
from .conftest import HERE

SYSTEM = "/usr/aarch64-linux-gnu"  # where the compiler's own C library lies
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{settings.include_dir()}"]
OPS = ["attention", "causal_conv", "gated_delta", "qmatmul", "selective_scan", "ssd_scan"]


def compiled(target: Path, *arguments: str) -> Path:
    foreign.require_arm64()
    command = [foreign.COMPILER, *FLAGS, str(HERE / foreign.PROGRAM), *arguments, "-o", str(target), "-lm"]
    subprocess.run(command, check=True)
    return target


@pytest.fixture(scope="module", params=OPS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The name of a bundled plugin, and an arm64 program that runs its kernel."""
    folder = settings.bundled_dir() / request.param
    made = tmp_path_factory.mktemp("arm64") / request.param
    return request.param, compiled(made, "-static", f"-I{folder}", str(folder / f"{request.param}.c"))


def test_a_bundled_kernel_agrees_with_the_reference_on_arm64(program: tuple[str, Path]) -> None:
    name, path = program
    for problem in foreign.problems(contracts()[f"conifer.{name}/1"]):
        foreign.agrees([foreign.EMULATOR, str(path)], problem)
        if name == "qmatmul":  # it alone has loops for sdot, and others beside them
            foreign.agrees([foreign.EMULATOR, *foreign.WITHOUT_SDOT, str(path)], problem)


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An arm64 program that loads a plugin's library."""
    return compiled(tmp_path_factory.mktemp("arm64") / "loader", "-DLOADED", "-ldl")


@pytest.mark.parametrize("binary", foreign.old_binaries("aarch64"), ids=lambda p: p.stem)
def test_a_plugin_built_long_ago_for_arm64_still_computes_its_op(binary: Path, loader: Path) -> None:
    for problem in foreign.problems(foreign.contract_of(binary), 4):
        foreign.agrees([foreign.EMULATOR, "-L", SYSTEM, str(loader), str(binary)], problem)
