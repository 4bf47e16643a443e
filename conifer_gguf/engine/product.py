"""Products with a weight matrix: a registered kernel's where it takes the weight's type, ggml's otherwise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..native_api import host
from . import kernel_node
from .tensor import Tensor, dense_strides

if TYPE_CHECKING:
    from .graph import Graph

OP = "conifer.qmatmul/1"
EXPERTS = "conifer.expert_matmul/1"
# ggml multiplies one row by a large float32 matrix 1.2 to 1.4 times as fast as the bundled kernel. Small ones, as quantised files
# have, take no time either way, and by a kernel their bits depend on no other row: ggml's depend on how many there are.
LARGE_F32 = 1 << 20  # elements


def multiply(g: Graph, weight: Tensor, x: Tensor) -> Tensor:
    """weight: [d_out, d_in], x: [..., d_in] -> [..., d_out]. A row's bits depend on no other row with a kernel."""
    d_out, d_in = weight.shape
    if OP in g.kernels and not _is_ggmls(g, weight):
        n = math.prod(x.shape[:-1])
        rows = x if len(x.shape) == 2 else g.view(g.contiguous(x), (n, d_in), (4 * d_in, 4), 0)
        y = _offer(g, rows, weight, n)
        if y is not None:
            shape = (*x.shape[:-1], d_out)
            return y if len(x.shape) == 2 else g.view(y, shape, dense_strides("f32", shape), 0)
    g.split_dependent.append(weight.name)
    pointer = g.lib.ggml_mul_mat(g.context, weight.pointer, x.pointer)
    return g.made(pointer, (*x.shape[:-1], d_out), name=weight.name)


def _is_ggmls(g: Graph, weight: Tensor) -> bool:
    """True for a weight whose product ggml computes faster, by what was measured of its type here or of large ones anywhere."""
    large = weight.dtype == "f32" and math.prod(weight.shape) > LARGE_F32
    return large or weight.dtype in g.kernels[OP].by_ggml


def multiply_per_head(g: Graph, weight: Tensor, x: Tensor) -> Tensor:
    """weight: [H, d_out, d_in], x: [T, H, d_in] -> [T, H, d_out]. To a kernel, heads are experts that every token chooses."""
    n, n_head, _ = x.shape
    if EXPERTS in g.kernels:
        y = kernel_node.offer(g, EXPERTS, (g.heads(n_head), x, weight), n, weight.name)
        if y is not None:
            return y
    g.split_dependent.append(weight.name)
    swapped = g.lib.ggml_permute(g.context, x.pointer, 0, 2, 1, 3)
    pointer = g.lib.ggml_mul_mat(g.context, weight.pointer, swapped)
    product = g.made(pointer, (n_head, n, weight.shape[1]), name=weight.name)
    back = g.lib.ggml_permute(g.context, product.pointer, 0, 2, 1, 3)
    return g.made(g.lib.ggml_cont(g.context, back), (n, n_head, weight.shape[1]))


def _offer(g: Graph, rows: Tensor, weight: Tensor, n: int) -> Tensor | None:
    """By a kernel, which also makes the rows where it can."""
    how = g.prepared.get(host.address(rows.pointer))
    if how is not None:
        operands = (how.x, weight, how.gate, how.norm)
        y = kernel_node.offer(g, OP, operands, n, weight.name, how.attributes)
        if y is not None:
            return y
    return kernel_node.offer(g, OP, (rows, weight, None, None), n, weight.name)


def multiply_experts(g: Graph, weight: Tensor, x: Tensor, ids: Tensor) -> Tensor:
    """weight: [n_expert, d_out, d_in], x: [T, 1 or n_used, d_in], ids: [T, n_used] -> [T, n_used, d_out]."""
    x = g.contiguous(x)
    if EXPERTS in g.kernels:
        y = kernel_node.offer(g, EXPERTS, (ids, x, weight), x.shape[0], weight.name)
        if y is not None:
            return y
    g.split_dependent.append(weight.name)
    pointer = g.lib.ggml_mul_mat_id(g.context, weight.pointer, x.pointer, ids.pointer)
    return g.made(pointer, (*ids.shape, weight.shape[1]), name=weight.name)
