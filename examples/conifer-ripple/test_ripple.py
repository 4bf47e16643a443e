"""A package brings an architecture that the installed llama.cpp does not know: catalog, gate, memory and logits."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import plain_kernels
import pytest
import ripple_model
import ripple_reference

from conifer_gguf.arch import api, architectures, geometry
from conifer_gguf.errors import BadModelFile
from conifer_gguf.gguf import read_header
from conifer_gguf.runtimes import hybrid
from conifer_gguf.runtimes.choose import llama_knows
from conifer_gguf.service import status
from conifer_gguf.store.catalog import catalog

HERE = Path(__file__).parent
TOKENS = [int(t) for t in np.random.default_rng(3).integers(3, ripple_model.N_VOCAB, 90)]
RMS = 2e-6  # float32 against float64


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package as pip leaves it: importable, with the entry points of its pyproject.toml in its metadata."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))["project"]
    folder = tmp_path / "site" / "conifer_ripple-0.1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.syspath_prepend(str(HERE))
    caches = (architectures, catalog)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "ripple-tiny-F32.gguf"
    ripple_model.write(path, ripple_model.random_tensors(seed=7))
    return path


def open_runtime(path: Path) -> hybrid.HybridRuntime:
    header = read_header(path)
    return hybrid.HybridRuntime(
        header, architectures()[header.architecture], n_ctx=256, n_threads=2, cache_type="f32"
    )


def relative_rms(a: object, b: object) -> float:
    return float(np.sqrt(np.mean(np.square(np.subtract(a, b))) / np.mean(np.square(b))))


def test_the_installed_llama_cpp_does_not_know_it() -> None:
    assert not llama_knows("ripple")


def test_its_catalog_row_waits_for_the_kernels() -> None:
    rows = {row.entry.name: row.status for row in status.catalog_rows()}
    assert rows["ripple-tiny"].status == "load-gated"
    assert rows["ripple-tiny"].needs == ("conifer.gated_delta/1", "conifer.causal_conv/1")
    assert rows["ripple-tiny"].also_runs_with == ()


def test_memory_follows_from_what_its_layers_remember(model: Path) -> None:
    shape, (entry, _) = geometry(read_header(model)), catalog().resolve("ripple-tiny")
    assert shape.layer_kinds == ("recurrent", "attention", "recurrent")
    assert shape.carry_bytes == entry.shape.carry_bytes
    assert shape.kv_bytes_per_token == entry.shape.kv_bytes_per_token


@pytest.mark.parametrize("pieces", [[90], [1] * 90, [1, 66, 23]], ids=["whole", "one by one", "uneven"])
def test_its_logits_are_those_of_the_equations(
    model: Path, pieces: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hybrid, "registered_supply", plain_kernels.supply)
    runtime = open_runtime(model)
    sequence, rows, at = runtime.open(), [], 0
    for n in pieces:
        rows.append(runtime.advance({sequence: TOKENS[at : at + n]}, logits="all")[sequence])
        at += n
    runtime.shutdown()
    expected = ripple_reference.logits(ripple_model.random_tensors(seed=7), TOKENS)
    assert relative_rms(np.concatenate(rows), expected) <= RMS


def test_a_file_with_a_tensor_that_it_does_not_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hybrid, "registered_supply", plain_kernels.supply)
    tensors = ripple_model.random_tensors(seed=7)
    tensors["blk.0.attn_rope.weight"] = tensors["blk.0.attn_norm.weight"]
    path = tmp_path / "other.gguf"
    ripple_model.write(path, tensors)
    with pytest.raises(BadModelFile, match=r"blk\.0\.attn_rope\.weight"):
        open_runtime(path)


def test_it_imports_nothing_of_ours_but_the_api() -> None:
    source = (HERE / "conifer_ripple" / "__init__.py").read_text("utf-8")
    imports = [line for line in source.splitlines() if "import" in line and "conifer_gguf" in line]
    assert imports == [f"from {api.__name__} import KV, Carry, Graph, Keys, LayerSpec, Tensor, Weights"]
