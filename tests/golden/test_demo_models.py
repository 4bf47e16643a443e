"""The two models in the package: trained weights on both runtimes, quantised, recalling, with the tokenizer they were trained with."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

import conifer_gguf
from conifer_gguf import Session
from conifer_gguf.settings import packaged_models_dir

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools" / "demo_model"
EXPECTED = json.loads((Path(__file__).parent / "demo" / "expected.json").read_text("utf-8"))
pytestmark = pytest.mark.usefixtures("registered")
NAMES = sorted(EXPECTED["models"])
N_CHATS, DEPTH = 24, 1024  # as tools/demo_model/publish.py measured


@pytest.fixture(scope="module")
def evaluate() -> ModuleType:
    """tools/demo_model/evaluate.py, whose neighbours it imports by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        spec = importlib.util.spec_from_file_location("evaluate", TOOLS / "evaluate.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


def load(name: str, runtime: str = "auto", folder: Path | None = None) -> Session:
    path = (folder or packaged_models_dir()) / f"{name}-{'BF16' if folder else 'Q8_0'}.gguf"
    return conifer_gguf.load(path, runtime=runtime, n_ctx=4096, n_threads=1, cache_type="f32")


@pytest.mark.parametrize("name", NAMES)
def test_held_out_conversations_are_as_likely_as_when_it_was_published(
    name: str, evaluate: ModuleType
) -> None:
    runtime = "hybrid" if name == "conifer-demo" else "llama.cpp"
    with load(name, runtime) as session:
        found = evaluate.perplexity(session, N_CHATS)
    assert found == pytest.approx(
        EXPECTED["models"][name]["perplexity"], rel=2e-3
    )  # activations are rounded to 8 bits


def test_both_runtimes_find_them_equally_likely(evaluate: ModuleType) -> None:
    with load("conifer-demo", "llama.cpp") as session:
        theirs = evaluate.perplexity(session, N_CHATS)
    assert theirs == pytest.approx(EXPECTED["models"]["conifer-demo"]["perplexity"], rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_eight_bits_cost_less_than_a_hundredth(name: str, evaluate: ModuleType) -> None:
    with load(name, "llama.cpp", TOOLS / "checkpoints") as session:
        found = evaluate.perplexity(session, N_CHATS)
    assert EXPECTED["models"][name]["perplexity"] == pytest.approx(found, rel=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_facts_planted_a_thousand_tokens_ago_are_recalled(name: str, evaluate: ModuleType) -> None:
    with load(name) as session:
        right = evaluate.recall(session, DEPTH).right
    assert right >= EXPECTED["models"][name]["recalled_at_1024"] - 1  # another CPU rounds otherwise


@pytest.mark.parametrize("name", NAMES)
def test_texts_become_the_tokens_it_was_trained_on(name: str) -> None:
    with load(name) as session:
        for text, tokens in EXPECTED["tokens"]:
            assert session.tokenize(text) == tokens
