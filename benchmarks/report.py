#!/usr/bin/env python3
"""Write docs/benchmarks.md from benchmarks/results/: python benchmarks/report.py

The prose of the page is kept; what stands between two `<!-- NAME -->` marks is replaced.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from conifer_gguf.cli import _bench_plot
from conifer_gguf.service import bench
from conifer_gguf.store.results import Measured

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"


def machine() -> dict[str, str]:
    """What a reader needs to place the numbers; `commit` says "with changes" where the tree was not clean."""
    commit = _git("rev-parse", "--short", "HEAD")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "commit": commit
        + (" with changes" if _git("status", "--porcelain", "conifer_gguf", "plugins", "native") else ""),
    }


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def points(rows: Sequence[dict[str, Any]]) -> list[Measured]:
    return [Measured(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}) for row in rows]


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    _bench_plot.draw(points(rows), path)


def speeds(found: Sequence[Measured]) -> str:
    """A row for each lane: medians, and the lowest and highest round."""
    head = ["model", "depth", "runtime", "prefill tok/s", "decode tok/s", "memory MB", "load s", "bandwidth"]
    body = [
        [
            p.model,
            f"{p.depth:,}",
            p.runtime if p.setting == bench.OURS else f"{p.runtime} {p.setting}",
            _spread(p.prefill_tps, p.prefill_tps_rounds, 0),
            _spread(p.decode_tps, p.decode_tps_rounds, 1),
            f"{p.rss_bytes / 1e6:.0f}",
            f"{p.load_s:.2f}",
            f"{p.bandwidth_share:.0%}",
        ]
        for p in found
    ]
    return _table(head, body)


def ratios(found: Sequence[Measured]) -> str:
    """Ours over llama.cpp's: at the same weight layout, at its defaults, and at the best of its settings."""
    head = ["model", "depth", "phase", "same layout", "its defaults", "its best", "which is"]
    body = [
        [
            r.model,
            f"{r.depth:,}",
            r.phase,
            _times(r.equal_layout),
            _times(r.defaults),
            _times(r.best),
            r.best_setting,
        ]
        for r in bench.ratios(found)
    ]
    return _table(head, body)


def kernels(rows: Sequence[dict[str, Any]]) -> str:
    head = ["op", "shape", "tokens", "µs a token", "ggml", "ratio", "middle half", "models"]
    body = [
        [
            r["op"],
            r["shape"],
            str(r["n_tokens"]),
            f"{r['us_per_token']:.2f}",
            f"{r['ggml_us_per_token']:.2f}",
            f"{r['ratio']:.2f}",
            f"{r['ratio_low']:.2f} to {r['ratio_high']:.2f}",
            r["model"],
        ]
        for r in rows
    ]
    return _table(head, body)


def about(found: Sequence[Measured], where: dict[str, str]) -> str:
    first = found[0]
    return (
        f"Measured on {where['date']} at commit {where['commit']}: {first.machine}, {first.n_threads} threads, "
        f"{where['system']}; memory read {first.read_bandwidth / 1e9:.1f} GB/s; {first.cache_type} cache."
    )


def _spread(median: float, rounds: Sequence[float], digits: int) -> str:
    return f"{median:.{digits}f} ({min(rounds):.{digits}f} to {max(rounds):.{digits}f})"


def _times(ratio: float | None) -> str:
    return f"{ratio:.2f}" if ratio is not None else ""


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))


def filled(page: str, name: str, text: str) -> str:
    """The page with `text` between its two marks `<!-- name -->`."""
    mark = f"<!-- {name} -->"
    pattern = re.compile(f"{re.escape(mark)}.*?{re.escape(mark)}", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"{PAGE.name} lacks the two marks {mark}")
    return pattern.sub(lambda _: f"{mark}\n{text}\n{mark}", page)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    page = given.page.read_text("utf-8")
    where = json.loads((given.results / "machine.json").read_text())
    for name in ("prompt-512", "prompt-4096", "prompt-16000", "context"):
        file = given.results / f"{name}.json"
        if not file.is_file():
            continue
        found = points(json.loads(file.read_text()))
        page = filled(page, name, "\n\n".join((about(found, where), ratios(found), speeds(found))))
    if (file := given.results / "kernels.json").is_file():
        page = filled(page, "kernels", kernels(json.loads(file.read_text())))
    given.page.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
