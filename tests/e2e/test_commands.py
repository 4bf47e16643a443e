"""The commands, as processes: what they print, where, and how they exit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from .conftest import TINY

Cli = Callable[..., CompletedProcess[str]]


def test_a_local_file_is_pulled_listed_inspected_run_and_removed(
    cli: Cli, home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.gguf"
    shutil.copy(TINY, file)
    pulled = json.loads(cli("pull", str(file), "--json").stdout)
    assert Path(pulled["path"]).is_relative_to(home)
    row, *packaged = json.loads(cli("list", "--json").stdout)
    assert all(m["source"] == "package" for m in packaged)
    assert (row["name"], row["size"]) == ("tiny:file", file.stat().st_size)
    facts = json.loads(cli("inspect", "tiny", "--json").stdout)
    assert facts["architecture"] == "lfm2"
    assert facts["layer_kinds"] == {"recurrent": 2, "attention": 1}
    assert facts["runtime"] == "llama.cpp"
    answer = cli("run", "tiny", "The river", "--temp", "0", "--max-tokens", "5")
    assert answer.returncode == 0
    assert answer.stdout.strip()
    assert "tokens/s" in answer.stderr
    assert cli("rm", "tiny").returncode == 0
    assert json.loads(cli("list", "--json").stdout) == packaged


def test_the_prompt_may_come_from_stdin(cli: Cli) -> None:
    arguments = ("run", str(TINY), "--temp", "0", "--max-tokens", "5")
    assert cli(*arguments, stdin="The river").stdout == cli(*arguments, "The river").stdout != "\n"


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("pull", "smolm2"), 1, "did you mean `smollm2`"),
        (("run", "granit-4.0-h-1b", "x"), 1, "did you mean `granite-4.0-h-1b`"),
        (("run", "granite-4.0-h-1b", "x"), 1, "conifer-gguf pull granite-4.0-h-1b"),
        (("show", "granite-4.0-h-1b:Q1"), 1, "granite-4.0-h-1b:Q4_K_M"),
        (("rm", "granite-4.0-h-1b"), 1, "not on this machine"),
        (("inspect", "nowhere.gguf"), 1, "nowhere.gguf"),
        (("sreve",), 2, "did you mean `serve`"),
        (("run",), 2, "no model was named"),
        (("run", str(TINY), ""), 2, "the prompt is empty"),
        (("run", str(TINY), "x", "--temp", "-1"), 2, "`temperature` is -1"),
        (("run", str(TINY), "x", "--ctx", "99999999999"), 1, "--ctx "),
        (("run", str(TINY), "river " * 600, "--ctx", "256"), 1, "holds 256"),
        (("run", str(TINY), "x", "--runtime", "abacus"), 2, "abacus"),
    ],
)
def test_a_mistake_gets_the_fact_a_hint_and_an_exit_code(
    cli: Cli, arguments: tuple[str, ...], code: int, expected: str
) -> None:
    done = cli(*arguments)
    assert done.returncode == code
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_file_that_is_no_model_is_refused_before_anything_is_loaded(cli: Cli, tmp_path: Path) -> None:
    page = tmp_path / "model.gguf"
    page.write_text("<!DOCTYPE html><title>Sign in</title>")
    for command in (("inspect",), ("run",), ("pull",)):
        done = cli(*command, str(page), stdin="x")
        assert done.returncode == 1
        assert "HTML page" in done.stderr


def test_every_command_explains_itself_with_examples(cli: Cli) -> None:
    listing = cli("--help").stdout
    names = "bench catalog compare doctor inspect list pull rm run serve show tune"
    for command in names.split():
        assert command in listing
        assert "Examples:" in cli(command, "--help").stdout


def test_the_catalog_says_for_every_model_what_would_run_it(cli: Cli) -> None:
    rows = {row["name"]: row for row in json.loads(cli("catalog", "--json").stdout)}
    assert rows["lfm2.5-1.2b-instruct"]["status"] == "ready"
    assert rows["granite-4.0-h-1b"]["kv_bytes_per_token"] == 8192
    assert rows["granite-4.0-h-1b"]["state_bytes"] == 58060800
    assert {"class", "profile", "status", "runtime", "needs", "also_runs_with", "on_disk"} <= set(
        rows["jamba-reasoning-3b"]
    )
