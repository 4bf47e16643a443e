"""org.example.attention/1 in NumPy float64."""

import numpy as np


def reference(inputs, state, int_attr, real_attr, seq_start, slot):
    q, k, v, bias, sink, gate = inputs
    keys, values, length = state
    group = q.shape[1] // k.shape[1]
    y = np.zeros((*q.shape[:2], v.shape[2]))
    for s, first, end in zip(slot, seq_start, seq_start[1:], strict=False):
        for t in range(first, end):
            at = int(length[s, 0])
            keys[s, at], values[s, at], length[s, 0] = k[t], v[t], at + 1
            past_keys = np.repeat(keys[s, : at + 1], group, 1)  # [at + 1, H, P]
            past_values = np.repeat(values[s, : at + 1], group, 1)
            score = real_attr[0] * np.einsum("hp,lhp->hl", q[t], past_keys) + bias[:, at::-1]
            if sink is not None:
                score = np.concatenate([score, sink[:, None]], 1)
            weight = np.exp(score - score.max(1, keepdims=True))
            weight /= weight.sum(1, keepdims=True)
            y[t] = np.einsum("hl,lhv->hv", weight[:, : at + 1], past_values)
    if gate is not None:
        y *= np.exp(-np.logaddexp(0.0, -gate))
    return [y]
