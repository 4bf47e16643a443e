"""Both runtimes on the same tokens: how far their logits are apart, and how fast each of them is.

One process after the other, so that each has the memory to itself; logits wait in a file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadRequest
from ..gguf import read_header
from ..runtimes import tuning
from ..store.library import LocalModel
from ..worker.gauge import Subject
from ..worker.gauge_process import GaugeProcess
from . import status
from .bench import LLAMA_SETTINGS

RUNTIMES = ("hybrid", "llama.cpp")
SEED = 1  # of the tokens, where no text is given
ROWS = 64  # positions compared at a time, in float64
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Wish:
    """`split` cuts the tokens: the last number repeats to their end, none feeds them at once. `setting` is llama.cpp's."""

    n_tokens: int = 256
    text: str | None = None
    split: tuple[int, ...] = ()
    n_decode: int = 16
    n_threads: int | None = None
    cache_type: str = "f16"
    setting: str = "plain"


@dataclass(frozen=True)
class Side:
    """One runtime: tokens a second over the compared tokens as they were split, and for single tokens after them."""

    runtime: str
    n_threads: int
    load_s: float
    tokens_per_s: float
    decode_tps: float
    rss_bytes: int


@dataclass(frozen=True)
class Comparison:
    """How far the hybrid runtime's logits are from llama.cpp's, over all positions and words.

    `max_difference` is the largest difference of two logits, `max_relative` the same over llama.cpp's largest logit,
    `rms_relative` the rms of the differences over the rms of llama.cpp's logits. `top1_agreement` is the share of
    positions with the same likeliest word, `kl` the mean of KL(llama.cpp || hybrid) in nats.
    """

    model: str
    path: str
    architecture: str
    n_tokens: int
    split: tuple[int, ...]
    cache_type: str
    llama_setting: str
    max_difference: float
    max_relative: float
    rms_relative: float
    top1_agreement: float
    kl: float
    kl_max: float
    sides: tuple[Side, ...]

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


def compare(model: LocalModel, wish: Wish, tell: Callable[[str], None]) -> Comparison:
    """Run both, then compare.

    Raises UnsupportedModel or ModelLoadGated for a runtime that cannot run the file, and what loading raises.
    """
    header = read_header(model.path)
    for runtime in RUNTIMES:
        status.require_ready(model.name, header, runtime)
    threads = wish.n_threads or tuning.n_threads()
    sides = []
    tokens: list[int] = []
    with tempfile.TemporaryDirectory(prefix="conifer-compare-") as folder:
        files = {runtime: Path(folder) / runtime for runtime in RUNTIMES}
        for runtime in RUNTIMES:
            tell(f"computing with {runtime}")
            llama = LLAMA_SETTINGS[wish.setting] if runtime == "llama.cpp" else None
            subject = Subject(model.path, model.name, runtime, threads, wish.cache_type, llama)
            with GaugeProcess(subject) as gauge:
                side, tokens = _run(gauge, runtime, wish, tokens, files[runtime])
            sides.append(side)
        tell("comparing")
        ours, theirs = (np.memmap(files[r], np.float32, "r").reshape(len(tokens), -1) for r in RUNTIMES)
        figures = differences(ours, theirs)
    return Comparison(
        model=model.name,
        path=str(model.path),
        architecture=header.architecture,
        n_tokens=len(tokens),
        split=pieces(len(tokens), wish.split),
        cache_type=wish.cache_type,
        llama_setting=wish.setting,
        sides=tuple(sides),
        **figures,
    )


def _run(
    gauge: GaugeProcess, runtime: str, wish: Wish, tokens: list[int], target: Path
) -> tuple[Side, list[int]]:
    """Load, compute the logits of `tokens` (chosen here if there are none yet), time single tokens."""
    opened = gauge.open(wish.n_tokens + wish.n_decode + 1)
    if not tokens:
        tokens = _tokens(gauge, wish, opened.info.n_vocab)
    seconds = gauge.logits(tokens, pieces(len(tokens), wish.split), target)
    timed = gauge.round(1, wish.n_decode)
    side = Side(
        runtime=runtime,
        n_threads=opened.info.n_threads,
        load_s=opened.load_s,
        tokens_per_s=len(tokens) / seconds,
        decode_tps=timed.n_decode / timed.decode_s,
        rss_bytes=timed.rss_bytes,
    )
    return side, tokens


def _tokens(gauge: GaugeProcess, wish: Wish, n_vocab: int) -> list[int]:
    if wish.text is None:
        return [int(t) for t in np.random.default_rng(SEED).integers(0, n_vocab, wish.n_tokens)]
    found = gauge.tokenize(wish.text)[: wish.n_tokens]
    if not found:
        raise BadRequest("the text is empty", "text")
    return found


def pieces(n_tokens: int, split: Sequence[int]) -> tuple[int, ...]:
    """`(5, 1)` of 8 tokens: 5, 1, 1, 1."""
    found: list[int] = []
    left = n_tokens
    while left:
        wanted = split[min(len(found), len(split) - 1)] if split else left
        found.append(min(wanted, left))
        left -= found[-1]
    return tuple(found)


def differences(ours: Float32, theirs: Float32) -> dict[str, float]:
    """The figures of a Comparison. ours, theirs: [T, n_vocab]."""
    squares = reference = largest = scale = agree = divergence = worst = 0.0
    for at in range(0, len(theirs), ROWS):
        a, b = (side[at : at + ROWS].astype(np.float64) for side in (ours, theirs))
        squares += float(np.square(a - b).sum())
        reference += float(np.square(b).sum())
        largest = max(largest, float(np.abs(a - b).max()))
        scale = max(scale, float(np.abs(b).max()))
        agree += float((a.argmax(1) == b.argmax(1)).sum())
        kl = _divergence(b, a)
        divergence += float(kl.sum())
        worst = max(worst, float(kl.max()))
    n = len(theirs)
    return {
        "max_difference": largest,
        "max_relative": largest / scale,
        "rms_relative": float(np.sqrt(squares / reference)),
        "top1_agreement": agree / n,
        "kl": divergence / n,
        "kl_max": worst,
    }


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(softmax(p) || softmax(q)) of each row, in nats; rounding makes it no smaller than 0."""
    log_p, log_q = (x - x.max(1, keepdims=True) for x in (p, q))
    log_p, log_q = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (log_p, log_q))
    kl: NDArray[np.float64] = (np.exp(log_p) * (log_p - log_q)).sum(1)
    return np.maximum(kl, 0.0)
