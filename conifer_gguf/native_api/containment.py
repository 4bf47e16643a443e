"""Runs a plugin's code in a child process, with budgets of memory and time. Fault containment, not a sandbox.

A crash, a loop without end, an exit or an allocation of gigabytes ends the child and becomes one sentence here. The
child runs with the user's rights: what it may read and write is not limited.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import IO, Any, Final

import psutil

from ..child import python_command
from ..settings import format_bytes

Message = dict[str, Any]
POLL_SECONDS: Final = 0.2
LAST_WORDS: Final = 1 << 16  # bytes of stderr that are kept: a sanitizer's report begins with what it found


@dataclass(frozen=True)
class Budget:
    """`memory` in bytes beyond what the child needs itself, None for no limit (the sanitizers map terabytes).

    The times are between two messages: of the processor, which a loop burns however busy the machine is, and on the
    clock, for a child that sleeps.
    """

    memory: int | None = 1 << 30
    cpu_seconds: float = 10.0
    wall_seconds: float = 60.0


class ChildEnded(Exception):
    """The child ended before its work did: `problem` says how, `last` is its last message."""

    def __init__(self, problem: str, last: Message | None, last_words: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.last = last
        self.last_words = last_words


def run_child(
    module: str, request: Mapping[str, Any], budget: Budget, environment: Mapping[str, str] | None = None
) -> Iterator[Message]:
    """The messages of `module.main()` in a child, as they come; returns after `{"end": true}`.

    Raises ChildEnded when it crashes, exits early or goes over its budget. Closing the iterator kills the child.
    """
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **(environment or {})}
    with tempfile.TemporaryFile() as words:
        child = subprocess.Popen(
            python_command(module), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, env=env
        )
        try:
            assert child.stdin is not None
            child.stdin.write(json.dumps({"request": request, "budget": asdict(budget)}).encode() + b"\n")
            child.stdin.flush()
            yield from _listen(child, budget, words)
        except BrokenPipeError:
            raise _ended(child, budget, None, words) from None
        finally:
            child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    _close_quietly(stream)


def _listen(child: subprocess.Popen[bytes], budget: Budget, words: IO[bytes]) -> Iterator[Message]:
    assert child.stdout is not None
    last: Message | None = None
    buffer = b""
    watch = _Watch(child.pid, budget)
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if selector.select(POLL_SECONDS):
                read = os.read(child.stdout.fileno(), 1 << 16)
                if not read:
                    raise _ended(child, budget, last, words)
                *lines, buffer = (buffer + read).split(b"\n")
                for line in lines:
                    last = json.loads(line)
                    if "end" in last:
                        return
                    yield last
                watch.restart()
            elif over := watch.over():
                raise ChildEnded(over, last, _tail(words))


class _Watch:
    """Time since the child's last message."""

    def __init__(self, pid: int, budget: Budget) -> None:
        self._process = psutil.Process(pid)
        self._budget = budget
        self.restart()

    def restart(self) -> None:
        self._cpu, self._wall = self._cpu_now(), time.monotonic()

    def over(self) -> str | None:
        if self._cpu_now() - self._cpu > self._budget.cpu_seconds:
            return f"it computed for more than {self._budget.cpu_seconds:g} s and was stopped"
        if time.monotonic() - self._wall > self._budget.wall_seconds:
            return f"it did not come back within {self._budget.wall_seconds:g} s and was stopped"
        return None

    def _cpu_now(self) -> float:
        try:
            times = self._process.cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(times.user + times.system)


def _ended(
    child: subprocess.Popen[bytes], budget: Budget, last: Message | None, words: IO[bytes]
) -> ChildEnded:
    code, text = child.wait(), _tail(words)
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        limit = (
            f", with a memory budget of {format_bytes(budget.memory)}" if budget.memory is not None else ""
        )
        return ChildEnded(f"it crashed with {name}{limit}", last, text)
    # An exception of ours, or of a reference.py, ends in its last line.
    said = f": {text.splitlines()[-1]}" if text.startswith("Traceback") else ""
    return ChildEnded(f"it ended the process with exit code {code}{said}", last, text)


def _tail(words: IO[bytes]) -> str:
    size = words.seek(0, os.SEEK_END)
    words.seek(max(0, size - LAST_WORDS))
    return words.read().decode("utf-8", "replace").strip()


def _close_quietly(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        return  # what was not flushed is of no interest to a dead child


# --- the child's end ---------------------------------------------------------------------------------------------


class Reporter:
    """The child's end of the pipe: reads the request, limits itself, and sends messages."""

    def __init__(self) -> None:
        # A plugin that prints must not reach the pipe: keep the real stdout, point descriptor 1 at stderr.
        self._pipe = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
        received = json.loads(sys.stdin.buffer.readline())
        self.request: dict[str, Any] = received["request"]
        self._memory: int | None = received["budget"]["memory"]
        threading.Thread(target=_die_with_parent, daemon=True).start()

    def limit_memory(self) -> None:
        """From here on the process may grow by its budget; call it when everything of ours is loaded."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if self._memory is not None:
            limit = psutil.Process().memory_info().vms + self._memory
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def send(self, message: Mapping[str, Any]) -> None:
        self._pipe.write(json.dumps(message).encode() + b"\n")
        self._pipe.flush()

    def end(self) -> None:
        """The work is done; leaves at once, because a plugin's destructors are nobody's business any more."""
        self.send({"end": True})
        os._exit(0)


def _die_with_parent() -> None:
    # The descriptor, not sys.stdin: a thread that holds its lock at exit makes the interpreter abort.
    while os.read(0, 1):
        pass
    os._exit(1)
