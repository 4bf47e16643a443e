#!/usr/bin/env python3
"""How exact a runtime is far into a context: python tools/reference/depth.py FILE [--caches f16,q8_0] [--depths 1024,16384]

FILE is read in chunks of 512 tokens and then token by token, and at each depth the logits of the last chunk and of the single
tokens are compared with llama.cpp's on the same file, with a float32 cache and without flash attention. Prints, for our
runtime and for llama.cpp with and without flash attention, the relative rms difference. Positions must fit the file's own
context; `make_reference.py` makes small files for it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from conifer_gguf.arch import architectures
from conifer_gguf.gguf import read_header
from conifer_gguf.runtimes.hybrid import HybridRuntime
from conifer_gguf.runtimes.llama import LlamaRuntime

CHUNK, SINGLE = 512, 16
Pieces = dict[tuple[int, str], Any]


def pieces(model: Any, tokens: list[int], depths: list[int]) -> Pieces:
    """Logits at each depth: of the chunk that ends there ("prefill") and of the next tokens one by one ("decode")."""
    found: Pieces = {}
    sequence, at = model.open(), 0
    for depth in depths:
        while at < depth:
            n = min(CHUNK, depth - at)
            last = model.advance({sequence: tokens[at : at + n]}, logits="all")[sequence]
            at += n
        found[depth, "prefill"] = last
        singles = [model.advance({sequence: [t]})[sequence] for t in tokens[at : at + SINGLE]]
        found[depth, "decode"] = np.concatenate(singles)
        at += SINGLE
    model.close(sequence)
    return found


def read(model: Any, tokens: list[int], depths: list[int]) -> Pieces:
    try:
        return pieces(model, tokens, depths)
    finally:
        model.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--caches", default="f32,f16,q8_0")
    parser.add_argument("--depths", default="256,1024,4096,8192,16384")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    depths = [int(d) for d in given.depths.split(",")]
    header = read_header(given.file)
    how = {"n_ctx": depths[-1] + SINGLE * len(depths), "n_threads": given.threads}
    n_vocab = header.tensors["token_embd.weight"].shape[0]
    tokens = np.random.default_rng(5).integers(3, n_vocab, how["n_ctx"]).tolist()

    def llama(cache: str, flash: bool) -> Pieces:
        return read(LlamaRuntime(given.file, cache_type=cache, flash=flash, **how), tokens, depths)

    truth = llama("f32", False)
    lanes: dict[str, Pieces] = {}
    for cache in given.caches.split(","):
        ours = HybridRuntime(header, architectures()[header.architecture], cache_type=cache, **how)
        lanes[f"ours, {cache}"] = read(ours, tokens, depths)
        if cache == "f16":
            lanes["llama.cpp, f16, no flash"] = llama("f16", False)
        if cache != "f32":
            lanes[f"llama.cpp, {cache}, flash"] = llama(cache, True)
    print("| cache | phase |" + "".join(f" {d:,} |" for d in depths))
    print("| --- | --- |" + " --- |" * len(depths))
    for name, got in lanes.items():
        for phase in ("prefill", "decode"):
            errors = [
                np.sqrt(
                    np.mean((got[d, phase] - truth[d, phase]) ** 2, dtype=np.float64)
                    / np.mean(truth[d, phase] ** 2, dtype=np.float64)
                )
                for d in depths
            ]
            print(f"| {name} | {phase} |" + "".join(f" {e:.1e} |" for e in errors))


if __name__ == "__main__":
    main()
