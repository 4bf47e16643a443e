"""Attention: append to the cache, look back. A registered kernel works on a cache in blocks; without one ggml's flash
attention does, under a causal mask and sequence by sequence, so that the bits of one do not depend on the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ShapeMismatch
from ..native_api import ggml
from . import kernel_node
from .blocks import OP, BlockCache
from .carry import AttentionCache
from .tensor import Tensor, dense_strides, row_bytes

if TYPE_CHECKING:
    from .graph import Graph


Cache = AttentionCache | BlockCache
# ggml's flash attention sums in float32 from this many queries on. Below, it sums f16 values in f16: rms error 2e-2 after
# 32k tokens.
SUMMED_IN_F32 = 64


def attend(g: Graph, q: Tensor, k: Tensor, v: Tensor | None, cache: Cache, scale: float) -> Tensor:
    spec, n = cache.spec, g.n_tokens
    n_head = _columns(q) // spec.d_k
    _check("q", q, n_head * spec.d_k)
    _check("k", k, spec.n_head_kv * spec.d_k)
    if n_head % spec.n_head_kv:
        raise ShapeMismatch("attention", "q", f"a multiple of {spec.n_head_kv} heads", f"{n_head} heads")
    if v is not None:
        _check("v", v, spec.n_head_kv * spec.d_v)
    if isinstance(cache, BlockCache):
        return _attend_in_blocks(g, q, k, v, cache, scale)
    g.split_dependent.append(OP)
    rows = g.input("cache_rows", "i64", (n,))
    _append(g, cache.k, k, rows)
    if v is not None:
        _append(g, cache.v, v, rows)
    q = _flat(g, q)
    outputs, at = [], 0
    for i, share in enumerate(g.shares):
        piece = g.view(q, (share.n, n_head, spec.d_k), (q.strides[0], 4 * spec.d_k, 4), at * q.strides[0])
        outputs.append(_attend_one(g, i, piece, cache, scale))
        at += share.n
    return _joined(g, outputs)


def _attend_in_blocks(
    g: Graph, q: Tensor, k: Tensor, v: Tensor | None, cache: BlockCache, scale: float
) -> Tensor:
    spec = cache.spec
    operands = [
        g.reshape(x, _columns(x) // d, d) if x is not None else None
        for x, d in ((q, spec.d_k), (k, spec.d_k), (v, spec.d_v))
    ]
    operands.append(g.input("positions", "i32", (g.n_tokens,)))
    states = (cache.table, cache.keys, cache.values)
    y = kernel_node.add(g, OP, operands, states, {"scale": scale})
    return g.reshape(y, y.shape[1] * y.shape[2])


def _attend_one(g: Graph, index: int, q: Tensor, cache: AttentionCache, scale: float) -> Tensor:
    """q: [n, H, d_k] of one sequence -> [n, H * d_v]."""
    spec, share, n_kv = cache.spec, g.shares[index], g.n_rows_read[index]
    n, n_head, _ = q.shape
    mask = g.input(f"mask.{index}", "f16", (n, n_kv))
    keys = _heads(g, cache.k, cache, share.slot, n_kv, spec.d_k)
    values = _heads(g, cache.v, cache, share.slot, n_kv, spec.d_v)
    if cache.dtype == "f16" and n < SUMMED_IN_F32:
        wide = g.lib.ggml_cast(g.context, values.pointer, ggml.TYPES_BY_NAME["f32"])
        values = g.made(wide, values.shape)
    swapped = g.lib.ggml_permute(g.context, q.pointer, 0, 2, 1, 3)
    out = g.lib.ggml_flash_attn_ext(
        g.context, swapped, keys.pointer, values.pointer, mask.pointer, scale, 0.0, 0.0
    )
    whole = g.made(out, (n, n_head, spec.d_v))
    return g.reshape(whole, n_head * spec.d_v)


def _heads(g: Graph, rows: Tensor, cache: AttentionCache, slot: int, n_kv: int, d: int) -> Tensor:
    """The first `n_kv` rows of a slot as [H_kv, n_kv, d]."""
    step, head = rows.strides[0], row_bytes(cache.dtype, d)
    shape = (cache.spec.n_head_kv, n_kv, d)
    strides = (head, step, dense_strides(cache.dtype, (d,))[0])
    return g.view(rows, shape, strides, slot * cache.n_row * step)


def _append(g: Graph, pool: Tensor, new: Tensor, rows: Tensor) -> None:
    flat = _flat(g, new)
    g.expand(g.lib.ggml_set_rows(g.context, pool.pointer, flat.pointer, rows.pointer))


def _joined(g: Graph, pieces: list[Tensor]) -> Tensor:
    joined = pieces[0]
    for piece in pieces[1:]:
        shape = (joined.shape[0] + piece.shape[0], joined.shape[1])
        joined = g.made(g.lib.ggml_concat(g.context, joined.pointer, piece.pointer, 1), shape)
    return joined


def _flat(g: Graph, x: Tensor) -> Tensor:
    return x if len(x.shape) == 2 else g.reshape(x, _columns(x))


def _columns(x: Tensor) -> int:
    return x.shape[1] if len(x.shape) == 2 else x.shape[1] * x.shape[2]


def _check(name: str, x: Tensor, columns: int) -> None:
    if _columns(x) != columns:
        raise ShapeMismatch("attention", name, f"{columns} values a token", f"{_columns(x)} values a token")
