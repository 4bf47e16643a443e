"""OpenAI's wire format to and from our own types. No Flask here."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import BadRequest, ConiferError
from ..worker.messages import Event, Finished, Generate, Text, TokenLogprob
from ..worker.sampler import Sampling


class Wire(BaseModel):
    """Fields that this server does not know are ignored, as clients of many servers send many."""

    model_config = ConfigDict(extra="ignore")


class StreamOptions(Wire):
    include_usage: bool = False


class Common(Wire):
    """What both kinds of completion take. The defaults are deterministic: temperature 0, seed 0."""

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = 1
    logit_bias: dict[int, float] | None = None

    def sampling(self) -> Sampling:
        names = (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repeat_penalty",
            "frequency_penalty",
            "presence_penalty",
            "seed",
        )
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return Sampling(**given, logit_bias=self.logit_bias or {})

    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def refuse_many(self) -> None:
        if self.n not in (None, 1):
            raise BadRequest(f"`n` is {self.n}; one answer at a time is written", "n")

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class TextPart(Wire):
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message keeps its unknown fields: templates know tool calls and more."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[TextPart] | None = None

    def plain(self) -> dict[str, Any]:
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        return {**self.model_dump(exclude_none=True), "content": content or ""}


class ChatRequest(Common):
    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    chat_template_kwargs: dict[str, Any] | None = None

    def to_generate(self) -> Generate:
        self.refuse_many()
        return Generate(
            id="",
            messages=tuple(m.plain() for m in self.messages),
            sampling=self.sampling(),
            max_tokens=self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
            stop=self.stop_strings(),
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            template_options=self.chat_template_kwargs or {},
        )


class CompletionRequest(Common):
    prompt: str | list[str]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool | None = False

    def to_generate(self) -> Generate:
        self.refuse_many()
        if self.echo:
            raise BadRequest("`echo` is true; only what the model writes is sent back", "echo")
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if len(prompts) != 1:
            raise BadRequest(f"`prompt` has {len(prompts)} texts; one at a time is continued", "prompt")
        return Generate(
            id="",
            prompt=prompts[0],
            sampling=self.sampling(),
            max_tokens=self.max_tokens,
            stop=self.stop_strings(),
            top_logprobs=self.logprobs,
        )


def parse(kind: type[ChatRequest] | type[CompletionRequest], body: bytes) -> Any:
    """A request body. Raises BadRequest naming the field and its value."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors()
        if problems[0]["type"] == "json_invalid":
            raise BadRequest(f"the body is not JSON: {problems[0]['ctx']['error']}") from error
        # Of a field that may be text or a list, what is wrong inside the list says more than that it is no text. The steps
        # that name a type or a key are pydantic's, not the caller's.
        first = max(problems[:8], key=lambda problem: len(problem["loc"]))
        steps = [str(step) for step in first["loc"]]
        where = ".".join(step for step in steps if step != "str" and "[" not in step)
        what = f"`{where}`" if where else "the body"
        raise BadRequest(
            f"{what}: {first['msg']} (got {_short(first.get('input'))})", where or None
        ) from error


def _short(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def error_body(error: ConiferError) -> dict[str, Any]:
    """OpenAI's error object. `code` is stable; `hint` and the fields of the error come along."""
    kind = "invalid_request_error" if error.http_status < 500 else "server_error"
    message = error.fact + (f" (hint: {error.hint})" if error.hint else "")
    body: dict[str, Any] = {
        "message": message,
        "type": kind,
        "param": getattr(error, "parameter", None),
        "code": error.code,
    }
    extra = {
        k: v
        for k, v in error.fields().items()
        if k in ("model", "needs", "register", "n_prompt", "n_ctx", "close")
    }
    return {"error": {**body, "hint": error.hint, **extra}}


@dataclass(frozen=True)
class Reply:
    """How one request is answered: ids and the shape of its chunks."""

    id: str
    model: str
    chat: bool
    created: int

    @classmethod
    def new(cls, model: str, *, chat: bool) -> Reply:
        return cls(f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex[:24]}", model, chat, int(time.time()))

    def whole(self, events: Iterable[Event]) -> dict[str, Any]:
        """The body of a request that does not stream."""
        pieces: list[str] = []
        logprobs: list[TokenLogprob] = []
        end: Finished | None = None
        for event in events:
            if isinstance(event, Text):
                pieces.append(event.text)
                logprobs += event.logprobs
            elif isinstance(event, Finished):
                end = event
        assert end is not None
        text = "".join(pieces)
        content = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": self._logprobs(logprobs), "finish_reason": _reason(end)}
        return self._envelope("", [choice], usage(end))

    def chunks(self, events: Iterable[Event], include_usage: bool) -> Iterator[str]:
        """Server-sent events. An error in the middle is sent as one, and ends the stream."""
        if self.chat:
            yield self._sse([self._choice({"role": "assistant", "content": ""})])
        try:
            for event in events:
                if isinstance(event, Text):
                    yield self._sse([self._choice(event.text, logprobs=self._logprobs(list(event.logprobs)))])
                elif isinstance(event, Finished):
                    yield self._sse([self._choice("", reason=_reason(event))], timings=timings(event))
                    if include_usage:
                        yield self._sse([], usage(event))
        except ConiferError as error:
            yield f"data: {json.dumps(error_body(error))}\n\n"
            return
        yield "data: [DONE]\n\n"

    def _choice(self, content: Any, *, reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        if not self.chat:
            shape: dict[str, Any] = {"text": content}
        elif isinstance(content, dict):
            shape = {"delta": content}
        else:
            shape = {"delta": {} if reason else {"content": content}}
        return {"index": 0, **shape, "logprobs": logprobs, "finish_reason": reason}

    def _sse(self, choices: list[dict[str, Any]], usage: Any = None, timings: Any = None) -> str:
        body = self._envelope(".chunk", choices, usage)
        if timings is not None:
            body["timings"] = timings
        return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"

    def _envelope(self, suffix: str, choices: list[dict[str, Any]], usage: Any) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        body = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        return body if usage is None else {**body, "usage": usage}

    def _logprobs(self, tokens: list[TokenLogprob]) -> dict[str, Any] | None:
        if not tokens:
            return None
        if self.chat:
            return {
                "content": [
                    {
                        **_token(t.text, t.logprob),
                        "top_logprobs": [_token(text, logprob) for text, logprob in t.top],
                    }
                    for t in tokens
                ]
            }
        return {
            "tokens": [t.text for t in tokens],
            "token_logprobs": [t.logprob for t in tokens],
            "top_logprobs": [dict(t.top) for t in tokens],
        }


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}


def _reason(end: Finished) -> str:
    return "stop" if end.reason == "cancelled" else end.reason


def usage(end: Finished) -> dict[str, Any]:
    return {
        "prompt_tokens": end.n_prompt,
        "completion_tokens": end.n_generated,
        "total_tokens": end.n_prompt + end.n_generated,
        "prompt_tokens_details": {"cached_tokens": end.n_cached},
    }


def timings(end: Finished) -> dict[str, Any]:
    """Not OpenAI's: seconds and counts, for whoever wants to show a speed."""
    return {
        "n_prompt": end.n_prompt,
        "n_cached": end.n_cached,
        "n_generated": end.n_generated,
        "prompt_s": end.prompt_s,
        "generate_s": end.generate_s,
    }
