"""conifer-gguf catalog: every model that is known by name."""

from __future__ import annotations

from typing import get_args

import click

from ..service.status import CatalogRow, catalog_rows
from ..settings import format_bytes
from ..store.catalog import Entry
from . import _options, render

CLASSES = get_args(Entry.model_fields["class_"].annotation)


@click.command("catalog", short_help="Show every model that is known by name.")
@click.option("--class", "class_", type=click.Choice(CLASSES), help="Only models of this kind.")
@_options.add((_options.RUNTIME,))
@click.option("--json", "as_json", is_flag=True, help="Print rows as JSON, sizes in bytes.")
def command(class_: str | None, runtime: str, as_json: bool) -> None:
    """Show every model that is known by name, whether it can run here, and what its cache costs.

    \b
    Examples:
      conifer-gguf catalog
      conifer-gguf catalog --class hybrid --json
    """
    rows = [r for r in catalog_rows(runtime) if class_ in (None, r.entry.class_)]
    if as_json:
        render.as_json([as_row(r) for r in rows])
        return
    render.table(
        ("NAME", "CLASS", "SIZE", "CACHE/TOKEN", "CARRY", "HERE", "MEASURED", "PROFILE", "STATUS"),
        [
            (
                r.entry.name,
                r.entry.class_,
                size(r.entry),
                format_bytes(r.entry.shape.kv_bytes_per_token),
                format_bytes(r.entry.shape.carry_bytes),
                "yes" if r.on_disk else "",
                speed(r),
                r.entry.profile,
                r.status.words,
            )
            for r in rows
        ],
    )
    gated = sum(r.status.status == "load-gated" for r in rows)
    if gated:
        render.notice(f"\n{gated} wait for kernels: conifer-gguf plugins register --bundled makes them ready")


def size(entry: Entry) -> str:
    """Of the quantisation that `pull NAME` takes."""
    known = entry.source(None).size
    return format_bytes(known) if known else "?"


def speed(row: CatalogRow) -> str:
    """How fast this package decoded it here, with the shortest context that was measured."""
    ours = sorted(
        (p for p in row.measured if p.is_default), key=lambda p: (p.depth, p.runtime == "llama.cpp")
    )
    return f"{ours[0].decode_tps:.1f} tok/s" if ours else ""


def as_row(row: CatalogRow) -> dict[str, object]:
    return {
        "name": row.entry.name,
        "aliases": row.entry.aliases,
        "class": row.entry.class_,
        "profile": row.entry.profile,
        "architecture": row.entry.architecture,
        "size": row.entry.source(None).size,
        "status": row.status.status,
        "runtime": row.status.runtime,
        "supply": row.status.supply,
        "needs": row.status.needs,
        "also_runs_with": row.status.also_runs_with,
        "kv_bytes_per_token": row.entry.shape.kv_bytes_per_token,
        "state_bytes": row.entry.shape.carry_bytes,
        "on_disk": [str(path) for path in row.on_disk],
        "measured": [point.as_row() for point in row.measured],
    }
