"""The one place that picks a runtime for a model file, with its reason."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gguf
import llama_cpp.llama_cpp as lib

from ..errors import BadRequest, UnsupportedModel
from ..gguf import Header
from ..settings import RUNTIME
from . import llama_log

RuntimeName = Literal["llama.cpp", "hybrid"]
REQUESTS = ("auto", "hybrid", "llama.cpp")


@dataclass(frozen=True)
class Choice:
    """`reason` is one sentence for a person."""

    runtime: RuntimeName
    reason: str


def choose(header: Header, model: str, requested: str = "auto") -> Choice:
    """Pick the runtime of a model file. `requested` "auto" follows CONIFER_GGUF_RUNTIME.

    Raises BadRequest for a word that is no runtime, UnsupportedModel when nobody knows the architecture.
    """
    if requested == "auto":
        requested = RUNTIME.get() or "auto"
    if requested not in REQUESTS:
        raise BadRequest(f"`{requested}` is not a runtime; there are {', '.join(REQUESTS)}", "runtime")
    if not llama_knows(header.architecture):
        raise UnsupportedModel(
            model, header.architecture, "the installed llama.cpp does not know this architecture"
        )
    return Choice("llama.cpp", "llama.cpp runs this architecture")


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
