"""example.my_scan/1 in NumPy float64: the specification that the kernel is checked against."""

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
    """x, y: [T, C]; decay: [C]; carry: [n_slot, C], advanced in place."""
    x, decay = inputs
    assert x is not None
    assert decay is not None
    y = np.zeros(x.shape)
    for s, first, end in zip(slot, seq_start, seq_start[1:], strict=False):
        for t in range(first, end):
            state[0][s] = decay * state[0][s] + (1 - decay) * x[t]
            y[t] = state[0][s]
    return [y]
