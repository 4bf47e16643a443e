"""The AVX-512 loops of the bundled plugins on any processor: natively where it has the set, elsewhere their intrinsics in portable
C, from SIMDe. The latter shows that the loops compute the right numbers, not that the compiler's AVX-512 code does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from conifer_gguf import kit, settings
from conifer_gguf.ops import contracts

from .conftest import FLAGS, HERE

OPS = ["attention", "causal_conv", "gated_delta", "qmatmul", "selective_scan", "ssd_scan"]
NEEDED = {"avx512f", "avx512vl", "avx512dq", "avx512bw", "avx512_vnni", "f16c"}


def processor_has_avx512() -> bool:
    path = Path("/proc/cpuinfo")
    return path.is_file() and set(path.read_text("ascii", "replace").split()) >= NEEDED


def compiled_from_portable_c(name: str, into: Path) -> Path:
    folder = settings.bundled_dir() / name
    library = into / f"{name}.so"
    # First on the path stands an <immintrin.h> of ours. -Wno-psabi: no vector crosses a function that is not inlined.
    include = [f"-I{HERE / 'emulated'}", f"-I{settings.include_dir()}", f"-I{folder}"]
    flags = [*FLAGS, "-O1", "-Wno-psabi", "-DCK_EMULATE_AVX512", *include]
    subprocess.run(["gcc", *flags, str(folder / f"{name}.c"), "-o", str(library), "-lm"], check=True)
    return library


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
def test_the_avx512_loops_keep_the_contract_on_any_processor(name: str, tmp_path: Path) -> None:
    if processor_has_avx512():
        kit.check(name, depth="brief", split_exact=True, environment={"CONIFER_ISA": "avx512"}).require()
        return
    if not Path("/usr/include/simde/x86/avx512.h").is_file():
        pytest.skip("SIMDe is not installed (Debian: libsimde-dev)")
    op = f"conifer.{name}/1"
    library = compiled_from_portable_c(name, tmp_path)
    symbols = subprocess.run(["nm", str(library)], capture_output=True, text=True, check=True).stdout
    assert "_avx512" in symbols
    assert "_avx2" not in symbols
    kit.check_library(library, {op: contracts()[op].folder}, depth="brief", split_exact=True).require()
