"""The llama.cpp runtime keeps the contract of `Runtime`, on a model with recurrent layers and on what surrounds it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

import conifer_gguf
from conifer_gguf.errors import BadRequest, BrokenSequence, Cancelled, PromptTooLong, RuntimeFailure
from conifer_gguf.gguf import read_header
from conifer_gguf.runtimes.base import Logits
from conifer_gguf.runtimes.llama import LlamaRuntime
from conifer_gguf.runtimes.vocabulary import load_vocabulary
from conifer_gguf.worker.loop import Loop
from conifer_gguf.worker.messages import Event, Finished, Generate, Started, Text

MODEL = Path(__file__).parent / "lfm2" / "model-f32.gguf"
N_CTX = 300
CLOSE = 1e-4  # float32 weights and cache: other batches only reorder sums of logits of size 5


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    return [int(t) for t in np.load(MODEL.parent / "ref.npz")["tokens"]]


@pytest.fixture(scope="module")
def truth(tokens: list[int]) -> Logits:
    with conifer_gguf.load(MODEL, n_ctx=N_CTX, cache_type="f32") as session:
        return session.logits(tokens)


@pytest.fixture
def runtime() -> Iterator[LlamaRuntime]:
    made = LlamaRuntime(MODEL, n_ctx=N_CTX, n_threads=1, cache_type="f32", max_sequences=4)
    yield made
    made.shutdown()


def test_sequences_of_different_lengths_advance_as_if_alone(
    runtime: LlamaRuntime, tokens: list[int], truth: Logits
) -> None:
    a, b, c = runtime.open(), runtime.open(), runtime.open()
    runtime.advance({a: tokens[:50], b: tokens[:3]})
    got = runtime.advance({a: tokens[50:51], c: tokens[:77], b: tokens[3:30]})
    for sequence, position in ((a, 50), (b, 29), (c, 76)):
        np.testing.assert_allclose(got[sequence][-1], truth[position], atol=CLOSE)
    assert [runtime.length(s) for s in (a, b, c)] == [51, 30, 77]


def test_a_fork_goes_its_own_way_and_can_be_snapshotted_at_once(
    runtime: LlamaRuntime, tokens: list[int], truth: Logits
) -> None:
    original = runtime.open()
    runtime.advance({original: tokens[:40]})
    fork = runtime.fork(original)
    copy = runtime.restore(runtime.snapshot(fork))
    runtime.advance({original: tokens[100:117]})
    got = runtime.advance({fork: tokens[40:42], copy: tokens[40:47]})
    np.testing.assert_allclose(got[fork][-1], truth[41], atol=CLOSE)
    np.testing.assert_allclose(got[copy][-1], truth[46], atol=CLOSE)


def test_a_snapshot_outlives_its_sequence(runtime: LlamaRuntime, tokens: list[int]) -> None:
    sequence = runtime.open()
    runtime.advance({sequence: tokens[:23]})
    snapshot = runtime.snapshot(sequence)
    expected = runtime.advance({sequence: tokens[23:26]})[sequence]
    runtime.close(sequence)
    again = runtime.restore(snapshot)
    assert (snapshot.n_tokens, runtime.length(again)) == (23, 23)
    np.testing.assert_array_equal(runtime.advance({again: tokens[23:26]})[again], expected)


def test_a_closed_sequence_leaves_nothing_to_the_next(
    runtime: LlamaRuntime, tokens: list[int], truth: Logits
) -> None:
    first = runtime.open()
    runtime.advance({first: tokens[60:99]})
    runtime.close(first)
    second = runtime.open()
    assert second == first
    got = runtime.advance({second: tokens[:9]}, logits="all")[second]
    np.testing.assert_allclose(got, truth[:9], atol=CLOSE)


def test_what_cannot_be_fed_is_refused_and_changes_nothing(
    runtime: LlamaRuntime, tokens: list[int], truth: Logits
) -> None:
    a, b = runtime.open(), runtime.open()
    runtime.advance({a: tokens[:5]})
    with pytest.raises(PromptTooLong, match="301 tokens, the context window holds 300"):
        runtime.advance({b: tokens[:3], a: [1] * 296})
    for wrong in ([], [-1], [runtime.info.n_vocab]):
        with pytest.raises(BadRequest):
            runtime.advance({a: wrong})
    got = runtime.advance({a: tokens[5:7], b: tokens[:2]})
    np.testing.assert_allclose(got[a][-1], truth[6], atol=CLOSE)
    np.testing.assert_allclose(got[b][-1], truth[1], atol=CLOSE)


def test_a_carry_is_not_rolled_back(runtime: LlamaRuntime, tokens: list[int], truth: Logits) -> None:
    sequence = runtime.open()
    runtime.advance({sequence: tokens[:20]})
    assert not runtime.info.can_trim
    assert not runtime.trim(sequence, 12)
    got = runtime.advance({sequence: tokens[20:21]})[sequence]
    np.testing.assert_allclose(got[-1], truth[20], atol=CLOSE)


def test_cancelling_tears_the_sequences_of_the_step_and_no_other(
    runtime: LlamaRuntime, tokens: list[int], truth: Logits, monkeypatch: pytest.MonkeyPatch
) -> None:
    torn, other = runtime.open(), runtime.open()
    runtime.advance({torn: tokens[:4], other: tokens[:6]})
    decode = runtime._decode

    def cancelled_meanwhile(n: int) -> None:
        runtime.cancel()
        decode(n)

    monkeypatch.setattr(runtime, "_decode", cancelled_meanwhile)
    with pytest.raises(Cancelled):
        runtime.advance({torn: tokens[4:9]})
    monkeypatch.undo()
    with pytest.raises(BrokenSequence):
        runtime.advance({torn: tokens[4:9]})
    got = runtime.advance({other: tokens[6:8]})[other]
    np.testing.assert_allclose(got[-1], truth[7], atol=CLOSE)
    runtime.close(torn)
    fresh = runtime.open()
    np.testing.assert_allclose(runtime.advance({fresh: tokens[:3]})[fresh][-1], truth[2], atol=CLOSE)


def test_an_f16_cache_costs_a_little_accuracy(tokens: list[int], truth: Logits) -> None:
    with conifer_gguf.load(MODEL, n_ctx=N_CTX, cache_type="f16") as session:
        got = session.logits(tokens)
    rms = float(np.sqrt(np.mean((got - truth) ** 2) / np.mean(truth**2)))
    assert 1e-6 < rms < 2e-3


def test_a_cache_type_that_the_heads_do_not_fit_is_refused_with_its_reason() -> None:
    with pytest.raises(
        RuntimeFailure, match=r"300 tokens for model-f32.gguf: .*does not divide n_embd_head_k=16"
    ):
        conifer_gguf.load(MODEL, n_ctx=N_CTX, cache_type="q8_0")


def drain(loop: Loop) -> list[Event]:
    events = []
    while not loop.idle:
        events += loop.step()
    return events


def said(events: list[Event], request: str) -> str:
    return "".join(e.text for e in events if isinstance(e, Text) and e.id == request)


def test_a_follow_up_turn_reads_only_what_is_new_and_answers_the_same(runtime: LlamaRuntime) -> None:
    turn = [{"role": "user", "content": "one two three " * 9}]
    loop = Loop(runtime)
    loop.submit(Generate("first", messages=tuple(turn), max_tokens=11))
    answer = said(drain(loop), "first")
    turns = (*turn, {"role": "assistant", "content": answer}, {"role": "user", "content": "four"})
    loop.submit(Generate("second", messages=turns, max_tokens=12))
    events = drain(loop)
    started = next(e for e in events if isinstance(e, Started))
    assert started.n_cached > 20
    loop.close()
    fresh = Loop(runtime)
    fresh.submit(Generate("fresh", messages=turns, max_tokens=12))
    alone = drain(fresh)
    fresh.close()
    assert next(e for e in alone if isinstance(e, Started)).n_cached == 0
    assert said(events, "second") == said(alone, "fresh")


def test_a_lone_request_stops_in_the_middle_of_a_step(
    runtime: LlamaRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(runtime)

    class CancelledWhileComputing(threading.Event):
        """ggml asks between two nodes of a graph whether to go on: that is when the request is cancelled."""

        def is_set(self) -> bool:
            loop.cancel("long")
            return super().is_set()

    monkeypatch.setattr(runtime, "_stop", CancelledWhileComputing())
    loop.submit(Generate("long", prompt="word " * 40, max_tokens=200))
    end = drain(loop)[-1]
    assert isinstance(end, Finished)
    assert (end.reason, end.n_generated) == ("cancelled", 0)
    loop.submit(Generate("next", prompt="word", max_tokens=3))
    end = drain(loop)[-1]
    assert isinstance(end, Finished)
    assert end.n_generated <= 3
    assert end.reason != "cancelled"
    loop.close()


def test_a_session_ends_one_generation_when_another_begins() -> None:
    with conifer_gguf.load(MODEL, n_ctx=N_CTX, cache_type="f32") as session:
        expected = "".join(session.generate("two", max_tokens=5))
        first = session.generate("one", max_tokens=50)
        next(first)
        assert "".join(session.generate("two", max_tokens=5)) == expected
        assert list(first) == []


def test_feeding_after_a_generation_starts_from_an_empty_state(tokens: list[int], truth: Logits) -> None:
    with conifer_gguf.load(MODEL, n_ctx=N_CTX, cache_type="f32") as session:
        assert "".join(session.generate("one", max_tokens=5))
        np.testing.assert_allclose(session.eval(tokens[:8]), truth[7], atol=CLOSE)


def test_a_closed_session_says_so() -> None:
    session = conifer_gguf.load(MODEL, n_ctx=N_CTX)
    session.close()
    session.close()
    for use in (
        lambda: session.eval([1]),
        lambda: session.tokenize("x"),
        lambda: next(session.generate("x")),
    ):
        with pytest.raises(BadRequest, match="closed"):
            use()


def test_an_architecture_that_llama_cpp_does_not_know_is_tokenized_all_the_same(tmp_path: Path) -> None:
    unknown = tmp_path / "unknown.gguf"
    writer = gguf.GGUFWriter(unknown, "conifer-test")
    for name, field in gguf.GGUFReader(MODEL).fields.items():
        if name.startswith("tokenizer."):
            is_array = field.types[0] == gguf.GGUFValueType.ARRAY
            sub_type = field.types[-1] if is_array else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=sub_type)
    writer.add_tensor("token_embd.weight", np.ones((3, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    known, other = (load_vocabulary(read_header(path)) for path in (MODEL, unknown))
    for text in ("Hello, world! 123", "é🙂 \n\tx", "<|im_end|>", "\ud800 half a pair", "\x00"):
        tokens = other.tokenize(text, parse_special=True)
        assert tokens == known.tokenize(text, parse_special=True)
        assert other.detokenize(tokens, special=True) == known.detokenize(tokens, special=True)
    assert other.n_vocab == known.n_vocab


def test_a_process_that_ggml_aborts_names_the_assertion() -> None:
    code = (
        "import llama_cpp.llama_cpp as lib; from conifer_gguf.runtimes import llama_log; llama_log.install();"
        "lib._lib.ggml_abort(b'ops.c', 77, b'GGML_ASSERT(%s) failed', b'rows > 3')"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert child.returncode == -6
    assert child.stderr.decode().splitlines()[-1] == "ops.c:77: GGML_ASSERT(rows > 3) failed"
