"""What is chosen from measurements, and when they are remembered; nothing is measured here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from conifer_gguf.errors import HomeNotWritable, MeasuringDied
from conifer_gguf.runtimes import tune as measuring
from conifer_gguf.runtimes import tuning
from conifer_gguf.runtimes.tuning import Trial, Tuning, decide
from conifer_gguf.service import tune as service


def threads(n: int, n_rows: int, ratio: float, high: float | None = None) -> Trial:
    return Trial("threads", str(n), "4", n_rows, ratio, 0.9 * ratio, high or 1.01 * ratio, 9)


def product(dtype: str, n_rows: int, ratio: float, high: float | None = None) -> Trial:
    return Trial("product", dtype, "org.conifer.qmatmul", n_rows, ratio, 0.9 * ratio, high or 1.01 * ratio, 9)


def test_what_gains_more_than_the_margin_replaces_the_default() -> None:
    found = decide(
        [threads(2, 1, 0.8), threads(2, 512, 0.9), product("f16", 1, 0.5), product("f16", 512, 0.7)], 4
    )
    assert (found.n_threads, found.by_ggml) == (2, ("f16",))


def test_the_default_stays_where_the_gain_is_below_three_percent() -> None:
    found = decide(
        [threads(2, 1, 0.98), threads(2, 512, 0.98), product("q4_k", 1, 0.98), product("q4_k", 512, 0.98)], 4
    )
    assert (found.n_threads, found.by_ggml) == (4, ())


def test_the_default_stays_where_a_quarter_of_the_turns_said_the_opposite() -> None:
    trials = [product("q6_k", 1, 0.6, high=3.2), product("q6_k", 512, 0.9, high=0.95)]
    assert decide(trials, 4).by_ggml == ()


def test_for_threads_single_tokens_and_prompts_count_alike() -> None:
    assert decide([threads(2, 1, 0.7), threads(2, 512, 1.5)], 4).n_threads == 4
    assert decide([threads(2, 1, 0.7), threads(2, 512, 1.2)], 4).n_threads == 2


def test_ggml_takes_no_product_where_it_is_slower_at_single_tokens_or_at_prompts() -> None:
    assert decide([product("f16", 1, 0.72), product("f16", 512, 1.26)], 4).by_ggml == ()
    assert decide([product("f16", 1, 1.05), product("f16", 512, 0.5)], 4).by_ggml == ()
    assert decide([product("f16", 1, 0.44), product("f16", 512, 0.72)], 4).by_ggml == ("f16",)


def test_nothing_is_chosen_by_one_of_the_two_alone() -> None:
    assert decide([product("q5_k", 1, 0.1)], 4).by_ggml == ()
    assert decide([threads(1, 512, 0.1)], 4).n_threads == 4


def test_of_several_numbers_of_threads_the_fastest_is_taken() -> None:
    trials = [
        t
        for n, ratio in ((1, 0.9), (2, 0.7), (3, 0.8))
        for t in (threads(n, 1, ratio), threads(n, 512, ratio))
    ]
    assert decide(trials, 4).n_threads == 2


@pytest.mark.parametrize(
    ("cores", "tried"),
    [(1, [1]), (2, [1, 2]), (4, [1, 2, 3, 4]), (16, [4, 8, 12, 15, 16]), (5, [1, 2, 3, 4, 5])],
)
def test_few_numbers_of_threads_are_tried(cores: int, tried: list[int]) -> None:
    assert measuring.thread_counts(cores) == tried


def test_a_result_is_remembered_with_every_field() -> None:
    assert tuning.remembered() is None
    made = Tuning(3, ("f16",), (product("f16", 1, 0.5),), ("q4_0",), 12.5, True, "2026-11-28T05:00:00+00:00")
    tuning.remember(made)
    assert tuning.remembered() == made
    assert tuning.others() == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpu_name", lambda: "another processor"),
        ("cpu_features", lambda: "x86_64-0000"),
        ("default_threads", lambda: 64),
        ("package_version", lambda: "9.9"),
        ("version", lambda package: "9.9"),
        (
            "registry",
            SimpleNamespace(suppliers_of=lambda op: [SimpleNamespace(name="a", version="1", sha256="0")]),
        ),
        ("host", SimpleNamespace(instruction_set=lambda: "none")),
    ],
)
def test_another_machine_or_version_has_to_be_measured_anew(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning.remember(Tuning(3))
    monkeypatch.setattr(tuning, name, value)
    assert tuning.remembered() is None
    assert [r.tuning.n_threads for r in tuning.others()] == [3]


def test_a_result_that_cannot_be_read_is_as_good_as_none() -> None:
    path = tuning.remember(Tuning(3))
    path.write_text('{"format": 1}')
    assert tuning.remembered() is None


def test_a_process_that_dies_while_it_measures_is_named_with_what_it_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dies = """if True:
        import os, sys
        print('{"what": "Q4_K weights, 1 row"}', flush=True)
        print("illegal instruction", file=sys.stderr, flush=True)
        os.kill(os.getpid(), 9)
    """
    monkeypatch.setattr(service, "python_command", lambda module: [sys.executable, "-c", dies])
    told: list[str] = []
    with pytest.raises(MeasuringDied) as died:
        service.tune(tell=told.append)
    assert told == ["Q4_K weights, 1 row"]
    assert died.value.fact == (
        "the process that measures this machine died during Q4_K weights, 1 row (killed by SIGKILL): illegal instruction"
    )
    assert died.value.hint == "conifer-gguf doctor"


def test_a_home_that_cannot_be_written_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("CONIFER_GGUF_HOME", str(file / "home"))
    monkeypatch.setattr(service, "_measured", lambda *_: pytest.fail("measured in vain"))
    with pytest.raises(HomeNotWritable, match=r"file/home cannot be written: Not a directory"):
        service.tune()
