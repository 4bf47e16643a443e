"""conifer.causal_conv/1 in NumPy float64: the specification. Gu and Dao 2023, arXiv:2312.00752, section 3.4."""

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
    """x, y: [T, C]; weight: [C, K]; bias: [C]; carry: [n_slot, K-1, C]."""
    x, weight, bias = inputs
    assert x is not None
    assert weight is not None
    taps = weight.shape[1]
    y = np.zeros(x.shape)
    for s, first, end in zip(slot, seq_start, seq_start[1:], strict=False):
        if first == end:
            continue
        seen = np.concatenate([state[0][s], x[first:end]])
        for t in range(end - first):
            y[first + t] = (weight.T * seen[t : t + taps]).sum(0)
        state[0][s] = seen[end - first :]
    if bias is not None:
        y += bias
    return [y * _sigmoid(y) if int_attr[0] else y]


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))
