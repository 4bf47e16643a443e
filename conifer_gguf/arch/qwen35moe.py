"""Qwen3.5 as a mixture of experts: the layers of Qwen3.5 (arXiv:2412.06464) with the feed-forward part of Qwen3-Next."""

from __future__ import annotations

from collections.abc import Sequence

from . import qwen3_next, qwen35
from .api import Carry, Graph, Tensor, Weights
from .qwen3_next import Hyper, carry

__all__ = ["KERNELS", "NAMES", "Hyper", "carry", "forward"]

NAMES = ("qwen35moe",)
KERNELS = qwen3_next.KERNELS


def forward(g: Graph, hp: Hyper, w: Weights, s: Sequence[Carry]) -> Tensor:
    return qwen3_next.forward(g, hp, w, s, qwen35.linear_attention)
