"""Products with a weight matrix: a registered kernel's where it takes the weight's type, ggml's otherwise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import kernel_node
from .tensor import Tensor, dense_strides

if TYPE_CHECKING:
    from .graph import Graph

OP = "conifer.qmatmul/1"


def multiply(g: Graph, weight: Tensor, x: Tensor) -> Tensor:
    """weight: [d_out, d_in], x: [..., d_in] -> [..., d_out]. A row's bits depend on no other row with a kernel."""
    d_out, d_in = weight.shape
    if OP in g.kernels:
        n = math.prod(x.shape[:-1])
        rows = x if len(x.shape) == 2 else g.view(g.contiguous(x), (n, d_in), (4 * d_in, 4), 0)
        y = kernel_node.offer(g, OP, (rows, weight), n, weight.name)
        if y is not None:
            shape = (*x.shape[:-1], d_out)
            return y if len(x.shape) == 2 else g.view(y, shape, dense_strides("f32", shape), 0)
    pointer = g.lib.ggml_mul_mat(g.context, weight.pointer, x.pointer)
    return g.made(pointer, (*x.shape[:-1], d_out), name=weight.name)
