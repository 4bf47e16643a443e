"""Granite 4.0 H: Mamba-2 layers with a few attention layers, dense or mixture-of-experts feed-forward.

    x = x + r * mixer(norm(x)),  x = x + r * ffn(norm(x))                    r: residual scale

Mamba-2: arXiv:2405.21060. A layer is attention where it has key heads. Four factors scale embedding, residuals,
attention scores and logits. Without `rope.scaling.finetuned` positions are rotated, with it set to false they are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import mamba2
from .api import KV, Carry, Graph, Keys, LayerSpec, RopeScaling, Tensor, Weight, Weights
from .jamba import experts, gated, qkv, shared

NAMES = ("granitehybrid",)
KERNELS = mamba2.KERNELS


@dataclass(frozen=True)
class Hyper:
    n_head: tuple[int, ...]  # per layer
    n_head_kv: tuple[int, ...]  # per layer; 0 where the layer is Mamba-2
    d_head: int
    n_expert_used: int
    eps: float
    embedding_scale: float
    residual_scale: float
    attention_scale: float
    logit_scale: float
    rope_base: float
    rope_dims: int  # 0: no rotary embedding
    rope_scaling: RopeScaling
    mixer: mamba2.Mixer

    @classmethod
    def read(cls, keys: Keys) -> Hyper:
        eps = keys.f32("attention.layer_norm_rms_epsilon")
        n_layer = keys.n_layer
        most = keys.largest("attention.head_count", n_layer)
        d_head = keys.size("attention.key_length", keys.size("embedding_length") // most)
        rotates = keys.flag("rope.scaling.finetuned", True)
        return cls(
            n_head=keys.per_layer("attention.head_count", n_layer),
            n_head_kv=keys.per_layer("attention.head_count_kv", n_layer),
            d_head=d_head,
            n_expert_used=keys.u32("expert_used_count", 0),
            eps=eps,
            embedding_scale=keys.factor("embedding_scale"),
            residual_scale=keys.factor("residual_scale"),
            attention_scale=keys.attention_scale(d_head),
            logit_scale=keys.factor("logit_scale"),
            rope_base=keys.f32("rope.freq_base", 10_000.0),
            rope_dims=keys.size("rope.dimension_count", d_head) if rotates else 0,
            rope_scaling=keys.rope_scaling(),
            mixer=mamba2.Mixer.read(keys, eps),
        )


def carry(hp: Hyper) -> list[LayerSpec]:
    return [
        {"kv": KV(n_head_kv, hp.d_head, hp.d_head)} if n_head_kv else hp.mixer.carry()
        for n_head_kv in hp.n_head_kv
    ]


def attention(
    g: Graph, hp: Hyper, w: Weights, s: Carry, x: Tensor, n_head: int, factors: Weight | None
) -> Tensor:
    """x: [T, d_model] -> [T, d_model]. Appends T rows to s.kv."""
    n_head_kv = s.kv.spec.n_head_kv
    q, k, v = qkv(g, w, x, n_head * hp.d_head, n_head_kv * hp.d_head)
    if hp.rope_dims:
        q, k = (
            g.rope(g.reshape(x, n, hp.d_head), hp.rope_dims, hp.rope_base, "normal", hp.rope_scaling, factors)
            for x, n in ((q, n_head), (k, n_head_kv))
        )
    return g.linear(w.attn_output, g.attention(q, k, v, cache=s.kv, scale=hp.attention_scale))


def feed_forward(g: Graph, hp: Hyper, w: Weights, x: Tensor) -> Tensor:
    """SwiGLU, or a mixture of SwiGLU experts beside one that every token shares."""
    if "ffn_gate_inp" not in w:
        return gated(g, w, x)
    # The weights are a softmax over the chosen experts alone.
    y = experts(g, w, x, *g.route(g.linear(w.ffn_gate_inp, x), hp.n_expert_used, normalise=True))
    return g.add(y, shared(g, w, x)) if "ffn_up_shexp" in w else y


def forward(g: Graph, hp: Hyper, w: Weights, s: Sequence[Carry]) -> Tensor:
    x = g.scale(g.embed(w.token_embd), hp.embedding_scale)
    factors = w.rope_freqs if "rope_freqs" in w else None
    for i, (n_head, n_head_kv) in enumerate(zip(hp.n_head, hp.n_head_kv, strict=True)):
        layer = w.blk[i]
        h = g.rms_norm(x, layer.attn_norm, hp.eps)
        if n_head_kv:
            h = attention(g, hp, layer, s[i], h, n_head, factors)
        else:
            h = mamba2.mixer(g, hp.mixer, layer, s[i], h)
        x = g.add(x, g.scale(h, hp.residual_scale))
        h = feed_forward(g, hp, layer, g.rms_norm(x, layer.ffn_norm, hp.eps))
        x = g.add(x, g.scale(h, hp.residual_scale))
    x = g.rms_norm(g.wanted_rows(x), w.output_norm, hp.eps)
    logits = g.linear(w.output if "output" in w else w.token_embd, x)
    return g.scale(logits, 1.0 / hp.logit_scale)
