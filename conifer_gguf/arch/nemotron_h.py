"""Nemotron-H. NVIDIA 2025, arXiv:2504.03624: every block is one thing only: Mamba-2, attention without positions, or a
feed-forward layer with a squared ReLU and no gate.

    x = x + block(rms_norm(x)),    FFN(x) = W_down relu(W_up x)^2

A block is feed-forward where it has a feed-forward length, else attends where it has key heads, and else is Mamba-2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import mamba2
from .api import KV, Carry, Graph, Keys, LayerSpec, Tensor, Weights
from .jamba import attention

NAMES = ("nemotron_h",)
KERNELS = mamba2.KERNELS


@dataclass(frozen=True)
class Hyper:
    n_head: tuple[int, ...]  # this and the next two: per block
    n_head_kv: tuple[int, ...]
    n_ff: tuple[int, ...]
    n_expert_used: tuple[int, ...]
    d_head: int
    attention_scale: float
    normalise_experts: bool
    expert_scale: float
    eps: float
    mixer: mamba2.Mixer

    @classmethod
    def read(cls, keys: Keys) -> Hyper:
        n_layer = keys.n_layer
        n_head = keys.per_layer("attention.head_count", n_layer)
        most = keys.largest("attention.head_count", n_layer)
        d_head = keys.size("attention.key_length", keys.size("embedding_length") // most)
        rms, plain = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
        eps = keys.f32(rms if rms in keys else plain)  # its converter writes the second alone
        return cls(
            n_head=n_head,
            n_head_kv=keys.per_layer("attention.head_count_kv", n_layer),
            n_ff=keys.per_layer("feed_forward_length", n_layer),
            n_expert_used=keys.per_layer("expert_used_count", n_layer, 0),
            d_head=d_head,
            attention_scale=keys.attention_scale(d_head),
            normalise_experts=keys.flag("expert_weights_norm", False),
            expert_scale=keys.factor("expert_weights_scale"),
            eps=eps,
            mixer=mamba2.Mixer.read(keys, eps),
        )


def carry(hp: Hyper) -> list[LayerSpec]:
    return [
        {} if ff else {"kv": KV(kv, hp.d_head, hp.d_head)} if kv else hp.mixer.carry()
        for kv, ff in zip(hp.n_head_kv, hp.n_ff, strict=True)
    ]


def feed_forward(g: Graph, hp: Hyper, w: Weights, x: Tensor, i: int) -> Tensor:
    return g.linear(w.ffn_down, g.squared_relu(g.linear(w.ffn_up, x)))


FeedForward = Callable[[Graph, Hyper, Weights, Tensor, int], Tensor]


def forward(g: Graph, hp: Hyper, w: Weights, s: Sequence[Carry], ffn: FeedForward = feed_forward) -> Tensor:
    x = g.embed(w.token_embd)
    for i, (n_head, n_head_kv, n_ff) in enumerate(zip(hp.n_head, hp.n_head_kv, hp.n_ff, strict=True)):
        layer = w.blk[i]
        h = g.rms_norm(x, layer.attn_norm, hp.eps)
        if n_ff:
            h = ffn(g, hp, layer, h, i)
        elif n_head_kv:
            d_q, d_kv = n_head * hp.d_head, n_head_kv * hp.d_head
            h = attention(g, layer, s[i], h, d_q, d_kv, hp.attention_scale)
        else:
            h = mamba2.mixer(g, hp.mixer, layer, s[i], h)
        x = g.add(x, h)
    x = g.rms_norm(g.wanted_rows(x), w.output_norm, hp.eps)
    return g.linear(w.output if "output" in w else w.token_embd, x)
