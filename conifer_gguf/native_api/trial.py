"""The trial of a library before it is registered: the conformance kit's quick run, in a child process.

The kit lies above this layer, so it is started by its module's name and reports in messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import PluginRefused
from .containment import Budget, ChildEnded, run_child
from .known import Candidate

KIT = "conifer_gguf.kit.child"
BUDGET = Budget()


def run(found: Candidate, library: Path, op_folders: Mapping[str, Path]) -> dict[str, int]:
    """Each op that the library supplies with its preference, when all of it passes. Raises PluginRefused otherwise."""
    request = {
        "library": str(library),
        "ops": {op: str(folder) for op, folder in op_folders.items()},
        "depth": "quick",
        "stop_at_failure": True,
    }
    preferences: dict[str, int] = {}
    try:
        for message in run_child(KIT, request, BUDGET):
            _refuse_what_fails(found, message)
            if "plugin" in message:
                preferences = _compare(found, message["plugin"])
    except ChildEnded as ended:
        at = (ended.last or {}).get("at") or {}
        case = f"{at['check']}: {at['case']}" if at else "loading the library"
        raise PluginRefused(found.name, ended.problem, at.get("op"), case, _hint(found)) from None
    return preferences


def _refuse_what_fails(found: Candidate, message: Mapping[str, Any]) -> None:
    if "refused" in message:
        told = message["refused"]
        raise PluginRefused(found.name, told["problem"], told["op"], next_step=_hint(found))
    row = message.get("row")
    if row is not None and row["verdict"] == "fails":
        raise PluginRefused(
            found.name, row["problem"], row["op"], f"{row['check']}: {row['case']}", _hint(found)
        )


def _compare(found: Candidate, told: Mapping[str, Any]) -> dict[str, int]:
    """The library must be what its manifest says."""
    manifest = found.manifest
    for what, said, is_ in (
        ("id", manifest.id, told["id"]),
        ("version", manifest.version, told["version"]),
        ("ops", sorted(manifest.ops), sorted(told["kernels"])),
    ):
        if said != is_:
            raise PluginRefused(found.name, f"plugin.toml says {what} = {said!r}, the library says {is_!r}")
    return dict(told["kernels"])


def _hint(found: Candidate) -> str | None:
    return f"conifer-gguf plugins check {found.folder}" if found.source == "path" else None
