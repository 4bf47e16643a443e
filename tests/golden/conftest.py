"""Kernels for the hybrid architectures."""

from __future__ import annotations

import plain_kernels
import pytest

from conifer_gguf.runtimes import hybrid


@pytest.fixture(name="plain_kernels")
def use_plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hybrid runtime finds the plain kernels, whatever is registered."""
    monkeypatch.setattr(hybrid, "registered_supply", plain_kernels.supply)
