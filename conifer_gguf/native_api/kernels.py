"""Kernel plugins as objects: load a library, describe a call, ask, plan, pack and run.

Everything here trusts the library: it is called on libraries whose bytes passed the conformance kit (`registry.py`),
or in the kit's child process. Graphs run kernels through `native/host_shim.c`; `Kernel.run` is for the kit and bench.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cffi import FFI

from ..errors import KernelFailed, PluginRefused
from . import cdef
from .call import Call as Call
from .call import Pointer
from .call import View as View
from .cdef import ffi

ERROR_TEXT = 512  # bytes offered to a plugin for its explanation
_TEXT, _ERROR, _ERROR_SIZE = ffi.typeof("char[]"), ffi.typeof("ck_error *"), ffi.sizeof("ck_error")

# Sizes that minor 0 gave the structs a plugin hands over: a shorter one was never a valid plugin.
FIRST_SIZE: Final = {"ck_plugin": 40, "ck_kernel": 56}
MAX_KERNELS = 64
_ELF_MACHINE: Final = {62: "x86_64", 183: "aarch64", 243: "riscv64", 3: "i386", 40: "arm"}


@dataclass(frozen=True)
class Need:
    """What a plan asks for. Bytes; scratch and packed memory start at multiples of 64.

    `split_exact` is what the kernel promises: the same bits however a sequence's tokens are cut into calls.
    """

    n_phase: int
    scratch_bytes: int
    packed_bytes: int
    split_exact: bool = False


@dataclass(frozen=True)
class Answer:
    """A status with the plugin's own words."""

    status: int
    text: str

    @property
    def ok(self) -> bool:
        return self.status == cdef.OK

    @property
    def name(self) -> str:
        return cdef.status_name(self.status)


@dataclass(frozen=True)
class Kernel:
    """One kernel of a loaded plugin; `pointer` is its `const ck_kernel *`, valid as long as the process."""

    op: str
    plugin: str
    preference: int
    pointer: Pointer = field(compare=False, repr=False)

    def ask(self, call: Call) -> Answer:
        """What the kernel says to a call, with its words. Any thread."""
        error, text = _error()
        status = self.pointer.supports(self.pointer.self, call.pointer, error)
        return Answer(status, _read(text))

    def supports(self, call: Call) -> bool:
        """False asks the next kernel. Raises KernelFailed where the call contradicts the op."""
        answer = self.ask(call)
        if answer.status not in (cdef.OK, cdef.UNSUPPORTED):
            raise self.failed(answer.status, answer.text)
        return answer.ok

    def plan(self, call: Call, max_part: int) -> Need:
        """What runs of this call, or of any smaller one, need. One thread per kernel. Raises KernelFailed."""
        error, text = _error()
        need = ffi.new("ck_need *")
        need.struct_size = ffi.sizeof("ck_need")
        need.n_phase = 1
        status = self.pointer.plan(self.pointer.self, call.pointer, max_part, need, error)
        if status != cdef.OK:
            raise self.failed(status, _read(text))
        if need.n_phase < 1:
            raise self.failed(cdef.INTERNAL, "its plan has 0 phases")
        if need.packed_bytes and self.pointer.pack == ffi.NULL:
            raise self.failed(cdef.INTERNAL, f"asks for {need.packed_bytes} packed bytes, pack is NULL")
        exact = bool(need.flags & cdef.SPLIT_EXACT)
        return Need(need.n_phase, need.scratch_bytes, need.packed_bytes, exact)

    def pack(self, call: Call, packed: int, part: int = 0, n_part: int = 1) -> None:
        """Write one part of the packed form of the constants to address `packed`. Raises KernelFailed."""
        made = _part(call, 0, part, n_part, 0, packed)
        self._check(self.pointer.pack(self.pointer.self, made))

    def run(
        self, call: Call, phase: int = 0, part: int = 0, n_part: int = 1, scratch: int = 0, packed: int = 0
    ) -> None:
        """Compute one part of one phase; the GIL is free meanwhile. Raises KernelFailed."""
        made = _part(call, phase, part, n_part, scratch, packed)
        self._check(self.pointer.run(self.pointer.self, made))

    def _check(self, status: int) -> None:
        if status != cdef.OK:
            raise self.failed(status, "no further explanation; only supports and plan can give one")

    def failed(self, status: int, text: str) -> KernelFailed:
        """The error for a status of this kernel, to raise."""
        return KernelFailed(self.plugin, self.op, cdef.status_name(status), text or "without an explanation")


@dataclass(frozen=True)
class Plugin:
    """What a library says about itself."""

    id: str
    version: str
    kernels: tuple[Kernel, ...]


def load_library(path: Path) -> Plugin:
    """Load a plugin's library into this process, for good: it is never unloaded. Runs its code.

    Raises PluginRefused: not a library for this machine, no entry symbol of our ABI major, a struct shorter than
    minor 0, or the plugin's own refusal.
    """
    check_machine(path)
    handle = _dl.dlopen(str(path.resolve()).encode(), _RTLD_NOW)
    if handle == _dl_ffi.NULL:
        raise PluginRefused(path.name, f"the dynamic linker says: {_dl_text()}")
    if _dl.dlsym(handle, cdef.ENTRY.encode()) == _dl_ffi.NULL:
        raise PluginRefused(path.name, _other_major(handle))
    library: Any = ffi.dlopen(ffi.cast("void *", int(_dl_ffi.cast("uintptr_t", handle))))
    error, text = _error()
    found = getattr(library, cdef.ENTRY)(_host(), error)
    if found == ffi.NULL:
        raise PluginRefused(path.name, f"it refuses to load: {_read(text) or 'without an explanation'}")
    return _read_plugin(path.name, found)


def check_machine(path: Path) -> None:
    """Refuse what is not a shared library for this processor, by its first bytes; no code runs."""
    with path.open("rb") as file:
        start = file.read(20)
    if len(start) < 20 or start[:4] != b"\x7fELF":
        raise PluginRefused(
            path.name, f"not a shared library: it starts with {start[:4]!r}, not with an ELF header"
        )
    machine = int.from_bytes(start[18:20], "little")
    built_for = _ELF_MACHINE.get(machine, f"ELF machine {machine}")
    if built_for != platform.machine():
        raise PluginRefused(path.name, f"built for {built_for}, this machine is {platform.machine()}")


def _read_plugin(name: str, found: Pointer) -> Plugin:
    _check_size(name, "ck_plugin", found.struct_size)
    identity = _string(name, "its id", found.id)
    if not 1 <= found.n_kernel <= MAX_KERNELS:
        raise PluginRefused(identity, f"it has {found.n_kernel} kernels; 1 to {MAX_KERNELS} are possible")
    kernels = tuple(_read_kernel(identity, i, found.kernel[i]) for i in range(found.n_kernel))
    ops = [kernel.op for kernel in kernels]
    return Plugin(
        identity, _string(identity, "its version", found.version), _distinct(identity, kernels, ops)
    )


def _distinct(name: str, kernels: tuple[Kernel, ...], ops: list[str]) -> tuple[Kernel, ...]:
    twice = sorted({op for op in ops if ops.count(op) > 1})
    if twice:
        raise PluginRefused(name, f"it supplies {twice[0]} twice")
    return kernels


def _read_kernel(name: str, index: int, found: Pointer) -> Kernel:
    if found == ffi.NULL:
        raise PluginRefused(name, f"kernel {index} is NULL")
    _check_size(name, "ck_kernel", found.struct_size)
    op = _string(name, f"the op of kernel {index}", found.op)
    for function in ("supports", "plan", "run"):
        if getattr(found, function) == ffi.NULL:
            raise PluginRefused(name, f"function `{function}` is NULL", op=op)
    return Kernel(op, name, found.preference, found)


def _check_size(name: str, struct: str, size: int) -> None:
    if size < FIRST_SIZE[struct]:
        raise PluginRefused(
            name, f"its {struct} has {size} bytes, kernel ABI {cdef.ABI_MAJOR} has {FIRST_SIZE[struct]}"
        )


def _string(name: str, what: str, pointer: Pointer) -> str:
    if pointer == ffi.NULL:
        raise PluginRefused(name, f"{what} is NULL")
    raw = ffi.string(pointer, 256)
    try:
        text: str = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise PluginRefused(name, f"{what} is not UTF-8: {raw[:40]!r}") from None
    if not text:
        raise PluginRefused(name, f"{what} is empty")
    return text


def _part(call: Call, phase: int, part: int, n_part: int, scratch: int, packed: int) -> Pointer:
    made = ffi.new("ck_part *")
    made.struct_size = ffi.sizeof("ck_part")
    made.part, made.n_part, made.phase = part, n_part, phase
    made.call = call.pointer
    made.scratch, made.packed = ffi.cast("void *", scratch), ffi.cast("void *", packed)
    return made


def _error() -> tuple[Pointer, Pointer]:
    text = ffi.new(_TEXT, ERROR_TEXT)
    error = ffi.new(_ERROR)
    error.struct_size, error.text_capacity, error.text = _ERROR_SIZE, ERROR_TEXT, text
    return error, text


def _read(text: Pointer) -> str:
    raw: bytes = ffi.string(text, ERROR_TEXT)
    return raw.decode("utf-8", "replace")


# cffi's own dlopen would close the library with the last Python reference, under the feet of a running graph; a handle
# that it did not open itself stays open. It also names the missing symbol of another major before anything runs.
_dl_ffi: Any = FFI()
_dl_ffi.cdef(
    "void *dlopen(const char *path, int flags); void *dlsym(void *handle, const char *name); char *dlerror(void);"
)
_dl: Any = _dl_ffi.dlopen(None)
_RTLD_NOW = 2  # with RTLD_LOCAL, which is 0: two plugins never see each other's symbols


def _dl_text() -> str:
    text = _dl.dlerror()
    return _dl_ffi.string(text).decode("utf-8", "replace") if text != _dl_ffi.NULL else "nothing"


def _other_major(handle: Pointer) -> str:
    for major in range(10):
        if _dl.dlsym(handle, f"conifer_kernel_entry_v{major}".encode()) != _dl_ffi.NULL:
            return f"built for kernel ABI {major}, this host speaks {cdef.ABI_MAJOR}"
    return f"it exports no symbol {cdef.ENTRY}; is the entry declared with CK_EXPORT?"


def _find_extension(_id: Pointer) -> Pointer:
    return ffi.NULL  # this host has no extensions yet


_the_host: Final = ffi.new("ck_host *")
_extension: Final = ffi.callback("const void *(const char *)", _find_extension)


def _host() -> Pointer:
    _the_host.struct_size, _the_host.abi_minor = ffi.sizeof("ck_host"), cdef.ABI_MINOR
    _the_host.extension = _extension
    return _the_host
