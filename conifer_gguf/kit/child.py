"""The kit's child process: loads one library, runs the checks on each of its kernels, reports as it goes.

Messages: `at` before every case, so that the parent can name the case that crashed; `plugin` after loading; `row` after
each check; `refused` when the library cannot be loaded.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import PluginRefused
from ..native_api.containment import Reporter
from ..native_api.kernels import Kernel, Plugin, load_library
from ..ops import Contract, read_contract
from . import call_checks, checks, part_checks, split_checks
from .checks import DEPTHS, Case, Subject
from .execution import Finding, Unsupported
from .maker import Maker
from .problem import Problem, solve
from .recipe import Recipe, read_recipe
from .report import SAME_BITS, Row, Verdict
from .values import Float64

Solution = tuple[list[Float64], list[Float64]]
MOST_SOLVED = 64  # problems of which the answer is kept: neighbouring cases ask for the same

# The cheap ones first: registering stops at the first that fails.
CHECKS: Final = {
    "agrees with the reference": checks.agrees_with_reference,
    "wrong calls are refused": call_checks.wrong_calls_are_refused,
    "empty sequences and calls": checks.empty_calls,
    "padding rows": checks.padding_rows,
    "several sequences in one call": checks.several_sequences,
    "any split of the tokens": split_checks.any_split,
    SAME_BITS: split_checks.same_bits_for_any_split,
    "strided and offset operands": checks.strided_operands,
    "any number of parts": part_checks.any_number_of_parts,
    "parts own what they write": part_checks.parts_own_what_they_write,
    "parts at the same time": part_checks.parts_at_the_same_time,
    "one run after another": part_checks.one_run_after_another,
    "NaN stays in its sequence": checks.nan_stays_in_its_sequence,
    "large and tiny magnitudes": checks.magnitudes,
    "ends of ranges and beyond": checks.ends_of_ranges,
    "keeps no memory": call_checks.keeps_no_memory,
    "any size": checks.any_size,
    "any length": checks.any_length,
    "shapes of real models": checks.shapes_of_real_models,
    "long sequences": checks.long_sequences,
}


def main() -> None:
    np.seterr(all="ignore")  # overflow to infinity is part of what is tested
    reporter = Reporter()
    try:
        _check_everything(reporter, reporter.request)
    except PluginRefused as error:
        reporter.send({"refused": {"problem": error.problem, "op": error.op}})
    reporter.end()


def _check_everything(reporter: Reporter, request: dict[str, Any]) -> None:
    contracts = {op: read_contract(Path(folder)) for op, folder in request["ops"].items()}
    recipes = {op: read_recipe(contract.folder) for op, contract in contracts.items()}
    reporter.limit_memory()
    plugin = load_library(Path(request["library"]))
    reporter.send({"plugin": _introduce(plugin)})
    for kernel in plugin.kernels:
        if kernel.op in contracts:
            run_checks(reporter, request, kernel, contracts[kernel.op], recipes[kernel.op])


def run_checks(
    reporter: Reporter, request: dict[str, Any], kernel: Kernel, contract: Contract, recipe: Recipe
) -> None:
    rtol = request.get("rtol") or recipe.rtol
    reporter.send({"tolerance": {"op": kernel.op, "rtol": rtol, "reason": recipe.reason}})
    recipe = recipe.model_copy(update={"shapes": [*recipe.shapes, *request.get("shapes", ())]})
    reference = contract.reference()

    solved: OrderedDict[int, tuple[Problem, Solution]] = OrderedDict()

    def remember(problem: Problem) -> Solution:
        if id(problem) not in solved:
            solved[id(problem)] = problem, solve(problem, reference)  # the problem keeps its id taken
            if len(solved) > MOST_SOLVED:
                solved.popitem(last=False)
        return solved[id(problem)][1]

    depth, exact = DEPTHS[request["depth"]], bool(request.get("split_exact"))
    subject = Subject(kernel, Maker(contract, recipe), remember, depth, rtol, exact)
    for name, check in CHECKS.items():
        row = _run_check(reporter, kernel.op, name, check(subject))
        reporter.send({"row": vars(row)})
        if row.verdict == "fails" and request.get("stop_at_failure"):
            return


def _run_check(reporter: Reporter, op: str, name: str, cases: Iterator[Case]) -> Row:
    """Runs cases up to the first that fails."""
    worst, worst_case, n_case, n_unsupported = None, "", 0, 0
    started = time.monotonic()

    def row(verdict: Verdict, case: str, problem: str = "") -> Row:
        seconds = round(time.monotonic() - started, 3)
        return Row(op, name, case, verdict, worst, problem, n_case, n_unsupported, seconds)

    for label, case in cases:
        reporter.send({"at": {"op": op, "check": name, "case": label}})
        n_case += 1
        try:
            error = case()
        except Unsupported:
            n_unsupported += 1
            continue
        except Finding as finding:
            return row("fails", label, str(finding))
        if error is not None and (worst is None or error > worst):
            worst, worst_case = error, label
    if n_case and n_unsupported == n_case:
        # One call at least must work: what supports nothing has shown nothing.
        verdict: Verdict = "fails" if name == next(iter(CHECKS)) else "unsupported"
        return row(verdict, label, "supports answers CK_UNSUPPORTED to every case")
    return row("passes", worst_case)


def _introduce(plugin: Plugin) -> dict[str, Any]:
    kernels = {kernel.op: kernel.preference for kernel in plugin.kernels}
    return {"id": plugin.id, "version": plugin.version, "kernels": kernels}
