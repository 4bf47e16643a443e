"""The gate on a terminal: say what a model waits for, and offer to register it."""

from __future__ import annotations

import sys

import click

from ..errors import ModelLoadGated, UnsupportedModel
from ..gguf import read_header
from ..native_api import registry
from ..service import status
from ..store.library import LocalModel
from . import render
from ._progress import working


def pass_gate(model: LocalModel, requested: str) -> str:
    """The runtime to go on with. A person at a terminal may register what is missing, or take llama.cpp this once.

    Raises ModelLoadGated where nobody can be asked or the answer is no, UnsupportedModel where nothing helps.
    """
    header = read_header(model.path)
    try:
        status.require_ready(model.name, header, requested)
    except ModelLoadGated as gated:
        if not sys.stdin.isatty() or not gated.register:
            raise
        return _ask(gated, requested)
    return requested


def _ask(gated: ModelLoadGated, requested: str) -> str:
    render.notice(f"{gated.fact}.")
    for plugin in (registry.resolve(name) for name in gated.register):
        supplies = ", ".join(plugin.manifest.ops)
        render.notice(f"  {plugin.name} {plugin.manifest.version}, bundled: supplies {supplies}")
    both = {1: "it", 2: "both"}.get(len(gated.register), "all")
    llama = "llama.cpp" in gated.also_runs_with
    question = f"Register {both} and go on? [Y]es / {'[l]lama.cpp this time / ' if llama else ''}[n]o"
    letters = ["y", "l", "n"] if llama else ["y", "n"]
    answer = click.prompt(
        question,
        type=click.Choice(letters, case_sensitive=False),
        default="y",
        show_choices=False,
        show_default=False,
        err=True,
    )
    if answer == "n":
        raise gated
    if answer == "l":
        return "llama.cpp"
    with working(f"checking {', '.join(gated.register)}"):
        registry.register(*gated.register)
    return requested


def tell_gate(model: LocalModel) -> None:
    """After a download: a model that still waits for kernels is told about, and on a terminal flipped if wanted."""
    try:
        pass_gate(model, "auto")
    except ModelLoadGated as gated:
        render.notice(f"{gated.fact}\nhint: {gated.hint}")
    except UnsupportedModel as unknown:
        render.notice(unknown.fact)
