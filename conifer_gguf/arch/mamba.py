"""Mamba, and Falcon-Mamba. Gu & Dao 2023, arXiv:2312.00752, algorithm 2; Zuo et al. 2024, arXiv:2410.05355.

    delta[t,d] = softplus((W_dt dt[t])[d] + b[d])
    h[t,d]     = exp(delta[t,d] A[d]) * h[t-1,d] + delta[t,d] B[t] x[t,d]      h: [M, N]
    y[t,d]     = h[t,d] @ C[t] + D[d] x[t,d]

T tokens, M = d_inner channels, N state size, R = dt_rank. Falcon-Mamba normalises dt, B and C, without weights; Jamba
with weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .api import Carry, Graph, Keys, LayerSpec, Tensor, Weights

NAMES = ("mamba",)
KERNELS = ("conifer.causal_conv/1", "conifer.selective_scan/1")


Norms = Literal["none", "plain", "weighted"]


@dataclass(frozen=True)
class Mixer:
    """The shape of one Mamba-1 layer, in whatever model it stands. `norms`: of dt, B and C."""

    d_inner: int
    d_state: int
    dt_rank: int
    d_conv: int
    eps: float
    norms: Norms

    @classmethod
    def read(cls, keys: Keys, norms: Norms) -> Mixer:
        return cls(
            d_inner=keys.size("ssm.inner_size"),
            d_state=keys.size("ssm.state_size"),
            dt_rank=keys.size("ssm.time_step_rank"),
            d_conv=keys.size("ssm.conv_kernel"),
            eps=keys.f32("attention.layer_norm_rms_epsilon"),
            norms=norms,
        )

    def carry(self) -> LayerSpec:
        return {"conv": (self.d_conv - 1, self.d_inner), "ssm": (self.d_inner, self.d_state)}


@dataclass(frozen=True)
class Hyper:
    n_layer: int
    mixer: Mixer

    @classmethod
    def read(cls, keys: Keys) -> Hyper:
        return cls(
            keys.n_layer, Mixer.read(keys, norms="plain" if keys.flag("ssm.dt_b_c_rms", False) else "none")
        )


def carry(hp: Hyper) -> list[LayerSpec]:
    return [hp.mixer.carry()] * hp.n_layer


def mixer(g: Graph, m: Mixer, w: Weights, s: Carry, x: Tensor) -> Tensor:
    """x: [T, d_model] -> [T, d_model]. Advances s.conv and s.ssm by T tokens."""
    x, z = g.split(g.linear(w.ssm_in, x), m.d_inner, m.d_inner)
    conv = w.ssm_conv1d
    x = g.kernel("conifer.causal_conv/1", x, conv.weight, conv.required_bias, carry=s.conv, activation="silu")
    dt, B, C = g.split(g.linear(w.ssm_x, x), m.dt_rank, m.d_state, m.d_state)
    if m.norms != "none":
        weighted = m.norms == "weighted"
        dt = g.rms_norm(dt, w.ssm_dt_norm if weighted else None, m.eps)
        B = g.rms_norm(B, w.ssm_b_norm if weighted else None, m.eps)
        C = g.rms_norm(C, w.ssm_c_norm if weighted else None, m.eps)
    # The kernel adds the bias, below the softplus; ssm_a already holds A = -exp(A_log): the converter folds it in.
    dt = g.linear(w.ssm_dt, dt, bias=False)
    y = g.kernel(
        "conifer.selective_scan/1",
        x,
        dt,
        w.ssm_a.weight,
        B,
        C,
        w.ssm_dt.required_bias,
        w.ssm_d.weight,
        z,
        carry=s.ssm,
    )
    return g.linear(w.ssm_out, y)


def forward(g: Graph, hp: Hyper, w: Weights, s: Sequence[Carry]) -> Tensor:
    x, eps = g.embed(w.token_embd), hp.mixer.eps
    for i in range(hp.n_layer):
        layer = w.blk[i]
        x = g.add(x, mixer(g, hp.mixer, layer, s[i], g.rms_norm(x, layer.attn_norm, eps)))
    x = g.rms_norm(g.wanted_rows(x), w.output_norm, eps)
    return g.linear(w.output if "output" in w else w.token_embd, x)
