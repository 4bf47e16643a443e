"""Run GGUF language models on one ordinary machine, best where context gets long."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from . import errors

if TYPE_CHECKING:
    from .worker.session import Session, load

__version__ = version("conifer-gguf")
__all__ = ["Session", "__version__", "errors", "load"]


def __getattr__(name: str) -> Any:
    # Loading llama.cpp takes most of a second; `conifer-gguf list` should not wait for it.
    if name in ("Session", "load"):
        from .worker import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
