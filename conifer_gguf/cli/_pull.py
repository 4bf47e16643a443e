"""Which model a person means: one that may have to be downloaded first, or one of those that are here."""

from __future__ import annotations

import sys

import click

from ..engine import memory
from ..errors import BadRequest, ModelNotOnDisk
from ..gguf import read_header
from ..service import status
from ..settings import format_bytes
from ..store import download, library
from ..store.catalog import catalog
from . import render
from ._progress import TerminalProgress


def find_or_pull(name: str, pull_first: bool) -> library.LocalModel:
    """The model on disk. On a terminal its size and whether it fits are shown, and the person is asked before a download.

    Raises ModelNotOnDisk where nobody says yes.
    """
    try:
        return library.find(name)
    except ModelNotOnDisk as missing:
        if not pull_first:
            question = f"{missing.fact}. {fits(name)} Download it now?"
            if not sys.stdin.isatty() or not click.confirm(question, default=True, err=True):
                raise
        return download.pull(name, progress=TerminalProgress())


def fits(name: str) -> str:
    """One sentence: does a catalog model fit into this machine's memory?"""
    entry, quant = catalog().resolve(name)
    size = entry.source(quant).size or 0
    need = memory.plan(entry.geometry(size), min(entry.context, 4096)).total
    free = memory.free_memory()
    verdict = "It fits" if need <= free else "It does not fit"
    return f"{verdict}: {format_bytes(need)} needed for 4,096 tokens, {format_bytes(free)} free."


def choose_model(runtime: str) -> library.LocalModel:
    """Ask which of the models that are here, with what each of them needs. Raises BadRequest without a terminal."""
    here = library.models()
    if not sys.stdin.isatty() or not here:
        names = ", ".join(m.base_name for m in here) or "none"
        raise BadRequest(f"no model was named; here: {names}", "name", "conifer-gguf run conifer-demo-dense")
    for number, model in enumerate(here, 1):
        state = status.of_file(read_header(model.path), runtime)
        render.notice(f"  {number}  {model.name:<32} {format_bytes(model.size):>8}  {state.words}")
    number = click.prompt("Which one?", type=click.IntRange(1, len(here)), default=1, err=True)
    return here[number - 1]
