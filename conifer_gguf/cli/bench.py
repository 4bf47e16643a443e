"""conifer-gguf bench: how fast models read and write here, at which depth, in how much memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from ..service import bench
from ..service.bench import Tell, Wish
from ..settings import format_bytes
from ..store import library
from ..store.results import Measured
from . import _bench_plot, _options, render
from ._gate import pass_gate


class Depths(click.ParamType[tuple[int, ...]]):
    """`0,4k,16k`: numbers of tokens, k for 1,024."""

    name = "depths"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        found = [re.fullmatch(r"(\d{1,8})(k?)", part.strip()) for part in str(value).lower().split(",")]
        if not all(found):
            self.fail(f"{value!r} is no list of tokens such as 0,4k,16k", param, ctx)
        return tuple(sorted({int(m[1]) * (1024 if m[2] else 1) for m in found if m}))


@click.command("bench", short_help="Measure speed and memory of models, against llama.cpp too.")
@click.argument("names", nargs=-1, required=True, metavar="NAME|FILE...")
@click.option("--vs", type=click.Choice(["llama.cpp"]), help="Measure llama.cpp on the same file, in turns.")
@click.option(
    "--settings",
    default=",".join(bench.LLAMA_SETTINGS),
    show_default=True,
    metavar="LIST",
    help="llama.cpp with and without weight repacking and flash attention; only with --vs.",
)
@click.option("--depths", type=Depths(), default="0", show_default=True, help="Tokens in the context before.")
@click.option(
    "--prompt", type=click.IntRange(1), default=512, show_default=True, help="Tokens of the prompt."
)
@click.option("--decode", type=click.IntRange(1), default=32, show_default=True, help="Tokens after it.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Turns of every row.")
@_options.add((_options.THREADS, _options.CACHE_TYPE, _options.RUNTIME))
@click.option("--json", "as_json", is_flag=True, help="Print rows as JSON: seconds, tokens/s, bytes.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw into a PNG or SVG.")
def command(
    names: Sequence[str],
    vs: str | None,
    settings: str,
    depths: tuple[int, ...],
    prompt: int,
    decode: int,
    rounds: int,
    threads: int | None,
    cache_type: str,
    runtime: str,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Measure models: time to the first token, reading and writing speed, memory, at every depth.

    Every runtime and setting runs in a process of its own; they take turns, and medians of the rounds are shown. A context is
    filled once, and what is measured at a depth does not stay in it. BANDWIDTH is what writing reads from memory,
    as a share of what this machine read right after it. MEMORY is that of a window no longer than the depth needs.

    Results are kept for this machine and shown by `catalog` and `show`.

    \b
    Examples:
      conifer-gguf bench granite-4.0-h-1b
      conifer-gguf bench granite-4.0-h-1b --vs llama.cpp --depths 0,4k,16k
      conifer-gguf bench granite-4.0-h-1b llama-3.2-1b --depths 0,8k,32k --plot flat.png
    """
    if plot is not None:
        _bench_plot.require_matplotlib()
    wanted = _settings(settings) if vs else ()
    wish = Wish(depths, prompt, decode, rounds, threads, cache_type, runtime)
    models = [library.find(name) for name in names]
    wishes = [replace(wish, runtime=pass_gate(model, runtime)) for model in models]
    possible = bench.possible(wanted, cache_type)
    for setting in wanted:
        if setting not in possible:
            render.notice(f"llama.cpp {setting} is left out: it cannot run on this machine with this cache")
    points: list[Measured] = []
    for model, one in zip(models, wishes, strict=True):
        one = replace(one, settings=possible)
        n_lanes = len(bench.lanes_of(model, one))
        with _progress(model.name, one.tokens(n_lanes)) as tell:
            points += bench.measure(model, one, tell)
    if as_json:
        render.as_json([p.as_row() for p in points])
    else:
        _show(points)
    if plot is not None:
        _bench_plot.draw(points, plot)
        render.notice(f"wrote {plot}")


def _settings(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    unknown = [name for name in names if name not in bench.LLAMA_SETTINGS]
    if unknown:
        raise click.BadParameter(
            f"{unknown[0]!r} is none of {', '.join(bench.LLAMA_SETTINGS)}", param_hint="--settings"
        )
    return names


@contextmanager
def _progress(name: str, total: int) -> Iterator[Tell]:
    """One bar a model, on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Bars(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(name, total=total)
        yield lambda what, n: bars.update(task, description=f"{name} · {what}", advance=n)


def _show(points: Sequence[Measured]) -> None:
    header = (
        "MODEL",
        "RUNTIME",
        "SETTING",
        "DEPTH",
        "TTFT",
        "PREFILL",
        "DECODE",
        "SPREAD",
        "MEMORY",
        "BANDWIDTH",
    )
    render.table(header, [_cells(p) for p in points])
    for model, whose in dict.fromkeys((p.model, accelerated(p)) for p in points if p.runtime == "hybrid"):
        click.echo(f"{model}: {whose}")
    for r in bench.ratios(points):
        parts = [f"{r.best:.2f} x its better setting ({r.best_setting})"]
        parts += [f"{r.equal_layout:.2f} x at the same weight layout"] if r.equal_layout else []
        parts += [f"{r.defaults:.2f} x its defaults"] if r.defaults else []
        click.echo(f"{r.model} at {r.depth:,}: {r.phase} is {', '.join(parts)} of llama.cpp")


def accelerated(p: Measured) -> str:
    """Who computed what ggml can do as well."""
    ops = {"attention": "conifer.attention/1", "products": "conifer.qmatmul/1"}
    words = ", ".join(f"{what} by {p.accelerators.get(op, 'ggml')}" for what, op in ops.items())
    types = ", ".join(dtype.upper() for dtype in p.by_ggml)
    return f"{words}, those with {types} weights by ggml, which is faster here" if types else words


def _cells(p: Measured) -> tuple[str, ...]:
    low, high = min(p.decode_tps_rounds), max(p.decode_tps_rounds)
    return (
        p.model,
        p.runtime,
        p.setting,
        f"{p.depth:,}",
        f"{p.ttft_s:.2f} s",
        f"{p.prefill_tps:.0f} tok/s",
        f"{p.decode_tps:.1f} tok/s",
        f"{low:.1f}-{high:.1f}",
        format_bytes(p.rss_bytes),
        f"{p.bandwidth_share:.0%}",
    )
