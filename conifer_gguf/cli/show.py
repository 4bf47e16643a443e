"""conifer-gguf show: what the catalog knows of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..service.status import measured_of
from ..settings import format_bytes
from ..store import library
from ..store.catalog import Entry, catalog
from ..store.results import Measured
from . import render


@click.command("show", short_help="Show what the catalog knows of a model.")
@click.argument("name", metavar="NAME[:QUANT]")
@click.option("--json", "as_json", is_flag=True, help="Print the entry as JSON.")
def command(name: str, as_json: bool) -> None:
    """Show a model's facts, its quantisations, and which of them are here.

    \b
    Examples:
      conifer-gguf show granite-4.0-h-1b
      conifer-gguf show jamba-reasoning-3b --json
    """
    entry, quant = catalog().resolve(name)
    entry.source(quant)
    here = {m.quant: str(m.path) for m in library.models() if m.base_name == entry.name}
    measured = {quant: measured_of(Path(path)) for quant, path in here.items()}
    if as_json:
        points = [point.as_row() for found in measured.values() for point in found]
        render.as_json({**entry.model_dump(by_alias=True), "on_disk": here, "measured": points})
        return
    for key, value in facts(entry):
        click.echo(f"{key:<15} {value}")
    click.echo()
    rows = [
        (s.quant, format_bytes(s.size) if s.size else "?", s.kind, here.get(s.quant, ""))
        for s in entry.sources
    ]
    render.table(("QUANT", "SIZE", "FROM", "ON THIS MACHINE"), rows)
    if any(measured.values()):
        click.echo()
        render.table(
            ("QUANT", "RUNTIME", "SETTING", "DEPTH", "THREADS", "PREFILL", "DECODE", "MEMORY", "MEASURED"),
            [_measured(quant, p) for quant, found in measured.items() for p in found],
        )


def _measured(quant: str | None, p: Measured) -> tuple[str, ...]:
    return (
        quant or "",
        p.runtime,
        p.setting,
        f"{p.depth:,}",
        str(p.n_threads),
        f"{p.prefill_tps:.0f} tok/s",
        f"{p.decode_tps:.1f} tok/s",
        format_bytes(p.rss_bytes),
        p.date[:10],
    )


def facts(entry: Entry) -> list[tuple[str, Any]]:
    shape = entry.shape
    active = f", {entry.active_parameters:,} active" if entry.active_parameters else ""
    kinds = f"{shape.layers}: {shape.attention} attention"
    if shape.recurrent:
        kinds += f", {shape.recurrent} {entry.recurrent_name}"
    sampling = ", ".join(f"{k} {v}" for k, v in entry.sampling.given().items())
    rows = [
        ("name", entry.name),
        ("aliases", ", ".join(entry.aliases)),
        ("profile", entry.profile),
        ("class", entry.class_),
        ("architecture", entry.architecture),
        ("parameters", f"{entry.parameters:,}{active}"),
        ("layers", kinds),
        ("context", f"{entry.context:,} tokens"),
        ("cache", f"{format_bytes(shape.kv_bytes_per_token)} a token (f16)"),
        ("carry", f"{format_bytes(shape.carry_bytes)} a sequence" if shape.carry_bytes else ""),
        ("sampling", sampling),
        ("licence", entry.licence),
        ("unconfirmed", "; ".join(entry.unconfirmed)),
    ]
    return [(key, value) for key, value in rows if value]
