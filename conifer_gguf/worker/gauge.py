"""A process that measures one runtime: it feeds tokens, keeps the time, and says how much memory it holds.

The parent's end is gauge_process.py. What crosses the pipes is pickled: (method, arguments) in, (result, error) out.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil

from ..errors import ConiferError
from ..runtimes.base import Runtime, RuntimeInfo
from ..runtimes.llama import LlamaSetting
from .load import open_runtime

SEED = 20  # of the tokens that are fed; what they are does not change the work


@dataclass(frozen=True)
class Subject:
    """What is measured: one file on one runtime. `llama` is how llama.cpp is told to run it."""

    path: Path
    name: str
    runtime: str
    n_threads: int | None
    cache_type: str
    llama: LlamaSetting | None = None


@dataclass(frozen=True)
class Opened:
    info: RuntimeInfo
    load_s: float


@dataclass(frozen=True)
class Round:
    """One prompt after what the context holds, and the tokens after it. Seconds; `rss_bytes` at the end of it.

    `ttft_s` ends when the first token is picked; `decode_s` is for `n_decode` steps of one token.
    """

    n_prompt: int
    n_decode: int
    ttft_s: float
    decode_s: float
    rss_bytes: int


class Gauge:
    """One runtime and one sequence. The window is as long as what is measured needs: so much memory a user pays."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._open_runtime: Runtime | None = None
        self._sequence = 0
        self._random = np.random.default_rng(SEED)
        self._folder = tempfile.TemporaryDirectory(prefix="conifer-gauge-")
        self._mark = Path(self._folder.name) / "mark"

    def open(self, n_ctx: int) -> Opened:
        """Load with a window of `n_ctx` tokens; what a shorter window held goes on in the longer one."""
        held = self._close_runtime()
        started = time.perf_counter()
        subject = self._subject
        loaded = open_runtime(
            subject.path,
            subject.name,
            runtime=subject.runtime,
            n_ctx=n_ctx,
            n_threads=subject.n_threads,
            cache_type=subject.cache_type,
            llama=subject.llama,
        )
        runtime = loaded.runtime
        load_s = time.perf_counter() - started - loaded.tuned_s
        self._open_runtime = runtime
        self._sequence = runtime.open() if held is None else runtime.restore(held)
        return Opened(runtime.info, load_s)

    def fill(self, n_tokens: int) -> float:
        """Read `n_tokens` more; seconds."""
        started = time.perf_counter()
        self._runtime.advance({self._sequence: self._tokens(n_tokens)})
        return time.perf_counter() - started

    def mark(self) -> None:
        """Every round begins here from now on. Kept in a file, so that it does not count as memory of the runtime."""
        if self._runtime.length(self._sequence):
            with self._mark.open("wb") as file:
                pickle.dump(self._runtime.snapshot(self._sequence), file)

    def round(self, n_prompt: int, n_decode: int) -> Round:
        """Back to the mark, then a prompt and `n_decode` tokens one by one."""
        self._rewind()
        prompt, more = self._tokens(n_prompt), self._tokens(n_decode)
        runtime, sequence = self._runtime, self._sequence
        started = time.perf_counter()
        int(runtime.advance({sequence: prompt})[sequence][-1].argmax())
        first = time.perf_counter()
        for token in more:
            int(runtime.advance({sequence: [token]})[sequence][-1].argmax())
        end = time.perf_counter()
        rss = int(psutil.Process().memory_info().rss)
        return Round(n_prompt, n_decode, first - started, end - first, rss)

    def logits(self, tokens: Sequence[int], pieces: Sequence[int], target: Path) -> float:
        """Write the logits of every position, fed in `pieces`, as raw float32 [T, n_vocab] to `target`; seconds of computing."""
        self._rewind()
        at, seconds = 0, 0.0
        with target.open("wb") as file:
            for n in pieces:
                started = time.perf_counter()
                rows = self._runtime.advance({self._sequence: tokens[at : at + n]}, logits="all")
                seconds += time.perf_counter() - started
                rows[self._sequence].tofile(file)
                at += n
        return seconds

    def tokenize(self, text: str) -> list[int]:
        return self._runtime.vocabulary.tokenize(text)

    def close(self) -> None:
        self._close_runtime()
        self._folder.cleanup()

    @property
    def _runtime(self) -> Runtime:
        assert self._open_runtime is not None, "open comes first"
        return self._open_runtime

    def _tokens(self, n: int) -> list[int]:
        return [int(t) for t in self._random.integers(0, self._runtime.info.n_vocab, n)]

    def _rewind(self) -> None:
        runtime = self._runtime
        runtime.close(self._sequence)
        if self._mark.exists():
            with self._mark.open("rb") as file:
                self._sequence = runtime.restore(pickle.load(file))
            _give_back_memory()
        else:
            self._sequence = runtime.open()

    def _close_runtime(self) -> Any:
        """The snapshot of what was fed up to the mark; None where nothing was."""
        runtime, self._open_runtime = self._open_runtime, None
        if runtime is None:
            return None
        runtime.shutdown()
        if not self._mark.exists():
            return None
        with self._mark.open("rb") as file:
            return pickle.load(file)


def _give_back_memory() -> None:
    """What malloc keeps of a mark that was read is not the runtime's. Only glibc can be told to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def main() -> NoReturn:
    # As in the engine process: what a library prints must not reach the pipe.
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    requests = sys.stdin.buffer
    gauge = Gauge(pickle.load(requests))
    try:
        while True:
            method, arguments = pickle.load(requests)
            try:
                reply: tuple[Any, ConiferError | None] = (getattr(gauge, method)(**arguments), None)
            except ConiferError as error:
                reply = (None, error)
            pickle.dump(reply, pipe)
            pipe.flush()
    except (EOFError, BrokenPipeError):
        sys.exit(0)  # the parent is done, or gone
    finally:
        gauge.close()
