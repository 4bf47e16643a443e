"""Requests are read as OpenAI's clients send them; errors have OpenAI's shape."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conifer_gguf.errors import BadRequest, EngineDied, ModelLoadGated, PromptTooLong
from conifer_gguf.web import openai
from conifer_gguf.worker.messages import Event, Finished, Started, Text

MESSAGES = [{"role": "user", "content": "Hi"}]
EVENTS: list[Event] = [
    Started("1", 5, 2),
    Text("1", "Hel"),
    Text("1", "lo"),
    Finished("1", "length", 5, 2, 3, 0.1, 0.2),
]


def chat(**fields: Any) -> openai.ChatRequest:
    request: openai.ChatRequest = openai.parse(
        openai.ChatRequest, json.dumps({"messages": MESSAGES, **fields}).encode()
    )
    return request


def test_the_defaults_are_deterministic_and_fill_the_window() -> None:
    generate = chat().to_generate()
    assert (generate.sampling.temperature, generate.sampling.top_p, generate.sampling.seed) == (0.0, 1.0, 0)
    assert generate.max_tokens is None


def test_unknown_fields_are_ignored_but_kept_in_messages_for_the_template() -> None:
    request = chat(user="me", tools=[], messages=[{"role": "tool", "content": None, "tool_call_id": "7"}])
    assert request.to_generate().messages == ({"role": "tool", "content": "", "tool_call_id": "7"},)


def test_parts_of_text_become_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]).to_generate().messages == (
        {"role": "user", "content": "ab"},
    )


def test_max_completion_tokens_is_the_newer_name() -> None:
    assert chat(max_completion_tokens=7, max_tokens=9).to_generate().max_tokens == 7
    assert (
        chat(max_completion_tokens=0, max_tokens=9).to_generate().max_tokens == 0
    )  # refused later, not ignored


def test_a_prompt_may_stand_in_a_list_of_its_own() -> None:
    for body in (b'{"prompt": "Hi"}', b'{"prompt": ["Hi"]}'):
        assert openai.parse(openai.CompletionRequest, body).to_generate().prompt == "Hi"
    with pytest.raises(BadRequest, match="has 2 texts"):
        openai.parse(openai.CompletionRequest, b'{"prompt": ["Hi", "Ho"]}').to_generate()


def test_an_echo_of_the_prompt_is_refused_rather_than_left_out() -> None:
    with pytest.raises(BadRequest, match="`echo` is true"):
        openai.parse(openai.CompletionRequest, b'{"prompt": "Hi", "echo": true}').to_generate()


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        (b"{", None),
        (b"{}", "messages"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [{"content": "x"}]}', "messages.0.role"),
        (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": "many"}', "max_tokens"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            "messages.0.content.0.type",
        ),
        (b'{"messages": [{"role": "user", "content": "x"}], "stop": ["a", 1]}', "stop.1"),
        (b'{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"five": 1}}', "logit_bias.five"),
        (b"[]", None),
    ],
)
def test_a_bad_body_names_the_field(body: bytes, parameter: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        openai.parse(openai.ChatRequest, body)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize(
    "fields", [{"temperature": -1}, {"top_p": 1.5}, {"n": 3}, {"min_p": 2}, {"logit_bias": {5: float("inf")}}]
)
def test_a_value_out_of_range_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        chat(**fields).to_generate()


def test_a_whole_answer_counts_its_tokens() -> None:
    body = openai.Reply.new("m", chat=True).whole(EVENTS)
    assert body["choices"][0]["message"]["content"] == "Hello"
    assert body["choices"][0]["finish_reason"] == "length"
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (5, 3)


def test_a_stream_ends_with_reason_usage_and_done() -> None:
    lines = list(openai.Reply.new("m", chat=True).chunks(EVENTS, include_usage=True))
    assert lines[-1] == "data: [DONE]\n\n"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == "Hello"
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] == 2


def test_an_error_in_the_middle_ends_the_stream_as_an_error() -> None:
    def dying() -> Any:
        yield EVENTS[1]
        raise EngineDied("m", "killed by SIGKILL")

    lines = list(openai.Reply.new("m", chat=False).chunks(dying(), include_usage=False))
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "engine_died"


@pytest.mark.parametrize(
    ("error", "code", "status", "field"),
    [
        (PromptTooLong(900, 512), "context_length_exceeded", 400, "n_prompt"),
        (ModelLoadGated("m", ("conifer.ssd_scan/1",), ("ssd_scan",)), "model_load_gated", 400, "needs"),
    ],
)
def test_typed_errors_carry_code_and_fields(error: Any, code: str, status: int, field: str) -> None:
    body = openai.error_body(error)["error"]
    assert (body["code"], error.http_status, body["type"]) == (code, status, "invalid_request_error")
    assert field in body
