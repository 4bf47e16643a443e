"""conifer-gguf rm: delete models from this machine."""

from __future__ import annotations

import click

from ..settings import format_bytes
from ..store import library
from . import render


@click.command("rm", short_help="Delete models from this machine.")
@click.argument("names", metavar="NAME[:QUANT]...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print the deleted models as JSON.")
def command(names: tuple[str, ...], as_json: bool) -> None:
    """Delete pulled models. All names are looked up before the first is deleted.

    \b
    Examples:
      conifer-gguf rm smollm2-135m
      conifer-gguf rm granite-4.0-h-1b:Q8_0
    """
    for name in names:
        library.removable(name)
    removed = [library.remove(name) for name in names]
    if as_json:
        render.as_json([library.as_row(m) for m in removed])
    else:
        for model in removed:
            click.echo(f"deleted {model.name}, {format_bytes(model.size)}")
