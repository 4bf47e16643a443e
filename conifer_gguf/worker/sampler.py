"""Choosing the next token: llama.cpp's sampler chain over the logits of any runtime."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import llama_cpp.llama_cpp as lib
import numpy as np

from ..errors import BadRequest
from ..runtimes.base import Logits


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 switch each filter off.

    Penalties look at the last `penalty_window` tokens, prompt included; 1.0, 0.0 and 0.0 switch them off.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_window: int = 256
    seed: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ranges = {
            "temperature": (0.0, 100.0),
            "top_p": (0.0, 1.0),
            "min_p": (0.0, 1.0),
            "top_k": (0, 2**31 - 1),
            "repeat_penalty": (0.0, 100.0),
            "frequency_penalty": (-100.0, 100.0),
            "presence_penalty": (-100.0, 100.0),
            "penalty_window": (0, 2**20),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise BadRequest(f"`{name}` is {value}, {low} to {high} are possible", name)

        for token, bias in self.logit_bias.items():
            if math.isnan(bias) or bias == math.inf:  # minus infinity forbids a token
                raise BadRequest(f"`logit_bias` of token {token} is {bias}, a number is needed", "logit_bias")

    @property
    def penalises(self) -> bool:
        return self.repeat_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


class Sampler:
    """One generation's chain and its random state. Used by one thread; `close` frees the native chain."""

    def __init__(self, sampling: Sampling, n_vocab: int) -> None:
        wrong = next((t for t in sampling.logit_bias if not 0 <= t < n_vocab), None)
        if wrong is not None:
            raise BadRequest(f"`logit_bias` names token {wrong}, the vocabulary has {n_vocab}", "logit_bias")
        self._candidates = np.empty(n_vocab, np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")]))
        self._chain = _build_chain(sampling, n_vocab)

    def accept(self, tokens: Iterable[int]) -> None:
        """Let the penalties see tokens that were not sampled here: the prompt."""
        for token in tokens:
            lib.llama_sampler_accept(self._chain, token)

    def sample(self, logits: Logits) -> int:
        """The next token from logits [n_vocab]; the chain has then accepted it."""
        candidates = self._candidates
        candidates["id"] = np.arange(len(candidates), dtype=np.int32)
        candidates["logit"] = logits
        candidates["p"] = 0.0
        data = candidates.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        array = lib.llama_token_data_array(data, len(candidates), -1, False)
        lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        token = int(array.data[array.selected].id)
        lib.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        if self._chain is not None:
            lib.llama_sampler_free(self._chain)
            self._chain = None


def _build_chain(sampling: Sampling, n_vocab: int) -> lib.llama_sampler_p:
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())

    def add(sampler: lib.llama_sampler_p) -> None:
        lib.llama_sampler_chain_add(chain, sampler)

    if sampling.logit_bias:
        biases = [lib.llama_logit_bias(token, value) for token, value in sampling.logit_bias.items()]
        array = (lib.llama_logit_bias * len(biases))(*biases)
        add(lib.llama_sampler_init_logit_bias(n_vocab, len(biases), array))
    if sampling.penalises:
        add(
            lib.llama_sampler_init_penalties(
                n_vocab,
                sampling.penalty_window,
                sampling.repeat_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            )
        )
    if sampling.temperature == 0.0:
        add(lib.llama_sampler_init_greedy())
        return chain
    if sampling.top_k:
        add(lib.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1.0:
        add(lib.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0.0:
        add(lib.llama_sampler_init_min_p(sampling.min_p, 1))
    add(lib.llama_sampler_init_temp(sampling.temperature))
    add(lib.llama_sampler_init_dist(sampling.seed & 0xFFFFFFFF))
    return chain


def log_probabilities(logits: Logits, n_top: int, token: int) -> tuple[float, list[tuple[int, float]]]:
    """Log probability of `token` and the `n_top` likeliest tokens, of the model itself: before any filter."""
    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    n_top = min(n_top, len(values))
    if n_top == 0:
        return float(values[token]), []
    best = np.argpartition(values, -n_top)[-n_top:]
    ranked = sorted(((int(t), float(values[t])) for t in best), key=lambda pair: -pair[1])
    return float(values[token]), ranked
