"""conifer-gguf tune: measure what this machine does best, and remember it."""

from __future__ import annotations

from dataclasses import asdict

import click

from ..runtimes.tuning import MARGIN, Trial, Tuning
from ..service.tune import tune
from . import render
from ._progress import working


@click.command("tune", short_help="Measure what is fastest on this machine, for hybrid models.")
@click.option("--quick", is_flag=True, help="Only for the second that a first load would take.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print as JSON; ratios are of times, below 1 is faster."
)
def command(quick: bool, as_json: bool) -> None:
    """Measure what is fastest here: how many threads, and whose products for which weights. Half a minute at most.

    Loading a hybrid follows what was found; an option such as --threads goes before it. The default stays where something
    else gains less than 3 %. Where ggml multiplies by a type of weights, bits of a row depend on how a prompt is cut. Remembered
    for this processor, its cores, and the versions of package and plugins.

    \b
    Examples:
      conifer-gguf tune
      conifer-gguf tune --quick --json
    """
    with working("measuring this machine") as tell:
        found = tune(quick, lambda what: tell(f"measuring this machine: {what}"))
    if as_json:
        render.as_json(asdict(found))
    else:
        _show(found)


def _show(found: Tuning) -> None:
    if found.trials:
        render.table(
            ("TRIED", "INSTEAD OF", "ROWS", "TIME", "MIDDLE HALF", "TURNS"),
            [_cells(t) for t in found.trials],
        )
        click.echo()
    click.echo(summary(found))
    if found.trials:
        least = f"a gain of less than {MARGIN:.0%} changes nothing"
        render.notice(f"measured for {found.seconds:.1f} s and remembered; {least}")
    if found.untried:
        types = ", ".join(dtype.upper() for dtype in found.untried)
        render.notice(f"not reached in the time, so left at the default: {types}")
    elif not found.trials:
        render.notice("one core and no registered product: nothing else can be chosen here")


def _cells(t: Trial) -> tuple[str, ...]:
    return (
        f"{t.value} thread{'s' * (t.value != '1')}"
        if t.option == "threads"
        else f"{t.value.upper()} by ggml",
        t.instead_of,
        f"{t.n_rows}",
        f"{t.ratio:.2f}",
        f"{t.low:.2f}-{t.high:.2f}",
        f"{t.turns}",
    )


def summary(found: Tuning) -> str:
    """`2 threads; every product by the registered kernel`, in the words of `tune` and `doctor`."""
    threads = f"{found.n_threads} thread{'s' * (found.n_threads != 1)}"
    types = ", ".join(dtype.upper() for dtype in found.by_ggml)
    if not any(t.option == "product" for t in found.trials):
        return threads
    return f"{threads}; {f'products with {types} by ggml' if types else 'every product by the registered kernel'}"
