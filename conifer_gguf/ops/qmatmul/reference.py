"""conifer.qmatmul/1 in NumPy float64: the product with the numbers that the stored blocks mean."""

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
    x, weight = inputs
    assert x is not None
    assert weight is not None
    return [x @ weight.T]
