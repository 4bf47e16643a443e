"""Ripple in NumPy, float64, one token after the other: what the graph must compute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import ripple_model as m
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def rms_norm(x: Array, weight: Array) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + m.EPS) * weight


def unit(x: Array) -> Array:
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def delta_net(w: dict[str, Array], x: Array) -> Array:
    """x: [T, N_EMBD] -> [T, N_EMBD]."""
    keys, values = m.N_HEAD * m.D_KEY, m.N_HEAD * m.D_VALUE
    qkv = x @ w["attn_qkv.weight"].T
    padded = np.concatenate([np.zeros((m.D_CONV - 1, qkv.shape[1])), qkv])
    taps = w["ssm_conv1d.weight"]
    qkv = silu(sum(padded[j : j + len(x)] * taps[:, j] for j in range(m.D_CONV)))
    q, k, v = np.split(qkv, [keys, 2 * keys], 1)
    q, k = (unit(t.reshape(len(x), m.N_HEAD, m.D_KEY)) for t in (q, k))
    v = v.reshape(len(x), m.N_HEAD, m.D_VALUE)
    decay = np.exp(w["ssm_a"] * np.logaddexp(0, x @ w["ssm_alpha.weight"].T + w["ssm_dt.bias"]))
    strength = 2 * sigmoid(x @ w["ssm_beta.weight"].T)
    S = np.zeros((m.N_HEAD, m.D_VALUE, m.D_KEY))
    rows = []
    for t in range(len(x)):
        S = decay[t][:, None, None] * S
        rest = v[t] - np.einsum("hvi,hi->hv", S, k[t])
        S = S + strength[t][:, None, None] * rest[:, :, None] * k[t][:, None, :]
        rows.append(np.einsum("hvi,hi->hv", S, q[t]) * m.D_KEY**-0.5)
    y = rms_norm(np.stack(rows), w["ssm_norm.weight"]).reshape(len(x), values)
    return (y * silu(x @ w["attn_gate.weight"].T)) @ w["ssm_out.weight"].T


def attention(w: dict[str, Array], x: Array) -> Array:
    """One key head for all query heads; no positions."""
    q = (x @ w["attn_q.weight"].T).reshape(len(x), m.N_HEAD, m.D_HEAD)
    k, v = x @ w["attn_k.weight"].T, x @ w["attn_v.weight"].T
    scores = np.einsum("thd,ud->htu", q, k) * m.D_HEAD**-0.5
    scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    y = np.einsum("htu,ud->thd", p / p.sum(-1, keepdims=True), v)
    return y.reshape(len(x), -1) @ w["attn_output.weight"].T


def logits(tensors: m.Tensors, tokens: Sequence[int]) -> Array:
    """[T, N_VOCAB]."""
    everything = {name: values.astype(np.float64) for name, values in tensors.items()}
    x = everything["token_embd.weight"][list(tokens)]
    for i, n_head_kv in enumerate(m.N_HEAD_KV):
        prefix = f"blk.{i}."
        w = {n.removeprefix(prefix): v for n, v in everything.items() if n.startswith(prefix)}
        mixer = attention if n_head_kv else delta_net
        x = x + mixer(w, rms_norm(x, w["attn_norm.weight"]))
        h = rms_norm(x, w["ffn_norm.weight"])
        x = x + (silu(h @ w["ffn_gate.weight"].T) * (h @ w["ffn_up.weight"].T)) @ w["ffn_down.weight"].T
    return rms_norm(x, everything["output_norm.weight"]) @ everything["token_embd.weight"].T
