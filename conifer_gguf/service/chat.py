"""One answer: have an engine ready, stream what it says."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace

from ..gguf import read_header
from ..store.library import LocalModel
from ..worker.messages import Event, Generate
from ..worker.process import EngineProcess
from . import status
from .residency import Residency


def engine_for(residency: Residency, model: LocalModel) -> AbstractContextManager[EngineProcess]:
    """The engine of a model, in use as long as the block lasts.

    Raises BadModelFile, UnsupportedModel, ModelLoadGated, and on entry what loading raises.
    """
    ready = status.require_ready(model.name, read_header(model.path), residency.options.runtime)
    return residency.use(model, ready.libraries)


def answer(
    residency: Residency, model: LocalModel, request: Generate, abandoned: Callable[[], bool] = lambda: False
) -> tuple[LocalModel, Generator[Event, None, None]]:
    """Start a generation. The first event has been waited for, so what is wrong with the request is raised here.

    Closing the iterator cancels the generation, as does `abandoned()` becoming true. Raises BadModelFile, Cancelled, and
    all that loading and tokenising raise.
    """
    stack = ExitStack()
    try:
        engine = stack.enter_context(engine_for(residency, model))
        events = engine.generate(replace(request, id=engine.new_id()), abandoned)
        stack.callback(events.close)
        first = next(events)
    except BaseException:
        stack.close()
        raise
    return model, _run(stack, first, events)


def _run(
    stack: ExitStack, first: Event, events: Generator[Event, None, None]
) -> Generator[Event, None, None]:
    with stack:
        yield first
        yield from events
