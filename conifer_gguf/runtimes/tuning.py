"""What this machine was measured to do best, remembered under CONIFER_GGUF_HOME/machine.

Two things are choosable: how many threads compute, and whether the products with a type of weights go to the registered
kernel or to ggml. A type goes one way for every number of rows: divided between a prompt and single tokens, a row's bits would
depend on how the prompt was cut. The default (physical cores, the registered kernel) stays unless something else was faster by
more than MARGIN, in three of four turns, single tokens and prompts together. A kernel was registered on purpose and is the more
exact one, so ggml must not be slower than it at either.

A result is for one processor, set of features, number of cores and version of whatever was measured; anything else is as if
nothing had been measured. `tune.py` measures.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from ..engine.product import OP as PRODUCT
from ..native_api import host, registry
from ..native_api.state import cpu_features, cpu_name, package_version
from ..settings import home
from .threads import default_threads

FORMAT = 1
MARGIN = 0.03  # below this nobody notices, and the next measurement may say the opposite
N_PHASE = 2  # one row, and many
Option = Literal["threads", "product"]


@dataclass(frozen=True)
class Trial:
    """One alternative in turns with the default, on products of `n_rows` rows: its time over the default's.

    Median and middle half of the turns. `value` is a number of threads and `instead_of` the default one, or the type of
    weights that ggml multiplied by and the plugin that does by default.
    """

    option: Option
    value: str
    instead_of: str
    n_rows: int
    ratio: float
    low: float
    high: float
    turns: int


@dataclass(frozen=True)
class Tuning:
    """What loading a hybrid follows. `by_ggml` are types of weights that ggml multiplies by although a kernel is registered.

    `untried` are types of weights that the time did not reach; they keep the default. `brief`: measured in the second before a
    first load.
    """

    n_threads: int
    by_ggml: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    untried: tuple[str, ...] = ()
    seconds: float = 0.0
    brief: bool = False
    date: str = ""


@dataclass(frozen=True)
class Key:
    """What a result depends on; a plugin is named by name, version and sha256."""

    cpu: str
    features: str
    instruction_set: str
    n_threads: int
    package: str
    llama_cpp_python: str
    products: tuple[str, ...]

    @property
    def name(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Remembered:
    """A file of this module: the result with everything that it depends on."""

    format: int
    key: Key
    tuning: Tuning


_FILE: Final = TypeAdapter(Remembered)


def key() -> Key:
    """Of this machine and installation, for this process: fewer cores may be its own. Raises RuntimeFailure without a host shim."""
    plugins = registry.suppliers_of(PRODUCT)
    return Key(
        cpu_name(),
        cpu_features(),
        host.instruction_set(),
        default_threads(),
        package_version(),
        version("llama-cpp-python"),
        tuple(f"{p.name} {p.version} {p.sha256[:12]}" for p in plugins),
    )


def remembered() -> Tuning | None:
    """What was measured here with what is installed now."""
    wanted = key()
    found = _read(_path(wanted))
    return found.tuning if found and found.key == wanted else None


def n_threads() -> int:
    """What a hybrid is loaded with here; what is to be compared with one gets as many."""
    found = remembered()
    return found.n_threads if found else default_threads()


def remember(tuning: Tuning) -> Path:
    """Keep a result, in place of the one before. Raises OSError where the home cannot be written."""
    now = key()
    path = _path(now)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(_FILE.dump_json(Remembered(FORMAT, now, tuning), indent=1))
    Path(file.name).replace(path)
    return path


def others() -> tuple[Remembered, ...]:
    """Results for another machine, number of cores or version, newest first: what is not followed any more."""
    mine = key()
    found = [_read(path) for path in (home() / "machine").glob("tune-*.json")]
    kept = [r for r in found if r is not None and r.key != mine]
    return tuple(sorted(kept, key=lambda r: r.tuning.date, reverse=True))


def decide(trials: Sequence[Trial], n_threads: int) -> Tuning:
    """The result of trials against `n_threads` threads and the registered kernel."""
    faster = {
        (option, value): ratio
        for option, value in dict.fromkeys((t.option, t.value) for t in trials)
        if (ratio := _gain(_of(trials, option, value))) is not None
    }
    counts = {int(value): ratio for (option, value), ratio in faster.items() if option == "threads"}
    return Tuning(
        n_threads=min(counts, key=lambda n: counts[n], default=n_threads),
        by_ggml=tuple(value for option, value in faster if option == "product"),
        trials=tuple(trials),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _of(trials: Iterable[Trial], option: str, value: str) -> list[Trial]:
    return [t for t in trials if (t.option, t.value) == (option, value)]


def _gain(trials: Sequence[Trial]) -> float | None:
    """The geometric mean of the ratios where it is worth a change: a prompt and single tokens count alike, and both were tried."""
    if len({t.n_rows for t in trials}) < N_PHASE:
        return None

    if any(t.option == "product" and t.ratio > 1 for t in trials):
        return None

    def mean(ratios: Iterable[float]) -> float:
        return math.exp(sum(map(math.log, ratios)) / len(trials))

    ratio = mean(t.ratio for t in trials)
    return ratio if ratio < 1 - MARGIN and mean(t.high for t in trials) < 1 else None


def _path(of: Key) -> Path:
    return home() / "machine" / f"tune-{of.name}.json"


def _read(path: Path) -> Remembered | None:
    """None for what is not there, or was written by another version of this format: it can be measured again."""
    try:
        found = _FILE.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.format == FORMAT else None
