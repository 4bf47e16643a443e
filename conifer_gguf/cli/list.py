"""conifer-gguf list: the models on this machine."""

from __future__ import annotations

import click

from ..settings import format_bytes
from ..store import library
from . import render


@click.command("list", short_help="Show the models on this machine.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print rows of name, path, size (bytes), quant, sha256, source."
)
def command(as_json: bool) -> None:
    """Show the models on this machine.

    \b
    Examples:
      conifer-gguf list
      conifer-gguf list --json
    """
    models = library.models()
    if as_json:
        render.as_json([library.as_row(m) for m in models])
    elif models:
        render.table(("NAME", "SIZE", "PATH"), [(m.name, format_bytes(m.size), str(m.path)) for m in models])
    else:
        render.notice("no models yet\n\nhint: conifer-gguf pull smollm2-135m")
