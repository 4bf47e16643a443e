"""conifer.attention/1 in NumPy float64. k and v are numbers that the pools' dtype holds exactly."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
STEP = 256  # queries at a time


def reference(
    inputs: Sequence[Float64 | None],
    state: Sequence[Float64],
    int_attr: Sequence[int],
    real_attr: Sequence[float],
    seq_start: Sequence[int],
    slot: Sequence[int],
) -> list[Float64]:
    q, k, v, position = inputs
    assert q is not None
    assert k is not None
    assert position is not None
    table, keys, values = state
    scale, window = real_attr
    width = values.shape[3]
    y = np.zeros((*q.shape[:2], width))
    for s, first, end in zip(slot, seq_start, seq_start[1:], strict=False):
        if first == end:
            continue
        at = position[first:end].astype(int)
        seen = np.arange(at[-1] + 1)
        block, row = np.divmod(seen, keys.shape[2])
        block = table[s, block].astype(int)
        keys[block[at], :, row[at]] = k[first:end]
        if v is not None:
            values[block[at], :, row[at]] = v[first:end]
        past_keys = keys[block, :, row]  # [positions, J, P]
        past_values = past_keys[:, :, :width] if v is None else values[block, :, row]
        group = q.shape[1] // k.shape[1]
        for a in range(first, end, STEP):
            b = min(a + STEP, end)
            grouped = q[a:b].reshape(b - a, k.shape[1], group, -1)
            score = scale * np.einsum("tjgp,njp->tjgn", grouped, past_keys)
            distance = position[a:b, None] - seen
            score[
                ~np.broadcast_to(((distance >= 0) & (distance < window))[:, None, None], score.shape)
            ] = -np.inf
            weight = np.exp(score - score.max(-1, keepdims=True))
            weight /= weight.sum(-1, keepdims=True)
            # A weight of 0 hides whatever stands there, infinity included.
            part = np.einsum("tjgn,njv->tjgv", weight, past_values)
            y[a:b] = part.reshape(b - a, q.shape[1], width)
    return [y]
