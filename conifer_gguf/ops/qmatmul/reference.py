"""conifer.qmatmul/1 in NumPy float64: the product with the numbers that the stored blocks mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SILU = 0
Array = NDArray[np.float64]


def reference(
    inputs: Sequence[Array | None],
    state: Sequence[Array],
    int_attr: Sequence[int],
    real_attr: Sequence[float],
    seq_start: Sequence[int],
    slot: Sequence[int],
) -> list[Array]:
    x, weight, gate, norm = inputs
    assert x is not None
    assert weight is not None
    if gate is not None:
        x = x / (1 + np.exp(-gate)) * (gate if int_attr[0] == SILU else 1)
    if norm is not None:
        x = norm * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + real_attr[0])
    return [x @ weight.T]
