"""The parent's end of an engine process: start it, send requests from any thread, survive its death."""

from __future__ import annotations

import collections
import contextlib
import itertools
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Generator
from pathlib import Path

from ..child import python_command
from ..errors import Cancelled, EngineDied
from .messages import Cancel, Event, Failed, Finished, Generate, Load, Loaded, Message, decode, encode

LAST_WORDS = 6  # lines of stderr to keep
POLL_S = 0.5  # how often a request that hears nothing asks whether anybody still wants it


class EngineProcess:
    """One model in a process of its own. Every method may be called from any thread.

    A process that dies fails its running requests with EngineDied; it is not restarted here: `alive` is then False, and
    the owner makes a new one for the next request.
    """

    def __init__(self, load: Load) -> None:
        """Spawn the process and wait until the model is loaded.

        Raises what loading raised in the process, or EngineDied.
        """
        self.name = load.name
        self.path = Path(load.path)
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._requests: dict[str, queue.SimpleQueue[Event]] = {}
        self._death: EngineDied | None = None
        self._closing = False
        self._stderr: collections.deque[str] = collections.deque(maxlen=LAST_WORDS)
        self._process = subprocess.Popen(
            python_command("conifer_gguf.worker.main"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal is not for it
        )
        self._drain = threading.Thread(target=self._read_stderr, daemon=True)
        self._drain.start()
        self._send(load)
        self.info = self._await_loaded()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._death is None and not self._closing and self._process.poll() is None

    def new_id(self) -> str:
        return f"{self.name}-{next(self._ids)}"

    def generate(
        self, request: Generate, abandoned: Callable[[], bool] = lambda: False
    ) -> Generator[Event, None, None]:
        """Events of one request, as they happen; the last is Finished. Closing the iterator cancels the request.

        Raises the request's error, EngineDied, or Cancelled once `abandoned()` is true: nobody waits for the answer.
        """
        inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        with self._lock:
            if self._death is not None:
                raise self._death
            self._requests[request.id] = inbox
        done = False
        try:
            self._send(request)
            while not done:
                if abandoned():
                    raise Cancelled()
                try:
                    event = inbox.get(timeout=POLL_S)
                except queue.Empty:
                    continue
                if isinstance(event, Failed):
                    done = True
                    raise event.error
                done = isinstance(event, Finished)
                yield event
        finally:
            with self._lock:
                self._requests.pop(request.id, None)
            if not done:
                self._send(Cancel(request.id))

    def cancel(self, request_id: str) -> None:
        """Stop a request; its iterator ends with Finished("cancelled")."""
        self._send(Cancel(request_id))

    def close(self) -> None:
        """End the process and free all its memory; running requests fail. Twice is allowed."""
        self._closing = True
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _send(self, message: Message) -> None:
        assert self._process.stdin is not None
        try:
            with self._lock:
                self._process.stdin.write(encode(message))
                self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # the process is gone: the reading thread tells every request so

    def _await_loaded(self) -> Loaded:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        message = decode(line) if line else Failed("", self._died())
        if isinstance(message, Loaded):
            return message
        self.close()
        assert isinstance(message, Failed)
        raise message.error

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                event = decode(line)
                assert not isinstance(event, Load | Loaded | Generate | Cancel)
                with self._lock:
                    inbox = self._requests.get(event.id)
                if inbox is not None:
                    inbox.put(event)
        except ValueError:
            pass  # closed while reading
        death = self._died()
        with self._lock:
            self._death = death
            waiting = list(self._requests.items())
        for request_id, inbox in waiting:
            inbox.put(Failed(request_id, death))

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        try:
            for line in self._process.stderr:
                text = line.decode("utf-8", "replace").strip()
                if text:
                    self._stderr.append(text)
        except ValueError:
            pass  # closed while reading

    def _died(self) -> EngineDied:
        code = self._process.wait()
        self._drain.join(timeout=1)
        if self._closing:
            cause = "it was unloaded"
        elif code < 0:
            cause = f"killed by {signal.Signals(-code).name}"
        else:
            cause = f"exit code {code}"
        return EngineDied(self.name, cause, " | ".join(self._stderr))
