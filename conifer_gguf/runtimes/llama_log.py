"""Keeps llama.cpp's log: nothing reaches the terminal, its last lines explain a failure."""

from __future__ import annotations

import ctypes
import os
from collections import deque

import llama_cpp.llama_cpp as lib

_lines: deque[str] = deque(maxlen=40)
WARNING = 3  # ggml_log_level: 1 debug, 2 info, 3 warning, 4 error, 5 continues the line before


def _keep(level: int, text: bytes, _user: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace").strip()
    if level >= WARNING and line and level != 5:
        _lines.append(line)


def _say_why(message: bytes) -> None:
    os.write(2, message.strip() + b"\n")


# Native code keeps these for as long as the process lives.
_on_log = lib.llama_log_callback(_keep)
_on_abort = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_say_why)


def install() -> None:
    """Send llama.cpp's log here. Any number of times; affects the whole process.

    A process that ggml aborts names the failed assertion on stderr, as its last line: ggml's own way is to run a debugger
    for a backtrace.
    """
    lib.llama_log_set(_on_log, ctypes.c_void_p(0))
    lib._lib.ggml_set_abort_callback(_on_abort)


def forget() -> None:
    """Begin a new operation: warnings of the one before do not explain its failure."""
    _lines.clear()


def last_words(n: int = 3) -> str:
    """The last warnings and errors, newest last."""
    return "; ".join(list(_lines)[-n:]) or "llama.cpp gave no reason"
