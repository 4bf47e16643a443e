"""Put exported models into the repository: the package's files, the catalog's checksums, the values that tests assert,
and the figures of the model card.

    python tools/demo_model/publish.py --exported DIR

DIR holds what export.py wrote for both models. Needs this checkout's conifer-gguf, whose home has the kernels registered.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from evaluate import perplexity, recall, samples

import conifer_gguf

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINTS = Path(__file__).parent / "checkpoints"  # bf16: what training resumes from
PACKAGE = ROOT / "conifer_gguf" / "models"
CATALOG = ROOT / "catalog" / "conifer-demo.toml"
CARD = ROOT / "docs" / "demo-model.md"
EXPECTED = ROOT / "tests" / "golden" / "demo" / "expected.json"
NAMES = ("conifer-demo-dense", "conifer-demo")
N_CHATS = 24  # conversations behind the asserted perplexity
RECALL_DEPTH = 1024
DEPTHS = (1024, 4096, 8192, 16384)


def packaged(name: str) -> Path:
    """What was just put into this checkout; by its name alone, an installed package's file would be loaded."""
    return PACKAGE / f"{name}-Q8_0.gguf"


def install(exported: Path) -> None:
    text = CATALOG.read_text()
    for name in NAMES:
        CHECKPOINTS.mkdir(exist_ok=True)
        PACKAGE.mkdir(exist_ok=True)
        shutil.copyfile(exported / f"{name}-BF16.gguf", CHECKPOINTS / f"{name}-BF16.gguf")
        file = packaged(name)
        shutil.copyfile(exported / file.name, file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        known = re.compile(rf'file = "{re.escape(file.name)}", size = \d+, sha256 = "[0-9a-f]+"')
        text, n = known.subn(f'file = "{file.name}", size = {file.stat().st_size}, sha256 = "{digest}"', text)
        assert n == 1, f"{CATALOG} has {n} lines for {file.name}"
    CATALOG.write_text(text)


def expected() -> dict[str, dict[str, float]]:
    found = {}
    for name in NAMES:
        with conifer_gguf.load(packaged(name), n_ctx=4096, n_threads=1, cache_type="f32") as session:
            right = recall(session, RECALL_DEPTH).right
            found[name] = {"perplexity": round(perplexity(session, N_CHATS), 4), "recalled_at_1024": right}
    return found


def fill(text: str, mark: str, body: str) -> str:
    """Replace what stands between two `<!-- MARK -->`."""
    comment = f"<!-- {mark} -->"
    before, _, after = text.split(comment)
    return f"{before}{comment}\n{body.strip()}\n{comment}{after}"


def card(text: str) -> str:
    """The model card with the figures of the published files."""
    likely, recalled, answers = {}, {}, []
    for name in NAMES:
        with conifer_gguf.load(packaged(name), n_ctx=max(DEPTHS) + 256, n_threads=1) as session:
            likely[name] = perplexity(session)
            recalled[name] = [recall(session, depth) for depth in DEPTHS]
            answers = list(samples(session))  # the hybrid's: it comes last
    text = fill(text, "perplexity", table(("model", "perplexity"), [(n, f"{likely[n]:.3f}") for n in NAMES]))
    rows = [
        (f"{depth:,}", *(f"{at.right}, {at.speed:,.0f} tokens/s" for at in found))
        for depth, *found in zip(DEPTHS, *(recalled[n] for n in NAMES), strict=True)
    ]
    text = fill(text, "recall", table(("depth, tokens", *NAMES), rows))
    return fill(text, "samples", "\n\n".join(f"{quote(asked)}\n\n{said.strip()}" for asked, said in answers))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def quote(text: str) -> str:
    return "> " + text.replace("\n", "\n> ")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exported", type=Path, required=True)
    args = parser.parse_args()
    install(args.exported)
    CARD.write_text(card(CARD.read_text()))
    tokens = json.loads((args.exported / "tokens.json").read_text())
    EXPECTED.write_text(
        json.dumps({"models": expected(), "tokens": tokens}, indent=1, ensure_ascii=False) + "\n"
    )


if __name__ == "__main__":
    main()
