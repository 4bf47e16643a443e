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


def install(exported: Path) -> None:
    text = CATALOG.read_text()
    for name in NAMES:
        CHECKPOINTS.mkdir(exist_ok=True)
        PACKAGE.mkdir(exist_ok=True)
        shutil.copyfile(exported / f"{name}-BF16.gguf", CHECKPOINTS / f"{name}-BF16.gguf")
        file = PACKAGE / f"{name}-Q8_0.gguf"
        shutil.copyfile(exported / file.name, file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        known = re.compile(rf'file = "{re.escape(file.name)}", size = \d+, sha256 = "[0-9a-f]+"')
        text, n = known.subn(f'file = "{file.name}", size = {file.stat().st_size}, sha256 = "{digest}"', text)
        assert n == 1, f"{CATALOG} has {n} lines for {file.name}"
    CATALOG.write_text(text)


def expected() -> dict[str, dict[str, float]]:
    found = {}
    for name in NAMES:
        with conifer_gguf.load(
            PACKAGE / f"{name}-Q8_0.gguf", n_ctx=4096, n_threads=1, cache_type="f32"
        ) as session:
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
    found, depths = {}, {}
    for name in NAMES:
        with conifer_gguf.load(name, n_ctx=max(DEPTHS) + 256, n_threads=1) as session:
            found[name] = perplexity(session)
            depths[name] = [recall(session, depth) for depth in DEPTHS]
            if name == "conifer-demo":
                answers = list(samples(session))
    rows = [f"| {name} | {value:.3f} |" for name, value in found.items()]
    text = fill(text, "perplexity", "\n".join(["| model | perplexity |", "| --- | --- |", *rows]))
    rows = [
        f"| {depth:,} | " + " | ".join(f"{at.right} of 50, {at.speed:,.0f}" for at in column) + " |"
        for depth, *column in zip(DEPTHS, *(depths[name] for name in NAMES), strict=True)
    ]
    head = [f"| depth, tokens | {' | '.join(f'{name}, tokens/s' for name in NAMES)} |", "| --- | --- | --- |"]
    text = fill(text, "recall", "\n".join([*head, *rows]))
    quoted = [f"{quote(asked)}\n\n{answer.strip()}" for asked, answer in answers]
    return fill(text, "samples", "\n\n".join(quoted))


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
