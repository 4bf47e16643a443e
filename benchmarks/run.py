#!/usr/bin/env python3
"""Measure every number that docs/benchmarks.md states, side by side with llama.cpp: python benchmarks/run.py

Everything is measured by `conifer-gguf bench` and `conifer-gguf plugins bench`, in a home folder of its own; this script
chooses models and settings, keeps the JSON and the pictures in benchmarks/results/, and lets report.py write the page. Models are
random weights of true size, made once by tools/reference/make_perf_models.py: speed and memory do not depend on values.

An idle machine takes about two hours; --only picks parts, --quick shortens them to try the harness.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import report

ROOT = Path(__file__).resolve().parents[1]
QUANT = "q4_k_m"
# Rounds of each model: fewer where one takes minutes.
SHORT = {
    "granite-4.0-h-350m": 5,
    "falcon-h1-0.5b": 3,
    "qwen3.5-0.8b": 3,
    "granite-4.0-h-1b": 3,
    "granite-4.0-h-tiny-8-layers": 3,
    "jamba-reasoning-3b": 2,
}
LONG = {
    "granite-4.0-h-350m": 3,
    "falcon-h1-0.5b": 1,
    "qwen3.5-0.8b": 1,
    "granite-4.0-h-1b": 1,
    "granite-4.0-h-tiny-8-layers": 1,
    "jamba-reasoning-3b": 1,
}
LONGEST = dict.fromkeys(SHORT, 1)


@dataclass(frozen=True)
class Part:
    """One run of `conifer-gguf bench` a model, with so many rounds; the rest are its options."""

    name: str
    rounds: dict[str, int]
    options: tuple[str, ...]
    plot: bool = False

    def quick(self) -> Part:
        short = {"16000": "256", "4096": "128", "512": "64", "0,4k,16k": "0,256,512", "32": "4"}
        few = {name: min(n, 2) for name, n in self.rounds.items()}
        return Part(self.name, few, tuple(short.get(o, o) for o in self.options), self.plot)


PARTS = (
    Part("prompt-512", SHORT, ("--vs", "llama.cpp", "--prompt", "512", "--decode", "32")),
    Part("prompt-4096", LONG, ("--vs", "llama.cpp", "--settings", "defaults,no-repack,plain", "--prompt", "4096", "--decode", "32")),
    Part("prompt-16000", LONGEST, ("--vs", "llama.cpp", "--settings", "defaults,plain", "--prompt", "16000", "--decode", "32")),
    Part(
        "context",
        {"granite-4.0-h-1b": 2, "llama-3.2-1b": 2},
        ("--vs", "llama.cpp", "--settings", "defaults,plain", "--depths", "0,4k,16k", "--prompt", "512", "--decode", "32"),
        plot=True,
    ),
)  # fmt: skip
KERNELS = "kernels"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", type=Path, default=ROOT / "build" / "perf-models", help="where models are kept"
    )
    parser.add_argument("--threads", default="2")
    parser.add_argument("--only", help="comma separated: " + ", ".join([*(p.name for p in PARTS), KERNELS]))
    parser.add_argument(
        "--quick", action="store_true", help="few tokens and rounds; the numbers mean nothing"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    wanted = given.only.split(",") if given.only else [*(p.name for p in PARTS), KERNELS]
    given.results.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "CONIFER_GGUF_HOME": str(given.results / "home")}
    conifer(env, "plugins", "register", "--bundled")
    for part in PARTS:
        if part.name in wanted:
            measure(part.quick() if given.quick else part, given, env)
    if KERNELS in wanted:
        seconds = "0.05" if given.quick else "1"
        kernels = conifer(env, "plugins", "bench", "--threads", given.threads, "--seconds", seconds, "--json")
        (given.results / f"{KERNELS}.json").write_text(kernels)
    (given.results / "machine.json").write_text(json.dumps(report.machine(), indent=1) + "\n")
    print(f"results are in {given.results}; python benchmarks/report.py writes docs/benchmarks.md")


def measure(part: Part, given: argparse.Namespace, env: dict[str, str]) -> None:
    """One process a model, so that a part that was interrupted loses one model, then one JSON of them all."""
    rows = []
    for name, rounds in part.rounds.items():
        file = model_file(name, given.models)
        kept = given.results / f"{part.name}.{name}.json"
        options = [*part.options, "--rounds", str(rounds), "--threads", given.threads, "--json"]
        kept.write_text(conifer(env, "bench", str(file), *options))
        rows += json.loads(kept.read_text())
        print(f"{part.name}: {name} is measured", flush=True)
    for name in part.rounds:
        (given.results / f"{part.name}.{name}.json").unlink()
    (given.results / f"{part.name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    if part.plot:
        report.draw(rows, given.results / f"{part.name}.png")


def model_file(name: str, folder: Path) -> Path:
    """The model's file, made now if it is not there."""
    file = folder / f"{name}-{QUANT}.gguf"
    if not file.is_file():
        script = ROOT / "tools" / "reference" / "make_perf_models.py"
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, str(script), "--out", str(folder), "--models", f"{name}-{QUANT}", "--no-check"],
            check=True,
        )
    return file


def conifer(env: dict[str, str], *words: str) -> str:
    """Output of a command of the package that this Python has; its progress goes to our stderr."""
    command = [sys.executable, "-P", "-m", "conifer_gguf", *words]
    return subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
