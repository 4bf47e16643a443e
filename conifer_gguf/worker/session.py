"""The Python API: one model, one conversation, in this process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..engine.memory import Plan
from ..errors import BadRequest
from ..runtimes.base import Logits, Runtime, SequenceId, Snapshot
from ..store import library
from .load import open_runtime
from .loop import Loop
from .messages import Failed, Finished, Generate, Text
from .sampler import Sampling


def load(
    path_or_name: str | Path,
    runtime: str = "auto",
    n_ctx: int | None = None,
    n_threads: int | None = None,
    cache_type: str = "f16",
) -> Session:
    """Load a model for use from Python, in this process.

    `path_or_name` is a file, or the name of a model that was pulled. `n_ctx` in tokens: by default the native length,
    at most 32,768, sized to the memory that is free. `cache_type` is "f16", "f32" or "q8_0".

    Raises UnknownModel, ModelNotOnDisk, BadModelFile, DoesNotFit, RuntimeFailure.
    """
    model = library.find(str(path_or_name))
    loaded = open_runtime(
        model.path, model.name, runtime=runtime, n_ctx=n_ctx, n_threads=n_threads, cache_type=cache_type
    )
    return Session(loaded.runtime, loaded.plan, loaded.choice.reason)


@dataclass(frozen=True)
class SessionSnapshot:
    """A position to come back to; lives on when the session moves on."""

    state: Snapshot | None
    tokens: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)


class Session:
    """A loaded model and one sequence of tokens. For one thread; close it, or use it as a context manager.

    `eval` and `logits` feed the session's own tokens; `generate` and `chat` begin anew and drop them, and a new
    generation ends the one before. Every method raises BadRequest once the session is closed.

    Where `split_exact` is true, logits do not depend on how tokens are fed: `logits(ids)` has the bits of any sequence of
    `eval`s of the same ids, also after `restore` or `fork`, on any number of threads. Where it is false they agree
    to 1e-5 with float32 weights and a float32 cache, and to the rounding of their activations with quantised ones.
    """

    def __init__(self, runtime: Runtime, plan: Plan, reason: str) -> None:
        self._open_runtime: Runtime | None = runtime
        self._sequence: SequenceId | None = None
        self._tokens: list[int] = []
        self._loop: Loop | None = None
        self._answering: str | None = None
        self._ids = itertools.count()
        self.plan = plan
        self.reason = reason

    @property
    def _runtime(self) -> Runtime:
        if self._open_runtime is None:
            raise BadRequest("this session is closed", suggestion="conifer_gguf.load(...) opens a new one")
        return self._open_runtime

    @property
    def runtime(self) -> str:
        """Which runtime runs it: llama.cpp or hybrid."""
        return self._runtime.info.name

    @property
    def n_ctx(self) -> int:
        return self._runtime.info.n_ctx

    @property
    def n_vocab(self) -> int:
        return self._runtime.info.n_vocab

    @property
    def split_exact(self) -> bool:
        """Whether any cut of the tokens into calls gives the same bits; `split_dependent` says what is in the way."""
        return self._runtime.info.split_exact

    @property
    def split_dependent(self) -> tuple[str, ...]:
        """What may give other bits for another cut: weights that ggml multiplies, ops whose kernel promises less, a runtime."""
        return self._runtime.info.split_dependent

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        return self._runtime.vocabulary.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, ids: Sequence[int]) -> str:
        return self._runtime.vocabulary.detokenize([int(t) for t in ids])

    def logits(self, ids: Sequence[int]) -> Logits:
        """float32 [T, n_vocab] for every position of `ids`, read from an empty state. What was fed before is dropped."""
        self.reset()
        return self._feed(ids, "all")

    def eval(self, ids: Sequence[int]) -> Logits:
        """float32 [n_vocab] after the last of `ids`, which are fed after everything that was fed before."""
        last: Logits = self._feed(ids, "last")[0]
        return last

    def reset(self) -> None:
        """Forget everything that was fed."""
        self._drop_loop()
        if self._sequence is not None:
            self._runtime.close(self._sequence)
            self._sequence = None
        self._tokens = []

    def snapshot(self) -> SessionSnapshot:
        """The state after what was fed by `eval` or `logits`."""
        state = None if self._sequence is None else self._runtime.snapshot(self._sequence)
        return SessionSnapshot(state, tuple(self._tokens))

    def restore(self, snapshot: SessionSnapshot) -> None:
        """Go back to a snapshot of this session; the next logits are those of then, bit for bit."""
        self.reset()
        if snapshot.state is not None:
            self._sequence = self._runtime.restore(snapshot.state)
            self._tokens = list(snapshot.tokens)

    def generate(self, prompt: str, **options: Any) -> Iterator[str]:
        """Pieces of text that continue `prompt`. Options: `max_tokens`, `stop`, and the fields of `Sampling`."""
        return self._run({"prompt": prompt}, options)

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Iterator[str]:
        """Pieces of the answer to a conversation, by the model's chat template. Options as for `generate`, and
        `template_options` for the template. A follow-up turn reads only what is new."""
        return self._run({"messages": tuple(dict(m) for m in messages)}, options)

    def close(self) -> None:
        """Free the model. Twice is allowed."""
        if self._open_runtime is not None:
            self._drop_loop()
            self._open_runtime.shutdown()
            self._open_runtime = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _feed(self, ids: Sequence[int], which: Any) -> Logits:
        tokens = [int(t) for t in np.asarray(ids).ravel()]
        self._drop_loop()
        if self._sequence is None:
            self._sequence = self._runtime.open()
        logits = self._runtime.advance({self._sequence: tokens}, logits=which)[self._sequence]
        self._tokens += tokens
        return logits

    def _drop_loop(self) -> None:
        """The loop keeps sequences parked for follow-up turns; the session's own sequence needs their room."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None
            self._answering = None

    def _run(self, what: dict[str, Any], options: dict[str, Any]) -> Iterator[str]:
        request_options = {
            k: options.pop(k) for k in ("max_tokens", "stop", "template_options") if k in options
        }
        if isinstance(request_options.get("stop"), str):
            request_options["stop"] = (request_options["stop"],)
        request = Generate(id=str(next(self._ids)), sampling=Sampling(**options), **what, **request_options)
        if self._loop is None:
            self.reset()
            self._loop = Loop(self._runtime)
        loop = self._loop
        if self._answering is not None:
            loop.cancel(self._answering)
        self._answering = request.id
        loop.submit(request)
        try:
            while self._answering == request.id:
                yield from self._texts(loop, request.id)
        finally:
            if self._answering == request.id:  # the caller stopped reading
                self._answering = None
                loop.cancel(request.id)
                loop.step()

    def _texts(self, loop: Loop, request_id: str) -> Iterator[str]:
        """Text of one step. The generation before, if it was still running, ends in it unheard."""
        for event in loop.step():
            if event.id != request_id:
                continue
            if isinstance(event, Failed | Finished):
                self._answering = None
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Text) and event.text:
                yield event.text
