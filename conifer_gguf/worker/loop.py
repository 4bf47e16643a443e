"""The generation loop: several requests advance together, one step of the runtime at a time.

Each step feeds one new token of every answer that is being written and a share of every prompt that is being read, so
a long prompt does not silence the others. The loop is driven by one thread, in the engine process or in-process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field

from ..errors import BadRequest, Cancelled, ConiferError, PromptTooLong
from ..runtimes.base import Logits, Runtime, SequenceId
from .messages import Event, Failed, Finished, FinishReason, Generate, Started, Text, TokenLogprob
from .prefix_cache import PrefixCache
from .sampler import Sampler, log_probabilities
from .template import ChatTemplate, Prompt
from .text import TextStream

STEP_TOKENS = 512  # fed in one step, over all sequences


@dataclass
class _Active:
    request: Generate
    prompt: Prompt
    sequence: SequenceId
    n_cached: int
    limit: int
    sampler: Sampler
    stream: TextStream
    held: list[int]  # tokens in the sequence
    started: float
    waiting: list[int]  # tokens to feed
    generated: list[int] = field(default_factory=list)
    first_token: float | None = None

    @property
    def reading(self) -> bool:
        return not self.generated


class Loop:
    """Owns a runtime's sequences. `submit`, then `step` until `idle`; events name the request they belong to."""

    def __init__(self, runtime: Runtime, snapshot_budget: int | None = None) -> None:
        self._runtime = runtime
        self._cache = PrefixCache(runtime, snapshot_budget)
        self.template = ChatTemplate(runtime.vocabulary)
        self._queue: deque[Generate] = deque()
        self._active: dict[str, _Active] = {}
        self._cancelled: set[str] = set()
        self._stepping: frozenset[str] = frozenset()  # requests in the running advance
        self._stepping_lock = threading.Lock()

    @property
    def idle(self) -> bool:
        return not self._queue and not self._active

    def submit(self, request: Generate) -> None:
        self._queue.append(request)

    def cancel(self, request_id: str) -> None:
        """Stop a request: at once where it is alone, else at the end of the running step. Any thread."""
        self._cancelled.add(request_id)
        with self._stepping_lock:
            if self._stepping == {request_id}:  # an interrupted step tears every sequence in it
                self._runtime.cancel()

    def close(self) -> None:
        """Drop every request and every sequence; the runtime lives on."""
        self._queue.clear()
        for active in list(self._active.values()):
            self._remove(active, keep=False)
        self._cache.close()

    def step(self) -> list[Event]:
        """Advance everything once. Native work happens here and nowhere else."""
        events: list[Event] = []
        self._drop_cancelled(events)
        self._admit(events)
        if not self._active:
            return events
        feed = self._feed()
        fed = [a for a in self._active.values() if a.sequence in feed]
        try:
            logits = self._advance(feed, fed)
        except Cancelled:
            for active in fed:
                self._finish(active, "cancelled", events, keep=False)
            return events
        except ConiferError as error:
            for active in fed:
                self._remove(active, keep=False)
                events.append(Failed(active.request.id, error))
            return events
        for active in fed:
            self._take(active, len(feed[active.sequence]), logits[active.sequence][-1], events)
        return events

    def _advance(self, feed: dict[SequenceId, list[int]], fed: list[_Active]) -> dict[SequenceId, Logits]:
        with self._stepping_lock:
            self._stepping = frozenset(a.request.id for a in fed)
        try:
            return self._runtime.advance(feed)
        finally:
            with self._stepping_lock:
                self._stepping = frozenset()

    def _drop_cancelled(self, events: list[Event]) -> None:
        for request_id in list(self._cancelled):
            self._cancelled.discard(request_id)
            active = self._active.get(request_id)
            if active is not None:
                self._finish(active, "cancelled", events)
            for request in [r for r in self._queue if r.id == request_id]:
                self._queue.remove(request)
                events.append(Finished(request_id, "cancelled", 0, 0, 0, 0.0, 0.0))

    def _admit(self, events: list[Event]) -> None:
        while self._queue and self._cache.has_room:
            request = self._queue.popleft()
            try:
                active = self._begin(request)
            except ConiferError as error:
                events.append(Failed(request.id, error))
                continue
            self._active[request.id] = active
            events.append(Started(request.id, len(active.prompt.tokens), active.n_cached))

    def _begin(self, request: Generate) -> _Active:
        started = time.perf_counter()
        prompt = self.tokenize(request)
        n_prompt, n_ctx = len(prompt.tokens), self._runtime.info.n_ctx
        if n_prompt >= n_ctx:
            raise PromptTooLong(n_prompt, n_ctx)
        if request.max_tokens is not None and request.max_tokens < 1:
            raise BadRequest(f"`max_tokens` is {request.max_tokens}, at least 1 is needed", "max_tokens")
        room = n_ctx - n_prompt
        limit = room if request.max_tokens is None else min(room, request.max_tokens)
        sampler = Sampler(request.sampling, self._runtime.info.n_vocab)
        if request.sampling.penalises:
            sampler.accept(prompt.tokens)
        sequence, n_cached = self._cache.acquire(prompt.tokens)
        stop = (*request.stop, *(self.template.stop if request.messages is not None else ()))
        return _Active(
            request=request,
            prompt=prompt,
            sequence=sequence,
            n_cached=n_cached,
            limit=limit,
            sampler=sampler,
            stream=TextStream(stop),
            held=prompt.tokens[:n_cached],
            started=started,
            waiting=prompt.tokens[n_cached:],
        )

    def tokenize(self, request: Generate) -> Prompt:
        """The prompt of a request. Raises BadRequest when it is empty."""
        if request.messages is not None:
            if not request.messages:
                raise BadRequest("`messages` is empty", "messages")
            return self.template.prompt(request.messages, request.template_options)
        # As in llama.cpp, control strings in a raw prompt are the caller's own markup.
        tokens = self._runtime.vocabulary.tokenize(request.prompt or "", parse_special=True)
        if not tokens:
            raise BadRequest("the prompt is empty, and this model has no token to begin with", "prompt")
        return Prompt(tokens, len(tokens))

    def _feed(self) -> dict[SequenceId, list[int]]:
        """What each sequence takes in this step; a prompt stops at its stable end so that it can be marked there."""
        readers = [a for a in self._active.values() if a.reading]
        share = max(1, (STEP_TOKENS - (len(self._active) - len(readers))) // max(1, len(readers)))
        feed: dict[SequenceId, list[int]] = {}
        for active in self._active.values():
            n = min(len(active.waiting), share)
            to_mark = active.prompt.stable - len(active.held)
            if not self._runtime.info.can_trim and active.reading and 0 < to_mark < n:
                n = to_mark
            feed[active.sequence] = active.waiting[:n]
        return feed

    def _take(self, active: _Active, n_fed: int, logits: Logits, events: list[Event]) -> None:
        active.held += active.waiting[:n_fed]
        del active.waiting[:n_fed]
        if len(active.held) == active.prompt.stable and active.request.messages is not None:
            self._cache.mark(active.sequence, active.held)
        if active.waiting:
            return
        if active.first_token is None:
            active.first_token = time.perf_counter()
        token = active.sampler.sample(logits)
        vocabulary = self._runtime.vocabulary
        if vocabulary.is_end(token):
            self._finish(active, "stop", events)
            return
        active.generated.append(token)
        data = vocabulary.piece(token)
        text = active.stream.feed(data)
        logprobs = self._logprobs(active, logits, token)
        if text or logprobs:
            events.append(Text(active.request.id, text, logprobs))
        if active.stream.stopped is not None:
            self._finish(active, "stop", events)
        elif len(active.generated) >= active.limit:
            self._finish(active, "length", events)
        else:
            active.waiting.append(token)

    def _logprobs(self, active: _Active, logits: Logits, token: int) -> tuple[TokenLogprob, ...]:
        n_top = active.request.top_logprobs
        if n_top is None:
            return ()
        own, ranked = log_probabilities(logits, n_top, token)
        return (TokenLogprob(self._show(token), own, tuple((self._show(t), p) for t, p in ranked)),)

    def _show(self, token: int) -> str:
        return self._runtime.vocabulary.piece(token, special=True).decode("utf-8", "replace")

    def _finish(
        self, active: _Active, reason: FinishReason, events: list[Event], *, keep: bool = True
    ) -> None:
        now = time.perf_counter()
        rest = active.stream.finish()
        if rest:
            events.append(Text(active.request.id, rest))
        first = active.first_token or now
        events.append(
            Finished(
                id=active.request.id,
                reason=reason,
                n_prompt=len(active.prompt.tokens),
                n_cached=active.n_cached,
                n_generated=len(active.generated),
                prompt_s=first - active.started,
                generate_s=now - first,
            )
        )
        self._remove(active, keep=keep)

    def _remove(self, active: _Active, *, keep: bool) -> None:
        active.sampler.close()
        del self._active[active.request.id]
        if keep and active.held:
            self._cache.release(active.sequence, active.held)
        else:
            self._cache.discard(active.sequence)
