"""The generation loop and the prefix cache, over a runtime that only counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from conifer_gguf.errors import RuntimeFailure
from conifer_gguf.runtimes.base import Logits, RuntimeInfo
from conifer_gguf.worker import loop as loop_module
from conifer_gguf.worker.loop import Loop
from conifer_gguf.worker.messages import Event, Failed, Finished, Generate, Started, Text
from conifer_gguf.worker.prefix_cache import PrefixCache

END = 127


class Ascii:
    n_vocab = 128
    bos: int | None = None
    eos: int | None = END
    adds_bos = False
    chat_template: str | None = (
        "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        return list(text.encode("ascii"))

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return bytes([token])

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return bytes(tokens).decode("ascii")

    def is_end(self, token: int) -> bool:
        return token == END

    def is_control(self, token: int) -> bool:
        return token == END


@dataclass(frozen=True)
class Copy:
    tokens: tuple[int, ...]

    n_tokens = property(lambda self: len(self.tokens))
    nbytes = property(lambda self: 10)


class Alphabet:
    """A runtime whose model writes the letter that follows the last one, and ends after `z`."""

    def __init__(self, can_trim: bool, max_sequences: int = 1) -> None:
        self.info = RuntimeInfo("llama.cpp", "alphabet", 64, 128, 1, "f16", max_sequences, can_trim)
        self.vocabulary = Ascii()
        self.held: dict[int, list[int]] = {}
        self.steps: list[dict[int, list[int]]] = []
        self.failure: RuntimeFailure | None = None

    def open(self) -> int:
        sequence = next(s for s in range(self.info.max_sequences) if s not in self.held)
        self.held[sequence] = []
        return sequence

    def length(self, sequence: int) -> int:
        return len(self.held[sequence])

    def advance(self, tokens: Mapping[int, Sequence[int]], *, logits: str = "last") -> dict[int, Logits]:
        if self.failure:
            raise self.failure
        self.steps.append({s: list(t) for s, t in tokens.items()})
        out = {}
        for sequence, new in tokens.items():
            assert new
            self.held[sequence] += new
            following = ord("a") if new[-1] == ord(">") else END if new[-1] == ord("z") else new[-1] + 1
            out[sequence] = np.eye(128, dtype=np.float32)[following][None]
        return out

    def fork(self, sequence: int) -> int:
        return self.restore(self.snapshot(sequence))

    def snapshot(self, sequence: int) -> Copy:
        return Copy(tuple(self.held[sequence]))

    def restore(self, snapshot: Any) -> int:
        sequence = self.open()
        self.held[sequence] = list(snapshot.tokens)
        return sequence

    def trim(self, sequence: int, n_tokens: int) -> bool:
        if not self.info.can_trim and n_tokens != len(self.held[sequence]):
            return False
        del self.held[sequence][n_tokens:]
        return True

    def close(self, sequence: int) -> None:
        del self.held[sequence]

    def cancel(self) -> None: ...

    def shutdown(self) -> None: ...


def drain(loop: Loop) -> list[Event]:
    events = []
    while not loop.idle:
        events += loop.step()
    return events


def chat(name: str, *contents: str, **more: Any) -> Generate:
    return Generate(name, messages=tuple({"role": "user", "content": c} for c in contents), **more)


def said(events: list[Event], name: str) -> str:
    return "".join(e.text for e in events if isinstance(e, Text) and e.id == name)


def finished(events: list[Event], name: str) -> Finished:
    return next(e for e in events if isinstance(e, Finished) and e.id == name)


@pytest.mark.parametrize(
    ("more", "text", "reason"),
    [
        ({}, "abcdefghijklmnopqrstuvwxyz", "stop"),
        ({"max_tokens": 3}, "abc", "length"),
        ({"stop": ("de",)}, "abc", "stop"),
        ({"stop": ("cx", "ef")}, "abcd", "stop"),
    ],
)
def test_an_answer_ends_at_the_end_token_a_stop_string_or_the_limit(
    more: dict[str, Any], text: str, reason: str
) -> None:
    loop = Loop(Alphabet(can_trim=True))
    loop.submit(chat("1", "hi", **more))
    events = drain(loop)
    assert (said(events, "1"), finished(events, "1").reason) == (text, reason)


def test_an_answer_ends_where_the_window_ends() -> None:
    loop = Loop(Alphabet(can_trim=True))
    loop.submit(Generate("1", prompt="-" * 50 + ">"))
    end = finished(drain(loop), "1")
    assert (end.reason, end.n_prompt + end.n_generated) == ("length", 64)


@pytest.mark.parametrize("can_trim", [True, False])
def test_a_follow_up_turn_reads_only_what_is_new(can_trim: bool) -> None:
    runtime = Alphabet(can_trim)
    loop = Loop(runtime)
    loop.submit(chat("1", "first", max_tokens=4))
    drain(loop)
    runtime.steps.clear()
    loop.submit(chat("2", "first", "abcd", "next", max_tokens=4))
    events = drain(loop)
    assert next(e for e in events if isinstance(e, Started)).n_cached == len("[first]")
    read = [t for step in runtime.steps for t in step[0]][: len("[abcd][next]>")]
    assert bytes(read) == b"[abcd][next]>"
    assert said(events, "2") == "abcd"


def test_a_long_prompt_is_read_in_shares_so_that_others_keep_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "STEP_TOKENS", 6)
    runtime = Alphabet(can_trim=True, max_sequences=2)
    loop = Loop(runtime)
    loop.submit(chat("writer", "x"))
    for _ in range(4):
        loop.step()
    runtime.steps.clear()
    loop.submit(Generate("reader", prompt="-" * 20 + ">", max_tokens=2))
    drain(loop)
    assert [sorted(map(len, step.values())) for step in runtime.steps[:4]] == [[1, 5]] * 4


def test_what_does_not_find_room_waits_its_turn() -> None:
    loop = Loop(Alphabet(can_trim=True, max_sequences=2))
    for name in "1234":
        loop.submit(chat(name, name, max_tokens=3))
    events = drain(loop)
    assert [e.id for e in events if isinstance(e, Started)] == list("1234")
    assert [said(events, name) for name in "1234"] == ["abc"] * 4


def test_a_cancelled_request_ends_and_the_others_go_on() -> None:
    loop = Loop(Alphabet(can_trim=True, max_sequences=2))
    loop.submit(chat("1", "x"))
    loop.submit(chat("2", "y", max_tokens=9))
    loop.submit(chat("3", "z"))
    events = loop.step() + loop.step()
    loop.cancel("1")
    loop.cancel("3")
    events += drain(loop)
    assert [finished(events, name).reason for name in "123"] == ["cancelled", "length", "cancelled"]
    assert said(events, "2") == "abcdefghi"


def test_a_failed_step_fails_its_requests_and_the_next_one_works() -> None:
    runtime = Alphabet(can_trim=True, max_sequences=2)
    loop = Loop(runtime)
    loop.submit(chat("1", "x"))
    loop.step()
    runtime.failure = RuntimeFailure("decoding", "broke")
    assert [e.id for e in loop.step() if isinstance(e, Failed)] == ["1"]
    assert (loop.idle, runtime.held) == (True, {})
    runtime.failure = None
    loop.submit(chat("2", "x", max_tokens=2))
    assert said(drain(loop), "2") == "ab"


def test_a_bad_request_fails_alone() -> None:
    loop = Loop(Alphabet(can_trim=True))
    loop.submit(Generate("empty", prompt=""))
    loop.submit(Generate("long", prompt="-" * 64))
    loop.submit(chat("good", "x", max_tokens=2))
    events = drain(loop)
    failures = {e.id: e.error.code for e in events if isinstance(e, Failed)}
    assert failures == {"empty": "invalid_request", "long": "context_length_exceeded"}
    assert said(events, "good") == "ab"


def test_snapshots_stay_within_their_budget_and_the_least_used_goes_first() -> None:
    runtime = Alphabet(can_trim=False, max_sequences=1)
    cache = PrefixCache(runtime, budget=25)  # two snapshots of ten bytes
    for start in ("aa", "bb"):
        sequence, _ = cache.acquire([*start.encode(), 0])
        runtime.advance({sequence: start.encode()})
        cache.mark(sequence, list(start.encode()))
        cache.discard(sequence)
    sequence, kept = cache.acquire(b"aac")
    assert kept == 2
    runtime.advance({sequence: b"c"})
    cache.mark(sequence, list(b"aac"))
    cache.discard(sequence)
    for prompt, expected in ((b"bbx", 0), (b"aax", 2), (b"aacx", 3)):
        sequence, kept = cache.acquire(prompt)
        cache.discard(sequence)
        assert kept == expected
