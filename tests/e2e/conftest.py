"""The program as its users meet it: processes, sockets on loopback, a browser."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

GOLDEN = Path(__file__).parent.parent / "golden"
TINY = GOLDEN / "lfm2" / "model-f32.gguf"
COMMAND = [sys.executable, "-m", "conifer_gguf"]


@dataclass
class Server:
    url: str
    process: subprocess.Popen[str]
    banner: str


@pytest.fixture
def cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command and wait; its home is the test's."""

    def run(
        *args: str, stdin: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **(env or {})}
        return subprocess.run(
            [*COMMAND, *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
            check=False,
        )

    return run


@contextlib.contextmanager
def serving(*args: str) -> Iterator[Server]:
    """`conifer-gguf serve` on a free port, until the block ends."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), process.stderr.read()
        yield Server(url, process, "")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
        process.stdout.close()
        process.stderr.close()


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    """A server over a tiny random LFM2 with a chat template."""
    with serving(str(TINY), "--ctx", "512", "--cache-type", "f32") as running:
        yield running


@pytest.fixture
def post(server: Server) -> Callable[..., httpx.Response]:
    def send(path: str, body: Any, **headers: str) -> httpx.Response:
        data = body if isinstance(body, bytes) else None
        return httpx.post(
            server.url + path, json=None if data else body, content=data, headers=headers, timeout=60
        )

    return send


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("Chromium is not installed")
    return found
