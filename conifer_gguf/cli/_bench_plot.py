"""Pictures of `conifer-gguf bench`: memory and speed against context."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingExtra
from ..service.bench import DEFAULTS, OURS
from ..store.results import Measured

GB, KILO = 1e9, 1024


def require_matplotlib() -> None:
    """Before anything is measured. Raises MissingExtra."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra("matplotlib", "plot", "--plot")


def draw(points: Sequence[Measured], path: Path) -> None:
    """One colour a model; solid as this package runs it, dashed llama.cpp at its defaults where it was measured too."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    memory, decode = figure.subplots(1, 2)
    models = list(dict.fromkeys(p.model for p in points))
    for number, model in enumerate(models):
        for setting, style in _lines(points, model):
            line = sorted(
                (p for p in points if (p.model, p.setting) == (model, setting)), key=lambda p: p.depth
            )
            name = model if setting == OURS else f"{model}, llama.cpp"
            how: dict[str, Any] = {"color": f"C{number}", "marker": "o", "linestyle": style, "label": name}
            x = [(p.depth + p.n_prompt) / KILO for p in line]
            memory.plot(x, [p.rss_bytes / GB for p in line], **how)
            decode.plot(x, [p.decode_tps for p in line], **how)
    for axes, title in ((memory, "resident memory, GB"), (decode, "decode, tokens/s")):
        axes.set_title(title)
        axes.set_xlabel("context, thousand tokens (1,024)")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    decode.legend(fontsize=8)
    figure.suptitle(_caption(points), fontsize=9)
    figure.savefig(path, dpi=150)


def _lines(points: Sequence[Measured], model: str) -> list[tuple[str, str]]:
    there = {p.setting for p in points if p.model == model}
    return [(s, style) for s, style in ((OURS, "-"), (DEFAULTS, "--")) if s in there]


def _caption(points: Sequence[Measured]) -> str:
    first = points[0]
    return (
        f"{first.machine}, {first.n_threads} threads, {first.cache_type} cache, conifer-gguf {first.version}"
    )
