"""The conformance kit: it passes a kernel that keeps its contract, and names what is wrong with each that does not."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from conifer_gguf import kit
from conifer_gguf.errors import PluginRefused
from conifer_gguf.kit.build import compile_library
from conifer_gguf.kit.scaffold import new_plugin
from conifer_gguf.native_api import registry, trial
from conifer_gguf.native_api.containment import Budget
from conifer_gguf.ops import contracts
from conifer_gguf.settings import include_dir

from .conftest import HERE, Compile, MakeFolder

OP = "conifer.ssd_scan/1"
FOLDERS = {OP: contracts()[OP].folder}

# Each file of broken/ with the check that must find it, and words of the message.
BROKEN = {
    "no_symbol": ("", "it exports no symbol conifer_kernel_entry_v1"),
    "other_major": ("", "built for kernel ABI 2, this host speaks 1"),
    "short_struct": ("", "its ck_plugin has 32 bytes, kernel ABI 1 has 40"),
    "null_function": ("", "function `run` is NULL"),
    "refuses_to_load": ("", "it refuses to load: needs AVX-1024, which this processor lacks"),
    "crashes_at_loading": ("loading the library", "crashed with SIGSEGV"),
    "crashes": ("agrees with the reference", "crashed with SIGSEGV"),
    "exits": ("agrees with the reference", "ended the process with exit code 0"),
    "loops_forever": ("empty sequences and calls", "computed for more than 2 s and was stopped"),
    "sleeps": ("agrees with the reference", "did not come back within 4 s and was stopped"),
    "takes_gigabytes": ("agrees with the reference", "crashed with SIGSEGV, with a memory budget of 1.07 GB"),
    "takes_gigabytes_politely": ("agrees with the reference", "run returned CK_NO_MEMORY for part 0 of 1"),
    "asks_for_gigabytes": ("agrees with the reference", "plan asks for 4.4 TB of scratch memory"),
    "leaks": ("keeps no memory", "bytes more after 200 runs: run must not allocate"),
    "writes_past_its_slice": ("any number of parts", "does not have the same bits in 3 of at most 7 parts"),
    "writes_twice": ("parts own what they write", "two of 3 parts write element"),
    "writes_past_the_end": ("agrees with the reference", "crashed with SIGSEGV"),
    "writes_into_a_gap": ("several sequences in one call", "wrote outside of `y`"),
    "reads_past_the_end": ("agrees with the reference", "crashed with SIGSEGV"),
    "changes_the_call": ("agrees with the reference", "the call itself was changed"),
    "changes_the_rounding": ("agrees with the reference", "floating-point mode changed"),
    "changes_an_input": ("agrees with the reference", "input `dt` was changed"),
    "wrong_past_1000_tokens": ("long sequences", "relative error"),
    "wrong_at_a_remainder": ("agrees with the reference", "relative error 1, allowed 2e-05"),
    "wrong_in_other_slots": ("padding rows", "relative error inf"),
    "wrong_in_slot_3": ("several sequences in one call", "relative error"),
    "wrong_the_second_time": ("padding rows", "other bits than without rows of padding"),
    "depends_on_the_split": ("agrees with the reference", "relative error"),
    "breaks_its_promise": ("same bits for any split", "plan promises CK_SPLIT_EXACT"),
    "breaks_its_promise_late": ("same bits for any split", "has other bits than in one call"),
    "depends_on_the_parts": ("any number of parts", "does not have the same bits in 3 parts as in one"),
    "depends_on_the_others": ("several sequences in one call", "other bits than in a call of its own"),
    "shares_a_buffer": ("parts at the same time", "does not have the same bits on 4 threads"),
    "ignores_strides": ("several sequences in one call", "wrote outside of `y`"),
    "ignores_the_gate": ("agrees with the reference", "relative error"),
    "leaves_padding": ("padding rows", "is not 0 in the rows past the last sequence"),
    "trusts_scratch": ("agrees with the reference", "relative error inf"),
    "plans_for_many_tokens_alone": ("one run after another", "crashed with SIGSEGV"),
    "accepts_anything": ("wrong calls are refused", "supports answers CK_OK, CK_BAD_SHAPE was due"),
    "refuses_without_a_word": ("wrong calls are refused", "CK_BAD_SHAPE without a text"),
    "talks_too_much": ("wrong calls are refused", "writes past text_capacity = 8"),
    "overflows_at_large_steps": ("agrees with the reference", "relative error"),
    "wrong_far_below_zero": ("ends of ranges and beyond", "relative error"),
}
FOUND_BY_SANITIZERS = {
    "reads_past_a_table": "global-buffer-overflow",
    "overflows_an_integer": "signed integer overflow",
}


def test_every_broken_kernel_is_listed() -> None:
    files = {path.stem for path in (HERE / "broken").glob("*.c")}
    assert files == set(BROKEN) | set(FOUND_BY_SANITIZERS)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_is_refused_with_plugin_op_and_case(
    name: str, plugin_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, words = BROKEN[name]
    # Short where time is what is wrong, long enough for a busy machine elsewhere.
    monkeypatch.setattr(trial, "BUDGET", Budget(cpu_seconds=2, wall_seconds=4 if name == "sleeps" else 60))
    with pytest.raises(PluginRefused) as caught:
        registry.register(plugin_folder(f"broken/{name}", name))
    error = caught.value
    assert error.plugin == name
    assert words in error.problem
    assert (error.case or "").startswith(check)
    if check and check != "loading the library":
        assert error.op == OP
        assert "T=" in str(error.case) or "`x`" in str(error.case), "the case says which sizes"
    assert registry.registered() == ()


@pytest.mark.parametrize("name", FOUND_BY_SANITIZERS)
def test_the_sanitizers_find_what_memory_guards_cannot(name: str, plugin_folder: MakeFolder) -> None:
    folder = plugin_folder(name=name)
    source = (HERE / f"broken/{name}.c").read_text("utf-8")
    (folder / f"{name}.c").write_text(source, "utf-8")
    (folder / "plain_ssd_scan.h").write_bytes((HERE / "kernels/plain_ssd_scan.h").read_bytes())
    report = kit.check(folder, depth="brief", sanitize=True)
    assert not report.passes
    assert FOUND_BY_SANITIZERS[name] in report.failures[0].problem


def test_a_plain_kernel_keeps_its_contract(compiled: Compile) -> None:
    report = kit.check_library(compiled("kernels/plain_ssd_scan"), FOLDERS)
    report.require()
    assert all(row.verdict == "passes" for row in report.rows)
    assert report.plugin == "org.example.plain-ssd-scan"
    assert 0 < report.worst_errors()[OP] < report.tolerances[OP][0]
    assert json.loads(json.dumps(report.to_json()))["passes"] is True


def test_a_folder_is_built_and_checked_under_the_sanitizers(plugin_folder: MakeFolder) -> None:
    folder = plugin_folder()
    for file in ("plain_ssd_scan.c", "plain_ssd_scan.h"):
        (folder / file).write_bytes((HERE / "kernels" / file).read_bytes())
    (folder / "plain_ssd_scan.c").rename(folder / "my_scan.c")
    (folder / "my_scan.so").unlink()
    rows: list[str] = []
    kit.check(folder, depth="brief", sanitize=True, on_row=lambda row: rows.append(row.check)).require()
    assert "keeps no memory" in rows
    assert not (folder / "my_scan.so").exists(), (
        "an instrumented library must not be what is registered later"
    )
    kit.build(folder)
    assert (folder / "my_scan.so").exists()


def test_a_source_that_does_not_compile_is_refused_with_the_compilers_words(
    plugin_folder: MakeFolder,
) -> None:
    folder = plugin_folder()
    (folder / "my_scan.c").write_text("int broken(\n", "utf-8")
    with pytest.raises(PluginRefused, match=r"my_scan\.c:"):
        kit.check(folder)


def test_a_missing_compiler_is_named(plugin_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = plugin_folder()
    (folder / "my_scan.c").write_text("int x;\n", "utf-8")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(PluginRefused, match="no C compiler `no-such-compiler`"):
        kit.check(folder)


def test_unsupported_cases_are_counted_and_are_no_failure(compiled: Compile) -> None:
    report = kit.check_library(compiled("kernels/partial_ssd_scan"), FOLDERS, depth="quick")
    report.require()
    (row,) = [r for r in report.rows if r.check == "agrees with the reference"]
    assert 0 < row.n_unsupported < row.n_case


def test_a_kernel_that_supports_nothing_fails(compiled: Compile) -> None:
    report = kit.check_library(compiled("kernels/unwilling_ssd_scan"), FOLDERS, depth="quick")
    assert not report.passes
    assert "CK_UNSUPPORTED to every case" in report.failures[0].problem


def test_a_library_without_the_op_that_was_asked_for_fails(compiled: Compile) -> None:
    folders = {"conifer.causal_conv/1": contracts()["conifer.causal_conv/1"].folder}
    report = kit.check_library(compiled("kernels/plain_ssd_scan"), folders)
    assert "it has no kernel for conifer.causal_conv/1; it supplies conifer.ssd_scan/1" in report.problem


@pytest.mark.parametrize("op", sorted(contracts()))
def test_every_op_states_its_tolerance_with_a_reason(op: str) -> None:
    text = (contracts()[op].folder / "op.toml").read_text("utf-8")
    table = tomllib.loads(text)["kit"]
    rounds_activations = (
        '"q8_0"' in text and op != "conifer.attention/1"
    )  # to 8 bits, as quantised products do
    assert 0 < table["rtol"] <= (5e-2 if rounds_activations else 1e-4)
    assert len(table["reason"]) > 20


def test_a_plugin_made_from_a_bundled_one_leaves_its_figures_behind(tmp_path: Path) -> None:
    text = (new_plugin(tmp_path / "my_conv", "causal_conv") / "README.md").read_text("utf-8")
    assert text.startswith("# my_conv\n")
    assert "conifer.causal_conv/1" in text
    assert text.endswith(
        "## Measured\n\nSay here on which machines it was measured, with which command, and what came out.\n"
    )


def test_the_compile_flags_are_those_of_the_documentation(tmp_path: Path) -> None:
    source = tmp_path / "x.c"
    source.write_text('#include "conifer_kernel.h"\nint x;\n', "utf-8")
    compile_library(source, tmp_path / "x.so", "x")
    assert (tmp_path / "x.so").is_file()
    assert (include_dir() / "conifer_kernel.h").is_file()
