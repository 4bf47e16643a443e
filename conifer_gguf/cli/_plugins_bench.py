"""conifer-gguf plugins bench: kernels against ggml's own operators, at the shapes of the models in the catalog."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from ..errors import BadRequest
from ..kit import bench, bench_attention, bench_product
from ..kit.build import built
from ..native_api import registry
from ..native_api.kernels import Kernel, load_library
from ..ops import Contract, contracts
from ..runtimes.threads import default_threads
from ..store.catalog import catalog
from . import render
from ._bench_plot import require_matplotlib
from ._options import ISA
from ._progress import working

OPS = {*bench.OPS, bench_attention.OP, bench_product.OP}


@click.command("bench")
@click.argument("plugins", nargs=-1, metavar="[NAME|FOLDER...]")
@click.option("--op", "ops", multiple=True, help="Only this op; may be repeated.")
@click.option("--tokens", default="1,16,512,4096", show_default=True, help="Tokens of one call.")
@click.option(
    "--depth", "depths", default="512,8192", show_default=True, help="Tokens before them, for attention."
)
@click.option("--cache", "caches", default="f16", show_default=True, help="Cache types, for attention.")
@click.option(
    "--weights", default="q4_k,q6_k,q8_0", show_default=True, help="Types of the weight, for products."
)
@click.option("--threads", type=click.IntRange(1), help="Threads of both sides.  [default: physical cores]")
@click.option("--seconds", default=1.0, show_default=True, help="Time for each row.")
@ISA
@click.option("--json", "as_json", is_flag=True, help="Print rows as JSON.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the ratios into a PNG or SVG."
)
def command(
    plugins: Sequence[str],
    ops: Sequence[str],
    tokens: str,
    depths: str,
    caches: str,
    weights: str,
    threads: int | None,
    seconds: float,
    isa: str | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Time kernels against ggml's own operators: the same numbers and threads, turn by turn, medians.

    Without a name every bundled plugin is timed. RATIO is ggml's time over ours, with the middle half of the rounds;
    PEAK is the share of the machine's float32 multiply-adds that the nominal work of ssd_scan and gated_delta comes to.

    \b
    Examples:
      conifer-gguf plugins bench --tokens 1,512
      conifer-gguf plugins bench ssd_scan --isa avx2 --json
    """
    if plot is not None:
        require_matplotlib()
    if isa:
        os.environ["CONIFER_ISA"] = isa  # read by a plugin at its first call
    n_threads = threads or default_threads()
    counts, positions = _counts(tokens), _counts(depths, "--depth")
    kernels = list(_kernels(plugins, ops))
    if plot is not None and all(kernel.op not in bench.OPS for _, kernel in kernels):
        raise BadRequest("--plot draws scans and convolutions; attention and products have tables")
    timings = []
    attention = []
    products = []
    with working("measuring this machine's float32 multiply-adds"):
        peak = bench.peak_products(n_threads)
    for contract, kernel in kernels:
        if kernel.op == bench_attention.OP:
            for heads, cache, n_tokens, depth in itertools.product(
                bench_attention.HEADS, caches.split(","), counts, positions
            ):
                with working(f"attention of {heads.label}, {n_tokens} tokens after {depth}, {cache}"):
                    timed = bench_attention.time_attention(
                        contract, kernel, heads, depth, n_tokens, n_threads, cache, seconds
                    )
                attention.append(timed)
            continue
        if kernel.op == bench_product.OP:
            for matrix, dtype, n_tokens in itertools.product(
                bench_product.MATRICES, weights.split(","), counts
            ):
                with working(f"{dtype} product of {matrix.label}, {n_tokens} tokens"):
                    product = bench_product.time_product(
                        contract, kernel, matrix, dtype, n_tokens, n_threads, seconds
                    )
                products.append(product)
            continue
        for shape in _shapes(kernel.op):
            for n_tokens in counts:
                with working(f"{kernel.op} of {shape.label}, {n_tokens} tokens"):
                    made = bench.time_kernel(contract, kernel, shape, n_tokens, n_threads, seconds, peak)
                timings.append(made)
    if as_json:
        render.as_json(
            [
                *(t.to_json() for t in timings),
                *(t.to_json() for t in attention),
                *(t.to_json() for t in products),
            ]
        )
    else:
        if timings:
            _show(timings, peak)
        if attention:
            _show_attention(attention)
        if products:
            _show_products(products)
    if plot is not None:
        _plot(timings, plot)


def _counts(text: str, option: str = "--tokens") -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 1,512", param_hint=option)
    return counts


def _kernels(plugins: Sequence[str], ops: Sequence[str]) -> Iterator[tuple[Contract, Kernel]]:
    names = plugins or [c.name for c in registry.known() if c.source == "bundled"]
    wanted = {op if "/" in op else f"conifer.{op}/1" for op in ops} or OPS
    unknown = sorted(wanted - OPS)
    if unknown:
        raise BadRequest(f"ggml has no operator for `{unknown[0]}`; there are {', '.join(sorted(OPS))}")
    for name in names:
        found = registry.resolve(built(name))
        for kernel in load_library(found.library).kernels:
            if kernel.op in wanted:
                yield contracts()[kernel.op], kernel


def _shapes(op: str) -> list[bench.Shape]:
    """Every distinct shape of the catalog, with the names of the models that have it."""
    models: dict[tuple[tuple[tuple[str, int], ...], str], list[str]] = {}
    for entry in catalog().entries:
        mixer = entry.mixer
        if mixer is not None and op in (mixer.op, "conifer.causal_conv/1"):
            sizes = mixer.sizes if op == mixer.op else mixer.conv
            gate = mixer.gate if op == mixer.op else "head"
            models.setdefault((tuple(sizes.items()), gate), []).append(entry.name)
    return [
        bench.Shape(op, ", ".join(names[:2]) + (" …" if len(names) > 2 else ""), dict(sizes), gate)
        for (sizes, gate), names in models.items()
    ]


def _show(timings: Sequence[bench.Timing], peak: float) -> None:
    render.table(
        ("OP", "SHAPE", "TOKENS", "US/TOKEN", "GGML", "RATIO", "MIDDLE HALF", "PEAK", "MODEL"),
        [
            (
                t.op.removeprefix("conifer.").removesuffix("/1"),
                t.shape,
                str(t.n_tokens),
                f"{t.us_per_token:.2f}",
                f"{t.ggml_us_per_token:.2f}",
                f"{t.ratio:.2f}",
                f"{t.ratio_low:.2f}-{t.ratio_high:.2f}",
                f"{t.peak_share:.0%}" if t.peak_share else "",
                t.model,
            )
            for t in timings
        ],
    )
    render.notice(f"\n{timings[0].n_threads if timings else 0} threads; at most {peak / 1e9:.0f} GMAC/s")


def _show_attention(timings: Sequence[bench_attention.AttentionTiming]) -> None:
    """FLASH and PLAIN are ggml's flash attention, and its two products with a softmax between."""
    render.table(
        (
            "HEADS",
            "CACHE",
            "DEPTH",
            "TOKENS",
            "US",
            "FLASH",
            "RATIO",
            "PLAIN",
            "RATIO",
            "ERROR",
            "FLASH",
            "MODEL",
        ),
        [
            (
                t.heads,
                t.cache_type,
                str(t.depth),
                str(t.n_tokens),
                f"{t.us:.0f}",
                f"{t.flash_us:.0f}",
                f"{t.flash_ratio:.2f}",
                f"{t.plain_us:.0f}" if t.plain_us else "",
                f"{t.plain_ratio:.2f}" if t.plain_us else "",
                f"{t.error:.0e}",
                f"{t.flash_error:.0e}",
                t.model,
            )
            for t in timings
        ],
    )
    render.notice(f"\n{timings[0].n_threads} threads; errors are root mean squares against float64")


def _show_products(timings: Sequence[bench_product.ProductTiming]) -> None:
    """GMAC/S and GB/S are ours: products a second, and bytes of the weight."""
    render.table(
        ("WEIGHT", "SHAPE", "TOKENS", "US", "GGML", "RATIO", "MIDDLE HALF", "GMAC/S", "GB/S", "ERROR", "GGML", "MODEL"),
        [
            (
                t.dtype,
                f"{t.n_out} x {t.n_in}",
                str(t.n_tokens),
                f"{t.us:.0f}",
                f"{t.ggml_us:.0f}",
                f"{t.ratio:.2f}",
                f"{t.ratio_low:.2f}-{t.ratio_high:.2f}",
                f"{t.products_per_s / 1e9:.0f}",
                f"{t.bytes_per_s / 1e9:.1f}",
                f"{t.error:.0e}",
                f"{t.ggml_error:.0e}",
                t.model,
            )
            for t in timings
        ],
    )  # fmt: skip
    render.notice(f"\n{timings[0].n_threads} threads; errors are root mean squares against float64")


def _plot(timings: Sequence[bench.Timing], path: Path) -> None:
    from matplotlib.figure import Figure

    ops = list(dict.fromkeys(t.op for t in timings))
    figure = Figure(figsize=(4 * len(ops), 4), layout="constrained")
    for axes, op in zip(figure.subplots(1, len(ops), squeeze=False)[0], ops, strict=True):
        rows = [t for t in timings if t.op == op]
        for shape in dict.fromkeys(t.shape for t in rows):
            mine = [t for t in rows if t.shape == shape]
            axes.plot([t.n_tokens for t in mine], [t.ratio for t in mine], marker="o", label=shape)
        axes.set_title(op)
        axes.set_xscale("log")
        axes.set_xlabel("tokens of one call")
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.legend(fontsize=6)
    figure.supylabel("times as fast as ggml's operator")
    figure.savefig(path)
    render.notice(f"wrote {path}")
