"""Architectures: one file each, found by listing this folder and by the entry-point group `conifer_gguf.architectures`."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import math
import pkgutil
from collections.abc import Mapping

from ..engine import memory
from ..errors import BrokenPackage
from ..gguf import Header
from ..settings import ARCHITECTURES
from .api import KV, Architecture, Keys, LayerSpec


@functools.cache
def architectures() -> Mapping[str, Architecture]:
    """Every architecture by the names it answers to; this package's own come first where names clash.

    Raises BrokenPackage when an entry point leads to something that is no architecture.
    """
    found: dict[str, Architecture] = dict(_own())
    for entry in importlib.metadata.entry_points(group=ARCHITECTURES):
        outside = _load(entry)
        for name in outside.NAMES:
            found.setdefault(name, outside)
    return found


@functools.cache
def _own() -> Mapping[str, Architecture]:
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "api")
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {name: module for module in modules for name in module.NAMES}


def _load(entry: importlib.metadata.EntryPoint) -> Architecture:
    package = entry.dist.name if entry.dist else entry.value
    try:
        module = entry.load()
    except (ImportError, AttributeError) as error:
        raise BrokenPackage(package, f"`{entry.value}` cannot be imported: {error}") from error
    missing = [n for n in ("NAMES", "KERNELS", "Hyper", "carry", "forward") if not hasattr(module, n)]
    if missing:
        raise BrokenPackage(package, f"`{entry.value}` is no architecture: it lacks {', '.join(missing)}")
    architecture: Architecture = module
    return architecture


def geometry(header: Header) -> memory.Geometry:
    """The figures that decide memory. For an architecture from outside they follow from what its layers remember."""
    shape = memory.geometry(header)
    outside = architectures().get(header.architecture)
    if outside is None or header.architecture in _own():
        return shape
    layers = outside.carry(outside.Hyper.read(Keys(header)))
    return dataclasses.replace(
        shape,
        layer_kinds=tuple(_kind(layer) for layer in layers),
        cache_elements=sum(p.elements for layer in layers for p in layer.values() if isinstance(p, KV)),
        carry_bytes=sum(
            4 * math.prod(p) for layer in layers for p in layer.values() if not isinstance(p, KV)
        ),
    )


def _kind(layer: LayerSpec) -> str:
    attends = any(isinstance(part, KV) for part in layer.values())
    carries = any(not isinstance(part, KV) for part in layer.values())
    return (
        "both"
        if attends and carries
        else "attention"
        if attends
        else "recurrent"
        if carries
        else "feed-forward"
    )
