"""Plugins that are known by name: the bundled ones, and those that installed packages announce.

Nothing is imported and no code runs: folders are found from the build's layout and from package metadata.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlparse

from ..errors import PluginRefused, UnknownPlugin
from ..settings import format_bytes, native_dir
from .manifest import FILE, Manifest, library_path, read_manifest

GROUP = "conifer_gguf.plugins"
MAX_LIBRARY = 512 << 20  # bytes
Source = Literal["bundled", "installed", "path"]


@dataclass(frozen=True)
class Candidate:
    """A plugin that could be registered. `library` need not exist yet: a folder may hold sources only."""

    name: str
    source: Source
    folder: Path
    manifest: Manifest
    library: Path

    def sha256(self) -> str:
        """Of the library as it lies there now. Raises PluginRefused where it is not built."""
        return sha256_of(read_library(self.name, self.library))


def known() -> tuple[Candidate, ...]:
    """Bundled plugins first, then those of installed packages; one whose manifest is refused is left out."""
    found: dict[str, Candidate] = {}
    for name, source, folder in (*_bundled(), *_installed()):
        if name not in found:
            try:
                found[name] = candidate(name, source, folder)
            except PluginRefused:
                continue  # `resolve(name)` says why
    return tuple(found.values())


def resolve(target: str | Path) -> Candidate:
    """The plugin that a name, a folder or a library stands for; a plain word is always a name, never a path.

    Raises UnknownPlugin, or PluginRefused by its manifest.
    """
    if isinstance(target, Path) or os.sep in target:
        return _at(Path(target).expanduser())
    for name, source, folder in (*_bundled(), *_installed()):
        if name == target:
            return candidate(name, source, folder)
    names = [c.name for c in known()]
    raise UnknownPlugin(target, tuple(difflib.get_close_matches(target, names, n=1)))


def candidate(name: str, source: Source, folder: Path) -> Candidate:
    manifest = read_manifest(folder)
    return Candidate(name, source, folder, manifest, library_path(folder, manifest))


def read_library(name: str, path: Path) -> bytes:
    """The bytes of a library. Raises PluginRefused where there is no regular file of a sane size."""
    try:
        if not path.exists():
            hint = f"conifer-gguf plugins check {path.parent} builds it"
            raise PluginRefused(name, f"{path} does not exist", next_step=hint)
        if not path.is_file():
            raise PluginRefused(name, f"{path} is not a regular file")  # reading a pipe would never end
        if (size := path.stat().st_size) > MAX_LIBRARY:
            raise PluginRefused(
                name, f"{path} has {format_bytes(size)}; {format_bytes(MAX_LIBRARY)} are possible"
            )
        return path.read_bytes()
    except OSError as error:
        raise PluginRefused(name, f"{path} cannot be read: {error.strerror}") from error


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _at(path: Path) -> Candidate:
    path = path.resolve()
    if path.name == FILE or path.is_dir():
        folder = path if path.is_dir() else path.parent
        return candidate(folder.name, "path", folder)
    if not path.exists():
        raise PluginRefused(path.name, f"{path} does not exist")
    return Candidate(path.stem, "path", path.parent, read_manifest(path.parent), path)


def _bundled() -> Iterator[tuple[str, Source, Path]]:
    for path in sorted((native_dir() / "plugins").glob(f"*/{FILE}")):
        if path.parent.name != "TEMPLATE":
            yield path.parent.name, "bundled", path.parent


def _installed() -> Iterator[tuple[str, Source, Path]]:
    for entry in importlib.metadata.entry_points(group=GROUP):
        relative = Path(*entry.value.partition(":")[0].split("."))
        for root in _roots(entry.dist):
            if (root / relative / FILE).is_file():
                yield entry.name, "installed", root / relative
                break


def _roots(dist: importlib.metadata.Distribution | None) -> Iterator[Path]:
    """Where a package's modules lie: beside its metadata, or in its source tree when installed with `-e`."""
    if dist is None:
        return
    beside = Path(str(dist.locate_file(""))).resolve()
    # `python -m` puts the working directory on the path, and what happens to lie there announces nothing.
    if beside == Path.cwd().resolve() and not beside.name.endswith("-packages"):
        return
    yield beside
    direct = json.loads(dist.read_text("direct_url.json") or "{}")
    if direct.get("dir_info", {}).get("editable"):
        tree = Path(unquote(urlparse(direct["url"]).path))
        yield from (tree, tree / "src")
