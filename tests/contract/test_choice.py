"""What the choice of a runtime says of registered plugins that may not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from conifer_gguf.errors import ModelLoadGated
from conifer_gguf.gguf import read_header
from conifer_gguf.native_api import registry, trial
from conifer_gguf.native_api.kernels import load_library
from conifer_gguf.runtimes.choose import choose, require

from .conftest import MakeFolder

GRANITE = Path(__file__).parent.parent / "golden" / "granite" / "model-f32.gguf"
BOTH = ("conifer.ssd_scan/1", "conifer.causal_conv/1")


@pytest.fixture(autouse=True)
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_found: object, library: Path, _folders: object) -> dict[str, int]:
        return {kernel.op: kernel.preference for kernel in load_library(library).kernels}

    monkeypatch.setattr(trial, "run", load)


def test_a_library_that_changed_gates_its_models_and_the_error_says_why(plugin_folder: MakeFolder) -> None:
    folder = plugin_folder()
    registry.register(folder)
    assert choose("granitehybrid").needs == ("conifer.causal_conv/1",)
    library = folder / "my_scan.so"
    changed = library.read_bytes() + b"\0"
    library.unlink()
    library.write_bytes(changed)
    with pytest.raises(ModelLoadGated) as waiting:
        require("mine", read_header(GRANITE))
    assert waiting.value.needs == BOTH
    (line,) = waiting.value.tried
    assert line.startswith("my_scan 1.0.0: ")
    assert "changed since it was registered" in line


def test_an_installed_plugin_is_offered_only_where_no_bundled_one_supplies_the_op(
    plugin_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = registry.resolve(plugin_folder())
    foreign = registry.Candidate("my_scan", "installed", mine.folder, mine.manifest, mine.library)
    bundled = [c for c in registry.known() if c.source == "bundled"]
    monkeypatch.setattr(registry, "known", lambda: (foreign, *bundled))
    assert choose("granitehybrid").register == ("ssd_scan", "causal_conv")
    monkeypatch.setattr(registry, "known", lambda: (foreign,))
    assert choose("granitehybrid").register == ("my_scan",)
