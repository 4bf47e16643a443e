"""The catalog is sound, finds models by any of their names, and says what is wrong with a bad file."""

from __future__ import annotations

from pathlib import Path

import pytest

from conifer_gguf.errors import BadCatalog, UnknownModel
from conifer_gguf.store.catalog import Entry, catalog, read_catalog

GOOD = """
family = "pine"
class = "hybrid"
architecture = "pine"
licence = "MIT"
context = 4096
[[model]]
name = "pine-1b"
aliases = ["pine"]
profile = "a tree"
parameters = 1000
shape = { layers = 3, attention = 1, recurrent = 2, kv_heads = 2, key_length = 8, value_length = 4, n_embd = 16, n_vocab = 32 }
source = [{ quant = "Q8_0", repo = "a/b", file = "c.gguf" }]
"""


def test_a_short_name_means_the_instruct_model_at_q4_k_m() -> None:
    entry, quant = catalog().resolve("lfm2.5-1.2b")
    assert entry.name == "lfm2.5-1.2b-instruct"
    assert entry.source(quant).file == "LFM2.5-1.2B-Instruct-Q4_K_M.gguf"


def test_a_quantisation_is_asked_for_after_a_colon_in_any_case() -> None:
    entry, quant = catalog().resolve("Granite-4.0-H-1B:q8_0")
    assert entry.source(quant).size == 1558926560


def test_an_unknown_name_offers_the_closest() -> None:
    with pytest.raises(UnknownModel) as caught:
        catalog().resolve("granit-4.0-h-1b")
    assert caught.value.close[0] == "granite-4.0-h-1b"


def test_an_unknown_quantisation_offers_those_that_exist() -> None:
    entry, _ = catalog().resolve("granite-4.0-h-tiny")
    with pytest.raises(UnknownModel) as caught:
        entry.source("Q1")
    assert caught.value.close == ("granite-4.0-h-tiny:Q4_K_M", "granite-4.0-h-tiny:Q5_K_M")


def test_every_family_of_the_first_release_is_there() -> None:
    families = {entry.family for entry in catalog().entries}
    assert families >= {"lfm2", "lfm2-moe", "granite-4.0-h", "falcon-h1", "jamba", "qwen3.5", "qwen3-next"}
    assert families >= {"nemotron-h", "mamba", "kimi-linear", "smollm", "qwen3", "gemma-3", "llama-3.2"}


@pytest.mark.parametrize("entry", catalog().entries, ids=lambda e: e.name)
def test_an_entry_agrees_with_itself(entry: Entry) -> None:
    shape = entry.shape
    assert max(shape.attention, shape.recurrent) <= shape.layers
    assert (shape.recurrent > 0) == (entry.class_ in ("hybrid", "hybrid-moe", "ssm"))
    assert (shape.carry_bytes > 0) == (shape.recurrent > 0)
    assert (entry.active_parameters is not None) == entry.class_.endswith("moe")
    for source in entry.sources:
        assert source.size is None or 0.2 < source.size / entry.parameters < 2.3, source.quant


def test_a_family_is_read_with_its_shared_values(tmp_path: Path) -> None:
    (tmp_path / "pine.toml").write_text(GOOD)
    entry = read_catalog(tmp_path).resolve("pine")[0]
    assert (entry.class_, entry.shape.kv_bytes_per_token) == ("hybrid", 1 * 2 * (8 + 4) * 2)


BROKEN = {
    "a typo in a key": (GOOD.replace("profile", "profil"), "profile"),
    "a class that does not exist": (GOOD.replace('"hybrid"', '"cactus"'), "class"),
    "a negative size": (GOOD.replace("parameters = 1000", "parameters = -1"), "parameters"),
    "a sha256 that is none": (GOOD.replace('file = "c.gguf"', 'file = "c.gguf", sha256 = "abc"'), "sha256"),
    "no model at all": ('family = "pine"', "model"),
    "no TOML": ("family = ", "whole file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_family_names_file_key_and_value(name: str, tmp_path: Path) -> None:
    text, key = BROKEN[name]
    (tmp_path / "pine.toml").write_text(text)
    with pytest.raises(BadCatalog) as caught:
        read_catalog(tmp_path)
    assert caught.value.path == "pine.toml"
    assert key in caught.value.key


def test_two_models_cannot_share_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    (tmp_path / "b.toml").write_text(GOOD.replace("pine-1b", "pine-2b"))
    with pytest.raises(BadCatalog, match="pine-1b"):
        read_catalog(tmp_path)
