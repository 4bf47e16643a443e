"""conifer.qmatmul/1 in NumPy float64."""


def reference(inputs, state, int_attr, real_attr, seq_start, slot):
    x, weight = inputs
    return [x @ weight.T]
