#!/usr/bin/env python3
"""Where the time of one step goes, by operation and by weight, on the hybrid runtime with the registered kernels.

    python tools/where_time_goes.py MODEL.gguf --tokens 512 --depth 4096 [--threads 2] [--repeat 3] [--weights]

`--tokens` new ones are computed after `--depth` others, whose cache rows are zeros: their values cost no time. The shortest
of `--repeat` runs counts, node by node.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from conifer_gguf.arch import architectures
from conifer_gguf.engine.graph import Share
from conifer_gguf.engine.profile import NodeTime
from conifer_gguf.gguf import read_header
from conifer_gguf.runtimes.hybrid import CHUNK, HybridRuntime


def measured(model: HybridRuntime, n_token: int, depth: int, repeat: int) -> list[NodeTime]:
    """Each node's shortest time over `repeat` runs of the same step, after one that warms up."""
    rng = np.random.default_rng(7)
    sequence = model.open()
    tokens = rng.integers(4, model.info.n_vocab, n_token).astype(np.int32)
    runs = [model.measure(Share(sequence, depth, n_token), tokens) for _ in range(repeat + 1)]
    return [min(same, key=lambda node: node.seconds) for same in zip(*runs[1:], strict=True)]


def kind(node: NodeTime, by_weight: bool) -> str:
    name = re.sub(r"^blk\.\d+\.|\.weight$", "", node.name)
    return (
        f"{node.operation} {name}" if name and (by_weight or node.operation == "CUSTOM") else node.operation
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--weights", action="store_true", help="products weight by weight")
    given = parser.parse_args()
    if not 1 <= given.tokens <= CHUNK:
        parser.error(f"--tokens: 1 to {CHUNK}, which is one step")
    header = read_header(given.model)
    n_ctx = given.tokens + given.depth
    model = HybridRuntime(header, architectures()[header.architecture], n_ctx=n_ctx, n_threads=given.threads)
    nodes = measured(model, given.tokens, given.depth, given.repeat)
    model.shutdown()
    seconds: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for node in nodes:
        seconds[kind(node, given.weights)] += node.seconds
        count[kind(node, given.weights)] += 1
    total = sum(seconds.values())
    print(f"{given.model.stem}: {given.tokens} tokens after {given.depth}, {given.threads} threads")
    print(f"{'total':44s} {len(nodes):5d} {1e3 * total:9.2f} ms  {given.tokens / total:8.1f} tokens/s")
    for name, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"{name:44s} {count[name]:5d} {1e3 * spent:9.2f} ms  {100 * spent / total:5.1f} %")


if __name__ == "__main__":
    main()
