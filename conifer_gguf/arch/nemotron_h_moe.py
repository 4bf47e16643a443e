"""Nemotron-H with mixtures of experts (Nemotron 3). NVIDIA 2025, arXiv:2512.20848.

    s = sigmoid(W_r x);  the n_used largest of s + bias are chosen, weighted by c * s / sum of the chosen s
    y = sum p[e] FFN_e(x) + FFN_shared(x)

Experts are feed-forward layers with a squared ReLU; in some sizes they work in a narrower, latent space.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import nemotron_h
from .api import Carry, Graph, Tensor, Weights
from .nemotron_h import Hyper, carry

__all__ = ["KERNELS", "NAMES", "Hyper", "carry", "forward"]

NAMES = ("nemotron_h_moe",)
KERNELS = nemotron_h.KERNELS


def feed_forward(g: Graph, hp: Hyper, w: Weights, x: Tensor, i: int) -> Tensor:
    """x: [T, d_model] -> [T, d_model], for block i."""
    chosen, p = g.route(
        g.linear(w.ffn_gate_inp, x),
        hp.n_expert_used[i],
        gating="sigmoid",
        selection_bias=w.exp_probs_b.required_bias,
        normalise=hp.normalise_experts,
        scale=hp.expert_scale,
    )
    h = g.linear(w.ffn_latent_down, x) if "ffn_latent_down" in w else x
    h = g.squared_relu(g.expert_linear(w.ffn_up_exps, g.reshape(h, 1, h.shape[1]), chosen))
    y = g.weighted_sum(g.expert_linear(w.ffn_down_exps, h, chosen), p)
    if "ffn_latent_up" in w:
        y = g.linear(w.ffn_latent_up, y)
    return g.add(y, g.linear(w.ffn_down_shexp, g.squared_relu(g.linear(w.ffn_up_shexp, x))))


def forward(g: Graph, hp: Hyper, w: Weights, s: Sequence[Carry]) -> Tensor:
    return nemotron_h.forward(g, hp, w, s, feed_forward)
