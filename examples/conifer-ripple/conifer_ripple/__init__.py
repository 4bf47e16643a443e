"""Ripple: gated DeltaNet whose write strength reaches 2, with an attention layer now and then.

    S[t] = a[t] S[t-1] (I - b[t] k[t] k[t]^T) + b[t] v[t] k[t]^T        S: [V, I] per head
    o[t] = S[t] q[t] / sqrt(I),    b = 2 sigmoid(beta),    a = exp(A softplus(alpha + bias))

With b above 1 a step may turn the sign of what stands at k (Grazzini et al. 2024, arXiv:2411.12537); everything else
is arXiv:2412.06464. T tokens, H heads with keys of size I and values of size V.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from conifer_gguf.arch.api import KV, Carry, Graph, Keys, LayerSpec, Tensor, Weights

NAMES = ("ripple",)
KERNELS = ("conifer.causal_conv/1", "conifer.gated_delta/1")


@dataclass(frozen=True)
class Hyper:
    n_head: int  # H
    n_head_kv: tuple[int, ...]  # per layer; none where the layer is a DeltaNet
    d_key: int  # I
    d_value: int  # V
    d_head: int  # of attention
    d_conv: int
    eps: float

    @classmethod
    def read(cls, keys: Keys) -> Hyper:
        n_head = keys.size("attention.head_count")
        return cls(
            n_head=n_head,
            n_head_kv=keys.per_layer("attention.head_count_kv", keys.n_layer),
            d_key=keys.size("ssm.state_size"),
            d_value=keys.size("ssm.inner_size") // n_head,
            d_head=keys.size("attention.key_length"),
            d_conv=keys.size("ssm.conv_kernel"),
            eps=keys.f32("attention.layer_norm_rms_epsilon"),
        )


def carry(hp: Hyper) -> list[LayerSpec]:
    channels = hp.n_head * (2 * hp.d_key + hp.d_value)
    delta: LayerSpec = {
        "conv": (hp.d_conv - 1, channels),
        "delta": (hp.n_head, hp.d_value, hp.d_key),
    }
    return [{"kv": KV(n, hp.d_head, hp.d_head)} if n else delta for n in hp.n_head_kv]


def delta_net(g: Graph, hp: Hyper, w: Weights, s: Carry, x: Tensor) -> Tensor:
    """x: [T, d_model] -> [T, d_model]. Advances s.conv and s.delta by T tokens."""
    keys, values = hp.n_head * hp.d_key, hp.n_head * hp.d_value
    qkv = g.linear(w.attn_qkv, x)
    qkv = g.kernel("conifer.causal_conv/1", qkv, w.ssm_conv1d.weight, None, carry=s.conv, activation="silu")
    q, k, v = g.split(qkv, keys, keys, values)
    o = g.kernel(
        "conifer.gated_delta/1",
        g.reshape(q, hp.n_head, hp.d_key),
        g.reshape(k, hp.n_head, hp.d_key),
        g.reshape(v, hp.n_head, hp.d_value),
        g.linear(w.ssm_alpha, x),
        g.scale(g.sigmoid(g.linear(w.ssm_beta, x)), 2.0),
        w.ssm_a.weight,
        w.ssm_dt.required_bias,
        carry=s.delta,
        beta_act="none",  # the factor 2 is this architecture's own
        scale=hp.d_key**-0.5,
        eps=1e-6,
    )
    y = g.reshape(g.rms_norm(o, w.ssm_norm, hp.eps), values)
    return g.linear(w.ssm_out, g.mul(y, g.silu(g.linear(w.attn_gate, x))))


def attention(g: Graph, hp: Hyper, w: Weights, s: Carry, x: Tensor) -> Tensor:
    """x: [T, d_model] -> [T, d_model]. Appends T rows to s.kv."""
    q, k, v = g.linear(w.attn_q, x), g.linear(w.attn_k, x), g.linear(w.attn_v, x)
    return g.linear(w.attn_output, g.attention(q, k, v, cache=s.kv, scale=hp.d_head**-0.5))


def forward(g: Graph, hp: Hyper, w: Weights, s: Sequence[Carry]) -> Tensor:
    x = g.embed(w.token_embd)
    for i, n_head_kv in enumerate(hp.n_head_kv):
        layer = w.blk[i]
        mixer = attention if n_head_kv else delta_net
        x = g.add(x, mixer(g, hp, layer, s[i], g.rms_norm(x, layer.attn_norm, hp.eps)))
        h = g.rms_norm(x, layer.ffn_norm, hp.eps)
        h = g.swiglu(g.linear(layer.ffn_gate, h), g.linear(layer.ffn_up, h))
        x = g.add(x, g.linear(layer.ffn_down, h))
    x = g.rms_norm(g.wanted_rows(x), w.output_norm, hp.eps)
    return g.linear(w.output if "output" in w else w.token_embd, x)
