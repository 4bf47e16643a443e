"""Qwen3.5 and 3.6, dense: the layers of Qwen3-Next (arXiv:2412.06464) with a dense feed-forward part.

Two things differ from Qwen3-Next: beta and alpha have matrices of their own, and the converter reorders the value
heads, so that value head h reads key head h % J. The positions of a text are the same in all three sections of the
multimodal rotary embedding, which makes it the ordinary one.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import qwen3_next
from .api import Carry, Graph, Tensor, Weights
from .jamba import gated
from .qwen3_next import Hyper, carry

__all__ = ["KERNELS", "NAMES", "Hyper", "carry", "forward"]

NAMES = ("qwen35",)
KERNELS = qwen3_next.KERNELS


def linear_attention(g: Graph, hp: Hyper, w: Weights, s: Carry, x: Tensor) -> Tensor:
    """x: [T, d_model] -> [T, d_model]."""
    qkv, z = g.linear(w.attn_qkv, x), g.linear(w.attn_gate, x)
    beta, alpha = g.linear(w.ssm_beta, x), g.linear(w.ssm_alpha, x)
    return qwen3_next.delta_net(g, hp, w, s, qkv, z, beta, alpha, "tiled")


def feed_forward(g: Graph, hp: Hyper, w: Weights, x: Tensor) -> Tensor:
    return gated(g, w, x)


def forward(g: Graph, hp: Hyper, w: Weights, s: Sequence[Carry]) -> Tensor:
    return qwen3_next.forward(g, hp, w, s, linear_attention, feed_forward)
