"""Where chat templates run: jinja2's immutable sandbox, with the functions that templates expect, and a time limit."""

from __future__ import annotations

import ctypes
import datetime
import json
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

T = TypeVar("T")
MAX_PRODUCT = 1 << 24  # elements that a repeated string or list may have; also the bound of a power


class RenderLimit(Exception):
    """A template used more than it may; the text completes "the model's chat template ..."."""


class _Environment(ImmutableSandboxedEnvironment):
    """Refuses the two operators by which one expression can take all memory or all time."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            if not _is_small(left) or not _is_small(right) or abs(left) ** min(abs(right), 25) > MAX_PRODUCT:
                raise RenderLimit(f"computes a power beyond {MAX_PRODUCT}")
        else:
            for sequence, times in ((left, right), (right, left)):
                if (
                    isinstance(sequence, str | bytes | list | tuple)
                    and len(sequence) * int(times) > MAX_PRODUCT
                ):
                    raise RenderLimit(f"repeats something beyond {MAX_PRODUCT} elements")
        return super().call_binop(context, operator, left, right)


def _is_small(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= MAX_PRODUCT


def environment() -> ImmutableSandboxedEnvironment:
    """A fresh sandbox with what Hugging Face gives its templates."""
    made = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols],
        undefined=jinja2.ChainableUndefined,
    )
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    made.filters["tojson"] = _to_json
    return made


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes for HTML, which models were not trained on.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def within(seconds: float, work: Callable[[], T]) -> T:
    """The result of `work()`; RenderLimit when it runs longer. Cuts Python code, which a compiled template is."""
    lock = threading.Lock()
    over = fired = arrived = False
    thread = ctypes.c_ulong(threading.get_ident())

    def interrupt() -> None:
        nonlocal fired
        with lock:
            if not over:
                fired = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_Interrupted))

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        try:
            return work()
        except _Interrupted:
            arrived = True
            raise
        finally:
            with lock:
                over = True
            while fired and not arrived:  # it comes a few instructions late, and must not come outside
                time.sleep(0.001)
    except _Interrupted:
        raise RenderLimit(f"ran longer than {seconds:g} s") from None
    finally:
        timer.cancel()


class _Interrupted(BaseException):
    """Raised from outside in the thread that renders; never leaves this module."""
