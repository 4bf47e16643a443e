"""Which instruction set CK_DISPATCH takes: the best one that a processor has, or what CONIFER_ISA asks for below it."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest

from conifer_gguf import settings

from . import foreign
from .conftest import HERE

AVX512 = {"avx512f", "avx512vl", "avx512dq", "avx512bw"}


def compiled(compiler: str, dot8: bool, into: Path, *flags: str) -> Path:
    program = into / f"which_set{int(dot8)}"
    options = [
        f"-DCK_DOT8={int(dot8)}",
        f"-I{settings.include_dir()}",
        f"-I{HERE / 'dispatch'}",
        "-std=gnu11",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
    ]
    source = HERE / "dispatch" / "which_set.c"
    subprocess.run([compiler, *options, *flags, str(source), "-o", str(program), "-lm"], check=True)
    return program


def taken(command: list[str], wish: str) -> str:
    environment = {**os.environ, "CONIFER_ISA": wish}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def best_on_this_processor(dot8: bool, wish: str) -> str:
    """By /proc/cpuinfo: the highest of the sets up to the one that is wished for."""
    has = set(Path("/proc/cpuinfo").read_text("ascii", "replace").split())
    avx2 = {"avx2", "fma", "f16c"} <= has
    sets = {
        "base": True,
        "avx2": avx2,
        "avxvnni": avx2 and dot8 and "avx_vnni" in has,
        "avx512": avx2 and has >= AVX512 and (not dot8 or "avx512_vnni" in has),
    }
    names = list(sets)
    highest = names.index(wish) if wish in names else 0 if wish else len(names) - 1
    name = [n for n in names[: highest + 1] if sets[n]][-1]
    return f"{name} {int(dot8 and name in ('avxvnni', 'avx512'))}"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="sets of x86-64")
@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="no /proc/cpuinfo to compare with")
@pytest.mark.parametrize("dot8", [False, True])
def test_the_best_set_up_to_the_wish_is_taken_on_x86_64(dot8: bool, tmp_path: Path) -> None:
    program = compiled("cc", dot8, tmp_path)
    for wish in ("", "avx512", "avxvnni", "avx2", "scalar"):
        assert taken([str(program)], wish) == best_on_this_processor(dot8, wish), wish


@pytest.mark.parametrize(
    ("cpu", "dot8", "wish", "expected"),
    [
        ((), True, "", "dotprod 1"),
        ((), True, "neon", "base 0"),
        ((), False, "", "base 0"),
        (foreign.WITHOUT_SDOT, True, "", "base 0"),
        (foreign.WITHOUT_SDOT, True, "dotprod", "base 0"),
    ],
    ids=["sdot", "neon wished", "sdot not asked for", "without sdot", "sdot wished in vain"],
)
def test_sdot_is_taken_where_an_arm64_processor_has_it(
    cpu: tuple[str, ...], dot8: bool, wish: str, expected: str, tmp_path: Path
) -> None:
    foreign.require_arm64()
    program = compiled(foreign.COMPILER, dot8, tmp_path, "-static")
    assert taken([foreign.EMULATOR, *cpu, str(program)], wish) == expected
