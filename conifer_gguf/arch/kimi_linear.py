"""Kimi Linear. Moonshot AI 2025, arXiv:2510.26692: Kimi Delta Attention, and few layers of multi-head latent attention
(MLA, arXiv:2405.04434) without positions; mixtures of experts after the first layers.

    S[t] = S[t-1] diag(a[t]);  S[t] += b[t] (v[t] - S[t] k[t]) k[t]^T      S: [D, D] per head
    o[t] = S[t] q[t] / sqrt(D),    y = rms_norm(o) * sigmoid(z)            a = exp(A softplus(f + bias)), per channel

T tokens, H heads of size D. MLA keeps one row [c | r] a token for all heads; its first d_latent values are the values
too. The score of a head is q_nope . (W_k c) + q_r . r = (W_k^T q_nope) . c + q_r . r, so W_k is applied to the query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .api import KV, Carry, Graph, Keys, LayerSpec, Tensor, Weights
from .jamba import experts, gated, qkv, shared

NAMES = ("kimi-linear",)
KERNELS = ("conifer.causal_conv/1", "conifer.gated_delta/1")
LATENT_EPS = 1e-6  # of MLA's inner norms, whatever the file's epsilon is
SIGMOID = 2  # expert_gating_func


@dataclass(frozen=True)
class Hyper:
    n_head: int
    attends: tuple[bool, ...]  # per layer: MLA
    d_head: int  # D of Kimi Delta Attention
    d_conv: int
    d_latent: int
    d_key: int  # of MLA: d_nope + d_rope
    d_rope: int
    d_value: int
    n_dense: int  # leading layers without experts
    n_expert_used: int
    expert_scale: float
    sigmoid_gating: bool
    eps: float

    @classmethod
    def read(cls, keys: Keys) -> Hyper:
        n_layer = keys.n_layer
        d_latent = keys.size("attention.kv_lora_rank")
        return cls(
            n_head=keys.largest("attention.head_count", n_layer),
            attends=tuple(map(bool, keys.per_layer("attention.head_count_kv", n_layer))),
            d_head=keys.size("kda.head_dim"),
            d_conv=keys.size("ssm.conv_kernel"),
            d_latent=d_latent,
            d_key=keys.size("attention.key_length_mla"),
            d_rope=rotary_size(keys, d_latent),
            d_value=keys.size("attention.value_length_mla"),
            n_dense=keys.u32("leading_dense_block_count", 0),
            n_expert_used=keys.u32("expert_used_count", 0),
            expert_scale=keys.factor("expert_weights_scale"),
            sigmoid_gating=keys.u32("expert_gating_func", SIGMOID) == SIGMOID,
            eps=keys.f32("attention.layer_norm_rms_epsilon"),
        )


def rotary_size(keys: Keys, d_latent: int) -> int:
    """Of the part r, which is never rotated here: rope.dimension_count is wrong in some files.

    Files with the fused attn_kv_b hold the length of a whole head under key_length, and there it is right.
    """
    length = keys.size("attention.key_length")
    return length - d_latent if length > d_latent else keys.size("rope.dimension_count")


def carry(hp: Hyper) -> list[LayerSpec]:
    window = (hp.d_conv - 1, hp.n_head * hp.d_head)
    kda: LayerSpec = {
        "conv_q": window,
        "conv_k": window,
        "conv_v": window,
        "delta": (hp.n_head, hp.d_head, hp.d_head),
    }
    mla: LayerSpec = {"kv": KV(1, hp.d_latent + hp.d_rope, hp.d_latent, latent=True)}
    return [mla if attends else kda for attends in hp.attends]


def kimi_delta_attention(g: Graph, hp: Hyper, w: Weights, s: Carry, x: Tensor) -> Tensor:
    """x: [T, d_model] -> [T, d_model]. Advances the three convolutions and s.delta by T tokens."""
    size = hp.n_head * hp.d_head
    convolutions = ((w.ssm_conv1d_q, s.conv_q), (w.ssm_conv1d_k, s.conv_k), (w.ssm_conv1d_v, s.conv_v))
    q, k, v = (
        g.reshape(
            g.kernel("conifer.causal_conv/1", part, conv.weight, None, carry=c, activation="silu"),
            hp.n_head,
            hp.d_head,
        )
        for part, (conv, c) in zip(qkv(g, w, x, size, size), convolutions, strict=True)
    )
    # The file keeps this bias flat, [H * D], where the kernel would want it by head: added here.
    f = g.add(g.linear(w.ssm_f_b, g.linear(w.ssm_f_a, x)), w.ssm_dt.required_bias)
    o = g.kernel(
        "conifer.gated_delta/1",
        q,
        k,
        v,
        g.reshape(f, hp.n_head, hp.d_head),
        g.linear(w.ssm_beta, x),
        w.ssm_a.weight,  # already -exp(A_log)
        carry=s.delta,
        qk_norm="l2",
        beta_act="sigmoid",
        scale=hp.d_head**-0.5,
        eps=1e-6,
    )
    y = g.reshape(g.rms_norm(o, w.ssm_norm, hp.eps), hp.n_head * hp.d_head)
    z = g.linear(w.ssm_g_b, g.linear(w.ssm_g_a, x))
    return g.linear(w.attn_output, g.mul(y, g.sigmoid(z)))


def latent_maps(g: Graph, hp: Hyper, w: Weights) -> tuple[Tensor, Tensor]:
    """W_k^T [H, d_latent, d_nope] and W_v [H, d_value, d_latent] of every head."""
    if "attn_kv_b" not in w:
        return w.attn_k_b.weight, w.attn_v_b.weight
    # Older files keep one matrix: of each head the rows of W_k, then those of W_v.
    d_nope = hp.d_key - hp.d_rope
    heads = g.matrices(w.attn_kv_b, hp.n_head, d_nope + hp.d_value, hp.d_latent)
    return g.transposed_rows(heads, 0, d_nope), g.rows(heads, d_nope, hp.d_value)


def latent_attention(g: Graph, hp: Hyper, w: Weights, s: Carry, x: Tensor) -> Tensor:
    """x: [T, d_model] -> [T, d_model]. Appends T rows [c | r] to s.kv."""
    if "attn_q_a" in w:
        q = g.linear(w.attn_q_b, g.rms_norm(g.linear(w.attn_q_a, x), w.attn_q_a_norm, LATENT_EPS))
    else:
        q = g.linear(w.attn_q, x)
    nope, rope = g.split(g.reshape(q, hp.n_head, hp.d_key), hp.d_key - hp.d_rope, hp.d_rope)
    c, r = g.split(g.linear(w.attn_kv_a_mqa, x), hp.d_latent, hp.d_rope)
    row = g.concat(g.rms_norm(c, w.attn_kv_a_norm, LATENT_EPS), r)
    to_latent, to_value = latent_maps(g, hp, w)
    q = g.concat(g.linear_per_head(to_latent, nope), rope)
    y = g.attention(q, row, None, cache=s.kv, scale=hp.d_key**-0.5)
    y = g.linear_per_head(to_value, g.reshape(y, hp.n_head, hp.d_latent))
    return g.linear(w.attn_output, g.reshape(y, hp.n_head * hp.d_value))


def mixture(g: Graph, hp: Hyper, w: Weights, x: Tensor) -> Tensor:
    chosen, p = g.route(
        g.linear(w.ffn_gate_inp, x),
        hp.n_expert_used,
        gating="sigmoid" if hp.sigmoid_gating else "softmax",
        selection_bias=w.exp_probs_b.required_bias,
        normalise=True,
        scale=hp.expert_scale,
    )
    y = experts(g, w, x, chosen, p)
    return g.add(y, shared(g, w, x)) if "ffn_up_shexp" in w else y


def forward(g: Graph, hp: Hyper, w: Weights, s: Sequence[Carry]) -> Tensor:
    x = g.embed(w.token_embd)
    for i, attends in enumerate(hp.attends):
        layer = w.blk[i]
        mixer = latent_attention if attends else kimi_delta_attention
        x = g.add(x, mixer(g, hp, layer, s[i], g.rms_norm(x, layer.attn_norm, hp.eps)))
        h = g.rms_norm(x, layer.ffn_norm, hp.eps)
        x = g.add(x, gated(g, layer, h) if i < hp.n_dense else mixture(g, hp, layer, h))
    x = g.rms_norm(g.wanted_rows(x), w.output_norm, hp.eps)
    return g.linear(w.output if "output" in w else w.token_embd, x)
