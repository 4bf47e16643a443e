"""Which plugins may run here: registered by a person, tried in a child process, pinned by sha256.

Registering reads the manifest, copies the library into a private store named after its sha256, and runs the
conformance kit on that copy in a child process (`trial.py`). Only what passed is written down, all names or none.
The state is one JSON file under CONIFER_GGUF_HOME/plugins, replaced atomically under a lock and read again whenever it
changed, so that a running server sees what another process registered. Any thread, any process.

A bundled plugin follows the package: where its library or the processor's features changed, it is tried again by itself
before its next use. A library from elsewhere that changed is refused until somebody registers it again.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ..errors import PluginRefused, UnknownPlugin
from ..ops import Contract, contracts, read_contract
from . import state, trial
from .kernels import Kernel, Plugin, load_library
from .known import Candidate, known, read_library, resolve, sha256_of
from .manifest import FILE, op_folders, read_manifest
from .state import Registered, Supplied

T = TypeVar("T")
__all__ = [
    "Candidate",
    "Registered",
    "contract_for",
    "damaged",
    "kernel_for",
    "kernels_for",
    "known",
    "missing",
    "prefer",
    "recheck",
    "register",
    "registered",
    "resolve",
    "stale",
    "suppliers_of",
    "tried",
    "unregister",
]


def registered() -> tuple[Registered, ...]:
    """What is registered, in the order in which it is asked for kernels."""
    return state.read().plugins


def register(*targets: str | Path) -> tuple[Registered, ...]:
    """Register plugins by name, folder or library: all of them, or none.

    Takes a few seconds per op. Registering again replaces what the name stood for. Raises UnknownPlugin, or
    PluginRefused with plugin, op and case.
    """
    candidates = [resolve(target) for target in targets]
    with state.locked():
        held = state.read().plugins
        for i, found in enumerate(candidates):
            _refuse_taken_name(found, [(p.name, p.id) for p in held])
            _refuse_taken_name(found, [(c.name, c.manifest.id) for c in candidates[:i]])
        try:
            made = _side_by_side(_try_out, candidates)
        except PluginRefused:
            state.sweep(held)
            raise
        state.write(_merged(held, made))
    return tuple(made)


def unregister(*names: str) -> None:
    """Forget plugins by name, all or none; a process that runs one keeps it loaded. Raises UnknownPlugin."""
    with state.locked():
        held = state.read().plugins
        for name in names:
            if name not in {p.name for p in held}:
                raise UnknownPlugin(name, tuple(p.name for p in held if p.name.startswith(name[:3]))[:1])
        state.write(tuple(p for p in held if p.name not in names))


def prefer(*names: str) -> None:
    """Put these plugins first where several supply one op, before the preference that kernels state themselves."""
    with state.locked():
        held = state.read().plugins
        unknown = set(names) - {p.name for p in held}
        if unknown:
            raise UnknownPlugin(min(unknown))
        chosen = tuple(
            replace(p, rank=names.index(p.name) - len(names) if p.name in names else 0) for p in held
        )
        state.write(chosen)


def missing(ops: Iterable[str]) -> tuple[str, ...]:
    """Those of `ops` that no registered plugin supplies. Cheap: asked for every row of a list."""
    usable = {op for p in registered() if not changed(p) for op in p.ops}
    return tuple(op for op in ops if op not in usable)


def tried(op: str) -> tuple[str, ...]:
    """A line for each registered plugin that supplies `op` but may not run, with the reason."""
    return tuple(f"{p.name} {p.version}: {changed(p)}" for p in registered() if op in p.ops and changed(p))


def kernel_for(op: str) -> Kernel:
    """The first kernel of `op`, loaded from the private copy. Raises PluginRefused, and LookupError if none is registered."""
    found = kernels_for(op)
    if not found:
        raise LookupError(f"no registered plugin supplies {op}; ask missing() first")
    return found[0]


def kernels_for(op: str) -> tuple[Kernel, ...]:
    """Every kernel of `op` in order of preference: one that answers CK_UNSUPPORTED passes the call to the next."""
    recheck(op)
    return tuple(k for p in suppliers_of(op) for k in _loaded(p).kernels if k.op == op)


def suppliers_of(op: str) -> tuple[Registered, ...]:
    """The registered plugins that may run `op`, in order of preference; nothing is loaded."""
    usable = [p for p in registered() if op in p.ops and not changed(p)]
    return tuple(sorted(usable, key=lambda p: (p.rank, -p.preference(op))))


def contract_for(op: str) -> Contract:
    """The contract of an op: this host's, or the one that a registered plugin brought. Raises LookupError."""
    if op in contracts():
        return contracts()[op]
    for plugin in registered():
        for folder in plugin.brought_ops:
            contract = read_contract(folder)
            if contract.op == op:
                return contract
    raise LookupError(f"no contract of {op} here, and no registered plugin brought one")


def changed(plugin: Registered) -> str | None:
    """Why a plugin from elsewhere may not run until it is registered again; None when it may."""
    if plugin.source == "bundled" or not plugin.origin.is_file():
        return None  # a bundled one is tried again by itself; without its origin the pinned copy stands alone
    now = _sha256_at(plugin.origin)
    if now == plugin.sha256:
        return None
    return f"{plugin.origin} changed since it was registered (sha256 {now[:12]}, was {plugin.sha256[:12]})"


def damaged(plugin: Registered) -> bool:
    """True where the private copy is gone, or is not what was registered: every use is refused then."""
    return not plugin.library.is_file() or _sha256_at(plugin.library) != plugin.sha256


def recheck(op: str | None = None) -> tuple[Registered, ...]:
    """Try again what an upgrade of the package or another processor made stale, of one op or all; returns those.

    Raises PluginRefused when one fails: it stays registered, and is refused at every use until it passes.
    """

    def concerned(plugin: Registered) -> bool:
        return stale(plugin) and (op is None or op in plugin.ops)

    if not any(concerned(p) for p in registered()):
        return ()
    with state.locked():
        held = state.read().plugins
        made = _side_by_side(_try_again, [p for p in held if concerned(p)])
        state.write(_merged(held, made))
    return tuple(made)


def _side_by_side(try_one: Callable[[T], Registered], them: Sequence[T]) -> list[Registered]:
    """As many at a time as there are processors: each waits for a child process."""
    with ThreadPoolExecutor(max_workers=max(1, min(len(them), os.cpu_count() or 1))) as pool:
        return list(pool.map(try_one, them))


def _try_out(found: Candidate) -> Registered:
    """Copy a plugin into the store and try the copy."""
    data = read_library(found.name, found.library)
    digest = sha256_of(data)
    folders = op_folders(found.folder, found.manifest)
    brought = {op: folder for op, folder in folders.items() if op not in contracts()}
    manifest = (found.folder / FILE).read_bytes()
    library = state.install(digest, found.library.name, data, manifest, tuple(brought.values()))
    copies = {op: library.parent / state.op_folder_name(folder) for op, folder in brought.items()}
    preferences = trial.run(found, library, {**folders, **copies})
    return Registered(
        name=found.name,
        id=found.manifest.id,
        version=found.manifest.version,
        source=found.source,
        origin=found.library,
        sha256=digest,
        file=library.name,
        package_version=state.package_version(),
        cpu=state.cpu_features(),
        supplies=tuple(Supplied(op, preference) for op, preference in preferences.items()),
        op_folders=tuple(folder.name for folder in copies.values()),
    )


def _merged(held: tuple[Registered, ...], made: list[Registered]) -> tuple[Registered, ...]:
    """`made` in the places of their names, new names at the end."""
    by_name = {p.name: p for p in made}
    kept = [by_name.pop(p.name, p) for p in held]
    return (*kept, *by_name.values())


def _refuse_taken_name(found: Candidate, taken: Iterable[tuple[str, str]]) -> None:
    for name, identity in taken:
        if name == found.name and identity != found.manifest.id:
            raise PluginRefused(
                found.name,
                f"the name is taken by {identity}, this one is {found.manifest.id}",
                next_step=f"conifer-gguf plugins unregister {found.name}, or rename the folder",
            )


def stale(plugin: Registered) -> bool:
    """True for a plugin that is tried again before its next use: the package or the processor changed."""
    if plugin.cpu != state.cpu_features():
        return True
    return plugin.source == "bundled" and plugin.package_version != state.package_version()


def _try_again(plugin: Registered) -> Registered:
    """What the package has now under the name of a bundled plugin, else the very copy that was registered."""
    if plugin.source == "bundled":
        return replace(_try_out(resolve(plugin.name)), rank=plugin.rank)
    folder = plugin.library.parent
    made = _try_out(Candidate(plugin.name, plugin.source, folder, read_manifest(folder), plugin.library))
    return replace(made, origin=plugin.origin, rank=plugin.rank)


@functools.cache
def _load_pinned(library: Path, sha256: str, name: str) -> Plugin:
    now = sha256_of(read_library(name, library))
    if now != sha256:
        raise PluginRefused(
            name,
            f"{library} changed since it was registered (sha256 {now[:12]}, was {sha256[:12]})",
            next_step=f"conifer-gguf plugins register {name}",
        )
    return load_library(library)


_loading = threading.Lock()


def _loaded(plugin: Registered) -> Plugin:
    with _loading:
        return _load_pinned(plugin.library, plugin.sha256, plugin.name)


def _sha256_at(path: Path) -> str:
    found = os.stat(path)
    return _sha256_of_version(path, found.st_mtime_ns, found.st_size, found.st_ino)


@functools.lru_cache(maxsize=64)
def _sha256_of_version(path: Path, _mtime: int, _size: int, _inode: int) -> str:
    return sha256_of(path.read_bytes())
