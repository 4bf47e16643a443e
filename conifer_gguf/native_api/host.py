"""The host shim: what ggml calls when a graph reaches a plugin's kernel. `native/host_shim.c` is the other half."""

from __future__ import annotations

import functools
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
    """
)

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
    return int(ffi.cast("uintptr_t", pointer))
