"""From a model file to a runtime that is ready: verify, choose, size the window, load."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ..arch import architectures, geometry
from ..engine import memory
from ..engine.blocks import OP as ATTENTION
from ..errors import BadRequest
from ..gguf import Header, read_header
from ..native_api import registry
from ..runtimes import tune
from ..runtimes.base import CacheType, Runtime
from ..runtimes.choose import Choice, require
from ..runtimes.hybrid import HybridRuntime
from ..runtimes.llama import LlamaRuntime, LlamaSetting
from ..runtimes.threads import default_threads

DEFAULT_WINDOW = 32_768  # tokens; a longer window is asked for with n_ctx


@dataclass(frozen=True)
class LoadedModel:
    runtime: Runtime
    choice: Choice
    plan: memory.Plan
    tuned_s: float = 0.0  # what measuring the machine took, at its first hybrid


def plan_for(
    name: str,
    header: Header,
    runtime: str | None,
    n_ctx: int | None = None,
    cache_type: str = "f16",
    n_sequences: int = 1,
) -> memory.Plan:
    """What loading this file would take. Raises DoesNotFit."""
    return memory.fit(
        name,
        geometry(header),
        n_ctx=n_ctx,
        cache_type=cache_type,
        n_sequences=n_sequences,
        default_limit=DEFAULT_WINDOW,
        runtime=runtime,
        attention_kernel=not registry.missing((ATTENTION,)),
    )


def open_runtime(
    path: Path,
    name: str,
    *,
    runtime: str = "auto",
    n_ctx: int | None = None,
    n_threads: int | None = None,
    cache_type: str = "f16",
    max_sequences: int = 1,
    llama: LlamaSetting | None = None,
) -> LoadedModel:
    """Load a model file. `llama` overrides what llama.cpp would be told, to measure it.

    The first hybrid on a machine is preceded by a second of measuring, whose result is remembered (`runtimes/tuning.py`).

    Raises BadModelFile before native code sees a file that is not sound, DoesNotFit before anything is allocated,
    BadRequest for a value that makes no sense, ModelLoadGated where a kernel is missing.
    """
    if cache_type not in get_args(CacheType):
        raise BadRequest(
            f"`{cache_type}` is not a cache type; there are {', '.join(get_args(CacheType))}", "cache_type"
        )
    for parameter, value in (("n_ctx", n_ctx), ("n_threads", n_threads)):
        if value is not None and value < 1:
            raise BadRequest(f"`{parameter}` is {value}, at least 1 is needed", parameter)
    header = read_header(path)
    choice = require(name, header, runtime)
    plan = plan_for(name, header, choice.runtime, n_ctx, cache_type, max_sequences)
    how: dict[str, Any] = {
        "n_ctx": plan.n_ctx,
        "n_threads": n_threads or default_threads(),
        "cache_type": cache_type,
        "max_sequences": max_sequences,
    }
    tuned_s = 0.0
    if choice.runtime == "hybrid":
        started = time.perf_counter()
        tuned = tune.for_loading(header)
        tuned_s = time.perf_counter() - started
        how["n_threads"] = n_threads or tuned.n_threads
        architecture = architectures()[header.architecture]
        loaded: Runtime = HybridRuntime(header, architecture, by_ggml=tuned.by_ggml, **how)
    else:
        setting = llama or LlamaSetting()
        flash = plan.flash if setting.flash is None else setting.flash
        loaded = LlamaRuntime(path, flash=flash, repack=setting.repack, **how)
    return LoadedModel(loaded, choice, plan, tuned_s)
