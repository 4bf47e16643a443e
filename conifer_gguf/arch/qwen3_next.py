"""Qwen3-Next: gated DeltaNet (Yang et al. 2024, arXiv:2412.06464) in most layers, gated attention in the others, and
after each a mixture of experts beside a shared expert with a gate of its own.

    S[t] = a[t] S[t-1] + b[t] (v[t] - a[t] S[t-1] k[t]) k[t]^T        S: [V, I] per head
    o[t] = S[t] q[t] / sqrt(I),    y = rms_norm(o) * silu(z)          a = exp(A softplus(alpha + bias)), b = sigmoid(beta)

T tokens, J key heads of size I, H value heads of size V. The attention's query projection holds, head by head, a query
and a gate on the head's output; positions rotate the first n_rot values of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .api import KV, Carry, Graph, Keys, LayerSpec, RopeScaling, Tensor, Weights
from .jamba import experts, shared

NAMES = ("qwen3next",)
KERNELS = ("conifer.causal_conv/1", "conifer.gated_delta/1")


@dataclass(frozen=True)
class Hyper:
    recurrent: tuple[bool, ...]  # per layer
    n_head: int
    n_head_kv: int
    d_head: int
    n_rot: int
    rope_base: float
    rope_scaling: RopeScaling
    attention_scale: float
    eps: float
    d_conv: int
    d_key: int  # I
    n_key_head: int  # J
    d_value: int  # V
    n_value_head: int  # H
    n_expert_used: int

    @classmethod
    def read(cls, keys: Keys) -> Hyper:
        recurrent = recurrent_layers(keys)
        n_head = keys.largest("attention.head_count", len(recurrent))
        d_head = keys.size("attention.key_length", keys.size("embedding_length") // n_head)
        n_value_head = keys.size("ssm.time_step_rank")
        return cls(
            recurrent=recurrent,
            n_head=n_head,
            n_head_kv=keys.largest("attention.head_count_kv", len(recurrent), n_head),
            d_head=d_head,
            n_rot=keys.size("rope.dimension_count", d_head),
            rope_base=keys.f32("rope.freq_base", 10_000.0),
            rope_scaling=keys.rope_scaling(),
            attention_scale=keys.attention_scale(d_head),
            eps=keys.f32("attention.layer_norm_rms_epsilon"),
            d_conv=keys.size("ssm.conv_kernel"),
            d_key=keys.size("ssm.state_size"),
            n_key_head=keys.size("ssm.group_count"),
            d_value=keys.size("ssm.inner_size") // n_value_head,
            n_value_head=n_value_head,
            n_expert_used=keys.u32("expert_used_count", 0),
        )

    @property
    def key_dim(self) -> int:
        return self.n_key_head * self.d_key

    @property
    def value_dim(self) -> int:
        return self.n_value_head * self.d_value


def recurrent_layers(keys: Keys) -> tuple[bool, ...]:
    """As listed, or all but each `full_attention_interval`-th."""
    n_layer = keys.n_layer
    if "attention.recurrent_layers" in keys:
        return tuple(map(bool, keys.per_layer("attention.recurrent_layers", n_layer)))
    interval = keys.size("full_attention_interval", 4)
    return tuple((i + 1) % interval != 0 for i in range(n_layer))


def carry(hp: Hyper) -> list[LayerSpec]:
    recurrent: LayerSpec = {
        "conv": (hp.d_conv - 1, 2 * hp.key_dim + hp.value_dim),
        "delta": (hp.n_value_head, hp.d_value, hp.d_key),
    }
    attends: LayerSpec = {"kv": KV(hp.n_head_kv, hp.d_head, hp.d_head)}
    return [recurrent if r else attends for r in hp.recurrent]


def delta_net(
    g: Graph,
    hp: Hyper,
    w: Weights,
    s: Carry,
    qkv: Tensor,
    z: Tensor,
    beta: Tensor,
    alpha: Tensor,
    head_map: str,
) -> Tensor:
    """qkv: [T, 2 J I + H V], z: [T, H V], beta and alpha: [T, H] -> [T, d_model]. Advances s.conv and s.delta.

    `head_map` says which key head a value head reads: "grouped" h // (H / J), or "tiled" h % J.
    """
    qkv = g.kernel("conifer.causal_conv/1", qkv, w.ssm_conv1d.weight, None, carry=s.conv, activation="silu")
    q, k, v = g.split(qkv, hp.key_dim, hp.key_dim, hp.value_dim)
    # ssm_a already holds A = -exp(A_log). The epsilon of q's and k's norm is the reference's, not the file's.
    o = g.kernel(
        "conifer.gated_delta/1",
        g.reshape(q, hp.n_key_head, hp.d_key),
        g.reshape(k, hp.n_key_head, hp.d_key),
        g.reshape(v, hp.n_value_head, hp.d_value),
        alpha,
        beta,
        w.ssm_a.weight,
        w.ssm_dt.required_bias,
        carry=s.delta,
        head_map=head_map,
        qk_norm="l2",
        beta_act="sigmoid",
        scale=hp.d_key**-0.5,
        eps=1e-6,
    )
    y = g.reshape(g.rms_norm(o, w.ssm_norm, hp.eps), hp.value_dim)
    return g.linear(w.ssm_out, g.mul(y, g.silu(z)))


def qkv_and_z(g: Graph, hp: Hyper, w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    if "ssm_in" not in w:
        return g.linear(w.attn_qkv, x), g.linear(w.attn_gate, x)
    # Older files keep one matrix: of each key head its q and k, then the v and the z of its value heads.
    values = hp.value_dim // hp.n_key_head
    fused = g.reshape(g.linear(w.ssm_in, x), hp.n_key_head, 2 * hp.d_key + 2 * values)
    q, k, v, z = g.split(fused, hp.d_key, hp.d_key, values, values)
    q, k = g.reshape(q, hp.key_dim), g.reshape(k, hp.key_dim)
    return g.concat(g.concat(q, k), g.reshape(v, hp.value_dim)), g.reshape(z, hp.value_dim)


def linear_attention(g: Graph, hp: Hyper, w: Weights, s: Carry, x: Tensor) -> Tensor:
    """x: [T, d_model] -> [T, d_model]. ssm_ba holds of each key head the betas of its value heads, then their alphas."""
    qkv, z = qkv_and_z(g, hp, w, x)
    share = hp.n_value_head // hp.n_key_head
    ba = g.reshape(g.linear(w.ssm_ba, x), hp.n_key_head, 2 * share)
    beta, alpha = (g.reshape(part, hp.n_value_head) for part in g.split(ba, share, share))
    return delta_net(g, hp, w, s, qkv, z, beta, alpha, "grouped")


def attention(g: Graph, hp: Hyper, w: Weights, s: Carry, x: Tensor) -> Tensor:
    """x: [T, d_model] -> [T, d_model]. Appends T rows to s.kv."""
    q, gate = g.split(g.reshape(g.linear(w.attn_q, x), hp.n_head, 2 * hp.d_head), hp.d_head, hp.d_head)
    k = g.reshape(g.linear(w.attn_k, x), hp.n_head_kv, hp.d_head)
    q, k = (
        g.rope(g.rms_norm(x, norm, hp.eps), hp.n_rot, hp.rope_base, "neox", hp.rope_scaling)
        for x, norm in ((q, w.attn_q_norm), (k, w.attn_k_norm))
    )
    y = g.attention(q, k, g.linear(w.attn_v, x), cache=s.kv, scale=hp.attention_scale)
    return g.linear(w.attn_output, g.mul(y, g.sigmoid(g.reshape(gate, hp.n_head * hp.d_head))))


def feed_forward(g: Graph, hp: Hyper, w: Weights, x: Tensor) -> Tensor:
    chosen, p = g.route(g.linear(w.ffn_gate_inp, x), hp.n_expert_used, normalise=True)
    y = experts(g, w, x, chosen, p)
    return g.add(y, g.mul(shared(g, w, x), g.sigmoid(g.linear(w.ffn_gate_inp_shexp, x))))


Block = Callable[[Graph, Hyper, Weights, Carry, Tensor], Tensor]
FeedForward = Callable[[Graph, Hyper, Weights, Tensor], Tensor]


def forward(
    g: Graph,
    hp: Hyper,
    w: Weights,
    s: Sequence[Carry],
    recurrent: Block = linear_attention,
    ffn: FeedForward = feed_forward,
) -> Tensor:
    x = g.embed(w.token_embd)
    for i, is_recurrent in enumerate(hp.recurrent):
        layer = w.blk[i]
        mixer = recurrent if is_recurrent else attention
        x = g.add(x, mixer(g, hp, layer, s[i], g.rms_norm(x, layer.attn_norm, hp.eps)))
        x = g.add(x, ffn(g, hp, layer, g.rms_norm(x, layer.post_attention_norm, hp.eps)))
    x = g.rms_norm(g.wanted_rows(x), w.output_norm, hp.eps)
    return g.linear(w.output if "output" in w else w.token_embd, x)
