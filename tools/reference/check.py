#!/usr/bin/env python3
"""Hold a model runtime against reference logits: python tools/reference/check.py CASES_FOLDER [--runtime hybrid]

Every folder with a `ref.npz`, as make_reference.py writes them, is one case. Its f32 file is read whole, one token at a time
and in uneven chunks, on 1 and 2 threads, and must give the logits of Hugging Face within 2e-6 (rms, relative) and their greedy
continuation. Its quantised files must be as close to llama.cpp as llama.cpp is to their weights expanded to f32, where ggml
multiplies: a plugin for products (qmatmul) rounds activations in its own way, and then a few tokens meet other experts. Every
line holds with the kernels of the recurrent layers alone, and those of f32 files with all plugins, too.
Prints a table; exit code 1 if anything is farther away.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import conifer_gguf

RMS = 2e-6
CHUNKS = (1, 2, 67, 30, 29, 500)


@dataclass(frozen=True)
class Outcome:
    case: str
    what: str
    error: float
    allowed: float
    same_tokens: bool

    @property
    def holds(self) -> bool:
        return self.error <= self.allowed and self.same_tokens


def rms(a: Any, b: Any) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def last_rows(session: Any, tokens: list[int], chunks: list[int]) -> tuple[list[int], Any]:
    """Positions and logits of the last token of each chunk."""
    session.reset()
    ends, rows = [], []
    at = 0
    for n in chunks:
        if piece := tokens[at : at + n]:
            rows.append(session.eval(piece))
            at += len(piece)
            ends.append(at - 1)
    return ends, np.stack(rows)


def greedy(session: Any, tokens: list[int], n: int) -> list[int]:
    session.reset()
    row = session.eval(tokens)
    written: list[int] = []
    while True:
        written.append(int(row.argmax()))
        if len(written) == n:
            return written
        row = session.eval(written[-1:])


def float_outcomes(folder: Path, runtime: str, arrays: Any) -> Iterator[Outcome]:
    tokens, expected = arrays["tokens"].tolist(), arrays["hf_logits"]
    best = expected.argmax(1)
    for threads in (1, 2):
        with conifer_gguf.load(
            folder / "model-f32.gguf", runtime=runtime, n_ctx=512, n_threads=threads, cache_type="f32"
        ) as session:
            whole = session.logits(tokens)
            yield Outcome(
                folder.name, f"whole, {threads} thr", rms(whole, expected), RMS, bool((whole.argmax(1) == best).all())
            )
            for what, chunks in (("one by one", [1] * len(tokens)), ("chunks", list(CHUNKS))):
                at, rows = last_rows(session, tokens, chunks)
                same = bool((rows.argmax(1) == best[at]).all())
                yield Outcome(folder.name, f"{what}, {threads} thr", rms(rows, expected[at]), RMS, same)
            wanted = arrays["greedy"].tolist()
            same = greedy(session, tokens, len(wanted)) == wanted
            yield Outcome(folder.name, f"greedy, {threads} thr", 0.0, RMS, same)


def quantised_outcomes(folder: Path, runtime: str, arrays: Any) -> Iterator[Outcome]:
    """Top-1 is not asked for here: the best two logits may be closer than the rounding of activations."""
    tokens = arrays["tokens"].tolist()
    for file in sorted(folder.glob("model-q*.gguf")):
        quant = file.stem.removeprefix("model-")
        theirs, expanded = arrays[f"llama_logits_{quant}"], arrays[f"llama_logits_{quant}_dequant"]
        allowed = rms(theirs, expanded)
        with conifer_gguf.load(file, runtime=runtime, n_ctx=512, n_threads=2, cache_type="f32") as session:
            got = session.logits(tokens)
        yield Outcome(folder.name, f"{quant} from llama.cpp", rms(got, theirs), allowed, True)
        yield Outcome(folder.name, f"{quant} from its weights", rms(got, expanded), 1.05 * allowed, True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", type=Path, help="the folder that holds the cases")
    parser.add_argument("--runtime", default="auto", help="as in conifer_gguf.load")
    given = parser.parse_args()
    failed = 0
    for reference in sorted(given.cases.glob("*/ref.npz")):
        arrays = np.load(reference)
        for outcome in (
            *float_outcomes(reference.parent, given.runtime, arrays),
            *quantised_outcomes(reference.parent, given.runtime, arrays),
        ):
            failed += not outcome.holds
            verdict = "" if outcome.holds else "  FAILS" + ("" if outcome.same_tokens else ": other tokens")
            print(
                f"{outcome.case:24} {outcome.what:24} {outcome.error:.2e} of {outcome.allowed:.2e}{verdict}",
                flush=True,
            )
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
