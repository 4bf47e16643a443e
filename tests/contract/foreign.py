"""Kernels that the kit cannot run in this process: those of another machine, and libraries on another host.

A C program, arm64/run_problem.c, takes the kit's problems from its stdin; what it writes is judged here.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from conifer_gguf.kit.maker import Maker
from conifer_gguf.kit.problem import Problem, solve
from conifer_gguf.kit.recipe import read_recipe
from conifer_gguf.kit.values import Array, read
from conifer_gguf.native_api import cdef
from conifer_gguf.native_api.call import dense_strides
from conifer_gguf.ops import Contract, contracts, read_contract

from .conftest import HERE

PROGRAM = "arm64/run_problem.c"
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
WITHOUT_SDOT = ("-cpu", "cortex-a72")  # to the emulator
OPS_OF_TESTS = {"portable_qmatmul": "qmatmul", "portable_attention": "attention"}


def require_arm64() -> None:
    for tool in (COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def old_binaries(machine: str) -> list[Path]:
    return sorted((HERE / "binaries").glob(f"*-{machine}.so"))


def contract_of(binary: Path) -> Contract:
    """Of the one op that an old binary supplies."""
    name = binary.stem.split("-")[0]
    if name in OPS_OF_TESTS:
        return read_contract(HERE / "ops" / OPS_OF_TESTS[name])
    return contracts()["conifer.ssd_scan/1"]


def problems(contract: Contract, n_variant: int = 12) -> Iterator[Problem]:
    maker = Maker(contract, read_recipe(contract.folder))
    for turn, variant in enumerate(maker.variants[:n_variant]):
        sizes = maker.sizes(23, turn)
        yield maker.problem(sizes, variant, lengths=[19, 0, 1], slots=[2, -1, 0], n_slot=3)
    for shape in maker.recipe.shapes:
        yield maker.problem(maker.sizes(70, 0, shape), maker.usual, lengths=[70], slots=[1], n_slot=2)


def agrees(command: Sequence[str], problem: Problem) -> None:
    """Run the program and compare with the reference in float64."""
    contract = problem.contract
    done = subprocess.run(command, input=written(problem), capture_output=True, check=False)
    assert done.returncode == 0, f"{problem.label}: {done.stderr.decode()}"
    outputs, states = solve(problem, contract.reference())
    found = list(read_back(done.stdout, problem))
    values, expected = (
        np.concatenate([np.nan_to_num(a.ravel()) for a in group]) for group in (found, [*outputs, *states])
    )
    difference = np.abs(values - expected).max()
    rtol = read_recipe(contract.folder).rtol
    assert difference <= 4 * rtol * np.abs(expected[np.abs(expected) < 1e30]).max(), problem.label


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
