"""Kernels for the hybrid architectures."""

from __future__ import annotations

import plain_kernels
import pytest

from conifer_gguf.runtimes import hybrid


@pytest.fixture(name="plain_kernels", params=["ggml's attention", "our attention"])
def use_plain_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hybrid runtime finds the plain kernels, whatever is registered, and the bundled attention or none."""
    attention = plain_kernels.attention() if request.param == "our attention" else {}
    monkeypatch.setattr(hybrid, "registered_supply", plain_kernels.supply)
    monkeypatch.setattr(hybrid, "accelerators", lambda ops: attention)
