"""conifer.selective_scan/1 in NumPy float64: the specification, token by token.

Gu and Dao 2023, arXiv:2312.00752, algorithm 2.
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
    """x, dt, z, y: [T, M]; A: [M, N]; B, C: [T, N]; dt_bias, D: [M]; carry: [n_slot, M, N]."""
    x, dt, A, B, C, dt_bias, D, z = inputs
    assert x is not None
    assert dt is not None
    assert A is not None
    assert B is not None
    assert C is not None
    delta = dt if dt_bias is None else dt + dt_bias
    if int_attr[0]:
        delta = np.logaddexp(delta, 0.0)  # softplus
    delta = np.clip(delta, real_attr[0], real_attr[1])
    y = np.zeros(x.shape)
    for s, first, end in zip(slot, seq_start, seq_start[1:], strict=False):
        for t in range(first, end):
            h = state[0][s]
            h *= np.exp(delta[t, :, None] * A)
            h += (delta[t] * x[t])[:, None] * B[t]
            y[t] = h @ C[t]
    if D is not None:
        y += D * x
    if z is not None:
        y *= z * _sigmoid(z)
    return [y]


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))
