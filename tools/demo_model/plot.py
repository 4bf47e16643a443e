"""Draw the loss curves that train.py logged.

    python tools/demo_model/plot.py --runs runs --out docs/demo-model-loss.png

Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt


def rows_of(log: Path) -> list[dict[str, Any]]:
    """A step that was repeated after a resume counts once, as it came out last."""
    return list({row["step"]: row for row in map(json.loads, log.read_text().splitlines())}.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), sharex=True)
    for log in sorted(args.runs.glob("*/log.jsonl")):
        rows = rows_of(log)
        left.plot([r["step"] for r in rows], [r["loss"] for r in rows], label=log.parent.name)
        tested = [r for r in rows if "recall_512" in r]
        for length, style in ((512, "-"), (2048, "--")):
            label = f"{log.parent.name}, rows of {length}"
            right.plot(
                [r["step"] for r in tested], [r[f"recall_{length}"] for r in tested], style, label=label
            )
    left.set(xlabel="step", ylabel="nats a token, weighted", title="training loss")
    right.set(xlabel="step", ylabel="nats a token", title="what only a planted fact tells, held out")
    for axes in (left, right):
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
