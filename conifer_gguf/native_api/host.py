"""The host shim: what ggml calls when a graph reaches a plugin's kernel. `native/host_shim.c` is the other half."""

from __future__ import annotations

import functools
import statistics
import time
from typing import Any

from cffi import FFI

from ..errors import RuntimeFailure
from ..settings import native_dir

ffi: Any = FFI()
ffi.cdef(
    """
    struct conifer_task {
        const void *kernel, *call;
        void *scratch, *packed;
        int32_t *failure;
        uint32_t phase;
        int32_t index;
    };
    struct conifer_stopwatch {
        const int32_t *failure;
        int64_t *done_ns;
        uint32_t n, capacity;
    };
    uint32_t conifer_task_size(void);
    void conifer_run_phase(void *dst, int ith, int nth, void *userdata);
    bool conifer_should_stop(void *userdata);
    bool conifer_note_time(void *userdata);
    void conifer_report_abort(const char *message);
    int64_t conifer_multiply_add(int64_t n);
    const char *conifer_instruction_set(void);
    """
)

_ADDRESS = ffi.typeof(
    "uintptr_t"
)  # a type that is not looked up again: building a graph asks for ten thousand addresses
STOPPED = -1  # what a cancellation writes where a kernel would write its status


@functools.cache
def library() -> Any:
    """The compiled shim. Raises RuntimeFailure where this installation has none, or another version's."""
    found = sorted(native_dir().glob("libconifer_host.*"))
    if not found:
        raise RuntimeFailure("opening the host shim", f"{native_dir()} holds no libconifer_host")
    lib = ffi.dlopen(str(found[0]))
    if lib.conifer_task_size() != ffi.sizeof("struct conifer_task"):
        raise RuntimeFailure(
            "opening the host shim", f"{found[0]} belongs to another version of this package"
        )
    return lib


def address(pointer: Any) -> int:
    """The address behind a pointer of any FFI instance's own types."""
    return int(ffi.cast(_ADDRESS, pointer))


def instruction_set() -> str:
    """avx512, avxvnni, avx2, scalar, dotprod or neon: what kernels take on this processor, unless CONIFER_ISA asks for less."""
    name: str = ffi.string(library().conifer_instruction_set()).decode()
    return name


def multiply_adds(seconds: float) -> float:
    """float32 multiply-adds a second that one thread reaches here, on the instruction set that kernels take.

    The median of many short runs: what else the processor does between them does not count. Several threads may call it
    at the same time, and then see what they leave for each other.
    """
    lib, n = library(), 1 << 14
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        made = lib.conifer_multiply_add(n)
        rates.append(made / (time.perf_counter() - start))
    return float(statistics.median(rates))
