"""The concept pages state facts of the catalog, and lead where they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conifer_gguf.store.catalog import catalog

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [*sorted((DOCS / "concepts").glob("*.md")), DOCS / "demo-model.md"]


def test_the_costs_of_the_demo_models_are_the_catalogs() -> None:
    page = (DOCS / "concepts" / "what-the-cache-costs.md").read_text("utf-8")
    for name in ("conifer-demo", "conifer-demo-dense"):
        shape = catalog().resolve(name)[0].shape
        carry = f"{shape.carry_bytes // 1000} kB" if shape.carry_bytes else "none"
        kept = [f"{(shape.kv_bytes_per_token * n + shape.carry_bytes) / 1e6:.2g} MB" for n in (1000, 16000)]
        layers = f"{shape.attention} of {shape.layers}"
        assert (
            f"| {name} | {layers} | {shape.kv_bytes_per_token:,} bytes | {carry} | {' | '.join(kept)} |"
            in page
        )
    hybrid, dense = (catalog().resolve(name)[0].shape for name in ("conifer-demo", "conifer-demo-dense"))
    saved = dense.kv_bytes_per_token - hybrid.kv_bytes_per_token
    assert f"after {hybrid.carry_bytes // saved} tokens" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^):]+)\)", page.read_text("utf-8"))
    assert targets
    assert [t for t in targets if not (page.parent / t).exists()] == []
