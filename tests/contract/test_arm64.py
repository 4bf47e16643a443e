"""The bundled plugins on arm64: cross-compiled, run by an emulator, compared with the reference in float64.

The kit itself needs an arm64 Python; here a small C program takes the kit's problems one by one.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from conifer_gguf import settings
from conifer_gguf.kit.maker import Maker
from conifer_gguf.kit.problem import Problem, solve
from conifer_gguf.kit.recipe import read_recipe
from conifer_gguf.kit.values import Array, read
from conifer_gguf.native_api import cdef
from conifer_gguf.native_api.call import dense_strides
from conifer_gguf.ops import contracts

HERE = Path(__file__).parent
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
OPS = ["attention", "causal_conv", "gated_delta", "qmatmul", "selective_scan", "ssd_scan"]


@pytest.fixture(scope="module", params=OPS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The name of a bundled plugin, and an arm64 program that runs its kernel."""
    for tool in (COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = settings.bundled_dir() / request.param
    made = tmp_path_factory.mktemp("arm64") / request.param
    flags = [
        "-std=gnu11",
        "-O2",
        "-static",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{settings.include_dir()}",
        f"-I{folder}",
    ]
    sources = [str(HERE / "arm64" / "run_problem.c"), str(folder / f"{request.param}.c")]
    subprocess.run([COMPILER, *flags, *sources, "-o", str(made), "-lm"], check=True)
    return request.param, made


def int64(*numbers: int) -> bytes:
    return np.array(numbers, np.int64).tobytes()


def described(array: Array, constant: bool = False) -> bytes:
    """A tensor as run_problem.c reads it."""
    data = np.ascontiguousarray(array.stored).tobytes()
    return header(array.dtype, len(data), array.shape, constant) + data


def header(dtype: str, size: int, shape: tuple[int, ...], constant: bool = False) -> bytes:
    return int64(int(constant), cdef.DTYPE[dtype], size, len(shape), *shape, *dense_strides(dtype, shape))


def written(problem: Problem) -> bytes:
    c = problem.contract
    parts = [int64(len(problem.inputs), len(problem.states), len(c.outputs))]
    for array, operand in zip(problem.inputs, c.inputs, strict=True):
        present = array is not None
        parts.append(int64(int(present)))
        if array is not None:
            parts.append(described(array, operand.role == "constant"))
    parts += [described(array) for array in problem.states]
    parts += [header("f32", 4 * math.prod(shape), shape) for shape in problem.output_shapes()]
    parts += [int64(len(problem.ints), *problem.ints), int64(len(problem.reals))]
    parts.append(np.array(problem.reals, np.float64).tobytes())
    parts += [int64(len(problem.slot)), int64(*problem.seq_start), int64(*problem.slot)]
    return b"".join(parts)


def problems(name: str) -> Iterator[Problem]:
    contract = contracts()[f"conifer.{name}/1"]
    maker = Maker(contract, read_recipe(contract.folder))
    for turn, variant in enumerate(maker.variants[:12]):
        sizes = maker.sizes(23, turn)
        yield maker.problem(sizes, variant, lengths=[19, 0, 1], slots=[2, -1, 0], n_slot=3)
    for shape in maker.recipe.shapes:
        yield maker.problem(maker.sizes(70, 0, shape), maker.usual, lengths=[70], slots=[1], n_slot=2)


def test_a_bundled_kernel_agrees_with_the_reference_on_arm64(program: tuple[str, Path]) -> None:
    name, path = program
    contract = contracts()[f"conifer.{name}/1"]
    rtol = read_recipe(contract.folder).rtol
    for problem in problems(name):
        done = subprocess.run([EMULATOR, str(path)], input=written(problem), capture_output=True, check=False)
        assert done.returncode == 0, f"{problem.label}: {done.stderr.decode()}"
        outputs, states = solve(problem, contract.reference())
        found = list(read_back(done.stdout, problem))
        values, expected = (
            np.concatenate([np.nan_to_num(a.ravel()) for a in group])
            for group in (found, [*outputs, *states])
        )
        difference = np.abs(values - expected).max()
        assert difference <= 4 * rtol * np.abs(expected[np.abs(expected) < 1e30]).max(), problem.label


def read_back(data: bytes, problem: Problem) -> Iterator[np.ndarray]:
    """Outputs and states as run_problem.c writes them."""
    for shape in problem.output_shapes():
        size = 4 * math.prod(shape)
        yield np.frombuffer(data[:size], np.float32).astype(np.float64)
        data = data[size:]
    for state in problem.states:
        stored = np.frombuffer(data[: state.stored.nbytes], state.stored.dtype).reshape(state.stored.shape)
        yield read(state.dtype, stored, state.shape)
        data = data[state.stored.nbytes :]
