"""The C ABI: the header compiles everywhere it should, Python reads the very header, and old binaries still load."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conifer_gguf import kit
from conifer_gguf.errors import PluginRefused
from conifer_gguf.native_api import cdef, kernels, registry
from conifer_gguf.native_api.kernels import load_library
from conifer_gguf.ops import contracts
from conifer_gguf.settings import include_dir

from . import foreign
from .conftest import HERE, Compile, MakeFolder

REPOSITORY = HERE.parent.parent
LAYOUT = REPOSITORY / "native" / "layout.c"
HEADER = include_dir() / "conifer_kernel.h"
WARNINGS = ["-Wall", "-Wextra", "-Wpadded", "-Werror", "-fsyntax-only"]


@pytest.mark.parametrize(
    "command",
    [
        ["gcc", "-std=c11", "-x", "c"],
        ["clang", "-std=c11", "-x", "c"],
        ["g++", "-std=c++11", "-x", "c++"],
        ["clang++", "-std=c++11", "-x", "c++"],
    ],
    ids=lambda c: " ".join(c[:2]),
)
def test_the_header_compiles_without_a_warning(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not on this machine")
    subprocess.run([*command, *WARNINGS, f"-I{include_dir()}", str(LAYOUT)], check=True)


# What a careless edit of the header looks like, and the words with which the build stops.
MOVES = {
    "a field behind the last": ("} ck_need;", "    uint32_t sneaked_in, more;\n} ck_need;", "ck_need has changed its size"),
    "a field taken away": ("    uint32_t preference; ", "    //", "preference"),
    "two fields swapped": ("uint32_t part, n_part, phase;", "uint32_t n_part, part, phase;", "ck_part.part has moved"),
    "padding put to use": (
        "    uint32_t flags;         /* CK_SPLIT_EXACT",
        "    uint16_t flags, tag;    /* CK_SPLIT_EXACT",
        "ck_need.flags has another type",
    ),
    "a field of another type": ("const int32_t *slot;", "const uint32_t *slot;", "ck_call.slot has another type"),
    "an argument of another type": ("(CK_CALL *pack)(const void *self,", "(CK_CALL *pack)(void *self,", "ck_kernel.pack has another type"),
    "a function renamed": ("(CK_CALL *run)", "(CK_CALL *later)", "run"),
    "a dtype between two others": ("CK_Q4_0 = 33", "CK_Q4_1 = 33, CK_Q4_0 = 38", "CK_Q4_0 has another value"),
    "a status renumbered": ("CK_BAD_SHAPE = 2", "CK_BAD_SHAPE = 5", "CK_BAD_SHAPE has another value"),
    "another entry": ("conifer_kernel_entry_v1(const ck_host *host", "conifer_kernel_entry_v1(ck_host *host", "the entry has another signature"),
}  # fmt: skip


@pytest.mark.parametrize(
    "compiler", [["cc", "-std=c11"], ["c++", "-std=c++11", "-x", "c++"]], ids=["C", "C++"]
)
@pytest.mark.parametrize("move", MOVES)
def test_what_moves_stops_the_build(move: str, compiler: list[str], tmp_path: Path) -> None:
    old, new, words = MOVES[move]
    header = HEADER.read_text("utf-8")
    assert header.count(old) == 1
    (tmp_path / "conifer_kernel.h").write_text(header.replace(old, new), "utf-8")
    command = [*compiler, "-fsyntax-only", f"-I{tmp_path}", str(LAYOUT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert words in done.stderr


def _frozen_sizes() -> dict[str, int]:
    found = re.findall(r"^STRUCT\((\w+), \w+, (\d+)\)", LAYOUT.read_text("utf-8"), re.MULTILINE)
    return {name: int(size) for name, size in found}


def _frozen_fields() -> dict[tuple[str, str], int]:
    found = re.findall(r"^FIELD\((\w+), (\d+), \w+, (\w+)\)", LAYOUT.read_text("utf-8"), re.MULTILINE)
    return {(struct, field): int(offset) for struct, offset, field in found}


def test_every_struct_of_the_header_is_frozen_and_cffi_lays_it_out_as_the_compiler_does() -> None:
    structs = re.findall(r"typedef struct (\w+) \{", HEADER.read_text("utf-8"))
    assert {name: cdef.ffi.sizeof(name) for name in structs} == _frozen_sizes()


def test_every_field_of_the_header_is_frozen_where_cffi_sees_it() -> None:
    seen = {
        (struct, name): field.offset
        for struct in _frozen_sizes()
        for name, field in cdef.ffi.typeof(struct).fields
    }
    assert seen == _frozen_fields()


def test_every_number_of_the_header_is_frozen_and_known_to_python() -> None:
    values = re.findall(r"\b(CK_\w+) = (\d+)", HEADER.read_text("utf-8"))
    frozen = re.findall(r"^NUMBER\((\w+), (\d+)\)", LAYOUT.read_text("utf-8"), re.MULTILINE)
    assert sorted(values) == sorted(frozen)
    named = {f"CK_{name.upper()}" for name in cdef.DTYPE} | set(cdef.STATUS.values())
    assert {name for name, _ in values} == named | {"CK_CONSTANT", "CK_SPLIT_EXACT"}


def test_every_place_names_the_version_of_the_header() -> None:
    assert cdef.ABI_VERSION.startswith(f"{cdef.ABI_MAJOR}.{cdef.ABI_MINOR}")
    for path in ("README.md", "docs/abi.md"):
        assert f"{cdef.ABI_MAJOR}.{cdef.ABI_MINOR} release candidate" in (REPOSITORY / path).read_text(
            "utf-8"
        ), path
    history = (REPOSITORY / "docs" / "abi.md").read_text("utf-8").partition("## History")[2]
    assert f"\n| {cdef.ABI_VERSION} |" in history


def test_the_first_sizes_are_those_of_minor_0() -> None:
    assert cdef.ABI_MINOR == 0, "a new minor keeps FIRST_SIZE and extends layout.c"
    assert {name: _frozen_sizes()[name] for name in kernels.FIRST_SIZE} == kernels.FIRST_SIZE


def test_no_field_is_a_python_keyword() -> None:
    import keyword

    for name in _frozen_sizes():
        fields = [field for field, _ in cdef.ffi.typeof(name).fields]
        assert not [f for f in fields if keyword.iskeyword(f)]


def test_the_quantised_blocks_are_ggufs() -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    for dtype, block in cdef.BLOCK.items():
        kind = GGMLQuantizationType[dtype.upper()]
        assert block == tuple(GGML_QUANT_SIZES[kind]), dtype


@pytest.mark.parametrize("op", ["qmatmul", "attention"])
def test_the_abi_carries_more_than_scans(op: str, compiled: Compile) -> None:
    """Packed constants and two phases; carry pools of two dtypes, optional operands and three phases."""
    folders = {f"org.example.{op}/1": HERE / "ops" / op}
    report = kit.check_library(compiled(f"kernels/portable_{op}"), folders, depth="quick")
    report.require()
    assert all(row.verdict == "passes" for row in report.rows)


def test_a_plugin_brings_an_op_of_its_own(plugin_folder: MakeFolder) -> None:
    op = "org.example.qmatmul/1"
    folder = plugin_folder(
        "kernels/portable_qmatmul", "my_product", id="org.example.portable-qmatmul", ops=[op]
    )
    for file in ("op.toml", "reference.py"):
        shutil.copy(HERE / "ops/qmatmul" / file, folder)
    registry.register(folder)
    shutil.rmtree(folder)
    assert registry.kernel_for(op).op == op
    contract = registry.contract_for(op)
    assert contract.output_shapes(contract.bind([(3, 64), (5, 64), None])) == [(3, 5)]
    with pytest.raises(LookupError, match=r"org\.example\.unheard_of/1"):
        registry.contract_for("org.example.unheard_of/1")


def test_a_plugin_cannot_bring_its_own_truth_of_an_op_of_the_host(plugin_folder: MakeFolder) -> None:
    folder = plugin_folder("broken/ignores_the_gate")
    own = contracts()["conifer.ssd_scan/1"].folder
    shutil.copy(own / "op.toml", folder)
    (folder / "reference.py").write_text("def reference(*_):\n    return []\n", "utf-8")
    report = kit.check(folder / "my_scan.so", depth="quick")
    assert report.failures[0].check == "agrees with the reference"


on_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="these binaries were built for x86-64")
each_old_binary = pytest.mark.parametrize("binary", foreign.old_binaries("x86_64"), ids=lambda p: p.stem)


@on_x86_64
@each_old_binary
def test_a_plugin_built_long_ago_still_keeps_its_contract(binary: Path) -> None:
    contract = foreign.contract_of(binary)
    plugin = load_library(binary)
    assert (plugin.version, [k.op for k in plugin.kernels]) == ("1.0.0", [contract.op])
    kit.check_library(binary, {contract.op: contract.folder}, depth="quick").require()


@on_x86_64
@each_old_binary
def test_a_plugin_built_long_ago_runs_on_a_host_that_has_more_to_say(binary: Path, tmp_path: Path) -> None:
    """Every struct of the host is longer than the plugin knows, and what it does not know is garbage."""
    (tmp_path / "conifer_kernel.h").write_text(_next_minor(), "utf-8")
    host = tmp_path / "host"
    flags = ["-std=gnu11", "-O1", "-DLOADED", "-DLATER=0xff", f"-I{tmp_path}"]
    subprocess.run(["cc", *flags, str(HERE / foreign.PROGRAM), "-o", str(host), "-lm", "-ldl"], check=True)
    for problem in foreign.problems(foreign.contract_of(binary), 4):
        foreign.agrees([str(host), str(binary)], problem)


@on_x86_64
def test_a_plugin_built_long_ago_can_be_registered_with_the_op_that_it_brings(
    plugin_folder: MakeFolder,
) -> None:
    (binary,) = (HERE / "binaries").glob("portable_qmatmul-*-x86_64.so")
    contract, identity = foreign.contract_of(binary), load_library(binary).id
    folder = plugin_folder(name="old", id=identity, ops=[contract.op])
    (folder / "old.so").write_bytes(binary.read_bytes())
    for file in ("op.toml", "reference.py"):
        shutil.copy(contract.folder / file, folder)
    registry.register(folder)
    assert registry.kernel_for(contract.op).plugin == identity


@on_x86_64
def test_a_plugin_for_another_processor_is_refused_before_its_code_runs() -> None:
    for binary in foreign.old_binaries("aarch64"):
        with pytest.raises(PluginRefused, match="built for aarch64, this machine is x86_64"):
            load_library(binary)


def test_a_plugin_of_the_next_minor_runs_on_this_host(tmp_path: Path) -> None:
    (tmp_path / "conifer_kernel.h").write_text(_next_minor(), "utf-8")
    library = tmp_path / "newer.so"
    flags = ["-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", f"-I{tmp_path}"]
    source = HERE / "kernels" / "plain_ssd_scan.c"
    subprocess.run(["cc", *flags, str(source), "-o", str(library), "-lm"], check=True)
    contract = contracts()["conifer.ssd_scan/1"]
    kit.check_library(library, {contract.op: contract.folder}, depth="quick").require()


def _next_minor() -> str:
    """The header as a later minor may make it: a field more at the end of every struct."""
    header = HEADER.read_text("utf-8").replace("CK_ABI_MINOR 0u", "CK_ABI_MINOR 1u")
    return re.sub(r"^\} (ck_\w+);", r"    uint64_t later;\n} \1;", header, flags=re.MULTILINE)


def test_there_is_an_old_binary_of_every_minor_and_none_was_built_again() -> None:
    listed = dict(
        reversed(line.split("  "))
        for line in (HERE / "binaries" / "SHA256SUMS").read_text("utf-8").splitlines()
    )
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (HERE / "binaries").glob("*.so")}
    assert found == listed
    minors = {name.split("-")[1] for name in found}
    assert minors == {"v0.9", *(f"v{cdef.ABI_MAJOR}.{minor}" for minor in range(cdef.ABI_MINOR + 1))}
