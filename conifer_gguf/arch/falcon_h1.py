"""Falcon-H1. Zuo et al. 2025, arXiv:2507.22448: in every layer attention and Mamba-2 read the same input side by side.

    x = x + attention(n) + mamba2(n),   n = rms_norm(x)
    x = x + FFN(rms_norm(x))

The paper's multipliers are in the weights already: the converter folds them in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import mamba2
from .api import KV, Carry, Graph, Keys, LayerSpec, RopeScaling, Tensor, Weight, Weights
from .jamba import gated, qkv

NAMES = ("falcon-h1",)
KERNELS = mamba2.KERNELS


@dataclass(frozen=True)
class Hyper:
    n_layer: int
    n_head: int
    n_head_kv: int
    d_head: int
    n_rot: int  # values of a head that positions rotate
    rope_base: float
    rope_scaling: RopeScaling
    attention_scale: float
    mixer: mamba2.Mixer

    @classmethod
    def read(cls, keys: Keys) -> Hyper:
        n_head = keys.size("attention.head_count")
        d_head = keys.size("attention.key_length", keys.size("embedding_length") // n_head)
        return cls(
            n_layer=keys.n_layer,
            n_head=n_head,
            n_head_kv=keys.size("attention.head_count_kv", n_head),
            d_head=d_head,
            n_rot=keys.size("rope.dimension_count", d_head),
            rope_base=keys.f32("rope.freq_base", 10_000.0),
            rope_scaling=keys.rope_scaling(),
            attention_scale=keys.attention_scale(d_head),
            mixer=mamba2.Mixer.read(keys, keys.f32("attention.layer_norm_rms_epsilon")),
        )


def carry(hp: Hyper) -> list[LayerSpec]:
    return [{"kv": KV(hp.n_head_kv, hp.d_head, hp.d_head), **hp.mixer.carry()}] * hp.n_layer


def mixer(g: Graph, m: mamba2.Mixer, w: Weights, s: Carry, x: Tensor) -> Tensor:
    """x: [T, d_model] -> [T, d_model]. Mamba-2, whose norm before the output only some sizes have."""
    z, xbc, dt = g.split(g.linear(w.ssm_in, x), m.d_inner, m.d_inner + 2 * m.d_bc, m.n_head)
    y = mamba2.scan(g, m, w, s, xbc, dt, g.reshape(z, m.n_head, m.d_head))
    y = g.reshape(y, m.d_inner)
    if "ssm_norm" in w:
        y = g.rms_norm(y, w.ssm_norm, m.eps, groups=m.n_group)
    return g.linear(w.ssm_out, y)


def attention(g: Graph, hp: Hyper, w: Weights, s: Carry, x: Tensor, factors: Weight | None) -> Tensor:
    """x: [T, d_model] -> [T, d_model]. Appends T rows to s.kv."""
    q, k, v = qkv(g, w, x, hp.n_head * hp.d_head, hp.n_head_kv * hp.d_head)
    q, k = (
        g.rope(g.reshape(x, n, hp.d_head), hp.n_rot, hp.rope_base, "neox", hp.rope_scaling, factors)
        for x, n in ((q, hp.n_head), (k, hp.n_head_kv))
    )
    return g.linear(w.attn_output, g.attention(q, k, v, cache=s.kv, scale=hp.attention_scale))


def forward(g: Graph, hp: Hyper, w: Weights, s: Sequence[Carry]) -> Tensor:
    x, eps = g.embed(w.token_embd), hp.mixer.eps
    factors = w.rope_freqs if "rope_freqs" in w else None
    for i in range(hp.n_layer):
        layer = w.blk[i]
        h = g.rms_norm(x, layer.attn_norm, eps)
        both = g.add(attention(g, hp, layer, s[i], h, factors), mixer(g, hp.mixer, layer, s[i], h))
        x = g.add(x, both)
        x = g.add(x, gated(g, layer, g.rms_norm(x, layer.ffn_norm, eps)))
    x = g.rms_norm(g.wanted_rows(x), w.output_norm, eps)
    return g.linear(w.output if "output" in w else w.token_embd, x)
