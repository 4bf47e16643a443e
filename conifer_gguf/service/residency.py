"""Which engine processes are loaded: started at the first request, replaced when they die, evicted to make room."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..store.library import LocalModel
from ..worker.messages import Load
from ..worker.process import EngineProcess


@dataclass(frozen=True)
class EngineOptions:
    """How engines are loaded. `n_ctx` and `n_threads` None: sized to this machine."""

    runtime: str = "auto"
    n_ctx: int | None = None
    n_threads: int | None = None
    cache_type: str = "f16"
    parallel: int = 1

    def load(self, model: LocalModel) -> Load:
        return Load(
            path=str(model.path),
            name=model.name,
            runtime=self.runtime,
            n_ctx=self.n_ctx,
            n_threads=self.n_threads,
            cache_type=self.cache_type,
            max_sequences=self.parallel,
        )


@dataclass
class _Resident:
    engine: EngineProcess
    libraries: tuple[str, ...]
    users: int = 0


class Residency:
    """At most `max_loaded` models at a time. Every method may be called from any thread."""

    def __init__(self, options: EngineOptions, max_loaded: int = 1) -> None:
        self.options = options
        self._max_loaded = max_loaded
        self._changed = threading.Condition()
        self._resident: dict[str, _Resident] = {}  # least recently used first
        self._loading: set[str] = set()

    @contextmanager
    def use(self, model: LocalModel, libraries: tuple[str, ...] = ()) -> Iterator[EngineProcess]:
        """An engine for `model`, loaded now if need be; it is not evicted while in use.

        An engine that was started with other plugin `libraries` is replaced once it is idle: a library is never
        unloaded from a process. Waits while every place is taken by a model that is answering. Raises what loading
        raises.
        """
        engine = self._enter(model, libraries)
        try:
            yield engine
        finally:
            with self._changed:
                resident = self._resident.get(model.name)
                if resident is not None and resident.engine is engine:
                    resident.users -= 1
                self._changed.notify_all()

    def loaded(self) -> list[EngineProcess]:
        with self._changed:
            return [r.engine for r in self._resident.values() if r.engine.alive]

    def close(self) -> None:
        with self._changed:
            residents, self._resident = list(self._resident.values()), {}
        for resident in residents:
            resident.engine.close()

    def _enter(self, model: LocalModel, libraries: tuple[str, ...]) -> EngineProcess:
        with self._changed:
            while True:
                resident = self._resident.get(model.name)
                if resident is not None and resident.libraries != libraries and resident.users:
                    self._changed.wait()
                    continue
                if resident is not None and resident.engine.alive and resident.libraries == libraries:
                    resident.users += 1
                    self._resident[model.name] = self._resident.pop(model.name)
                    return resident.engine
                if resident is not None:
                    self._resident.pop(model.name).engine.close()
                if model.name not in self._loading and self._has_room():
                    self._loading.add(model.name)
                    break
                self._changed.wait()
        try:
            engine = EngineProcess(self.options.load(model))
        finally:
            with self._changed:
                self._loading.discard(model.name)
                self._changed.notify_all()
        with self._changed:
            self._resident[model.name] = _Resident(engine, libraries, users=1)
            self._changed.notify_all()
        return engine

    def _has_room(self) -> bool:
        """True when one more model may load; evicts an idle one for it."""
        if len(self._resident) + len(self._loading) < self._max_loaded:
            return True
        idle = next((name for name, r in self._resident.items() if r.users == 0), None)
        if idle is None:
            return False
        self._resident.pop(idle).engine.close()
        return True
