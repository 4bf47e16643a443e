"""conifer-gguf run: one answer, or a conversation in the terminal."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import click

from ..errors import BadRequest, ConiferError
from ..service import chat
from ..service.residency import EngineOptions, Residency
from ..store import library
from ..worker.messages import Event, Finished, Generate, Text
from ..worker.sampler import Sampling
from . import _options, _pull, render
from ._gate import pass_gate


@click.command("run", short_help="Answer a prompt, or chat in the terminal.")
@click.argument("name", metavar="[NAME[:QUANT] | FILE]", required=False)
@click.argument("prompt", required=False)
@click.option("--system", metavar="TEXT", help="What the model is told before the conversation.")
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help="Default: the rest of the window.")
@click.option(
    "--pull", "pull_first", is_flag=True, help="Download the model without asking if it is not here."
)
@_options.add(_options.SAMPLING)
@_options.add(_options.ENGINE)
def command(
    name: str | None,
    prompt: str | None,
    system: str | None,
    max_tokens: int | None,
    pull_first: bool,
    ctx: int | None,
    threads: int | None,
    cache_type: str,
    runtime: str,
    **sampling: Any,
) -> int:
    """Answer PROMPT, or what stands on stdin, or chat when there is neither. A model that is not here is pulled first.

    Without a name, a terminal offers the models that are here; two small ones come with this program.

    Ctrl-C stops an answer; at the prompt, Ctrl-D leaves.

    \b
    Examples:
      conifer-gguf run
      conifer-gguf run conifer-demo "Tell me a story."
      conifer-gguf run smollm2-135m "Why is the sky blue?"
      cat notes.txt | conifer-gguf run lfm2.5-1.2b --system "Summarise in three sentences."
    """
    model = _pull.find_or_pull(name, pull_first) if name is not None else _pull.choose_model(runtime)
    runtime = pass_gate(model, runtime)
    residency = Residency(EngineOptions(runtime, ctx, threads, cache_type))
    talk = Talk(residency, model, sampling_for(model, sampling), max_tokens, system)
    try:
        if prompt is None and not sys.stdin.isatty():
            prompt = sys.stdin.read()
        if prompt is not None:
            return talk.once(prompt)
        return talk.chat()
    finally:
        residency.close()


def sampling_for(model: library.LocalModel, options: dict[str, Any]) -> Sampling:
    """The model card's sampling, then what the person said; a fresh seed unless one is given."""
    card = model.entry.sampling.given() if model.entry else {}
    names = {"temp": "temperature"}
    given = {names.get(k, k): v for k, v in options.items() if v is not None}
    if not model.entry and "temperature" not in given:
        card = {"temperature": 0.7}
    return Sampling(**{"seed": random.getrandbits(31), **card, **given})


class Talk:
    """A conversation with one model in the terminal: answers to stdout, everything else to stderr."""

    def __init__(
        self,
        residency: Residency,
        model: library.LocalModel,
        sampling: Sampling,
        max_tokens: int | None,
        system: str | None,
    ) -> None:
        self._residency = residency
        self._model = model
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []

    def once(self, prompt: str) -> int:
        """One answer; a base model without a chat template continues the text."""
        if not prompt.strip():
            raise BadRequest("the prompt is empty", "prompt")
        with chat.engine_for(self._residency, self._model) as engine:
            has_template = engine.info.has_template
        if has_template:
            self._messages.append({"role": "user", "content": prompt})
            request = Generate("", messages=tuple(self._messages))
        else:
            render.notice("this file has no chat template: continuing the text as it is")
            request = Generate("", prompt=prompt)
        _, finished = self._stream(request)
        return 0 if finished is None or finished.reason != "cancelled" else 130

    def chat(self) -> int:
        """Read, answer, repeat, until the end of the input."""
        with chat.engine_for(self._residency, self._model) as engine:
            info = engine.info
        for notice in info.notices:
            render.notice(notice)
        window = f"{info.info.n_ctx:,} tokens"
        render.notice(
            f"{self._model.name} on {info.info.name}, {window}. Ctrl-C stops an answer, Ctrl-D leaves."
        )
        while True:
            try:
                text = _read_line()
            except EOFError:
                render.notice("")
                return 0
            except KeyboardInterrupt:
                render.notice("\nCtrl-D leaves")
                continue
            if not text.strip():
                continue
            self._messages.append({"role": "user", "content": text})
            try:
                said, _ = self._stream(Generate("", messages=tuple(self._messages)))
                self._messages.append({"role": "assistant", "content": said})
            except ConiferError as error:  # the conversation goes on: the next question may work
                self._messages.pop()
                render.error(error)

    def _stream(self, request: Generate) -> tuple[str, Finished | None]:
        request = replace(request, sampling=self._sampling, max_tokens=self._max_tokens)
        _, events = chat.answer(self._residency, self._model, request)
        said: list[str] = []
        finished: Finished | None = None
        try:
            for text, end in _texts(events):
                said.append(text)
                finished = end or finished
                click.echo(text, nl=False)
        except KeyboardInterrupt:
            events.close()
            finished = Finished("", "cancelled", 0, 0, len(said), 0.0, 0.0)
        click.echo()
        if finished is not None:
            render.notice(speed(finished))
        return "".join(said), finished


def _read_line() -> str:
    """One line of the person's, with the terminal's editing and history where it has them."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # `input` uses it from then on
    if sys.stdout.isatty():
        return input(">>> ")
    click.echo(">>> ", nl=False, err=True)  # stdout is for answers: `input` would print there
    return input()


def _texts(events: Iterator[Event]) -> Iterator[tuple[str, Finished | None]]:
    for event in events:
        if isinstance(event, Text):
            yield event.text, None
        elif isinstance(event, Finished):
            yield "", event


def speed(end: Finished) -> str:
    """One line: tokens read and written, and how fast."""
    if end.reason == "cancelled":
        return "[stopped]"
    n_read = end.n_prompt - end.n_cached
    read = f"prompt: {end.n_prompt} tokens, {end.n_cached} known, {n_read / max(end.prompt_s, 1e-9):.0f} tokens/s"
    rate = (end.n_generated - 1) / end.generate_s if end.generate_s > 0 and end.n_generated > 1 else 0.0
    return f"[{read} · answer: {end.n_generated} tokens, {rate:.1f} tokens/s · {end.reason}]"
