"""conifer.gated_delta/1 in NumPy float64: the specification, token by token.

Yang et al. 2024, arXiv:2412.06464, equation 10, with a decay per head; arXiv:2510.26692, section 3, with one per key
channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def reference(
    inputs: Sequence[Array | None],
    state: Sequence[Array],
    int_attr: Sequence[int],
    real_attr: Sequence[float],
    seq_start: Sequence[int],
    slot: Sequence[int],
) -> list[Array]:
    """q, k: [T, J, I]; v, o: [T, H, V]; gate: [T, H] or [T, H, I]; beta: [T, H]; carry: [n_slot, H, V, I]."""
    q, k, v, gate, beta, A, dt_bias = inputs
    assert q is not None
    assert k is not None
    assert v is not None
    assert gate is not None
    assert beta is not None
    head_map, qk_norm, beta_act = int_attr
    scale, eps = real_attr
    if qk_norm:
        q, k = (x / np.sqrt((x**2).sum(-1, keepdims=True) + eps) for x in (q, k))
    if A is not None:
        shifted = gate if dt_bias is None else gate + dt_bias
        gate = (A if gate.ndim == 2 else A[:, None]) * np.logaddexp(shifted, 0.0)
    if gate.ndim == 2:
        gate = gate[:, :, None]
    if beta_act:
        beta = np.exp(-np.logaddexp(0.0, -beta))  # sigmoid
    n_head, n_key_head = v.shape[1], q.shape[1]
    heads = np.arange(n_head)
    key_head = heads % n_key_head if head_map else heads // (n_head // n_key_head)
    o = np.zeros(v.shape)
    for s, first, end in zip(slot, seq_start, seq_start[1:], strict=False):
        for t in range(first, end):
            S = state[0][s]
            q_t, k_t = q[t, key_head], k[t, key_head]
            S *= np.exp(gate[t])[:, None, :]
            r = v[t] - np.einsum("hvi,hi->hv", S, k_t)
            S += (beta[t, :, None] * r)[:, :, None] * k_t[:, None, :]
            o[t] = scale * np.einsum("hvi,hi->hv", S, q_t)
    return [o]
