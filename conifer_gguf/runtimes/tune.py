"""Measures what `tuning.py` remembers: products as layers have them, by the registered kernel and by ggml, on several threads.

No model is needed, and no scan: products are most of a step in every architecture, they are what threads share, and what two
sides can compute. `main` is the child process of `conifer-gguf tune`; before a first load `for_loading` measures in
the engine process, for a second.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from ..engine.product import OP as PRODUCT
from ..engine.supply import Supply, accelerators
from ..errors import ConiferError
from ..gguf import Header
from ..kit.bench import Backend, Float32, timed
from ..kit.bench_product import Sides, product_call
from ..kit.values import Array, store
from ..ops import contracts
from . import tuning
from .threads import default_threads
from .tuning import Option, Trial, Tuning

# What the bundled kernel takes, the usual ones first. Not F32: `engine/product.py` divides those by size.
TYPES = ("q4_k", "q6_k", "q8_0", "q5_k", "f16", "bf16", "q4_0", "q5_0")
FEW = 8  # rows up to which a graph holds copies of the weight
LEAST_TURNS = 3
Tell = Callable[[str], None]
What = tuple[Option, str, str, int]  # the first fields of a Trial


@dataclass(frozen=True)
class Effort:
    """How thoroughly to measure. Seconds of a trial, and of all together: what the time does not reach keeps its default."""

    shape: tuple[int, int]
    n_rows: tuple[int, int]
    copies: int
    trial_s: float
    total_s: float


THOROUGH = Effort((1024, 1536), (1, 512), copies=32, trial_s=0.8, total_s=30.0)
BRIEF = Effort((512, 1024), (1, 128), copies=16, trial_s=0.04, total_s=0.9)


def measure(effort: Effort, types: Sequence[str] = TYPES, tell: Tell = lambda _: None) -> Tuning:
    """Try what can be chosen here, `types` in this order; nothing where one core has only ggml's products."""
    started = time.perf_counter()
    n_threads = default_threads()
    counts = tuple(n for n in thread_counts(n_threads) if n != n_threads)
    supply = accelerators((PRODUCT,)).get(PRODUCT)
    trials: list[Trial] = []
    untried: list[str] = []
    for i, dtype in enumerate(types if supply else types[:1] if counts else ()):
        one = _Trials(effort, supply, n_threads, () if i else counts, started + effort.total_s)
        found = [None] if one.late else one.of(dtype, tell)
        trials += [trial for trial in found if trial]
        if None in found:
            untried.append(dtype)
    seconds = time.perf_counter() - started
    made = tuning.decide(trials, n_threads)
    return replace(made, untried=tuple(untried), seconds=seconds, brief=effort is BRIEF)


def thread_counts(most: int) -> list[int]:
    """What is tried: every number up to 4, quarters beyond, and one core left to others."""
    if most <= 4:
        return list(range(1, most + 1))
    return sorted({most // 4, most // 2, 3 * most // 4, most - 1, most})


@dataclass(frozen=True)
class _Trials:
    """Those of one type of weights. `counts` are numbers of threads to try besides `n_threads`, `end` is when the time is up."""

    effort: Effort
    supply: Supply | None
    n_threads: int
    counts: tuple[int, ...]
    end: float

    @property
    def late(self) -> bool:
        return time.perf_counter() > self.end

    def of(self, dtype: str, tell: Tell) -> list[Trial | None]:
        """None stands for one that the time did not reach."""
        rng = np.random.default_rng(0)
        weight = store(dtype, rng.standard_normal(self.effort.shape))
        found: list[Trial | None] = []
        for n_rows in self.effort.n_rows:
            tell(f"{dtype.upper()} weights, {n_rows} row{'s' * (n_rows > 1)}")
            x = rng.standard_normal((n_rows, self.effort.shape[1])).astype(np.float32)
            with Backend(self.n_threads, self.effort.copies if n_rows <= FEW else 1) as backend:
                found += self._with(backend, x, weight)
        return found

    def _with(self, backend: Backend, x: Float32, weight: Array) -> list[Trial | None]:
        contract, n_rows = contracts()[PRODUCT], len(x)
        kernel = self.supply.willing(product_call(contract, x, weight)) if self.supply else None
        if kernel is None and not self.counts:
            return []
        sides = Sides(backend, contract, kernel, x, weight)
        chosen = sides.ours if kernel else sides.theirs

        def fewer(n: int) -> Callable[[], None]:
            def run() -> None:
                backend.set_threads(n)
                chosen()
                backend.set_threads(self.n_threads)

            return run

        usual = str(self.n_threads)
        found = [self._trial(("threads", str(n), usual, n_rows), chosen, fewer(n)) for n in self.counts]
        if kernel:
            what: What = ("product", weight.dtype, kernel.plugin, n_rows)
            found.append(self._trial(what, chosen, sides.theirs))
        return found

    def _trial(self, what: What, default: Callable[[], None], other: Callable[[], None]) -> Trial | None:
        """Turn by turn, once unmeasured; None where the time is up before there were enough of them."""
        if self.late:
            return None
        turn = timed(default) + timed(other)
        enough = time.perf_counter() + self.effort.trial_s
        ratios: list[float] = []
        while len(ratios) < LEAST_TURNS or time.perf_counter() < enough:
            if time.perf_counter() + turn > self.end:
                break
            before = timed(default)
            ratios.append(timed(other) / before)
        if len(ratios) < LEAST_TURNS:
            return None
        ratios.sort()
        low, high = ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]
        return Trial(*what, statistics.median(ratios), low, high, len(ratios))


def for_loading(header: Header) -> Tuning:
    """What loading a hybrid follows: what is remembered, else what a second tells, which is then remembered.

    The types of this model's weights come first, the largest share before the others.
    """
    found = tuning.remembered()
    if found is not None:
        return found
    share: Counter[str] = Counter()
    for tensor in header.tensors.values():
        share[tensor.type.name.lower()] += tensor.nbytes
    known = [dtype for dtype, _ in share.most_common() if dtype in TYPES]
    try:
        made = measure(BRIEF, [*known, *(t for t in TYPES if t not in known)])
    except ConiferError:
        return Tuning(default_threads())  # loading meets the same error where it matters, and says it better
    with contextlib.suppress(OSError):  # a home that cannot be written is `doctor`'s to tell; the model runs
        tuning.remember(made)
    return made


def main() -> None:
    """Lines of JSON on stdout: {"what"} while it measures, {"tuning"} at the end, or {"error"}."""

    def say(**fields: object) -> None:
        print(json.dumps(fields), flush=True)

    effort = BRIEF if "--quick" in sys.argv else THOROUGH
    try:
        say(tuning=asdict(measure(effort, tell=lambda what: say(what=what))))
    except ConiferError as error:
        say(error=error.to_wire())
        sys.exit(1)
