"""The whole story on a machine without a network: a hybrid that waits for its kernels, their registration, an answer."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import httpx
import pytest

from .conftest import COMMAND, Server, serving
from .test_terminal import terminal

Cli = Callable[..., CompletedProcess[str]]
ASK = ("conifer-demo", "Hello!", "--max-tokens", "24")
HELLO = {"model": "conifer-demo", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 24}


def chat(server: Server) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/chat/completions", json=HELLO, timeout=60)


def test_the_hybrid_is_gated_and_answers_when_its_kernels_are_registered(
    registered_plugins: Path, home: Path, cli: Cli
) -> None:
    refused = cli("run", *ASK)
    assert refused.returncode == 1
    assert "hint: conifer-gguf plugins register ssd_scan causal_conv" in refused.stderr
    shutil.copytree(registered_plugins, home / "plugins")
    answer = cli("run", *ASK)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()


def test_a_server_answers_with_the_dense_twin_and_flips_the_hybrid_while_it_runs(
    registered_plugins: Path, home: Path
) -> None:
    with serving("conifer-demo-dense") as running:
        rows = httpx.get(f"{running.url}/v1/models").json()["data"]
        assert {row["id"].partition(":")[0]: row["status"] for row in rows} == {
            "conifer-demo-dense": "ready",
            "conifer-demo": "load-gated",
        }
        assert chat(running).json()["error"]["code"] == "model_load_gated"
        shutil.copytree(registered_plugins, home / "plugins")
        answer = chat(running)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"].strip()


def test_run_without_a_name_offers_both_and_starts_the_one_that_is_ready(home: Path) -> None:
    with terminal("run") as person:
        person.wait_for(r"1 +conifer-demo-dense:Q8_0 .* ready · llama\.cpp")
        person.wait_for(r"2 +conifer-demo:Q8_0 .* load-gated")
        person.wait_for(r"Which one\?")
        person.type("\n")
        person.wait_for(">>> ")
        person.type("\x04")
        assert person.exit_code() == 0


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root may make a network namespace")
def test_nothing_of_it_needs_a_network(home: Path) -> None:
    program = " ".join(COMMAND)
    done = subprocess.run(
        ["unshare", "--net", "sh", "-ec", f"ip link set lo up || true\n{program} plugins register ssd_scan causal_conv\n"
         f"exec {program} run conifer-demo Hello! --max-tokens 24"],
        capture_output=True, text=True, timeout=240, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
