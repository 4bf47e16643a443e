"""Kernels for the hybrid architectures."""

from __future__ import annotations

import plain_kernels
import pytest

from conifer_gguf.runtimes import hybrid


@pytest.fixture(name="plain_kernels", params=["ggml's", "our attention", "our attention and product"])
def use_plain_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The hybrid runtime finds the plain kernels, whatever is registered, and the bundled accelerators of these ops."""
    names = [name for name in ("attention", "product") if name in request.param]
    found = plain_kernels.bundled(*("qmatmul" if name == "product" else name for name in names))
    monkeypatch.setattr(hybrid, "registered_supply", plain_kernels.supply)
    monkeypatch.setattr(hybrid, "accelerators", lambda ops: found)
    return tuple(found)
