"""Kernels for the hybrid architectures: plain ones, compiled here, and the bundled plugins, registered once a run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from conifer_gguf.engine.supply import Supply
from conifer_gguf.native_api import registry
from conifer_gguf.native_api.kernels import Kernel, load_library
from conifer_gguf.ops import contracts
from conifer_gguf.runtimes import hybrid
from conifer_gguf.settings import include_dir

HERE = Path(__file__).parent
FLAGS = ["-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
BUNDLED = ("causal_conv", "selective_scan", "ssd_scan", "gated_delta")


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Kernel]:
    """A kernel of every recurrent op that does what the equations say and no more."""
    library = tmp_path_factory.mktemp("kernels") / "plain.so"
    source = HERE / "kernels" / "plain.c"
    subprocess.run(["cc", *FLAGS, f"-I{include_dir()}", str(source), "-o", str(library), "-lm"], check=True)
    return {kernel.op: kernel for kernel in load_library(library).kernels}


@pytest.fixture
def plain_kernels(plain: Mapping[str, Kernel], monkeypatch: pytest.MonkeyPatch) -> None:
    """The hybrid runtime finds the plain kernels, whatever is registered."""

    def supply(ops: Iterable[str]) -> dict[str, Supply]:
        return {op: Supply(contracts()[op], (plain[op],)) for op in ops}

    monkeypatch.setattr(hybrid, "registered_supply", supply)


@pytest.fixture(scope="session")
def registered_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder in which the bundled plugins are registered: once a run, because their conformance takes seconds."""
    home = tmp_path_factory.mktemp("registered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONIFER_GGUF_HOME", str(home))
        registry.register(*BUNDLED)
    return home


@pytest.fixture
def bundled_kernels(registered_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONIFER_GGUF_HOME", str(registered_home))
