"""Builds one ggml graph: the operations that an architecture file writes its mathematics in.

Shapes are in paper order, slowest first, and checked here: ggml would abort the process. T is the number of tokens of
all sequences in the step. Nothing is computed before `compute.Executor` runs the finished graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import BadModelFile, ShapeMismatch
from ..native_api import ggml, host
from . import attention, kernel_node, product
from .carry import State
from .rope import NO_SCALING, RopeScaling
from .supply import Supply
from .tensor import BLOCKS, Shape, Tensor, dense_strides
from .weights import Weight, WeightFile

MAX_NODES = 16_384


@dataclass(frozen=True)
class Share:
    """One sequence's part of a step: `n` tokens after the `start` that it holds, in pool row `slot`."""

    slot: int
    start: int
    n: int


@dataclass(frozen=True)
class Prepared:
    """How a tensor [T, d] was made that a product's kernel can make by itself while it reads: x times the activation
    of a gate, or x / rms(x) * norm. Where it does, the graph never computes that tensor."""

    x: Tensor
    gate: Tensor | None = None
    norm: Tensor | None = None
    attributes: Mapping[str, str | float] = field(default_factory=dict)


class Graph:
    """A graph under construction, then a finished one. `kernels` answers an op id with who supplies it."""

    def __init__(
        self,
        shares: Sequence[Share],
        n_rows_read: Sequence[int],
        wanted: Literal["last", "all"],
        kernels: Mapping[str, Supply],
        weights: WeightFile,
        n_threads: int,
    ) -> None:
        self.shares = tuple(shares)
        self.n_tokens = sum(share.n for share in shares)
        self.n_rows_read = tuple(n_rows_read)  # cache rows that each sequence's attention looks at
        self.wanted = wanted
        self.n_threads = n_threads
        self.kernels = kernels
        self.weights = weights
        self.lib = ggml.library()
        self.context = ggml.new_context(MAX_NODES, MAX_NODES)
        self.nodes = self.lib.ggml_new_graph_custom(self.context, MAX_NODES, False)
        self.inputs: dict[str, Tensor] = {}
        self.fixed: dict[str, NDArray[np.int32]] = {}  # values of inputs that are the same at every run
        self.kernel_nodes: list[kernel_node.KernelNode] = []
        self.split_dependent: list[str] = []  # what has other bits when the same tokens come in other steps
        self.names: dict[int, str] = {}  # of nodes, by address: what profile.py calls them
        self.prepared: dict[int, Prepared] = {}  # by address
        self._activated: dict[int, tuple[Tensor, str]] = {}  # gates, by the address of their activation
        self.failure = ggml.ffi.new("int32_t[2]")  # status of the first kernel that failed, and its index
        self.tokens = self.input("tokens", "i32", (self.n_tokens,))
        self.output: Tensor | None = None

    def input(self, name: str, dtype: str, shape: Shape) -> Tensor:
        """A tensor that the executor fills before every run; the same one for the same name."""
        if name not in self.inputs:
            pointer = ggml.new_tensor(self.context, dtype, shape)
            self.lib.ggml_set_input(pointer)
            self.inputs[name] = Tensor(pointer, shape, dense_strides(dtype, shape), dtype, name=name)
        return self.inputs[name]

    # ---- rows and weights

    def heads(self, n_head: int) -> Tensor:
        """The numbers 0 to n_head - 1 for every token: [T, n_head]."""
        self.fixed[f"heads.{n_head}"] = np.arange(n_head, dtype=np.int32)
        return self.input(f"heads.{n_head}", "i32", (self.n_tokens, n_head))

    def embed(self, table: Weight) -> Tensor:
        """The rows of `table` [n_vocab, d] that this step's tokens name: [T, d]."""
        weight = self._matrix(table.weight)
        return self.made(
            self.lib.ggml_get_rows(self.context, weight.pointer, self.tokens.pointer),
            (self.n_tokens, weight.shape[-1]),
        )

    def linear(self, w: Weight, x: Tensor, bias: bool = True) -> Tensor:
        """x: [..., d_in] -> [..., d_out], with the weight's bias where the file has one."""
        weight = self._matrix(w.weight)
        rows = (
            weight.shape if len(weight.shape) == 2 else (1, *weight.shape)
        )  # a vector is a matrix of one row
        if len(rows) != 2 or rows[1] != x.shape[-1]:
            raise ShapeMismatch("linear", weight.name, f"[*, {x.shape[-1]}]", str(list(weight.shape)))
        if rows != weight.shape:
            weight = self.view(weight, rows, dense_strides(weight.dtype, rows), 0)
        y = product.multiply(self, weight, x)
        return self.add(y, w.bias) if bias and w.bias is not None else y

    def _matrix(self, weight: Tensor) -> Tensor:
        """A weight of a type that ggml can multiply by. Raises BadModelFile for any other."""
        if not ggml.multiplies(weight.dtype):
            raise BadModelFile(
                str(self.weights.path),
                f"tensor `{weight.name}` is {weight.dtype.upper()}, which ggml {ggml.VERSIONS[-1]} has no product for",
            )
        return weight

    def linear_per_head(self, weight: Tensor, x: Tensor) -> Tensor:
        """x: [T, H, d_in], one matrix [H, d_out, d_in] a head -> [T, H, d_out]."""
        _, n_head, d_in = x.shape
        weight = self._matrix(weight)
        if len(weight.shape) != 3 or weight.shape[0] != n_head or weight.shape[2] != d_in:
            raise ShapeMismatch(
                "linear_per_head", weight.name, f"[{n_head}, *, {d_in}]", str(list(weight.shape))
            )
        return product.multiply_per_head(self, weight, x)

    def matrices(self, w: Weight, n: int, d_out: int, d_in: int) -> Tensor:
        """A weight [n * d_out, d_in] as n matrices [n, d_out, d_in]."""
        whole = w.expect(n * d_out, d_in)
        row, element = whole.strides
        return self.view(whole, (n, d_out, d_in), (d_out * row, row, element), 0)

    def rows(self, matrices: Tensor, first: int, count: int) -> Tensor:
        """Rows of each matrix of a weight [n, d_out, d_in]: [n, count, d_in], a copy without gaps, and kept."""
        return self.weights.rows(matrices, first, count)

    def transposed_rows(self, matrices: Tensor, first: int, count: int) -> Tensor:
        """`rows` of a weight with the last two axes swapped, [n, d_in, count], in float32 and kept."""
        return self.weights.transposed(matrices, first, count)

    def wanted_rows(self, x: Tensor) -> Tensor:
        """The rows of x: [T, d] whose logits somebody asked for: the last of each sequence, or all."""
        if self.wanted == "all" or self.n_tokens == len(self.shares):
            return x
        rows = self.input("wanted", "i32", (len(self.shares),))
        x = self.contiguous(x)
        return self.made(
            self.lib.ggml_get_rows(self.context, x.pointer, rows.pointer), (len(self.shares), x.shape[1])
        )

    # ---- shapes

    def split(self, x: Tensor, *sizes: int) -> list[Tensor]:
        """Views of x: [..., sum(sizes)] cut along the last axis."""
        if sum(sizes) != x.shape[-1] or min(sizes) < 1:
            raise ShapeMismatch(
                "split", x.name or "x", f"{' + '.join(map(str, sizes))} columns", str(list(x.shape))
            )
        views, at = [], 0
        for size in sizes:
            views.append(self.view(x, (*x.shape[:-1], size), x.strides, at))
            at += size * x.strides[-1]
        return views

    def reshape(self, x: Tensor, *shape: int) -> Tensor:
        """x: [T, d] as [T, *shape], or [T, a, b] as [T, a * b]; the token axis stays."""
        size = 1
        for n in shape:
            size *= n
        inner = x.shape[1:]
        total = 1
        for n in inner:
            total *= n
        if size != total:
            raise ShapeMismatch("reshape", x.name or "x", str(list(shape)), str(list(inner)))
        if x.strides[1:] != dense_strides(x.dtype, inner):
            x = self.contiguous(x)
        full = (x.shape[0], *shape)
        return self.view(x, full, (x.strides[0], *dense_strides(x.dtype, shape)), 0)

    def view(self, x: Tensor, shape: Shape, strides: Shape, offset: int) -> Tensor:
        """The bytes of x from `offset` with another shape; the caller vouches that they lie inside."""
        fast_first = list(zip(shape, strides, strict=True))[::-1]
        dims = [n for n, _ in fast_first] + [1] * (4 - len(shape))
        steps = [s for _, s in fast_first[1:]]
        while len(steps) < 3:
            previous = steps[-1] if steps else strides[-1]
            steps.append(previous * dims[len(steps)])
        pointer = self.lib.ggml_view_4d(self.context, x.pointer, *dims, *steps, offset)
        return Tensor(pointer, shape, strides, x.dtype, x.constant, x.name)

    def contiguous(self, x: Tensor) -> Tensor:
        return x if x.dense else self.made(self.lib.ggml_cont(self.context, x.pointer), x.shape)

    def concat(self, a: Tensor, b: Tensor) -> Tensor:
        """[..., m] and [..., n] -> [..., m + n]."""
        if a.shape[:-1] != b.shape[:-1]:
            raise ShapeMismatch("concat", "b", str([*a.shape[:-1], "n"]), str(list(b.shape)))
        shape = (*a.shape[:-1], a.shape[-1] + b.shape[-1])
        return self.made(self.lib.ggml_concat(self.context, a.pointer, b.pointer, 0), shape)

    # ---- element by element

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """a + b; b may have fewer leading axes, or ones."""
        return self._binary("ggml_add", a, b)

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        """a * b; b may have fewer leading axes, or ones."""
        y = self._binary("ggml_mul", a, b)
        gate, act = self._activated.get(host.address(b.pointer), (None, ""))
        if gate is not None and gate.shape == a.shape:
            self._prepare(y, Prepared(a, gate=gate, attributes={"gate_act": act}))
        return y

    def scale(self, x: Tensor, factor: float) -> Tensor:
        if factor == 1.0:
            return x
        return self.made(self.lib.ggml_scale(self.context, self.contiguous(x).pointer, factor), x.shape)

    def silu(self, x: Tensor) -> Tensor:
        return self._gate(self._unary("ggml_silu", x), x, "silu")

    def sigmoid(self, x: Tensor) -> Tensor:
        return self._gate(self._unary("ggml_sigmoid", x), x, "sigmoid")

    def squared_relu(self, x: Tensor) -> Tensor:
        return self._unary("ggml_sqr", self._unary("ggml_relu", x))

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) * up."""
        self._same("swiglu", gate, up)
        pointer = self.lib.ggml_swiglu_split(
            self.context, self.contiguous(gate).pointer, self.contiguous(up).pointer
        )
        y = self.made(pointer, gate.shape)
        self._prepare(y, Prepared(up, gate=gate, attributes={"gate_act": "silu"}))
        return y

    def rms_norm(self, x: Tensor, w: Weight | None, eps: float, groups: int = 1) -> Tensor:
        """x / rms(x) * w over the last axis, or over each of `groups` equal parts of it.

        The weight holds as many values as the last axis of x.
        """
        shape = x.shape
        if groups > 1:
            x = self._grouped(x, groups)
        y = self.made(self.lib.ggml_rms_norm(self.context, x.pointer, eps), x.shape)
        if w is not None:
            weight = self._norm_weight(w, x, groups > 1)
            y = self.mul(y, weight)
            self._prepare(y, Prepared(x, norm=weight, attributes={"eps": eps}))
        return self.view(y, shape, dense_strides("f32", shape), 0) if groups > 1 else y

    def _grouped(self, x: Tensor, groups: int) -> Tensor:
        if x.shape[-1] % groups:
            raise ShapeMismatch(
                "rms_norm", x.name or "x", f"a multiple of {groups} columns", str(list(x.shape))
            )
        return self.reshape(x, *x.shape[1:-1], groups, x.shape[-1] // groups)

    def _norm_weight(self, w: Weight, x: Tensor, grouped: bool) -> Tensor:
        """The weight as ggml needs it beside x: the last axis of x, or with groups the last two."""
        weight = self.weights.float32(w.weight)
        shape = x.shape[-2:] if grouped else x.shape[-1:]
        if math.prod(weight.shape) != math.prod(shape):
            raise ShapeMismatch("rms_norm", weight.name, str(list(shape)), str(list(weight.shape)))
        # A view would be a node between the norm and the product, and keep ggml from fusing them.
        return weight if weight.shape == shape else self.view(weight, shape, dense_strides("f32", shape), 0)

    def _gate(self, y: Tensor, x: Tensor, act: str) -> Tensor:
        self._activated[host.address(y.pointer)] = x, act
        return y

    def _prepare(self, y: Tensor, how: Prepared) -> None:
        if len(y.shape) == 2:
            self.prepared[host.address(y.pointer)] = how

    def _unary(self, function: str, x: Tensor) -> Tensor:
        return self.made(getattr(self.lib, function)(self.context, self.contiguous(x).pointer), x.shape)

    def _binary(self, function: str, a: Tensor, b: Tensor) -> Tensor:
        if b.constant:
            b = self.weights.float32(b)
        padded = (1,) * (len(a.shape) - len(b.shape)) + b.shape
        if len(padded) != len(a.shape) or any(n not in (1, m) for m, n in zip(a.shape, padded, strict=True)):
            raise ShapeMismatch(
                function.removeprefix("ggml_"), b.name or "b", str(list(a.shape)), str(list(b.shape))
            )
        return self.made(getattr(self.lib, function)(self.context, a.pointer, b.pointer), a.shape)

    def _same(self, op: str, a: Tensor, b: Tensor) -> None:
        if a.shape != b.shape:
            raise ShapeMismatch(op, b.name or "b", str(list(a.shape)), str(list(b.shape)))

    # ---- attention, kernels, experts

    def rope(
        self,
        x: Tensor,
        n_dims: int,
        base: float,
        mode: Literal["normal", "neox"] = "neox",
        scaling: RopeScaling = NO_SCALING,
        factors: Weight | None = None,
    ) -> Tensor:
        """Rotate the first `n_dims` of each head of x: [T, H, d] by its token's position.

        Source: RoPE, arXiv:2104.09864; `factors` [n_dims / 2] divide the angles.
        """
        if len(x.shape) != 3 or n_dims > x.shape[2] or n_dims % 2:
            raise ShapeMismatch("rope", x.name or "x", f"[T, H, at least {n_dims}]", str(list(x.shape)))
        positions = self.input("positions", "i32", (self.n_tokens,))
        divide = self.weights.float32(factors.expect(n_dims // 2)).pointer if factors else ggml.ffi.NULL
        pointer = self.lib.ggml_rope_ext(
            self.context, x.pointer, positions.pointer, divide, n_dims, ggml.ROPE_MODES[mode], scaling.n_ctx_original,
            base, scaling.positions, scaling.extrapolation, scaling.magnitude, scaling.beta_fast, scaling.beta_slow,
        )  # fmt: skip
        return self.made(pointer, x.shape)

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor | None, cache: attention.Cache, scale: float
    ) -> Tensor:
        """Causal grouped-query attention over the cache, after k and v of this step were appended to it.

        q: [T, H * d_k], k: [T, H_kv * d_k], v: [T, H_kv * d_v] (or with heads as an axis of their own; None for a latent
        cache) -> [T, H * d_v].
        """
        return attention.attend(self, q, k, v, cache, scale)

    def kernel(
        self,
        op: str,
        *operands: Tensor | None,
        carry: State | Sequence[State] = (),
        **attributes: str | int | float,
    ) -> Tensor:
        """Call the registered kernel of `op` with operands in its contract's order; None is an absent one.

        Constants come as they are in the file; axes of length 1 that the contract does not name are dropped.
        """
        states = (carry,) if isinstance(carry, State) else tuple(carry)
        return kernel_node.add(self, op, operands, states, attributes)

    def route(
        self,
        scores: Tensor,
        n_used: int,
        *,
        gating: Literal["softmax", "sigmoid"] = "softmax",
        selection_bias: Tensor | None = None,
        normalise: bool = False,
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Choose the `n_used` best of scores: [T, n_expert]; returns expert numbers and weights, [T, n_used] each.

        `selection_bias` [n_expert] changes who is chosen, not the weight.
        """
        n, n_expert = scores.shape
        if not 1 <= n_used <= n_expert:
            raise ShapeMismatch("route", "n_used", f"1 to {n_expert} experts", str(n_used))
        chance = self.made(self.lib.ggml_soft_max(self.context, scores.pointer), scores.shape)
        if gating == "sigmoid":
            chance = self.sigmoid(scores)
        ranked = chance if selection_bias is None else self.add(chance, selection_bias)
        ids_pointer = self.lib.ggml_argsort_top_k(self.context, ranked.pointer, n_used)
        # ggml returns a view of the whole ranking, so a row's stride is n_expert.
        ids = Tensor(ids_pointer, (n, n_used), (4 * n_expert, 4), "i32")
        columns = self.view(chance, (n, n_expert, 1), (4 * n_expert, 4, 4), 0)
        picked = self.lib.ggml_get_rows(self.context, columns.pointer, ids.pointer)
        weights = self.view(self.made(picked, (n, n_used, 1)), (n, n_used), (4 * n_used, 4), 0)
        if normalise:
            total = self.lib.ggml_sum_rows(self.context, weights.pointer)
            # The smallest normal f16 keeps a row of zeros from dividing by zero, as in llama.cpp.
            total = self.lib.ggml_clamp(self.context, total, 6.103515625e-5, float("inf"))
            weights = self.made(self.lib.ggml_div(self.context, weights.pointer, total), weights.shape)
        return ids, self.scale(weights, scale)

    def expert_linear(self, w: Weight, x: Tensor, ids: Tensor) -> Tensor:
        """x: [T, 1 or n_used, d_in] through the matrices [n_expert, d_out, d_in] that ids: [T, n_used] name."""
        weight = self._matrix(w.weight)
        n_expert = ids.strides[0] // 4  # ids are the front of a ranking of all experts
        if len(weight.shape) != 3 or weight.shape[0] != n_expert or weight.shape[2] != x.shape[2]:
            raise ShapeMismatch(
                "expert_linear", weight.name, f"[{n_expert}, *, {x.shape[2]}]", str(list(weight.shape))
            )
        return product.multiply_experts(self, weight, x, ids)

    def weighted_sum(self, y: Tensor, weights: Tensor) -> Tensor:
        """y: [T, n_used, d], weights: [T, n_used] -> [T, d]."""
        n, n_used, d = y.shape
        y = self.mul(y, self.view(weights, (n, n_used, 1), (*weights.strides, 4), 0))
        rows = [self.view(y, (n, d), (y.strides[0], 4), i * y.strides[1]) for i in range(n_used)]
        total = rows[0]
        for row in rows[1:]:
            total = self.add(total, row)
        return total

    # ---- the rest of the engine

    def made(self, pointer: Any, shape: Shape, dtype: str = "f32", name: str = "") -> Tensor:
        """Wrap what ggml returned as a dense tensor."""
        assert BLOCKS[dtype].block_size == 1
        if name:
            self.names[host.address(pointer)] = name
        return Tensor(pointer, shape, dense_strides(dtype, shape), dtype, name=name)

    def expand(self, pointer: Any) -> None:
        """Compute `pointer` at this place of the order, because a later node reads its effect and not its value."""
        self.lib.ggml_build_forward_expand(self.nodes, pointer)

    def finish(self, output: Tensor) -> None:
        """End of construction: `output` [n, n_vocab] is what a run returns."""
        self.output = self.contiguous(output)
        self.lib.ggml_set_output(self.output.pointer)
        self.expand(self.output.pointer)

    def bind(self) -> None:
        """After allocation: tell every kernel where its operands are."""
        for node in self.kernel_nodes:
            node.bind()

    def close(self) -> None:
        self.lib.ggml_free(self.context)
