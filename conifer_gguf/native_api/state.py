"""Where the registry keeps what it knows: one JSON file, a lock beside it, and the private copies of libraries."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from ..errors import PluginRefused
from ..settings import plugins_dir
from .known import Source
from .manifest import FILE, OP_FILE

FORMAT = 1


@dataclass(frozen=True)
class Supplied:
    """One op of a registered plugin, with the preference that its kernel states."""

    op: str
    preference: int


@dataclass(frozen=True)
class Registered:
    """One registered plugin. `origin` is where its library came from, `file` the name of the private copy that runs.

    `rank` below 0 is the user's own order, lowest first. `op_folders` are the names, beside the copy, of contracts that
    the plugin brought.
    """

    name: str
    id: str
    version: str
    source: Source
    origin: Path
    sha256: str
    file: str
    package_version: str
    cpu: str
    supplies: tuple[Supplied, ...]
    op_folders: tuple[str, ...] = ()
    rank: int = 0

    @property
    def library(self) -> Path:
        return _store(self.sha256) / self.file

    @property
    def brought_ops(self) -> tuple[Path, ...]:
        return tuple(_store(self.sha256) / name for name in self.op_folders)

    @property
    def ops(self) -> tuple[str, ...]:
        return tuple(s.op for s in self.supplies)

    def preference(self, op: str) -> int:
        return next(s.preference for s in self.supplies if s.op == op)


@dataclass(frozen=True)
class State:
    plugins: tuple[Registered, ...]


_PLUGINS: Final = TypeAdapter(tuple[Registered, ...])


def read() -> State:
    """The registry as it is now; read from disk only when the file changed. Raises PluginRefused if it is damaged."""
    path = plugins_dir() / "registry.json"
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return State(())
    return _read_version(path, found.st_mtime_ns, found.st_size, found.st_ino)


@functools.lru_cache(maxsize=4)
def _read_version(path: Path, _mtime: int, _size: int, _inode: int) -> State:
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']}, this version reads {FORMAT}")
        return State(_PLUGINS.validate_python(data["plugins"]))
    except (ValueError, KeyError, TypeError) as error:
        raise PluginRefused(
            "registry",
            f"{path} is damaged: {error}",
            next_step=f"remove {path} and register the plugins again",
        ) from error


def write(plugins: Sequence[Registered]) -> None:
    """Replace the registry in one step; call it inside `locked()`."""
    data = {"format": FORMAT, "plugins": _PLUGINS.dump_python(tuple(plugins), mode="json")}
    _replace(plugins_dir() / "registry.json", (json.dumps(data, indent=1) + "\n").encode())
    sweep(plugins)


def sweep(plugins: Sequence[Registered]) -> None:
    """Remove private copies that no plugin refers to; a process that has one loaded keeps its pages."""
    kept = {plugin.sha256 for plugin in plugins}
    for folder in (plugins_dir() / "store").glob("*"):
        if folder.name not in kept:
            shutil.rmtree(folder)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One writer at a time, across processes and threads; the lock falls with its process.

    Raises PluginRefused where the folder cannot be written.
    """
    folder = plugins_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise PluginRefused(
            "registry",
            f"{error.filename or folder} cannot be written: {error.strerror}",
            next_step="set CONIFER_GGUF_HOME to a folder of your own",
        ) from error


def install(digest: str, name: str, data: bytes, manifest: bytes, op_folders: Sequence[Path]) -> Path:
    """Write the private copy of a library, with its manifest and the ops it brings; returns its path.

    The folder is named after the bytes, so a copy that is in use is never another one's.
    """
    folder = _store(digest)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / name
    if not path.is_file() or path.read_bytes() != data:
        _replace(path, data)
    _replace(folder / FILE, manifest)
    for source in op_folders:
        target = folder / op_folder_name(source)
        target.mkdir(exist_ok=True, mode=0o700)
        for file in (OP_FILE, "reference.py"):
            if (source / file).is_file():
                _replace(target / file, (source / file).read_bytes())
    return path


def op_folder_name(op_folder: Path) -> str:
    """The name of the private copy of a contract."""
    return f"op-{hashlib.sha256((op_folder / OP_FILE).read_bytes()).hexdigest()[:12]}"


def _store(digest: str) -> Path:
    return plugins_dir() / "store" / digest


@functools.cache
def package_version() -> str:
    return importlib.metadata.version("conifer-gguf")


@functools.cache
def cpu_name() -> str:
    """What the processor calls itself; part of everything that was measured."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@functools.cache
def cpu_features() -> str:
    """Names the processor's feature set: a kernel that chose its vector loops elsewhere is tried again."""
    flags: set[str] = set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                flags.update(value.split())
    return f"{platform.machine()}-{hashlib.sha256(' '.join(sorted(flags)).encode()).hexdigest()[:16]}"


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except OSError:
            os.unlink(file.name)
            raise
