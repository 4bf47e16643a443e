"""conifer.expert_matmul/1 in NumPy float64: row by row, with the numbers that the stored blocks mean."""

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
    expert, x, weight = inputs
    assert expert is not None
    assert x is not None
    assert weight is not None
    n_token = seq_start[-1]
    y = np.zeros((*expert.shape, weight.shape[1]))
    for t in range(n_token):
        for u, e in enumerate(expert[t].astype(int)):
            y[t, u] = weight[e] @ x[t, u if x.shape[1] > 1 else 0]
    return [y]
