"""From messages to prompt tokens: the model's own chat template, in a sandbox.

A template is code from a stranger's file, so it runs in jinja2's immutable sandbox (see sandbox.py), with bounds on its
length, its time and what it may print, in the process that can be killed. What a user writes must not turn into control tokens: control strings inside the
content are swapped for private-use characters before rendering, and put back as plain text when tokenising.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from ..errors import BadRequest
from ..runtimes.base import Vocabulary
from .sandbox import RenderLimit, environment, within

MAX_TEMPLATE = 1 << 20  # characters; the longest that models come with are below 30,000
MAX_RENDERED = 64 << 20  # characters; more than any window holds
RENDER_LIMIT_S = 10.0
# What a template's own code can raise, from messages that it was not written for.
REFUSALS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
FIRST_SENTINEL = 0xF0000  # supplementary private use area A

FALLBACK = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
FALLBACK_STOP = ("\nUser:",)

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """Tokens to feed. `stable` of them stay the same when the conversation goes on: a snapshot belongs there."""

    tokens: list[int]
    stable: int


class ChatTemplate:
    """A compiled chat template, of a model that has one or the plain fallback."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.is_fallback = vocabulary.chat_template is None
        self._problem: BadRequest | None = None  # kept for the first chat: raw completion needs no template
        source = vocabulary.chat_template or FALLBACK
        try:
            if len(source) > MAX_TEMPLATE:
                raise BadRequest(
                    f"the model's chat template has {len(source)} characters, {MAX_TEMPLATE} are allowed"
                )
            self._template = environment().from_string(source)
        except BadRequest as problem:
            self._problem = problem
        except (jinja2.TemplateError, RecursionError) as error:
            self._problem = BadRequest(f"the model's chat template cannot be compiled: {error}")

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an answer besides the model's own end tokens."""
        return FALLBACK_STOP if self.is_fallback else ()

    def prompt(self, messages: Sequence[Message], options: Mapping[str, Any] | None = None) -> Prompt:
        """Render and tokenise a conversation, up to where the assistant speaks.

        Raises BadRequest when the template refuses the messages, takes too long or cannot be compiled.
        """
        if self._problem is not None:
            raise self._problem
        guarded, hidden = self._hide_control_strings(messages)
        tokens = self._tokenize(self._render(guarded, options or {}, True), hidden)
        past = self._tokenize(self._render(guarded, options or {}, False), hidden)
        stable = next(
            (i for i, (a, b) in enumerate(zip(tokens, past, strict=False)) if a != b),
            min(len(tokens), len(past)),
        )
        return Prompt(tokens, stable)

    def _render(self, messages: Sequence[Message], options: Mapping[str, Any], generation: bool) -> str:
        context = {
            "bos_token": self._text(self._vocabulary.bos),
            "eos_token": self._text(self._vocabulary.eos),
            "messages": messages,
            "add_generation_prompt": generation,
            **options,
        }
        try:
            return within(RENDER_LIMIT_S, lambda: self._print(context))
        except RenderLimit as limit:
            raise BadRequest(f"the model's chat template {limit}", "messages") from limit
        except REFUSALS as error:
            raise BadRequest(
                f"the model's chat template refuses these messages: {error}", "messages"
            ) from error

    def _print(self, context: Mapping[str, Any]) -> str:
        pieces, size = [], 0
        for piece in self._template.generate(context):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_RENDERED:
                raise RenderLimit(f"printed more than {MAX_RENDERED} characters")
        return "".join(pieces)

    def _text(self, token: int | None) -> str:
        return "" if token is None else self._vocabulary.piece(token, special=True).decode("utf-8", "replace")

    def _hide_control_strings(
        self, messages: Sequence[Message]
    ) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Swap control strings in contents for one private-use character each; returns the way back too."""
        hidden: dict[str, str] = {}
        guarded = [{key: self._hide(value, hidden) for key, value in message.items()} for message in messages]
        return guarded, hidden

    def _hide(self, value: Any, hidden: dict[str, str]) -> Any:
        if isinstance(value, list):
            return [self._hide(item, hidden) for item in value]
        if isinstance(value, dict):
            return {key: self._hide(item, hidden) for key, item in value.items()}
        if not isinstance(value, str):
            return value
        for sentinel in [c for c in value if ord(c) >= FIRST_SENTINEL and c not in hidden]:
            hidden[sentinel] = sentinel  # the user's own private-use character stays itself
        for token in self._vocabulary.tokenize(value, add_special=False, parse_special=True):
            text = self._text(token) if self._vocabulary.is_control(token) else ""
            if text and text in value:
                used = next((s for s, t in hidden.items() if t == text), None)
                fresh = next(chr(c) for c in range(FIRST_SENTINEL, 0xFFFFD) if chr(c) not in hidden)
                hidden[used or fresh] = text
                value = value.replace(text, used or fresh)
        return value

    def _tokenize(self, text: str, hidden: Mapping[str, str]) -> list[int]:
        tokens: list[int] = []
        start = 0
        for end, character in enumerate(text):
            if character in hidden:
                tokens += self._piece(text[start:end], parse_special=True)
                tokens += self._piece(hidden[character], parse_special=False)
                start = end + 1
        tokens += self._piece(text[start:], parse_special=True)
        bos = self._vocabulary.bos
        if (
            self._vocabulary.adds_bos and bos is not None and tokens[:1] != [bos]
        ):  # most templates write it themselves
            tokens.insert(0, bos)
        return tokens

    def _piece(self, text: str, *, parse_special: bool) -> list[int]:
        return self._vocabulary.tokenize(text, add_special=False, parse_special=parse_special) if text else []
