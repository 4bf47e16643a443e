"""The one place that picks a runtime for a model file, with its reason."""

from __future__ import annotations

import functools
import shlex
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import gguf
import llama_cpp.llama_cpp as lib

from ..arch import architectures, geometry
from ..errors import BadRequest, ModelLoadGated, UnsupportedModel
from ..gguf import Header
from ..native_api import registry
from ..ops import contracts
from ..settings import ARCHITECTURES, RUNTIME
from . import llama_log

RuntimeName = Literal["llama.cpp", "hybrid"]
REQUESTS = ("auto", "hybrid", "llama.cpp")


@dataclass(frozen=True)
class Choice:
    """`runtime` None: nobody here knows the architecture.

    `reason` is one sentence for a person. `needs` are ops of the hybrid runtime without a registered kernel, `supply`
    the plugins that supply the others, `register` known plugins that would supply what is missing.
    """

    runtime: RuntimeName | None
    reason: str
    needs: tuple[str, ...] = ()
    supply: tuple[str, ...] = ()
    register: tuple[str, ...] = ()
    also_runs_with: tuple[RuntimeName, ...] = ()
    libraries: tuple[str, ...] = ()  # sha256 of the libraries behind `supply`
    by_setting: bool = False  # an environment variable went against what would have been chosen


def choose(architecture: str, requested: str = "auto") -> Choice:
    """Pick the runtime of an architecture. "auto" follows CONIFER_GGUF_RUNTIME, then prefers our own kernels.

    Raises BadRequest for a word that is no runtime.
    """
    setting = RUNTIME.get() if requested == "auto" else None
    asked = setting or requested
    if asked not in REQUESTS:
        where = f"{RUNTIME.name} is `{asked}`" if setting else f"`{asked}` is not a runtime"
        raise BadRequest(f"{where}; there are {', '.join(REQUESTS)}", "runtime")
    ours, theirs = architecture in architectures(), llama_knows(architecture)
    if asked == "llama.cpp" or (asked == "auto" and not ours):
        if not theirs:
            return Choice(None, _unknown_to_llama(architecture, ours))
        why = (
            f"{RUNTIME.name} is set"
            if setting
            else "as asked"
            if ours
            else "llama.cpp runs this architecture"
        )
        return Choice("llama.cpp", why, by_setting=setting is not None and ours)
    if not ours:
        return Choice(None, _unknown_to_us(architecture, theirs))
    return _hybrid(architecture, theirs)


def _unknown_to_llama(architecture: str, ours: bool) -> str:
    fact = f"the installed llama.cpp (llama-cpp-python {version('llama-cpp-python')}) does not know `{architecture}`"
    if ours:
        return f"{fact}; --runtime hybrid runs it"
    return (
        f"{fact}, and no architecture file here does; a newer llama-cpp-python might, or a package that brings it "
        f"(entry-point group {ARCHITECTURES})"
    )


def _unknown_to_us(architecture: str, theirs: bool) -> str:
    fact = f"no architecture file here answers to `{architecture}`, so the hybrid runtime cannot run it"
    return f"{fact}; --runtime llama.cpp does" if theirs else fact


def _hybrid(architecture: str, llama_too: bool) -> Choice:
    ops = ops_of(architecture)
    needs = registry.missing(ops)
    also: tuple[RuntimeName, ...] = ("llama.cpp",) if llama_too else ()
    if needs:
        reason = f"no registered plugin supplies {', '.join(needs)}"
        return Choice("hybrid", reason, needs, register=suppliers(needs), also_runs_with=also)
    plugins = [p for p in registry.registered() if set(p.ops) & set(ops) and not registry.changed(p)]
    return Choice(
        "hybrid",
        "registered plugins supply its kernels",
        supply=tuple(f"{p.name} {p.version}" for p in plugins),
        also_runs_with=also,
        libraries=tuple(p.sha256 for p in plugins),
    )


def ops_of(architecture: str) -> tuple[str, ...]:
    """What an architecture calls, the op that gives its layers their name first."""
    ops = architectures()[architecture].KERNELS
    return tuple(sorted(ops, key=lambda op: not (op in contracts() and contracts()[op].layers)))


def require(model: str, header: Header, requested: str = "auto") -> Choice:
    """The choice for a model that is about to be loaded.

    Raises UnsupportedModel when nobody knows the architecture, ModelLoadGated when a kernel is missing.
    """
    architecture = header.architecture
    choice = choose(architecture, requested)
    if choice.runtime is None:
        hint = f"conifer-gguf inspect {shlex.quote(str(header.path))}"
        raise UnsupportedModel(model, architecture, choice.reason, hint)
    if choice.needs:
        layers = recurrent_layers(architecture, geometry(header).layer_kinds)
        attempts = tuple(line for op in choice.needs for line in registry.tried(op))
        raise ModelLoadGated(
            model,
            choice.needs,
            choice.register,
            layers,
            choice.also_runs_with,
            tuple(dict.fromkeys(attempts)),
        )
    return choice


def suppliers(ops: tuple[str, ...]) -> tuple[str, ...]:
    """Names of known plugins that would supply `ops`, in that order: bundled ones, and installed ones for the rest."""
    names: list[str] = []
    for op in ops:
        offers = [c for c in registry.known() if op in c.manifest.ops and c.library.is_file()]
        offers.sort(key=lambda c: c.source != "bundled")
        names += [c.name for c in offers[:1] if c.name not in names]
    return tuple(names)


def recurrent_layers(architecture: str, kinds: tuple[str, ...]) -> str:
    """`36 of 40 layers are Mamba-2`; empty where no op of the architecture says what its layers are called."""
    known = architectures().get(architecture)
    names = [contracts()[op].layers for op in (known.KERNELS if known else ()) if op in contracts()]
    called = next((name for name in names if name), "")
    n = sum(kind in ("recurrent", "both") for kind in kinds)
    return f"{n} of {len(kinds)} layers are {called}" if called and n else ""


def llama_has_gpu() -> bool:
    """True where the installed llama.cpp was built with a GPU backend that finds a device."""
    return bool(lib.llama_supports_gpu_offload())


@functools.cache
def llama_knows(architecture: str) -> bool:
    """Ask the installed llama.cpp, by a file that holds nothing but the architecture's name."""
    llama_log.install()
    with tempfile.TemporaryDirectory(prefix="conifer-probe-") as folder:
        probe = Path(folder) / "probe.gguf"
        writer = gguf.GGUFWriter(probe, architecture)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        params = lib.llama_model_default_params()
        params.vocab_only = True
        model = lib.llama_model_load_from_file(str(probe).encode(), params)
    if model is not None:
        lib.llama_model_free(model)
        return True
    return "unknown model architecture" not in llama_log.last_words()
