"""Mamba-2. Dao & Gu 2024, arXiv:2405.21060, section 7.

    h[t] = exp(dt[t] * A) * h[t-1] + dt[t] * outer(x[t], B[t])      h: [H, P, N]
    y[t] = h[t] @ C[t] + D * x[t]

T tokens, H heads, P = d_inner / H, N state size, G groups sharing B and C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .api import Carry, Graph, Keys, LayerSpec, Tensor, Weights

NAMES = ("mamba2",)
KERNELS = ("conifer.causal_conv/1", "conifer.ssd_scan/1")


@dataclass(frozen=True)
class Mixer:
    """The shape of one Mamba-2 layer, in whatever model it stands."""

    d_inner: int
    n_head: int  # H; GGUF says time_step_rank
    d_state: int  # N
    n_group: int  # G
    d_conv: int
    eps: float

    @classmethod
    def read(cls, keys: Keys, eps: float) -> Mixer:
        return cls(
            d_inner=keys.size("ssm.inner_size"),
            n_head=keys.size("ssm.time_step_rank"),
            d_state=keys.size("ssm.state_size"),
            n_group=keys.size("ssm.group_count"),
            d_conv=keys.size("ssm.conv_kernel"),
            eps=eps,
        )

    @property
    def d_head(self) -> int:
        return self.d_inner // self.n_head

    @property
    def d_bc(self) -> int:
        return self.n_group * self.d_state

    def carry(self) -> LayerSpec:
        return {
            "conv": (self.d_conv - 1, self.d_inner + 2 * self.d_bc),
            "ssm": (self.n_head, self.d_head, self.d_state),
        }


@dataclass(frozen=True)
class Hyper:
    n_layer: int
    eps: float
    mixer: Mixer

    @classmethod
    def read(cls, keys: Keys) -> Hyper:
        eps = keys.f32("attention.layer_norm_rms_epsilon")
        return cls(n_layer=keys.n_layer, eps=eps, mixer=Mixer.read(keys, eps))


def carry(hp: Hyper) -> list[LayerSpec]:
    return [hp.mixer.carry()] * hp.n_layer


def mixer(g: Graph, m: Mixer, w: Weights, s: Carry, x: Tensor) -> Tensor:
    """x: [T, d_model] -> [T, d_model]. Advances s.conv and s.ssm by T tokens."""
    z, xbc, dt = g.split(g.linear(w.ssm_in, x), m.d_inner, m.d_inner + 2 * m.d_bc, m.n_head)
    y = scan(g, m, w, s, xbc, dt, g.reshape(z, m.n_head, m.d_head))
    return g.linear(w.ssm_out, g.rms_norm(g.reshape(y, m.d_inner), w.ssm_norm, m.eps, groups=m.n_group))


def scan(g: Graph, m: Mixer, w: Weights, s: Carry, xbc: Tensor, dt: Tensor, z: Tensor) -> Tensor:
    """Convolution, state space and gate: xbc [T, d_inner + 2 G N], dt [T, H], z [T, H, P] -> [T, H, P]."""
    conv = w.ssm_conv1d
    xbc = g.kernel("conifer.causal_conv/1", xbc, conv.weight, conv.bias, carry=s.conv)
    x, B, C = g.split(xbc, m.d_inner, m.d_bc, m.d_bc)
    return g.kernel(
        "conifer.ssd_scan/1",
        g.reshape(x, m.n_head, m.d_head),
        dt,
        w.ssm_a.weight,  # already -exp(A_log): the converter folds it in
        g.reshape(B, m.n_group, m.d_state),
        g.reshape(C, m.n_group, m.d_state),
        w.ssm_dt.required_bias,
        w.ssm_d.weight,
        z,
        carry=s.ssm,
    )


def forward(g: Graph, hp: Hyper, w: Weights, s: Sequence[Carry]) -> Tensor:
    x = g.embed(w.token_embd)
    for i in range(hp.n_layer):
        layer = w.blk[i]
        x = g.add(x, mixer(g, hp.mixer, layer, s[i], g.rms_norm(x, layer.attn_norm, hp.eps)))
    x = g.rms_norm(g.wanted_rows(x), w.output_norm, hp.eps)
    return g.linear(w.output if "output" in w else w.token_embd, x)
