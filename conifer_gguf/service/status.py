"""Can this model run here, by what, and what does it wait for? Computed for every question, never stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..arch import geometry
from ..errors import BadModelFile
from ..gguf import Header
from ..runtimes.choose import Choice, choose, recurrent_layers, require
from ..store import library, results
from ..store.catalog import Entry, catalog
from ..store.results import Measured

Word = Literal["ready", "load-gated", "unknown"]


@dataclass(frozen=True)
class Status:
    """`needs` are op ids without a registered kernel; `also_runs_with` other runtimes that would work."""

    status: Word
    runtime: str | None
    reason: str
    needs: tuple[str, ...] = ()
    supply: tuple[str, ...] = ()  # plugins and versions
    register: tuple[str, ...] = ()  # bundled plugins that would supply what is missing
    also_runs_with: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()  # sha256 of what is loaded with the model
    by_setting: bool = False  # CONIFER_GGUF_RUNTIME decided

    @property
    def words(self) -> str:
        """`ready · ssd_scan 0.1.0, causal_conv 0.1.0`, `load-gated · needs …`, as lists show it."""
        if self.status == "load-gated":
            return f"load-gated · needs {', '.join(self.needs)}"
        by = ", ".join(self.supply) or self.runtime
        return " · ".join(filter(None, (self.status, f"{by}, your setting" if self.by_setting else by)))


def of_architecture(architecture: str, requested: str = "auto") -> Status:
    """The status of every model of one architecture."""
    return _status(choose(architecture, requested))


def of_file(header: Header, requested: str = "auto") -> Status:
    return of_architecture(header.architecture, requested)


def require_ready(model: str, header: Header, requested: str = "auto") -> Status:
    """The status of a file that is about to be loaded. Raises UnsupportedModel or ModelLoadGated."""
    return _status(require(model, header, requested))


def layers_of(header: Header) -> str:
    """`36 of 40 layers are Mamba-2`, for a person who wonders what the model waits for."""
    return recurrent_layers(header.architecture, geometry(header).layer_kinds)


def _status(choice: Choice) -> Status:
    word: Word = "unknown" if choice.runtime is None else "load-gated" if choice.needs else "ready"
    return Status(
        word,
        choice.runtime,
        choice.reason,
        choice.needs,
        choice.supply,
        choice.register,
        choice.also_runs_with,
        choice.libraries,
        choice.by_setting,
    )


@dataclass(frozen=True)
class CatalogRow:
    """One row of `conifer-gguf catalog`. Sizes in bytes; the cache is counted for f16."""

    entry: Entry
    status: Status
    on_disk: tuple[Path, ...]
    measured: tuple[Measured, ...]  # of the files on disk, on this machine


def catalog_rows(requested: str = "auto") -> list[CatalogRow]:
    here = library.models()
    known = {name: of_architecture(name, requested) for name in {e.architecture for e in catalog().entries}}
    rows = []
    for entry in catalog().entries:
        paths = tuple(m.path for m in here if m.base_name == entry.name)
        measured = tuple(point for path in paths for point in measured_of(path))
        rows.append(CatalogRow(entry, known[entry.architecture], paths, measured))
    return rows


def measured_of(path: Path) -> tuple[Measured, ...]:
    """What `bench` kept of a file; nothing of one that is no model any more, which is not this question."""
    try:
        return results.results(path)
    except BadModelFile:
        return ()
