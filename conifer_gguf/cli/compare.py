"""conifer-gguf compare: both runtimes on the same tokens."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import BadRequest
from ..service import compare
from ..service.bench import LLAMA_SETTINGS
from ..service.compare import Comparison, Wish
from ..settings import format_bytes
from ..store import library
from . import _options, render
from ._progress import working


class Split(click.ParamType[tuple[int, ...]]):
    """`100,1`: 100 tokens in one step, then one by one."""

    name = "split"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is no list of numbers of tokens such as 100,1", param, ctx)
        return tuple(int(part) for part in parts)


@click.command("compare", short_help="Compare both runtimes on the same tokens.")
@click.argument("name", metavar="FILE|NAME")
@click.option(
    "--tokens", type=click.IntRange(1), default=256, show_default=True, help="At most so many tokens."
)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Compare on this text instead of random tokens.",
)
@click.option(
    "--split",
    type=Split(),
    metavar="LIST",
    help="Tokens a step; the last number repeats. Default: all at once.",
)
@click.option(
    "--setting",
    type=click.Choice(list(LLAMA_SETTINGS)),
    default="plain",
    show_default=True,
    help="llama.cpp's: plain has no weight repacking and no flash attention, and sums attention in float32.",
)
@_options.add((_options.THREADS, _options.CACHE_TYPE))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(
    name: str,
    tokens: int,
    text: Path | None,
    split: tuple[int, ...] | None,
    setting: str,
    threads: int | None,
    cache_type: str,
    as_json: bool,
) -> None:
    """Compute the same tokens with the hybrid runtime and with llama.cpp: how far apart, and how fast?

    Exit code 1 when one of the two cannot load the file.

    \b
    Examples:
      conifer-gguf compare granite-4.0-h-1b
      conifer-gguf compare ./model.gguf --text notes.txt --tokens 1000 --split 500,1
      conifer-gguf compare ./model.gguf --cache-type f32 --json
    """
    wish = Wish(
        n_tokens=tokens,
        text=_read(text) if text else None,
        split=split or (),
        n_threads=threads,
        cache_type=cache_type,
        setting=setting,
    )
    model = library.find(name)
    with working(f"comparing {model.name}") as tell:
        found = compare.compare(model, wish, lambda what: tell(f"{model.name}: {what}"))
    if as_json:
        render.as_json(found.as_row())
    else:
        _show(found)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not UTF-8 text: byte {error.start}", "text") from error


def _show(found: Comparison) -> None:
    steps = len(found.split)
    fed = "at once" if steps == 1 else f"in {steps} steps"
    click.echo(f"{found.model}: {found.n_tokens} tokens {fed}, {found.cache_type} cache")
    click.echo(f"  rms relative difference  {found.rms_relative:.2e}")
    click.echo(
        f"  max difference           {found.max_difference:.2e} ({found.max_relative:.2e} of the largest)"
    )
    click.echo(f"  top-1 agreement          {found.top1_agreement:.2%}")
    click.echo(f"  KL divergence            {found.kl:.2e} nats a token, at most {found.kl_max:.2e}\n")
    render.table(
        ("RUNTIME", "LOAD", "THESE TOKENS", "ONE BY ONE", "MEMORY"),
        [
            (
                side.runtime if side.runtime == "hybrid" else f"{side.runtime} {found.llama_setting}",
                f"{side.load_s:.2f} s",
                f"{side.tokens_per_s:.0f} tok/s",
                f"{side.decode_tps:.1f} tok/s",
                format_bytes(side.rss_bytes),
            )
            for side in found.sides
        ],
    )
