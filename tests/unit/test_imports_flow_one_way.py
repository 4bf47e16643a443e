"""The layers of the package import only to their right."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import conifer_gguf

ROOT = Path(conifer_gguf.__file__).parent

# Left to right; those in one set may not import each other either.
LAYERS: list[set[str]] = [
    {"cli", "web"},
    {"service"},
    {"store", "worker"},
    {"runtimes"},
    {"arch"},
    {"engine"},
    {"kit"},
    {"ops", "gguf", "native_api"},
    {"errors", "settings", "child"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# Where two of one set meet on purpose, with the reason.
ALLOWED = {
    ("errors", "settings"): "errors state sizes in people's units",
    ("cli", "web"): "`serve` starts the web application",
    ("worker", "store"): "load(NAME) finds the file of a model by its name",
    ("native_api", "gguf"): "the numbers of tensor types are GGUF's",
    ("native_api", "ops"): "a kernel is loaded together with the contract of its op",
}


def imports_of(path: Path) -> Iterator[str]:
    """First component below conifer_gguf of everything that the file imports from the package."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = list(package[: len(package) - (node.level - 1)])
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((base + name.split("."))[0] for name in names if name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("conifer_gguf."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("conifer_gguf."))


SOURCES = sorted(p for p in ROOT.rglob("*.py") if "_native" not in p.parts)  # installed plugins are no layer


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_layer_imports_only_what_is_to_its_right(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if layer in ("__init__", "__main__"):
        return  # the public API re-exports from everywhere
    for target in imports_of(path):
        if target in LEVEL and target != layer and (layer, target) not in ALLOWED:
            assert LEVEL[layer] < LEVEL[target], f"{path.relative_to(ROOT)} imports {target}"


def test_every_top_level_module_has_a_layer() -> None:
    present = {
        p.name.removesuffix(".py")
        for p in ROOT.iterdir()
        if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert present - {"__init__", "__main__"} == set(LEVEL)
