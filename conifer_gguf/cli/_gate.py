"""The gate on a terminal: say what a model waits for, and offer to register it."""

from __future__ import annotations

import sys

import click

from ..errors import ModelLoadGated, UnsupportedModel
from ..gguf import read_header
from ..native_api import registry
from ..runtimes.choose import llama_has_gpu
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
    """The question. What comes with this package is offered, other people's code has to be chosen."""
    offers = [registry.resolve(name) for name in gated.register]
    llama = "llama.cpp" in gated.also_runs_with
    render.notice(f"{gated.fact}.")
    for offer in offers:
        _introduce(offer)
    default = "y"
    if llama and llama_has_gpu():
        render.notice("The installed llama.cpp has a GPU; our kernels run on the CPU.")
        default = "l"
    if any(offer.source != "bundled" for offer in offers):
        default = "n"
    answer = _answer({1: "it", 2: "both"}.get(len(offers), "all"), llama, default)
    if answer == "n":
        raise gated
    if answer == "l":
        return "llama.cpp"
    with working(f"checking {', '.join(gated.register)}"):
        registry.register(*gated.register)
    return requested


def _introduce(offer: registry.Candidate) -> None:
    line = f"  {offer.name} {offer.manifest.version}"
    supplies = f"supplies {', '.join(offer.manifest.ops)}"
    if offer.source == "bundled":
        render.notice(f"{line}, bundled: {supplies}")
    else:
        render.notice(f"{line}, not from this package: {supplies}")
        render.notice(f"    {offer.library}\n    sha256 {offer.sha256()}")


def _answer(what: str, llama: bool, default: str) -> str:
    """One of y, l, n; the default stands in capitals."""
    ways = {"y": "es", "l": "lama.cpp this time", "n": "o"} if llama else {"y": "es", "n": "o"}
    shown = (f"[{key.upper() if key == default else key}]{rest}" for key, rest in ways.items())
    answer: str = click.prompt(
        f"Register {what} and go on? {' / '.join(shown)}",
        type=click.Choice(list(ways), case_sensitive=False),
        default=default,
        show_choices=False,
        show_default=False,
        err=True,
    )
    return answer


def tell_gate(model: LocalModel, requested: str) -> None:
    """After a download: a model that still waits for kernels is told about, and on a terminal flipped if wanted."""
    try:
        pass_gate(model, requested)
    except (ModelLoadGated, UnsupportedModel) as waiting:
        render.notice(f"{waiting.fact}\nhint: {waiting.hint}")
        for way in waiting.also:
            render.notice(f"also: {way}")
