"""Architectures: one file each, found by listing this folder and by the entry-point group `conifer_gguf.architectures`."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Mapping

from .api import Architecture

ENTRY_POINTS = "conifer_gguf.architectures"


@functools.cache
def architectures() -> Mapping[str, Architecture]:
    """Every architecture by the names it answers to; this package's own come first where names clash."""
    found: dict[str, Architecture] = {}
    for module in _own_modules():
        for name in module.NAMES:
            found[name] = module
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        outside = entry.load()
        for name in outside.NAMES:
            found.setdefault(name, outside)
    return found


def _own_modules() -> list[Architecture]:
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "api")
    return [importlib.import_module(f"{__name__}.{name}") for name in names]
