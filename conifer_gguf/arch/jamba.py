"""Jamba. Lieber et al. 2024, arXiv:2403.19887: Mamba-1 layers, few attention layers without positions, and after each a
gated feed-forward layer, dense or a mixture of experts.

    y = sum over the n_used largest p[e] of p[e] * FFN_e(x),   p = softmax(W_r x), not renormalised

T tokens, H heads of d_head, H_kv of them in a layer's keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import mamba
from .api import KV, Carry, Graph, Keys, LayerSpec, Tensor, Weights

NAMES = ("jamba",)
KERNELS = mamba.KERNELS


@dataclass(frozen=True)
class Hyper:
    n_head: int
    n_head_kv: tuple[int, ...]  # per layer; none in a Mamba layer
    d_head: int
    n_expert_used: int
    mixer: mamba.Mixer

    @classmethod
    def read(cls, keys: Keys) -> Hyper:
        n_head = keys.size("attention.head_count")
        return cls(
            n_head=n_head,
            n_head_kv=keys.per_layer("attention.head_count_kv", keys.n_layer),
            d_head=keys.size("attention.key_length", keys.size("embedding_length") // n_head),
            n_expert_used=keys.u32("expert_used_count", 0),
            mixer=mamba.Mixer.read(keys, norms="weighted"),
        )


def carry(hp: Hyper) -> list[LayerSpec]:
    return [{"kv": KV(n, hp.d_head, hp.d_head)} if n else hp.mixer.carry() for n in hp.n_head_kv]


def qkv(g: Graph, w: Weights, x: Tensor, d_q: int, d_kv: int) -> Sequence[Tensor]:
    """Queries [T, d_q], keys and values [T, d_kv] each, from three matrices or one."""
    if "attn_qkv" in w:
        return g.split(g.linear(w.attn_qkv, x), d_q, d_kv, d_kv)
    return [g.linear(part, x) for part in (w.attn_q, w.attn_k, w.attn_v)]


def attention(g: Graph, w: Weights, s: Carry, x: Tensor, d_q: int, d_kv: int, scale: float) -> Tensor:
    """x: [T, d_model] -> [T, d_model], without positions. Appends T rows to s.kv."""
    q, k, v = qkv(g, w, x, d_q, d_kv)
    return g.linear(w.attn_output, g.attention(q, k, v, cache=s.kv, scale=scale))


def gated(g: Graph, w: Weights, x: Tensor) -> Tensor:
    """The dense feed-forward layer: W_down(silu(W_gate x) * W_up x)."""
    return g.linear(w.ffn_down, g.swiglu(g.linear(w.ffn_gate, x), g.linear(w.ffn_up, x)))


def shared(g: Graph, w: Weights, x: Tensor) -> Tensor:
    """The expert that every token passes through."""
    return g.linear(w.ffn_down_shexp, g.swiglu(g.linear(w.ffn_gate_shexp, x), g.linear(w.ffn_up_shexp, x)))


def experts(g: Graph, w: Weights, x: Tensor, chosen: Tensor, p: Tensor) -> Tensor:
    """Gated experts: x [T, d], the numbers `chosen` and weights p [T, n_used] -> [T, d]."""
    rows = g.reshape(x, 1, x.shape[1])
    if "ffn_gate_up_exps" in w:  # some files keep both matrices of an expert in one
        both = g.expert_linear(w.ffn_gate_up_exps, rows, chosen)
        gate, up = g.split(both, both.shape[2] // 2, both.shape[2] // 2)
    else:
        gate, up = (g.expert_linear(e, rows, chosen) for e in (w.ffn_gate_exps, w.ffn_up_exps))
    return g.weighted_sum(g.expert_linear(w.ffn_down_exps, g.swiglu(gate, up), chosen), p)


def feed_forward(g: Graph, hp: Hyper, w: Weights, x: Tensor) -> Tensor:
    if "ffn_gate_inp" not in w:
        return gated(g, w, x)
    return experts(g, w, x, *g.route(g.linear(w.ffn_gate_inp, x), hp.n_expert_used))


def forward(g: Graph, hp: Hyper, w: Weights, s: Sequence[Carry]) -> Tensor:
    x, eps, d = g.embed(w.token_embd), hp.mixer.eps, hp.d_head
    for i, n_head_kv in enumerate(hp.n_head_kv):
        layer = w.blk[i]
        h = g.rms_norm(x, layer.attn_norm, eps)
        if n_head_kv:
            h = attention(g, layer, s[i], h, hp.n_head * d, n_head_kv * d, d**-0.5)
        else:
            h = mamba.mixer(g, hp.mixer, layer, s[i], h)
        x = g.add(x, h)
        x = g.add(x, feed_forward(g, hp, layer, g.rms_norm(x, layer.ffn_norm, eps)))
    x = g.rms_norm(g.wanted_rows(x), w.output_norm, eps)
    return g.linear(w.output if "output" in w else w.token_embd, x)
