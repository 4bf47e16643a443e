"""conifer-gguf catalog: every model that is known by name."""

from __future__ import annotations

import click

from ..service.status import CatalogRow, catalog_rows
from ..settings import format_bytes
from . import render


@click.command("catalog", short_help="Show every model that is known by name.")
@click.option("--class", "class_", metavar="CLASS", help="Only dense, moe, hybrid, hybrid-moe or ssm.")
@click.option("--json", "as_json", is_flag=True, help="Print rows as JSON, sizes in bytes.")
def command(class_: str | None, as_json: bool) -> None:
    """Show every model that is known by name, whether it can run here, and what its cache costs.

    \b
    Examples:
      conifer-gguf catalog
      conifer-gguf catalog --class hybrid --json
    """
    rows = [r for r in catalog_rows() if class_ in (None, r.entry.class_)]
    if as_json:
        render.as_json([as_row(r) for r in rows])
        return
    render.table(
        ("NAME", "CLASS", "CACHE/TOKEN", "CARRY", "HERE", "PROFILE", "STATUS"),
        [
            (
                r.entry.name,
                r.entry.class_,
                format_bytes(r.entry.shape.kv_bytes_per_token),
                format_bytes(r.entry.shape.carry_bytes),
                "yes" if r.on_disk else "",
                r.entry.profile,
                r.status.words,
            )
            for r in rows
        ],
    )


def as_row(row: CatalogRow) -> dict[str, object]:
    return {
        "name": row.entry.name,
        "aliases": row.entry.aliases,
        "class": row.entry.class_,
        "profile": row.entry.profile,
        "architecture": row.entry.architecture,
        "status": row.status.status,
        "runtime": row.status.runtime,
        "supply": row.status.supply,
        "needs": row.status.needs,
        "also_runs_with": row.status.also_runs_with,
        "kv_bytes_per_token": row.entry.shape.kv_bytes_per_token,
        "state_bytes": row.entry.shape.carry_bytes,
        "on_disk": [str(path) for path in row.on_disk],
    }
