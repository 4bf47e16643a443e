"""The engine process: messages on stdin and stdout. worker/process.py is the parent's end.

It dies with its parent, because its input ends then: also while loading and in the middle of a step, since a thread of
its own reads. (PR_SET_PDEATHSIG would follow the thread that spawned it, and a server's threads come and go.) Anything
that native code prints goes to stderr, whose last lines the parent keeps as the last words of a process that died.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO, NoReturn

from ..errors import ConiferError
from .load import LoadedModel, open_runtime
from .loop import Loop
from .messages import Cancel, Failed, Generate, Load, Loaded, Message, decode, encode


def main() -> NoReturn:
    # A stray print of a library must not reach the pipe: keep the real stdout, point descriptor 1 at stderr.
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which cancels
    inbox = Inbox()
    threading.Thread(target=inbox.read, daemon=True).start()
    load = inbox.messages.get()
    assert isinstance(load, Load)
    started = time.perf_counter()
    try:
        loaded = open_runtime(
            Path(load.path),
            load.name,
            runtime=load.runtime,
            n_ctx=load.n_ctx,
            n_threads=load.n_threads,
            cache_type=load.cache_type,
            max_sequences=load.max_sequences,
        )
        loop = Loop(loaded.runtime)
    except ConiferError as error:
        send(pipe, Failed("", error))
        sys.exit(1)
    inbox.loop = loop
    send(pipe, ready(loaded, loop, time.perf_counter() - started))
    serve(loop, inbox, pipe)


def ready(loaded: LoadedModel, loop: Loop, load_s: float) -> Loaded:
    notices: tuple[str, ...] = ()
    if loop.template.is_fallback:
        notices = ("this file has no chat template; chats use a plain one",)
    return Loaded(loaded.runtime.info, loaded.choice.reason, not loop.template.is_fallback, load_s, notices)


class Inbox:
    """Messages from the parent, in order. The reading thread does no native work; it only stops some."""

    def __init__(self) -> None:
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.loop: Loop | None = None

    def read(self) -> NoReturn:
        for line in sys.stdin.buffer:
            message = decode(line)
            if isinstance(message, Cancel) and self.loop is not None:
                self.loop.cancel(message.id)
            self.messages.put(message)
        os._exit(0)  # the parent is gone; the main thread may be deep in native code


def serve(loop: Loop, inbox: Inbox, pipe: BinaryIO) -> NoReturn:
    """Run requests for ever; all native work happens in this thread."""
    while True:
        while loop.idle or not inbox.messages.empty():
            message = inbox.messages.get()
            if isinstance(message, Generate):
                loop.submit(message)
            elif isinstance(
                message, Cancel
            ):  # again: the first time its request may not have been submitted yet
                loop.cancel(message.id)
        for event in loop.step():
            send(pipe, event)


def send(pipe: BinaryIO, message: Message) -> None:
    pipe.write(encode(message))
    pipe.flush()
