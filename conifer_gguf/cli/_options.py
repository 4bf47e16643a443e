"""Options that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

CTX = click.option(
    "--ctx",
    type=click.IntRange(1),
    metavar="TOKENS",
    help="Context window; default: sized to free memory.",
)
THREADS = click.option(
    "--threads", type=click.IntRange(1), metavar="N", help="Default: the physical cores that may be used."
)
CACHE_TYPE = click.option(
    "--cache-type", type=click.Choice(["f16", "f32", "q8_0"]), default="f16", show_default=True
)
RUNTIME = click.option(
    "--runtime", type=click.Choice(["auto", "hybrid", "llama.cpp"]), default="auto", show_default=True
)
ISA = click.option(
    "--isa",
    type=click.Choice(["scalar", "avx2", "avxvnni", "avx512", "neon", "dotprod"]),
    help="Force our instruction set; in place of one that is not there, the next lower one is taken.",
)
ENGINE = (CTX, THREADS, CACHE_TYPE, RUNTIME)
SAMPLING = (
    click.option(
        "--temp", type=float, metavar="T", help="0 is greedy. Sampling defaults are the model card's."
    ),
    click.option("--top-p", type=float, metavar="P"),
    click.option("--top-k", type=int, metavar="K"),
    click.option("--min-p", type=float, metavar="P"),
    click.option("--repeat-penalty", type=float, metavar="R"),
    click.option("--seed", type=int, metavar="N", help="Default: a new one each time."),
)


def add(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Command], Command]:
    """Decorate a command with a group of options, in their order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
