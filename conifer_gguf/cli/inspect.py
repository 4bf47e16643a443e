"""conifer-gguf inspect: what a model file is."""

from __future__ import annotations

import click

from ..service.inspection import Inspection
from ..service.inspection import inspect as inspect_file
from ..settings import format_bytes
from ..store import library
from . import _options, render


@click.command("inspect", short_help="Show what a model file is, from its header.")
@click.argument("name", metavar="FILE|NAME")
@_options.add((_options.RUNTIME,))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON, sizes in bytes.")
def command(name: str, runtime: str, as_json: bool) -> None:
    """Show architecture, layers, sizes, quantisation mix, tokenizer, and what would run it. Loads nothing.

    \b
    Examples:
      conifer-gguf inspect smollm2-135m
      conifer-gguf inspect ./model.gguf --json
    """
    found = inspect_file(library.find(name).path, runtime)
    if as_json:
        render.as_json(found.as_row())
    else:
        for key, value in facts(found):
            click.echo(f"{key:<15} {value}")


def facts(found: Inspection) -> list[tuple[str, str]]:
    layers = ", ".join(f"{n} {kind}" for kind, n in found.layer_kinds.items())
    mix = ", ".join(
        f"{kind} {format_bytes(row['bytes'])} in {row['tensors']}" for kind, row in found.quantisation.items()
    )
    rows = [
        ("file", found.path),
        ("name", found.name or ""),
        ("architecture", f"{found.architecture} (GGUF version {found.version})"),
        (
            "size",
            f"{format_bytes(found.file_size)}, {found.n_tensors} tensors, {found.parameters:,} parameters",
        ),
        ("layers", layers),
        ("context", f"{found.context:,} tokens"),
        ("cache", f"{format_bytes(found.kv_bytes_per_token)} a token (f16)"),
        ("carry", f"{format_bytes(found.state_bytes)} a sequence" if found.state_bytes else ""),
        ("quantisation", mix),
        ("tokenizer", found.tokenizer + ("" if found.has_chat_template else ", no chat template")),
        ("split", found.split or ""),
        ("runtime", f"{found.words}: {found.reason}"),
    ]
    return [(key, value) for key, value in rows if value]
