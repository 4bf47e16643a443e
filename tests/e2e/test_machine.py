"""`tune` and `doctor`, as processes, and what loading a hybrid does with what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from conifer_gguf.runtimes import tuning
from conifer_gguf.runtimes.tuning import Tuning

from .conftest import GOLDEN

Cli = Callable[..., CompletedProcess[str]]
GRANITE = GOLDEN / "granite" / "model-f32.gguf"
QUICK = ("--prompt", "8", "--decode", "2", "--rounds", "1")


@pytest.mark.usefixtures("registered")
def test_tune_remembers_what_it_says_and_doctor_shows_it(cli: Cli) -> None:
    done = cli("tune", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"n_threads", "by_ggml", "trials", "untried", "seconds", "brief", "date"}
    kept = tuning.remembered()
    assert kept is not None
    assert (kept.n_threads, kept.date, kept.brief) == (found["n_threads"], found["date"], True)
    examined = json.loads(cli("doctor", "--json").stdout)
    assert examined["tuned"]["tuning"] == found
    info = json.loads(cli("plugins", "info", "--json").stdout)
    assert info["tuned"] == found


@pytest.mark.usefixtures("registered")
def test_the_first_load_of_a_hybrid_measures_once_and_the_next_one_does_not(cli: Cli, home: Path) -> None:
    assert cli("bench", str(GRANITE), *QUICK).returncode == 0
    (kept,) = home.glob("machine/tune-*.json")
    first = kept.read_bytes()
    found = tuning.remembered()
    assert found is not None
    assert found.brief
    assert cli("bench", str(GRANITE), *QUICK).returncode == 0
    assert kept.read_bytes() == first


@pytest.mark.usefixtures("registered")
def test_a_load_follows_what_was_measured_unless_an_option_says_otherwise(cli: Cli) -> None:
    tuning.remember(Tuning(3, ("f32",)))
    (row,) = json.loads(cli("bench", str(GRANITE), *QUICK, "--json").stdout)
    assert row["n_threads"] == 3
    assert row["by_ggml"] == []  # no product is registered, so all are ggml's
    (row,) = json.loads(cli("bench", str(GRANITE), *QUICK, "--threads", "1", "--json").stdout)
    assert row["n_threads"] == 1


def test_doctor_ends_with_0_on_a_machine_where_nothing_is_wrong(cli: Cli) -> None:
    done = cli("doctor")
    assert done.returncode == 0, done.stdout
    for words in ("processor", "kernels take", "products", "attention", "ggml", "nothing is wrong"):
        assert words in done.stdout
    advice = [line for line in done.stdout.splitlines() if line.startswith("advice:")]
    assert advice
    assert all("; hint: " in line for line in advice)


def test_doctor_ends_with_1_and_every_problem_with_a_command(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = cli("doctor", env={"CONIFER_GGUF_HOME": str(file / "home")})
    assert done.returncode == 1, done.stderr
    wrong = [line for line in done.stdout.splitlines() if line.startswith("wrong:")]
    assert (
        f"wrong: {file}/home cannot be written: Not a directory; hint: export CONIFER_GGUF_HOME=FOLDER"
        in wrong
    )
    assert all("; hint: " in line for line in wrong)
    assert "nothing is wrong" not in done.stdout


def test_tune_says_that_nothing_can_be_kept_in_a_home_that_cannot_be_written(
    cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    done = cli("tune", env={"CONIFER_GGUF_HOME": str(file / "home")})
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be written: Not a directory" in done.stderr
    assert "hint: export CONIFER_GGUF_HOME=FOLDER" in done.stderr
