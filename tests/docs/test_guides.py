"""What the guides tell people to type is typed here, and what they say comes out does come out."""

from __future__ import annotations

from pathlib import Path

import pytest

from .console import BLOCK, commands_of, environment, type_in

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.slow
@pytest.mark.parametrize("guide", sorted(p.name for p in (DOCS / "guides").glob("*.md")))
def test_the_commands_of_a_guide_do_what_it_says(guide: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    env = environment(tmp_path / "bin", tmp_path / "home")
    commands = commands_of((DOCS / "guides" / guide).read_text("utf-8"))
    assert commands
    for command, expected in commands:
        type_in(command, expected, work, env)


def test_the_reference_in_the_guide_is_that_of_the_template() -> None:
    guide = (DOCS / "guides" / "write-a-kernel.md").read_text("utf-8")
    (shown,) = [body for kind, body in BLOCK.findall(guide) if kind == "python"]
    template = (DOCS.parent / "plugins/TEMPLATE/reference.py").read_text("utf-8")
    for line in shown.splitlines()[1:]:
        essence = line.strip().removesuffix(":").split(", strict")[0].rstrip(")")
        assert essence in template, line
