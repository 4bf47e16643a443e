"""Kernels of every recurrent op that do what the equations say and no more, compiled from kernels/plain.c once a run."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from conifer_gguf.engine.supply import Supply
from conifer_gguf.native_api.kernels import Kernel, load_library
from conifer_gguf.native_api.known import resolve
from conifer_gguf.ops import contracts
from conifer_gguf.settings import include_dir

SOURCE = Path(__file__).parent / "kernels" / "plain.c"
FLAGS = ["-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]


@functools.cache
def kernels(*definitions: str) -> Mapping[str, Kernel]:
    with tempfile.TemporaryDirectory(prefix="conifer-plain-") as folder:
        library = Path(folder) / "plain.so"  # once it is loaded the file may go
        subprocess.run(
            ["cc", *FLAGS, *definitions, f"-I{include_dir()}", str(SOURCE), "-o", str(library), "-lm"],
            check=True,
        )
        return {kernel.op: kernel for kernel in load_library(library).kernels}


@functools.cache
def bundled(*names: str) -> dict[str, Supply]:
    """In place of `accelerators`: bundled plugins of ops for which there is no plain kernel."""
    found = {k.op: k for name in names for k in load_library(resolve(name).library).kernels}
    return {op: Supply(contracts()[op], (kernel,)) for op, kernel in found.items()}


def supply(ops: Iterable[str], *definitions: str) -> dict[str, Supply]:
    """In place of `registered_supply`."""
    return {op: Supply(contracts()[op], (kernels(*definitions)[op],)) for op in ops}
