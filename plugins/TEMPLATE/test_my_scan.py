"""my_scan keeps the contract of its op; the cases come from the kit, the tolerance from op.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from conifer_gguf import kit


@pytest.mark.parametrize("isa", kit.instruction_sets())
def test_my_scan_keeps_its_contract_on_every_instruction_set(isa: str) -> None:
    """A set that this processor lacks is not taken: the best one is checked again then."""
    kit.check(Path(__file__).parent, depth="quick", environment={"CONIFER_ISA": isa}).require()
