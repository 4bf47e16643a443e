"""Writes the folder that a new plugin starts from: a copy of one that works, under another name."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import BadRequest, PluginRefused
from ..native_api.manifest import read_manifest
from ..ops import contracts
from ..settings import bundled_dir

TEMPLATE = "my_scan"
MEASURED = re.compile(
    r"^(## Measured\n).*", re.DOTALL | re.MULTILINE
)  # in a README: figures belong to whoever took them
COPIED = {".c", ".h", ".md", ".py", ".toml"}


def new_plugin(folder: Path, op: str | None = None) -> Path:
    """Write a plugin named as the folder, and return its path; with `op`, from the bundled plugin that supplies it.

    Raises BadRequest for a name that is no C identifier or an op that no bundled plugin supplies, PluginRefused for a
    folder that exists.
    """
    folder = folder.expanduser().absolute()
    name = folder.name
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise BadRequest(f"`{name}` is no name for a plugin: small letters, digits and _, a letter first")
    if folder.exists():
        raise PluginRefused(name, f"{folder} exists", next_step="choose another name, or remove it")
    source, old = _source_of(op)
    made = _renamed(source, old, name)
    folder.mkdir(parents=True)
    for file_name, text in made.items():
        (folder / file_name).write_text(text, "utf-8")
    return folder


def _source_of(op: str | None) -> tuple[Path, str]:
    if op is None:
        return bundled_dir() / "TEMPLATE", TEMPLATE
    full = op if "/" in op else f"conifer.{op}/1"
    for folder in sorted(bundled_dir().glob("*/plugin.toml")):
        if folder.parent.name != "TEMPLATE" and full in read_manifest(folder.parent).ops:
            return folder.parent, folder.parent.name
    raise BadRequest(f"no bundled plugin supplies `{op}`; there are {', '.join(contracts())}")


def _renamed(source: Path, old: str, name: str) -> dict[str, str]:
    """Texts by file name. An op that the host knows keeps its name: what is copied is the kernel, not the contract."""
    kept = re.compile(rf"conifer\.{old}/|{old}")
    made = {}
    for path in sorted(source.iterdir()):
        if path.suffix in COPIED:
            text = path.read_text("utf-8").replace(
                f"org.conifer.{old.replace('_', '-')}", f"org.example.{name}"
            )
            text = kept.sub(lambda m: m[0] if m[0].startswith("conifer.") else name, text)
            text = MEASURED.sub(
                r"\1\nSay here on which machines it was measured, with which command, and what came out.\n",
                text,
            )
            made[path.name.replace(old, name)] = text
    return made
