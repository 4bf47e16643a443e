"""How fast this machine reads memory: the ceiling of decoding, which reads every weight for every token."""

from __future__ import annotations

import time

import numpy as np

from . import ggml

ROWS, WIDTH = 32_768, 4096  # float32: 512 MiB, more than any cache
ROUNDS = 5


def read_bandwidth(n_threads: int) -> float:
    """Bytes a second that `n_threads` read together: the best of a few products of a large float32 matrix with a vector."""
    lib = ggml.library()
    context = ggml.new_context(8, 8)
    backend = lib.ggml_backend_cpu_init()
    lib.ggml_backend_cpu_set_n_threads(backend, n_threads)
    matrix, vector = ggml.new_tensor(context, "f32", (ROWS, WIDTH)), ggml.new_tensor(context, "f32", (WIDTH,))
    graph = lib.ggml_new_graph_custom(context, 8, False)
    lib.ggml_build_forward_expand(graph, lib.ggml_mul_mat(context, matrix, vector))
    buffer = lib.ggml_backend_alloc_ctx_tensors(context, backend)
    try:
        # Untouched pages all read as one page of zeros, from the cache.
        for tensor, size in ((vector, WIDTH), (matrix, ROWS * WIDTH)):
            np.frombuffer(ggml.ffi.buffer(lib.ggml_get_data(tensor), 4 * size), np.float32)[:] = 0
        seconds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            lib.ggml_backend_graph_compute(backend, graph)
            seconds.append(time.perf_counter() - started)
    finally:
        lib.ggml_backend_buffer_free(buffer)
        lib.ggml_free(context)
        lib.ggml_backend_free(backend)
    return 4 * ROWS * WIDTH / min(seconds)
