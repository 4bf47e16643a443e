"""The few ggml functions that the engine builds graphs with, bound to the libraries that llama-cpp-python loaded.

cffi in ABI mode on the handle that is already open, so that a process holds one copy of ggml. `FUNCTIONS` is plain C:
compiled after `#include "ggml.h"` it is a check that no signature drifted (tests/contract/test_ggml_binding.py).
ggml writes shapes fastest axis first; `shape_of` and `new_tensor` are where the order turns round.

ggml aborts the process on shapes it does not like, so callers check shapes first.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
from cffi import FFI

from ..errors import RuntimeFailure
from ..gguf import TENSOR_TYPES

VERSIONS = (
    "0.25.3",
)  # builds whose headers this file was checked against; native/README.md has the list of steps
MAX_RANK = 4
MAX_CUSTOM_SOURCES = 9

ALL_THREADS = -1  # GGML_N_TASKS_MAX
SUCCESS, ABORTED = 0, 1  # ggml_status
ROPE_MODES = {"normal": 0, "neox": 2}  # GGML_ROPE_TYPE_*
TYPES_BY_NAME = {kind.name.lower(): number for number, kind in TENSOR_TYPES.items()}

TYPES = """
struct ggml_init_params { size_t mem_size; void *mem_buffer; bool no_alloc; };
enum ggml_type { GGML_TYPE_F32 = 0, GGML_TYPE_F16 = 1, GGML_TYPE_Q8_0 = 8, GGML_TYPE_I32 = 26, GGML_TYPE_I64 = 27 };
enum ggml_status { GGML_STATUS_ALLOC_FAILED = -2, GGML_STATUS_FAILED = -1, GGML_STATUS_SUCCESS = 0,
                   GGML_STATUS_ABORTED = 1 };
typedef void (*ggml_custom_op_t)(struct ggml_tensor *dst, int ith, int nth, void *userdata);
typedef bool (*ggml_abort_callback)(void *data);
typedef void (*ggml_abort_callback_t)(const char *error_message);
typedef struct ggml_backend_buffer_type *ggml_backend_buffer_type_t;
typedef struct ggml_backend_buffer *ggml_backend_buffer_t;
typedef struct ggml_backend *ggml_backend_t;
typedef struct ggml_gallocr *ggml_gallocr_t;
struct ggml_type_traits_cpu { void *from_float; void *vec_dot; enum ggml_type vec_dot_type; int64_t nrows; };
"""

FUNCTIONS = """
const char *ggml_version(void);
ggml_abort_callback_t ggml_set_abort_callback(ggml_abort_callback_t callback);

struct ggml_context *ggml_init(struct ggml_init_params params);
void ggml_free(struct ggml_context *ctx);
size_t ggml_tensor_overhead(void);
size_t ggml_graph_overhead_custom(size_t size, bool grads);
size_t ggml_row_size(enum ggml_type type, int64_t ne);
size_t ggml_nbytes(const struct ggml_tensor *tensor);
void *ggml_get_data(const struct ggml_tensor *tensor);
void ggml_set_input(struct ggml_tensor *tensor);
void ggml_set_output(struct ggml_tensor *tensor);
struct ggml_tensor *ggml_new_tensor(struct ggml_context *ctx, enum ggml_type type, int n_dims, const int64_t *ne);

struct ggml_tensor *ggml_add(struct ggml_context *ctx, struct ggml_tensor *a, struct ggml_tensor *b);
struct ggml_tensor *ggml_mul(struct ggml_context *ctx, struct ggml_tensor *a, struct ggml_tensor *b);
struct ggml_tensor *ggml_div(struct ggml_context *ctx, struct ggml_tensor *a, struct ggml_tensor *b);
struct ggml_tensor *ggml_scale(struct ggml_context *ctx, struct ggml_tensor *a, float s);
struct ggml_tensor *ggml_sqr(struct ggml_context *ctx, struct ggml_tensor *a);
struct ggml_tensor *ggml_relu(struct ggml_context *ctx, struct ggml_tensor *a);
struct ggml_tensor *ggml_silu(struct ggml_context *ctx, struct ggml_tensor *a);
struct ggml_tensor *ggml_sigmoid(struct ggml_context *ctx, struct ggml_tensor *a);
struct ggml_tensor *ggml_sum_rows(struct ggml_context *ctx, struct ggml_tensor *a);
struct ggml_tensor *ggml_clamp(struct ggml_context *ctx, struct ggml_tensor *a, float min, float max);
struct ggml_tensor *ggml_swiglu_split(struct ggml_context *ctx, struct ggml_tensor *a, struct ggml_tensor *b);
struct ggml_tensor *ggml_rms_norm(struct ggml_context *ctx, struct ggml_tensor *a, float eps);
struct ggml_tensor *ggml_concat(struct ggml_context *ctx, struct ggml_tensor *a, struct ggml_tensor *b, int dim);
struct ggml_tensor *ggml_mul_mat(struct ggml_context *ctx, struct ggml_tensor *a, struct ggml_tensor *b);
struct ggml_tensor *ggml_mul_mat_id(struct ggml_context *ctx, struct ggml_tensor *as, struct ggml_tensor *b,
                                    struct ggml_tensor *ids);
struct ggml_tensor *ggml_soft_max(struct ggml_context *ctx, struct ggml_tensor *a);
struct ggml_tensor *ggml_soft_max_ext(struct ggml_context *ctx, struct ggml_tensor *a, struct ggml_tensor *mask, float scale, float max_bias);
struct ggml_tensor *ggml_argsort_top_k(struct ggml_context *ctx, struct ggml_tensor *a, int k);
struct ggml_tensor *ggml_get_rows(struct ggml_context *ctx, struct ggml_tensor *a, struct ggml_tensor *b);
struct ggml_tensor *ggml_set_rows(struct ggml_context *ctx, struct ggml_tensor *a, struct ggml_tensor *b,
                                  struct ggml_tensor *c);
struct ggml_tensor *ggml_rope_ext(struct ggml_context *ctx, struct ggml_tensor *a, struct ggml_tensor *b,
                                  struct ggml_tensor *c, int n_dims, int mode, int n_ctx_orig, float freq_base,
                                  float freq_scale, float ext_factor, float attn_factor, float beta_fast,
                                  float beta_slow);
struct ggml_tensor *ggml_flash_attn_ext(struct ggml_context *ctx, struct ggml_tensor *q, struct ggml_tensor *k,
                                        struct ggml_tensor *v, struct ggml_tensor *mask, float scale,
                                        float max_bias, float logit_softcap);
struct ggml_tensor *ggml_cast(struct ggml_context *ctx, struct ggml_tensor *a, enum ggml_type type);
struct ggml_tensor *ggml_cont(struct ggml_context *ctx, struct ggml_tensor *a);
struct ggml_tensor *ggml_permute(struct ggml_context *ctx, struct ggml_tensor *a, int axis0, int axis1, int axis2,
                                 int axis3);
struct ggml_tensor *ggml_view_4d(struct ggml_context *ctx, struct ggml_tensor *a, int64_t ne0, int64_t ne1,
                                 int64_t ne2, int64_t ne3, size_t nb1, size_t nb2, size_t nb3, size_t offset);
struct ggml_tensor *ggml_custom_4d(struct ggml_context *ctx, enum ggml_type type, int64_t ne0, int64_t ne1,
                                   int64_t ne2, int64_t ne3, struct ggml_tensor **args, int n_args,
                                   ggml_custom_op_t fun, int n_tasks, void *userdata);
struct ggml_tensor *ggml_custom_inplace(struct ggml_context *ctx, struct ggml_tensor *a, struct ggml_tensor **args,
                                        int n_args, ggml_custom_op_t fun, int n_tasks, void *userdata);

struct ggml_tensor *ggml_ssm_conv(struct ggml_context *ctx, struct ggml_tensor *sx, struct ggml_tensor *c);
struct ggml_tensor *ggml_ssm_scan(struct ggml_context *ctx, struct ggml_tensor *s, struct ggml_tensor *x,
                                  struct ggml_tensor *dt, struct ggml_tensor *A, struct ggml_tensor *B,
                                  struct ggml_tensor *C, struct ggml_tensor *ids, int64_t K);
struct ggml_tensor *ggml_gated_delta_net(struct ggml_context *ctx, struct ggml_tensor *q, struct ggml_tensor *k,
                                         struct ggml_tensor *v, struct ggml_tensor *g, struct ggml_tensor *beta,
                                         struct ggml_tensor *state, int64_t K);

struct ggml_cgraph *ggml_new_graph_custom(struct ggml_context *ctx, size_t size, bool grads);
void ggml_build_forward_expand(struct ggml_cgraph *cgraph, struct ggml_tensor *tensor);
int ggml_graph_n_nodes(struct ggml_cgraph *cgraph);
struct ggml_tensor *ggml_graph_node(struct ggml_cgraph *cgraph, int i);
const char *ggml_op_desc(const struct ggml_tensor *t);

const struct ggml_type_traits_cpu *ggml_get_type_traits_cpu(enum ggml_type type);
ggml_backend_t ggml_backend_cpu_init(void);
void ggml_backend_free(ggml_backend_t backend);
void ggml_backend_cpu_set_n_threads(ggml_backend_t backend_cpu, int n_threads);
void ggml_backend_cpu_set_abort_callback(ggml_backend_t backend_cpu, ggml_abort_callback abort_callback,
                                         void *abort_callback_data);
enum ggml_status ggml_backend_graph_compute(ggml_backend_t backend, struct ggml_cgraph *cgraph);
ggml_backend_buffer_type_t ggml_backend_get_default_buffer_type(ggml_backend_t backend);
ggml_backend_buffer_t ggml_backend_cpu_buffer_from_ptr(void *ptr, size_t size);
void ggml_backend_buffer_free(ggml_backend_buffer_t buffer);
enum ggml_status ggml_backend_tensor_alloc(ggml_backend_buffer_t buffer, struct ggml_tensor *tensor, void *addr);
void ggml_backend_tensor_set(struct ggml_tensor *tensor, const void *data, size_t offset, size_t size);

struct ggml_backend_buffer *ggml_backend_alloc_ctx_tensors(struct ggml_context *ctx, ggml_backend_t backend);
ggml_gallocr_t ggml_gallocr_new(ggml_backend_buffer_type_t buft);
void ggml_gallocr_free(ggml_gallocr_t galloc);
bool ggml_gallocr_alloc_graph(ggml_gallocr_t galloc, struct ggml_cgraph *graph);
size_t ggml_gallocr_get_buffer_size(ggml_gallocr_t galloc, int buffer_id);
"""

ffi: Any = FFI()
ffi.cdef(TYPES + FUNCTIONS)
_DIMS = ffi.typeof("int64_t[4]")


@functools.cache
def library() -> Any:
    """Every ggml symbol, through the handle of libllama.

    Raises RuntimeFailure, once and in one sentence, for a ggml that the bindings were not checked against.
    """
    if version() not in VERSIONS:
        raise RuntimeFailure(
            "binding ggml",
            f"the installed llama-cpp-python ships ggml {version()}, the hybrid runtime knows {', '.join(VERSIONS)}",
        )
    return _open()


@functools.cache
def version() -> str:
    """Of the ggml that is installed, known here or not."""
    text: str = ffi.string(_open().ggml_version()).decode()
    return text


@functools.cache
def _open() -> Any:
    return ffi.dlopen(ffi.cast("void *", llama._lib._handle))


@functools.cache
def multiplies(dtype: str) -> bool:
    """True where ggml's CPU backend has a product for matrices of this type; it would call a null pointer otherwise."""
    return bool(library().ggml_get_type_traits_cpu(TYPES_BY_NAME[dtype]).vec_dot != ffi.NULL)


def reversed_dims(shape: Sequence[int]) -> Any:
    """`shape` (slowest first) as ggml's int64_t[4]: fastest first, padded with ones."""
    dims = list(shape)[::-1]
    return ffi.new(_DIMS, dims + [1] * (MAX_RANK - len(dims)))


def new_tensor(ctx: Any, dtype: str, shape: Sequence[int]) -> Any:
    """A tensor of `shape` (slowest first) that is not allocated yet."""
    kind = TYPES_BY_NAME[dtype]
    tensor = library().ggml_new_tensor(ctx, kind, max(1, len(shape)), reversed_dims(shape))
    if tensor == ffi.NULL:
        raise RuntimeFailure("building a graph", "ggml's context for tensor headers is full")
    return tensor


def new_context(n_tensors: int, n_nodes: int = 0) -> Any:
    """Room for the headers of `n_tensors` and one graph of `n_nodes`; holds no data. Free it with `ggml_free`."""
    lib = library()
    size = n_tensors * lib.ggml_tensor_overhead() + 1024
    if n_nodes:
        size += lib.ggml_graph_overhead_custom(n_nodes, False)
    ctx = lib.ggml_init({"mem_size": size, "mem_buffer": ffi.NULL, "no_alloc": True})
    if ctx == ffi.NULL:
        raise RuntimeFailure("building a graph", f"ggml could not reserve {size} bytes for tensor headers")
    return ctx
