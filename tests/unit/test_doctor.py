"""What `doctor` finds wrong, with the one command that follows; every test breaks one thing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conifer_gguf.cli.doctor import age, as_row
from conifer_gguf.errors import RuntimeFailure
from conifer_gguf.native_api import state
from conifer_gguf.native_api.state import Registered, Supplied
from conifer_gguf.runtimes import tuning
from conifer_gguf.runtimes.tuning import Tuning
from conifer_gguf.service import doctor
from conifer_gguf.service.doctor import Report

Register = Callable[..., Registered]


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with memory, disk and no AMX, whatever runs the test."""
    monkeypatch.setattr(doctor, "free_memory", lambda: 8_000_000_000)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=50_000_000_000))
    monkeypatch.setattr(doctor.repack, "needs_a_trial", lambda: False)
    monkeypatch.delenv("CONIFER_ISA", raising=False)


@pytest.fixture
def register(tmp_path: Path) -> Register:
    """Writes a plugin into the registry without trying it: nothing here loads one."""

    def write(
        name: str = "my_scan", ops: tuple[str, ...] = ("conifer.ssd_scan/1",), **changes: Any
    ) -> Registered:
        origin = tmp_path / f"{name}.so"
        origin.write_bytes(name.encode())
        digest = hashlib.sha256(name.encode()).hexdigest()
        facts: dict[str, Any] = {
            "name": name,
            "id": f"org.example.{name}",
            "version": "1.2.3",
            "source": "path",
            "origin": origin,
            "sha256": digest,
            "file": origin.name,
            "package_version": state.package_version(),
            "cpu": state.cpu_features(),
            "supplies": tuple(Supplied(op, 1) for op in ops),
            **changes,
        }
        made = Registered(**facts)
        with state.locked():
            state.install(digest, origin.name, origin.read_bytes(), b"", ())
            state.write((*state.read().plugins, made))
        return made

    return write


def problems(report: Report) -> list[tuple[str, str]]:
    return [(f.fact, f.hint) for f in report.findings if f.wrong]


def state_of(report: Report, name: str) -> str:
    return next(p.state for p in report.plugins if p.name == name)


def test_a_fresh_home_is_healthy_and_advice_says_what_could_be_better() -> None:
    report = doctor.examine()
    assert report.healthy
    hints = [f.hint for f in report.findings]
    assert "conifer-gguf plugins register attention qmatmul" in hints
    assert "conifer-gguf plugins register causal_conv gated_delta selective_scan ssd_scan" in hints
    assert "conifer-gguf tune" in hints
    assert [s.is_plugin for s in report.hybrid] == [False, False, False]
    assert {s.by for s in report.hybrid} == {f"ggml {report.libraries.ggml}"}
    assert report.libraries.ggml_accepted
    assert state_of(report, "qmatmul") == "not registered"


def test_a_registered_product_is_named_with_its_version_and_with_what_ggml_does_better(
    register: Register,
) -> None:
    register("fast", ("conifer.qmatmul/1",))
    tuning.remember(Tuning(7, ("f16",), date="2026-11-28T05:00:00+00:00"))
    report = doctor.examine()
    products = report.hybrid[0]
    assert (products.what, products.by, products.is_plugin, products.by_ggml) == (
        "products",
        "fast 1.2.3",
        True,
        ("f16",),
    )
    assert report.hybrid[1].is_plugin is False
    assert report.machine.n_threads == 7


def test_a_plugin_whose_library_changed_is_refused_and_has_to_be_registered_again(register: Register) -> None:
    plugin = register()
    plugin.origin.write_bytes(b"something else")
    report = doctor.examine()
    ((fact, hint),) = problems(report)
    assert fact.startswith("plugin my_scan may not run: ")
    assert "changed since it was registered" in fact
    assert hint == f"conifer-gguf plugins register {plugin.origin}"
    assert (report.healthy, state_of(report, "my_scan")) == (False, "refused")


@pytest.mark.parametrize(
    "break_it", [Path.unlink, lambda path: path.write_bytes(b"bits rot")], ids=["gone", "changed"]
)
def test_a_private_copy_that_is_not_what_was_registered_is_damaged(
    break_it: Callable[[Path], object], register: Register
) -> None:
    plugin = register("fast", ("conifer.qmatmul/1",))
    break_it(plugin.library)
    report = doctor.examine()
    ((fact, _),) = problems(report)
    assert fact == f"plugin fast may not run: its copy {plugin.library} is not what was registered"
    assert state_of(report, "fast") == "damaged"
    assert not report.hybrid[0].is_plugin


def test_a_plugin_of_an_older_package_is_checked_again_and_nothing_is_wrong(register: Register) -> None:
    register("my_scan", source="bundled", package_version="0.0.1")
    report = doctor.examine()
    assert (report.healthy, state_of(report, "my_scan")) == (True, "checked again")


def test_a_damaged_registry_is_told_with_the_way_out(home: Path, register: Register) -> None:
    register()
    (home / "plugins" / "registry.json").write_text("{")
    ((fact, hint),) = problems(doctor.examine())
    assert "registry.json is damaged" in fact
    assert hint.startswith("remove ")


def test_an_unknown_ggml_is_wrong_and_the_hint_installs_the_known_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor.ggml, "VERSIONS", ("0.0.0",))
    report = doctor.examine()
    ((fact, hint),) = problems(report)
    assert "the hybrid runtime knows 0.0.0; no hybrid loads" in fact
    assert hint == "pip install 'llama-cpp-python==0.3.36'"
    assert not report.libraries.ggml_accepted


def test_an_installation_without_its_host_shim_is_to_be_installed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> str:
        raise RuntimeFailure("opening the host shim", "there is none")

    monkeypatch.setattr(doctor.host, "instruction_set", missing)
    ((fact, hint),) = problems(doctor.examine())
    assert fact == "opening the host shim: there is none"
    assert hint.startswith("pip install --force-reinstall")


def test_too_little_memory_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "free_memory", lambda: 123_000_000)
    ((fact, _),) = problems(doctor.examine())
    assert fact == "123 MB of memory are free, the smallest hybrids need 500 MB"


def test_too_little_disk_is_wrong(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    ((fact, hint),) = problems(doctor.examine())
    assert fact == f"{home} has 5 MB of disk free, a 1B model takes 1 GB"
    assert hint.startswith("conifer-gguf list")


def test_a_home_that_cannot_be_written_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("CONIFER_GGUF_HOME", str(file / "home"))
    report = doctor.examine()
    assert (f"{file}/home cannot be written: Not a directory", "export CONIFER_GGUF_HOME=FOLDER") in problems(
        report
    )
    assert not report.home.writable


def test_a_runtime_that_does_not_exist_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONIFER_GGUF_RUNTIME", "lama.cpp")
    ((fact, hint),) = problems(doctor.examine())
    assert fact == "CONIFER_GGUF_RUNTIME is `lama.cpp`; there are auto, hybrid, llama.cpp"
    assert hint == "unset CONIFER_GGUF_RUNTIME"


def test_a_forced_instruction_set_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONIFER_ISA", "avx2")
    report = doctor.examine()
    assert report.healthy
    assert any(f.fact.startswith("CONIFER_ISA is `avx2`: kernels take ") for f in report.findings)


def test_a_processor_without_vector_loops_is_sent_to_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.host, "instruction_set", lambda: "scalar")
    assert any(f.hint == "export CONIFER_GGUF_RUNTIME=llama.cpp" for f in doctor.examine().findings)


def test_repacking_that_crashes_is_advice_because_the_program_lives_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor.repack, "needs_a_trial", lambda: True)
    monkeypatch.setattr(doctor.repack, "repacking_is_safe", lambda: False)
    report = doctor.examine()
    assert (report.healthy, report.libraries.repacking) == (True, "crashes")
    assert any("CC=clang" in f.hint for f in report.findings)


def test_what_was_measured_on_another_version_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(tuning, "package_version", lambda: "0.0.1")
        tuning.remember(Tuning(9, date="2026-01-02T03:04:05+00:00"))
    report = doctor.examine()
    assert report.tuned.tuning is None
    assert report.tuned.outdated
    assert any("measured on 2026-01-02 was for another processor" in f.fact for f in report.findings)


def test_what_the_time_did_not_reach_is_told() -> None:
    tuning.remember(Tuning(1, untried=("q5_0", "bf16"), brief=True, date="2026-11-28T05:00:00+00:00"))
    report = doctor.examine()
    assert any(
        f.fact == "the time to measure did not reach Q5_0, BF16, which keep the default"
        for f in report.findings
    )
    assert report.tuned.age_s is not None


def test_json_has_the_findings_in_two_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONIFER_GGUF_RUNTIME", "x")
    row = as_row(doctor.examine())
    assert set(row) == {"machine", "libraries", "home", "hybrid", "tuned", "plugins", "problems", "advice"}
    assert [set(p) for p in row["problems"]] == [{"fact", "hint"}]
    assert row["advice"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.5, "0 seconds"), (61, "1 minute"), (7200, "2 hours"), (86_400 * 3 + 5, "3 days")],
)
def test_an_age_is_said_in_its_largest_unit(seconds: float, words: str) -> None:
    assert age(seconds) == words
