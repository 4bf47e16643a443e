#!/usr/bin/env python3
"""Copy small cases into tests/golden, trimmed to what the tests read: tokens, logits and the greedy continuation.

    python trim.py cases ../../tests/golden granite_small=granite granite_moe_small=granite_moe ...
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

ARRAYS = ("tokens", "hf_logits", "greedy")
FACTS = ("name", "arch", "seed", "tokenizer_tests", "versions")


def trim(source: Path, target: Path) -> int:
    """Write one golden case; returns its bytes."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "model-f32.gguf", target / "model-f32.gguf")
    reference = np.load(source / "ref.npz")
    np.savez_compressed(target / "ref.npz", **{name: reference[name] for name in ARRAYS})
    facts = json.loads((source / "meta.json").read_text())
    kept = {name: facts[name] for name in FACTS}
    (target / "meta.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    return sum(f.stat().st_size for f in target.iterdir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("golden", type=Path)
    parser.add_argument("names", nargs="+", help="CASE=GOLDEN")
    given = parser.parse_args()
    for pair in given.names:
        case, _, golden = pair.partition("=")
        print(f"{golden:20s} {trim(given.cases / case, given.golden / golden) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
