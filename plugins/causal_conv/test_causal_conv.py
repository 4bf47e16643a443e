"""causal_conv keeps the contract of its op; the cases come from the kit, the tolerance from op.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from conifer_gguf import kit


@pytest.mark.parametrize("isa", kit.instruction_sets())
def test_causal_conv_keeps_its_contract_on_every_instruction_set(isa: str) -> None:
    """A set that this processor lacks is not taken: the best one is checked again then."""
    kit.check(
        Path(__file__).parent, depth="quick", split_exact=True, environment={"CONIFER_ISA": isa}
    ).require()


def test_causal_conv_keeps_its_contract_under_the_sanitizers() -> None:
    kit.check(Path(__file__).parent, depth="brief", split_exact=True, sanitize=True).require()
