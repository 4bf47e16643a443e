"""Who supplies an op: nobody is an answer with a name."""

from __future__ import annotations

import pytest

from conifer_gguf.engine.supply import Supply
from conifer_gguf.errors import KernelMissing
from conifer_gguf.native_api.kernels import Call
from conifer_gguf.ops import contracts


def test_an_op_without_a_kernel_is_a_typed_error_that_names_it() -> None:
    contract = contracts()["conifer.gated_delta/1"]
    with pytest.raises(
        KernelMissing, match=r"no registered plugin supplies conifer\.gated_delta/1"
    ) as missing:
        Supply(contract, ()).choose(Call(contract, [], [], []))
    assert (missing.value.code, missing.value.op) == ("kernel_missing", "conifer.gated_delta/1")
