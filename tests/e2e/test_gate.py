"""The gate as its users meet it: whose code computes the recurrent layers is asked, told, and changed while a server runs."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import gguf
import httpx
import pytest

import conifer_gguf
from conifer_gguf.cli import _gate
from conifer_gguf.errors import ModelLoadGated, UnsupportedModel
from conifer_gguf.native_api import known, registry

from .conftest import COMMAND, GOLDEN, Server, serving

Cli = Callable[..., CompletedProcess[str]]
GRANITE = GOLDEN / "granite" / "model-f32.gguf"
NEEDS = ["conifer.ssd_scan/1", "conifer.causal_conv/1"]
MAMBA_2 = {"granitehybrid", "falcon-h1", "nemotron_h", "nemotron_h_moe", "mamba2"}
MAMBA_1 = {"jamba", "mamba"}
DELTA = {"qwen3next", "qwen35", "qwen35moe", "kimi-linear"}
SCANS = {
    **dict.fromkeys(MAMBA_2, "conifer.ssd_scan/1"),
    **dict.fromkeys(MAMBA_1, "conifer.selective_scan/1"),
    **dict.fromkeys(DELTA, "conifer.gated_delta/1"),
}
ASK = ("--temp", "0", "--max-tokens", "4")


def catalog(cli: Cli, **env: str) -> dict[str, dict[str, Any]]:
    """By architecture: its rows agree in everything that is looked at here."""
    rows = json.loads(cli("catalog", "--json", env=env).stdout)
    return {row["architecture"]: row for row in rows}


def chat(server: Server, **more: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, **more}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120)


# --- the catalog -------------------------------------------------------------------------------------------------


def test_in_a_fresh_home_every_hybrid_family_waits_for_its_ops(cli: Cli) -> None:
    rows = catalog(cli)
    assert set(SCANS) - {"mamba2"} <= set(rows)
    for architecture, row in rows.items():
        if architecture in SCANS:
            assert row["status"] == "load-gated", architecture
            assert row["needs"] == [SCANS[architecture], "conifer.causal_conv/1"]
            assert row["runtime"] == "hybrid"
            assert row["also_runs_with"] == ["llama.cpp"]
        else:
            assert (row["status"], row["runtime"], row["needs"]) == ("ready", "llama.cpp", [])


def test_the_kernels_of_mamba_2_make_exactly_its_families_ready(cli: Cli, registered: Path) -> None:
    rows = catalog(cli)
    assert {a for a in SCANS if a in rows and rows[a]["status"] == "ready"} == MAMBA_2 & set(rows)
    assert rows["jamba"]["needs"] == ["conifer.selective_scan/1"]
    assert rows["granitehybrid"]["supply"] == ["ssd_scan 0.1.0", "causal_conv 0.1.0"]
    assert cli("plugins", "unregister", "ssd_scan").returncode == 0
    assert catalog(cli)["granitehybrid"]["needs"] == ["conifer.ssd_scan/1"]


def test_a_setting_bypasses_the_gate_for_good_and_says_so(cli: Cli) -> None:
    row = catalog(cli, CONIFER_GGUF_RUNTIME="llama.cpp")["granitehybrid"]
    assert (row["status"], row["runtime"], row["needs"]) == ("ready", "llama.cpp", [])
    shown = cli("inspect", str(GRANITE), env={"CONIFER_GGUF_RUNTIME": "llama.cpp"}).stdout
    assert "ready · llama.cpp, your setting" in shown
    answer = cli("run", str(GRANITE), "Hello", *ASK, env={"CONIFER_GGUF_RUNTIME": "llama.cpp"})
    assert answer.returncode == 0
    assert answer.stdout.strip()


def test_inspect_names_what_a_file_waits_for(cli: Cli) -> None:
    facts = json.loads(cli("inspect", str(GRANITE), "--json").stdout)
    assert (facts["status"], facts["needs"]) == ("load-gated", NEEDS)
    asked = json.loads(cli("inspect", str(GRANITE), "--json", "--runtime", "llama.cpp").stdout)
    assert (asked["status"], asked["runtime"]) == ("ready", "llama.cpp")


# --- run and pull ------------------------------------------------------------------------------------------------


def test_without_a_terminal_run_names_the_fact_and_the_two_ways_on(cli: Cli) -> None:
    done = cli("run", str(GRANITE), "Hello")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "Error: `model-f32` is load-gated: 2 of 3 layers are Mamba-2; no registered plugin supplies "
        "conifer.ssd_scan/1, conifer.causal_conv/1",
        "",
        "hint: conifer-gguf plugins register ssd_scan causal_conv",
        "also: --runtime llama.cpp runs this file without our kernels",
    ]


def test_the_hint_is_what_makes_it_run(cli: Cli, registered: Path) -> None:
    done = cli("run", str(GRANITE), "Hello", *ASK)
    assert (done.returncode, done.stdout.strip() != "") == (0, True), done.stderr


def test_pull_tells_what_the_new_model_waits_for(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    shutil.copy(GRANITE, file)
    done = cli("pull", str(file))
    assert done.returncode == 0
    assert "hint: conifer-gguf plugins register ssd_scan causal_conv" in done.stderr
    assert "also: --runtime llama.cpp" in done.stderr
    assert "plugins register" not in cli("pull", str(file), "--runtime", "llama.cpp").stderr


def on_a_terminal(*args: str, typed: str) -> tuple[int, str, str]:
    """Run with a terminal as stdin: exit code, stdout, stderr."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, typed.encode())
        done = subprocess.run(
            [*COMMAND, *args], stdin=theirs, capture_output=True, text=True, timeout=240, check=False
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, done.stdout, done.stderr


QUESTION = "Register both and go on? [Y]es / [l]lama.cpp this time / [n]o"


def test_on_a_terminal_no_leaves_everything_as_it_was(home: Path) -> None:
    code, said, asked = on_a_terminal("run", str(GRANITE), "Hello", *ASK, typed="n\n")
    assert (code, said) == (1, "")
    assert QUESTION in asked
    assert "2 of 3 layers are Mamba-2" in asked
    assert "ssd_scan 0.1.0, bundled: supplies conifer.ssd_scan/1" in asked
    assert registry.registered() == ()


def test_on_a_terminal_l_takes_llama_cpp_this_time(home: Path) -> None:
    code, said, _ = on_a_terminal("run", str(GRANITE), "Hello", *ASK, typed="l\n")
    assert code == 0
    assert said.strip()
    assert registry.registered() == ()


@pytest.mark.slow
def test_on_a_terminal_return_registers_and_the_same_command_goes_on(home: Path) -> None:
    code, said, asked = on_a_terminal("run", str(GRANITE), "Hello", *ASK, typed="\n")
    assert code == 0, asked
    assert said.strip()
    assert [p.name for p in registry.registered()] == ["ssd_scan", "causal_conv"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions to a person who answers with the return key."""
    questions: list[str] = []

    def answer(question: str) -> str:
        questions.append(question)
        return ""

    monkeypatch.setattr("click.termui.visible_prompt_func", answer)
    return questions


def gated() -> ModelLoadGated:
    return ModelLoadGated("mine", ("conifer.ssd_scan/1",), ("ssd_scan",), also_runs_with=("llama.cpp",))


def test_other_peoples_code_is_shown_with_its_hash_and_not_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    bundled = registry.resolve("ssd_scan")
    foreign = known.Candidate("ssd_scan", "installed", bundled.folder, bundled.manifest, bundled.library)
    monkeypatch.setattr(registry, "resolve", lambda _: foreign)
    with pytest.raises(ModelLoadGated):
        _gate._ask(gated(), "auto")
    shown = capsys.readouterr().err
    assert "[y]es / [l]lama.cpp this time / [N]o" in shown + "".join(asked)
    assert str(foreign.library) in shown
    assert f"sha256 {foreign.sha256()}" in shown


def test_beside_a_gpu_llama_cpp_is_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    monkeypatch.setattr(_gate, "llama_has_gpu", lambda: True)
    assert _gate._ask(gated(), "auto") == "llama.cpp"
    assert "our kernels run on the CPU" in capsys.readouterr().err


# --- serve -------------------------------------------------------------------------------------------------------


def test_serve_starts_with_gated_models_and_its_banner_lists_them(home: Path, cli: Cli) -> None:
    cli("pull", str(GRANITE))
    cli("pull", str(GOLDEN / "lfm2" / "model-f32.gguf"), "--restart")
    (home / "models" / "broken-file").mkdir()
    (home / "models" / "broken-file" / "x.gguf").write_bytes(b"GGUF")
    manifest = {"name": "broken", "quant": "file", "file": "x.gguf"}
    (home / "models" / "broken-file" / "manifest.json").write_text(json.dumps(manifest))
    with serving(str(GRANITE)) as running:
        assert httpx.get(f"{running.url}/health").status_code == 200
        running.process.terminate()
        assert running.process.stderr is not None
        banner = running.process.stderr.read()
    assert "load-gated · needs conifer.ssd_scan/1, conifer.causal_conv/1" in banner
    assert "ready · llama.cpp" in banner
    assert "unknown · " in banner
    assert "conifer-gguf plugins register causal_conv ssd_scan" in banner


def test_a_request_for_a_gated_model_is_refused_with_what_it_needs(home: Path) -> None:
    with serving(str(GRANITE)) as running:
        row, *_ = httpx.get(f"{running.url}/v1/models").json()["data"]
        refused = chat(running)
        streamed = chat(running, stream=True)
    assert (row["status"], row["needs"], row["also_runs_with"]) == ("load-gated", NEEDS, ["llama.cpp"])
    assert refused.status_code == streamed.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("model_load_gated", "invalid_request_error")
    assert (error["needs"], error["register"]) == (NEEDS, ["ssd_scan", "causal_conv"])


def test_registering_answers_the_next_request_and_unregistering_gates_it_again(
    home: Path, registered_plugins: Path, cli: Cli
) -> None:
    with serving(str(GRANITE), "--ctx", "512") as running:
        assert chat(running).status_code == 400
        # What `plugins register` leaves behind; the command itself is run where the copy was made.
        shutil.copytree(registered_plugins, home / "plugins", dirs_exist_ok=True)
        assert chat(running).status_code == 200
        row, *_ = httpx.get(f"{running.url}/v1/models").json()["data"]
        assert (row["status"], row["supply"]) == ("ready", ["ssd_scan 0.1.0", "causal_conv 0.1.0"])
        lines = list(_answer_while(running, lambda: cli("plugins", "unregister", "ssd_scan")))
        assert lines[-1] == "data: [DONE]", "a running answer finishes"
        refused = chat(running)
        assert (refused.status_code, refused.json()["error"]["needs"]) == (400, ["conifer.ssd_scan/1"])


def _answer_while(server: Server, act: Callable[[], object]) -> Iterator[str]:
    """The lines of a stream during whose first tokens something happens."""
    body = {"prompt": "Hello", "stream": True, "max_tokens": 200}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=120) as response:
        lines = response.iter_lines()
        yield next(lines)
        thread = threading.Thread(target=act)
        thread.start()
        yield from (line for line in lines if line)
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(("by", "missing"), [("option", "causal_conv"), ("variable", "ssd_scan")])
def test_serve_registers_what_comes_with_the_package_when_told_to(
    registered: Path, cli: Cli, by: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("plugins", "unregister", missing)
    if by == "variable":
        monkeypatch.setenv("CONIFER_GGUF_REGISTER", "bundled")
    with serving(
        str(GRANITE), "--ctx", "512", *(["--register", "bundled"] if by == "option" else [])
    ) as running:
        assert chat(running).status_code == 200
    assert {p.name for p in registry.registered()} == {
        c.name for c in registry.known() if c.source == "bundled"
    }


@pytest.mark.slow
def test_an_upgrade_of_the_package_keeps_its_plugins_ready(registered: Path, cli: Cli) -> None:
    path = registered / "plugins" / "registry.json"
    path.write_text(
        path.read_text("utf-8").replace(
            f'"package_version": "{conifer_gguf.__version__}"', '"package_version": "0.0.1"'
        ),
        "utf-8",
    )
    assert {p.package_version for p in registry.registered()} == {"0.0.1"}
    assert catalog(cli)["granitehybrid"]["status"] == "ready"
    assert cli("run", str(GRANITE), "Hello", *ASK).returncode == 0
    assert {p.package_version for p in registry.registered()} == {conifer_gguf.__version__}


# --- the Python API, and what nobody knows -----------------------------------------------------------------------


def test_load_meets_the_gate_and_the_ways_past_it(home: Path, registered_plugins: Path) -> None:
    with pytest.raises(ModelLoadGated) as waiting:
        conifer_gguf.load(GRANITE)
    assert list(waiting.value.needs) == NEEDS
    with conifer_gguf.load(GRANITE, runtime="llama.cpp", n_ctx=64) as session:
        theirs = session.logits([5, 6, 7])
        assert session.runtime == "llama.cpp"
    shutil.copytree(registered_plugins, home / "plugins")
    with conifer_gguf.load(GRANITE, runtime="hybrid", n_ctx=64, cache_type="f32") as session:
        assert session.runtime == "hybrid"
        assert abs(session.logits([5, 6, 7]) - theirs).max() < 1e-2  # theirs has an f16 cache
    with pytest.raises(UnsupportedModel, match=r"--runtime llama\.cpp does"):
        conifer_gguf.load(GOLDEN / "lfm2" / "model-f32.gguf", runtime="hybrid")


def test_a_file_that_nobody_knows_says_what_it_calls_itself_and_who_could_help(
    cli: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "abacus.gguf"
    writer = gguf.GGUFWriter(path, "abacus")
    writer.add_block_count(2)
    writer.add_embedding_length(8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    facts = json.loads(cli("inspect", str(path), "--json").stdout)
    assert (facts["status"], facts["runtime"], facts["architecture"]) == ("unknown", None, "abacus")
    done = cli("run", str(path), "Hello")
    assert done.returncode == 1
    for words in ("`abacus`", "a newer llama-cpp-python", "conifer_gguf.architectures"):
        assert words in done.stderr
    assert f"hint: conifer-gguf inspect {path}" in done.stderr
