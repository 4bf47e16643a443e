"""org.example.qmatmul/1 in NumPy float64."""

import numpy as np


def reference(inputs, state, int_attr, real_attr, seq_start, slot):
    x, weight, bias = inputs
    y = real_attr[0] * (x @ weight.T)
    if bias is not None:
        y += bias
    return [np.maximum(y, 0.0) if int_attr[0] else y]
