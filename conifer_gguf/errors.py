"""Every exception that conifer-gguf raises, with its facts as fields.

A class per cause. `fact` is one sentence with the exact value, `tried` lists what was attempted, `hint` is the one
next command. The CLI, the HTTP layer and the logs each lay these out; nobody parses text. An error crosses the pipe
to and from the engine process as `to_wire()` and is rebuilt by `from_wire()`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from .settings import format_bytes


@dataclass(eq=False)
class ConiferError(Exception):
    """The root: catch this to catch everything that is a fact about the world rather than a bug."""

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    @property
    def fact(self) -> str:
        raise NotImplementedError(type(self).__name__)

    @property
    def tried(self) -> tuple[str, ...]:
        return ()

    @property
    def hint(self) -> str | None:
        return None

    @property
    def also(self) -> tuple[str, ...]:
        """Other ways on, besides the hint."""
        return ()

    def __str__(self) -> str:
        return self.fact

    def fields(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def to_wire(self) -> dict[str, Any]:
        """The class name and its fields, as plain JSON values."""
        return {"error": type(self).__name__, **self.fields()}

    def __reduce__(self) -> tuple[Any, ...]:
        return from_wire, (self.to_wire(),)


def from_wire(message: dict[str, Any]) -> ConiferError:
    """Rebuild an error from `to_wire()`; sequences come back as tuples."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in message.items() if k != "error"}
    cls = {c.__name__: c for c in _subclasses(ConiferError)}[message["error"]]
    return cls(**values)


def _subclasses(cls: type[ConiferError]) -> list[type[ConiferError]]:
    return [s for c in cls.__subclasses__() for s in (c, *_subclasses(c))]


# --- usage -----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class BadRequest(ConiferError):
    """A value that the caller gave cannot be used; `parameter` names it, `problem` says why with the value."""

    code: ClassVar[str] = "invalid_request"
    http_status: ClassVar[int] = 400
    exit_code: ClassVar[int] = 2
    problem: str
    parameter: str | None = None
    suggestion: str | None = None

    @property
    def fact(self) -> str:
        return self.problem

    @property
    def hint(self) -> str | None:
        return self.suggestion


@dataclass(eq=False)
class PromptTooLong(ConiferError):
    code: ClassVar[str] = "context_length_exceeded"
    http_status: ClassVar[int] = 400
    n_prompt: int
    n_ctx: int

    @property
    def fact(self) -> str:
        return f"the prompt has {self.n_prompt} tokens, the context window holds {self.n_ctx}"

    @property
    def hint(self) -> str | None:
        return f"shorten the prompt, or start with --ctx {self.n_prompt + 256} or more"


@dataclass(eq=False)
class MissingExtra(ConiferError):
    """Something optional is not installed; `extra` of this package brings it."""

    code: ClassVar[str] = "missing_extra"
    package: str
    extra: str
    purpose: str

    @property
    def fact(self) -> str:
        return f"{self.purpose} needs {self.package}, which is not installed"

    @property
    def hint(self) -> str | None:
        return f"pip install 'conifer-gguf[{self.extra}]'"


# --- models ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class UnknownModel(ConiferError):
    code: ClassVar[str] = "model_not_found"
    http_status: ClassVar[int] = 404
    model: str
    close: tuple[str, ...] = ()

    @property
    def fact(self) -> str:
        return f"no model is called `{self.model}`"

    @property
    def hint(self) -> str | None:
        if self.close:
            return f"did you mean `{self.close[0]}`?"
        return "conifer-gguf catalog lists every name"


@dataclass(eq=False)
class ModelNotOnDisk(ConiferError):
    code: ClassVar[str] = "model_not_pulled"
    http_status: ClassVar[int] = 404
    model: str
    size: int | None = None

    @property
    def fact(self) -> str:
        size = f" ({format_bytes(self.size)})" if self.size else ""
        return f"`{self.model}`{size} is in the catalog, but not on this machine"

    @property
    def hint(self) -> str | None:
        return f"conifer-gguf pull {self.model}"


@dataclass(eq=False)
class BadModelFile(ConiferError):
    """The file is not a GGUF that can be trusted; raised before any native code sees it."""

    code: ClassVar[str] = "bad_model_file"
    path: str
    problem: str
    next_step: str | None = None

    @property
    def fact(self) -> str:
        return f"{self.path}: {self.problem}"

    @property
    def hint(self) -> str | None:
        return self.next_step


@dataclass(eq=False)
class UnsupportedModel(ConiferError):
    """Nobody here knows how to run this architecture, or a part of it."""

    code: ClassVar[str] = "unsupported_model"
    http_status: ClassVar[int] = 400
    model: str
    architecture: str
    problem: str
    next_step: str | None = None

    @property
    def fact(self) -> str:
        return f"`{self.model}` (architecture `{self.architecture}`): {self.problem}"

    @property
    def hint(self) -> str | None:
        return self.next_step or f"conifer-gguf inspect {self.model}"


@dataclass(eq=False)
class ModelLoadGated(ConiferError):
    """The model's recurrent layers wait for kernels; `register` names known plugins that supply them.

    `attempts` says of registered plugins why they may not run.
    """

    code: ClassVar[str] = "model_load_gated"
    http_status: ClassVar[int] = 400
    model: str
    needs: tuple[str, ...]
    register: tuple[str, ...] = ()
    layers: str = ""
    also_runs_with: tuple[str, ...] = ()
    attempts: tuple[str, ...] = ()

    @property
    def tried(self) -> tuple[str, ...]:
        return self.attempts

    @property
    def fact(self) -> str:
        layers = f"{self.layers}; " if self.layers else ""
        return f"`{self.model}` is load-gated: {layers}no registered plugin supplies {', '.join(self.needs)}"

    @property
    def hint(self) -> str | None:
        if self.register:
            return f"conifer-gguf plugins register {' '.join(self.register)}"
        return "conifer-gguf plugins list shows which plugins are known"

    @property
    def also(self) -> tuple[str, ...]:
        return tuple(f"--runtime {name} runs this file without our kernels" for name in self.also_runs_with)


@dataclass(eq=False)
class DoesNotFit(ConiferError):
    """The memory plan exceeds what is free; nothing was allocated. All sizes in bytes."""

    code: ClassVar[str] = "out_of_memory"
    http_status: ClassVar[int] = 503
    model: str
    needed: int
    free: int
    weights: int
    cache: int
    n_ctx: int
    largest_ctx: int = 0

    @property
    def fact(self) -> str:
        return (
            f"`{self.model}` needs {format_bytes(self.needed)} (weights {format_bytes(self.weights)}, "
            f"cache {format_bytes(self.cache)} for {self.n_ctx} tokens), {format_bytes(self.free)} are free"
        )

    @property
    def hint(self) -> str | None:
        if self.largest_ctx > 0:
            return f"--ctx {self.largest_ctx} fits"
        return "pull a smaller quantisation, or free memory"


# --- runtime ---------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class RuntimeFailure(ConiferError):
    """A runtime could not load a model or finish a step; `operation` is what it was doing."""

    code: ClassVar[str] = "runtime_failure"
    operation: str
    problem: str

    @property
    def fact(self) -> str:
        return f"{self.operation}: {self.problem}"


@dataclass(eq=False)
class EngineDied(ConiferError):
    """The engine process ended in the middle of a request; the next request starts a new one."""

    code: ClassVar[str] = "engine_died"
    http_status: ClassVar[int] = 500
    model: str
    cause: str
    last_words: str = ""

    @property
    def fact(self) -> str:
        words = f": {self.last_words}" if self.last_words else ""
        return f"the engine process of `{self.model}` died ({self.cause}){words}"

    @property
    def hint(self) -> str | None:
        return "send the request again; a new engine process starts by itself"


@dataclass(eq=False)
class Cancelled(ConiferError):
    """The caller stopped the work; the sequences of the interrupted step are broken."""

    code: ClassVar[str] = "cancelled"
    http_status: ClassVar[int] = 499
    exit_code: ClassVar[int] = 130

    @property
    def fact(self) -> str:
        return "stopped"


@dataclass(eq=False)
class BrokenSequence(ConiferError):
    """A cancelled or failed step left this sequence's carry torn: restore a snapshot or close it."""

    code: ClassVar[str] = "broken_sequence"
    sequence: int

    @property
    def fact(self) -> str:
        return f"sequence {self.sequence} was torn by a step that did not finish"


# --- this machine ----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class MeasuringDied(ConiferError):
    """The process that measures this machine ended before its result; `what` it had begun to measure last."""

    code: ClassVar[str] = "measuring_died"
    what: str
    cause: str
    last_words: str = ""

    @property
    def fact(self) -> str:
        during = f" during {self.what}" if self.what else ""
        words = f": {self.last_words}" if self.last_words else ""
        return f"the process that measures this machine died{during} ({self.cause}){words}"

    @property
    def hint(self) -> str | None:
        return "conifer-gguf doctor"


@dataclass(eq=False)
class HomeNotWritable(ConiferError):
    """The folder for models, plugins and caches; `problem` in the system's words."""

    code: ClassVar[str] = "home_not_writable"
    path: str
    problem: str

    @property
    def fact(self) -> str:
        return f"{self.path} cannot be written: {self.problem}"

    @property
    def hint(self) -> str | None:
        return "export CONIFER_GGUF_HOME=FOLDER with a folder of your own"


# --- downloads -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class DownloadFailed(ConiferError):
    code: ClassVar[str] = "download_failed"
    model: str
    problem: str
    attempts: tuple[str, ...] = ()
    next_step: str | None = None

    @property
    def fact(self) -> str:
        return f"could not download `{self.model}`: {self.problem}"

    @property
    def tried(self) -> tuple[str, ...]:
        return self.attempts

    @property
    def hint(self) -> str | None:
        return self.next_step or f"conifer-gguf pull {self.model} resumes where it stopped"


@dataclass(eq=False)
class ChecksumMismatch(ConiferError):
    """The bytes are not the expected ones; they are kept at `partial` and were not installed."""

    code: ClassVar[str] = "checksum_mismatch"
    model: str
    expected: str
    actual: str
    partial: str

    @property
    def fact(self) -> str:
        return f"`{self.model}`: sha256 is {self.actual}, expected {self.expected}; the bytes are kept at {self.partial}"

    @property
    def hint(self) -> str | None:
        return f"conifer-gguf pull {self.model} --restart downloads it again from the start"


@dataclass(eq=False)
class NoDiskSpace(ConiferError):
    code: ClassVar[str] = "no_disk_space"
    path: str
    needed: int
    free: int

    @property
    def fact(self) -> str:
        return (
            f"{self.path} has {format_bytes(self.free)} free, the download needs {format_bytes(self.needed)}"
        )

    @property
    def hint(self) -> str | None:
        return (
            "free space (conifer-gguf list, conifer-gguf rm NAME), or set CONIFER_GGUF_HOME to a larger disk"
        )


# --- catalog ---------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class BadCatalog(ConiferError):
    code: ClassVar[str] = "bad_catalog"
    path: str
    key: str
    value: str
    problem: str

    @property
    def fact(self) -> str:
        return f"{self.path}: `{self.key}` = {self.value}: {self.problem}"


@dataclass(eq=False)
class BrokenPackage(ConiferError):
    """An installed package says that it brings an architecture or a catalog, and does not."""

    code: ClassVar[str] = "broken_package"
    package: str
    problem: str

    @property
    def fact(self) -> str:
        return f"package `{self.package}`: {self.problem}"

    @property
    def hint(self) -> str | None:
        return f"pip uninstall {self.package}"


# --- plugins ---------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class PluginRefused(ConiferError):
    """A plugin was not registered; `case` names the check that failed, with its numbers."""

    code: ClassVar[str] = "plugin_refused"
    http_status: ClassVar[int] = 400
    plugin: str
    problem: str
    op: str | None = None
    case: str | None = None
    next_step: str | None = None

    @property
    def fact(self) -> str:
        where = " ".join(f"`{part}`" for part in (self.op, self.case) if part)
        return f"plugin `{self.plugin}` is refused{': ' + where if where else ''}: {self.problem}"

    @property
    def hint(self) -> str | None:
        return self.next_step


@dataclass(eq=False)
class UnknownPlugin(ConiferError):
    code: ClassVar[str] = "unknown_plugin"
    http_status: ClassVar[int] = 404
    plugin: str
    close: tuple[str, ...] = ()

    @property
    def fact(self) -> str:
        return f"no plugin is called `{self.plugin}`"

    @property
    def hint(self) -> str | None:
        if self.close:
            return f"did you mean `{self.close[0]}`?"
        return "conifer-gguf plugins list shows every plugin that is known by name"


@dataclass(eq=False)
class KernelFailed(ConiferError):
    """A kernel returned a status other than CK_OK for a call that its contract allows."""

    code: ClassVar[str] = "kernel_failed"
    plugin: str
    op: str
    status: str
    problem: str

    @property
    def fact(self) -> str:
        return f"kernel `{self.op}` of plugin `{self.plugin}` returned {self.status}: {self.problem}"


@dataclass(eq=False)
class KernelMissing(ConiferError):
    """A graph needs an op that no registered plugin supplies; loading a model by name is gated before that."""

    code: ClassVar[str] = "kernel_missing"
    op: str

    @property
    def fact(self) -> str:
        return f"no registered plugin supplies {self.op}"

    @property
    def hint(self) -> str | None:
        return "conifer-gguf plugins list shows who supplies which op"


@dataclass(eq=False)
class ShapeMismatch(ConiferError):
    """Operands do not fit the contract of an op, or tensors do not fit the keys of a model."""

    code: ClassVar[str] = "shape_mismatch"
    subject: str
    operand: str
    expected: str
    actual: str

    @property
    def fact(self) -> str:
        return f"{self.subject}: `{self.operand}` has shape {self.actual}, expected {self.expected}"
