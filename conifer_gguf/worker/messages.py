"""What crosses the pipe between the server and an engine process, and what the generation loop takes and gives.

Each message is a frozen dataclass; on the pipe it is one line of JSON with the class name under `type`. Text, settings
and counters cross; logits and carry never do.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import ConiferError, from_wire
from ..runtimes.base import RuntimeInfo
from .sampler import Sampling

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Load:
    """First message to an engine process."""

    path: str
    name: str
    runtime: str
    n_ctx: int | None
    n_threads: int | None
    cache_type: str
    max_sequences: int


@dataclass(frozen=True)
class Generate:
    """One generation: `messages` for a chat, or `prompt` for raw completion. `top_logprobs` None: no logprobs at all."""

    id: str
    messages: tuple[dict[str, Any], ...] | None = None
    prompt: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    template_options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cancel:
    id: str


@dataclass(frozen=True)
class Loaded:
    """The engine is ready. `notices` are things a person should know, one sentence each. `load_s` in seconds."""

    info: RuntimeInfo
    reason: str
    has_template: bool
    load_s: float
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenLogprob:
    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Started:
    """The prompt was tokenised: its length, and how much of it needs no reading."""

    id: str
    n_prompt: int
    n_cached: int


@dataclass(frozen=True)
class Text:
    id: str
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Finished:
    """Times in seconds: reading the prompt, and writing the answer after its first token."""

    id: str
    reason: FinishReason
    n_prompt: int
    n_cached: int
    n_generated: int
    prompt_s: float
    generate_s: float


@dataclass(frozen=True)
class Failed:
    """A request, or with id "" the loading of the model, ended in an error."""

    id: str
    error: ConiferError


Event = Started | Text | Finished | Failed
Message = Load | Generate | Cancel | Loaded | Started | Text | Finished | Failed
_TYPES = {c.__name__: c for c in (Load, Generate, Cancel, Loaded, Started, Text, Finished, Failed)}


def encode(message: Message) -> bytes:
    """One line."""
    fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(message)}
    return json.dumps({"type": type(message).__name__, **fields}, default=_plain).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, ConiferError):
        return value.to_wire()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} cannot cross the pipe")


def decode(line: bytes) -> Message:
    data = json.loads(line)
    cls = _TYPES[data.pop("type")]
    match cls.__name__:
        case "Generate":
            bias = {int(k): v for k, v in data["sampling"].pop("logit_bias").items()}
            data["sampling"] = Sampling(**data["sampling"], logit_bias=bias)
            data["messages"] = None if data["messages"] is None else tuple(data["messages"])
            data["stop"] = tuple(data["stop"])
        case "Loaded":
            for field in ("by_ggml", "split_dependent"):
                data["info"][field] = tuple(data["info"][field])
            data["info"] = RuntimeInfo(**data["info"])
            data["notices"] = tuple(data["notices"])
        case "Text":
            data["logprobs"] = tuple(
                TokenLogprob(t["text"], t["logprob"], tuple((w, p) for w, p in t["top"]))
                for t in data["logprobs"]
            )
        case "Failed":
            data["error"] = from_wire(data["error"])
    message: Message = cls(**data)
    return message
