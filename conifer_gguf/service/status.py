"""Can this model run here, by what, and what does it wait for? Computed for every question, never stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import UnsupportedModel
from ..gguf import Header
from ..runtimes.choose import llama_knows
from ..store import library
from ..store.catalog import Entry, catalog

Word = Literal["ready", "load-gated", "unknown"]


@dataclass(frozen=True)
class Status:
    """`needs` are op ids without a registered kernel; `also_runs_with` other runtimes that would work."""

    status: Word
    runtime: str | None
    reason: str
    needs: tuple[str, ...] = ()
    also_runs_with: tuple[str, ...] = ()


def of_architecture(architecture: str) -> Status:
    """The status of every model of one architecture."""
    if llama_knows(architecture):
        return Status("ready", "llama.cpp", "llama.cpp runs this architecture")
    return Status("unknown", None, f"the installed llama.cpp does not know the architecture `{architecture}`")


def of_file(header: Header) -> Status:
    return of_architecture(header.architecture)


def require_ready(model: str, header: Header) -> Status:
    """The status of a file that is about to be loaded. Raises UnsupportedModel."""
    status = of_file(header)
    if status.status == "unknown":
        raise UnsupportedModel(model, header.architecture, status.reason)
    return status


@dataclass(frozen=True)
class CatalogRow:
    """One row of `conifer-gguf catalog`. Sizes in bytes; the cache is counted for f16."""

    entry: Entry
    status: Status
    on_disk: tuple[Path, ...]


def catalog_rows() -> list[CatalogRow]:
    here = library.models()
    return [
        CatalogRow(
            entry,
            of_architecture(entry.architecture),
            tuple(m.path for m in here if m.base_name == entry.name),
        )
        for entry in catalog().entries
    ]
