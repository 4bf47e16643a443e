"""What crosses the pipe arrives as it was sent."""

from __future__ import annotations

import pickle

import pytest

from conifer_gguf.errors import (
    ConiferError,
    DoesNotFit,
    EngineDied,
    ModelLoadGated,
    PromptTooLong,
    UnknownModel,
)
from conifer_gguf.runtimes.base import RuntimeInfo
from conifer_gguf.worker.messages import (
    Cancel,
    Failed,
    Finished,
    Generate,
    Load,
    Loaded,
    Message,
    Started,
    Text,
    TokenLogprob,
    decode,
    encode,
)
from conifer_gguf.worker.sampler import Sampling

MESSAGES: list[Message] = [
    Load("/m.gguf", "m", "auto", None, 3, "f16", 2),
    Generate(
        "1",
        messages=({"role": "user", "content": "é\n🙂"},),
        stop=("a", "b"),
        sampling=Sampling(0.5, logit_bias={7: -1.5}),
    ),
    Generate("2", prompt="x", max_tokens=5, top_logprobs=0),
    Cancel("1"),
    Loaded(RuntimeInfo("llama.cpp", "llama", 512, 99, 2, "f16", 1, True), "why", False, 0.25, ("n",)),
    Loaded(RuntimeInfo("hybrid", "jamba", 99, 9, 1, "f32", 2, False, {}, ("f16",), ()), "why", True, 0.5, ()),
    Started("1", 9, 4),
    Text("1", "piece", (TokenLogprob("p", -0.5, (("q", -1.0),)),)),
    Finished("1", "stop", 9, 4, 3, 0.1, 0.2),
]
ERRORS: list[ConiferError] = [
    PromptTooLong(900, 512),
    UnknownModel("x", ("y", "z")),
    EngineDied("m", "killed by SIGKILL", "last"),
    DoesNotFit("m", 9, 8, 7, 6, 5, 4),
    ModelLoadGated(
        "m", ("conifer.ssd_scan/1",), ("ssd_scan",), "36 of 40 layers are Mamba-2", ("llama.cpp",)
    ),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_survives_the_pipe(message: Message) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_an_error_keeps_its_class_and_fields(error: ConiferError) -> None:
    received = decode(encode(Failed("1", error)))
    assert isinstance(received, Failed)
    for copy in (received.error, pickle.loads(pickle.dumps(error))):
        assert type(copy) is type(error)
        assert copy.fields() == error.fields()
        assert (copy.fact, copy.hint) == (error.fact, error.hint)
