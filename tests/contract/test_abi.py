"""The C ABI: the header compiles everywhere it should, Python reads the very header, and old binaries still load."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conifer_gguf import kit
from conifer_gguf.native_api import cdef, kernels, registry
from conifer_gguf.native_api.kernels import load_library
from conifer_gguf.ops import contracts
from conifer_gguf.settings import include_dir

from .conftest import HERE, Compile, MakeFolder

REPOSITORY = HERE.parent.parent
LAYOUT = REPOSITORY / "native" / "layout.c"
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


def test_a_field_behind_the_last_one_stops_the_build(tmp_path: Path) -> None:
    header = (include_dir() / "conifer_kernel.h").read_text("utf-8")
    changed = header.replace("} ck_need;", "    uint32_t sneaked_in, reserved;\n} ck_need;")
    assert changed != header
    (tmp_path / "conifer_kernel.h").write_text(changed, "utf-8")
    command = ["cc", "-std=c11", "-fsyntax-only", f"-I{tmp_path}", str(LAYOUT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "ck_need has changed its size" in done.stderr


def _frozen_sizes() -> dict[str, int]:
    found = re.findall(r"LAYOUT_IS\((\w+), \w+, (\d+)\)", LAYOUT.read_text("utf-8"))
    return {name: int(size) for name, size in found}


def test_cffi_lays_structs_out_as_the_compiler_does() -> None:
    sizes = _frozen_sizes()
    assert {name: cdef.ffi.sizeof(name) for name in sizes} == sizes


def test_every_struct_of_the_header_is_frozen() -> None:
    header = (include_dir() / "conifer_kernel.h").read_text("utf-8")
    assert set(re.findall(r"typedef struct (\w+) \{", header)) == set(_frozen_sizes())


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


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the old binaries were built for x86-64")
@pytest.mark.parametrize("binary", sorted((HERE / "binaries").glob("*.so")), ids=lambda p: p.stem)
def test_a_plugin_built_long_ago_still_keeps_its_contract(binary: Path) -> None:
    plugin = load_library(binary)
    assert plugin.version == "1.0.0"
    op = plugin.kernels[0].op
    kit.check_library(binary, {op: contracts()[op].folder}, depth="quick").require()


def test_there_is_an_old_binary_of_every_minor() -> None:
    minors = {path.stem.split("-")[1] for path in (HERE / "binaries").glob("*.so")}
    assert minors == {f"v{cdef.ABI_MAJOR}.{minor}" for minor in range(cdef.ABI_MINOR + 1)}
