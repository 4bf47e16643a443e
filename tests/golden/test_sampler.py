"""The sampler chain chooses as its settings say, over the logits of any runtime."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from conifer_gguf.errors import BadRequest
from conifer_gguf.worker.sampler import Sampler, Sampling, log_probabilities

LOGITS = np.array([0.0, 2.0, 1.0, 3.0, -1.0], np.float32)  # token 3 is likeliest, then 1, 2, 0, 4


def draw(n: int, logits: Any = LOGITS, **settings: Any) -> list[int]:
    sampler = Sampler(Sampling(**settings), len(logits))
    try:
        return [sampler.sample(logits) for _ in range(n)]
    finally:
        sampler.close()


def test_temperature_zero_takes_the_likeliest_whatever_the_seed() -> None:
    assert draw(5, seed=1) == draw(5, seed=2) == [3] * 5


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others() -> None:
    assert draw(40, temperature=1.5, seed=7) == draw(40, temperature=1.5, seed=7)
    assert draw(40, temperature=1.5, seed=7) != draw(40, temperature=1.5, seed=8)


def test_frequencies_follow_the_softmax_at_the_temperature() -> None:
    n, temperature = 4000, 2.0
    expected = np.exp(LOGITS / temperature) / np.exp(LOGITS / temperature).sum()
    counts = Counter(draw(n, temperature=temperature, seed=3))
    for token, probability in enumerate(expected):
        sigma = np.sqrt(probability * (1 - probability) / n)
        assert abs(counts[token] / n - probability) < 5 * sigma


@pytest.mark.parametrize(
    ("settings", "possible"),
    [
        ({"top_k": 2}, {3, 1}),
        ({"top_p": 0.6}, {3}),  # the softmax gives token 3 alone 0.64
        ({"top_p": 0.8}, {3, 1}),
        ({"min_p": 0.3}, {3, 1}),  # token 1 has e^-1 = 0.37 of the best, token 2 only 0.14
        ({"logit_bias": {4: 100.0}}, {4}),
        ({"logit_bias": {3: float("-inf"), 1: -100.0}, "top_k": 2}, {2, 0}),
    ],
    ids=str,
)
def test_each_filter_leaves_what_it_should(settings: dict[str, Any], possible: set[int]) -> None:
    assert set(draw(300, temperature=1.0, seed=5, **settings)) == possible


def test_penalties_count_what_was_sampled_and_the_prompt() -> None:
    assert draw(3, presence_penalty=1.5) == [3, 1, 3]
    sampler = Sampler(Sampling(frequency_penalty=0.6), len(LOGITS))
    sampler.accept([3, 3, 2])
    assert sampler.sample(LOGITS) == 1
    sampler.close()


def test_logits_are_left_as_they_were() -> None:
    logits = LOGITS.copy()
    draw(3, logits, temperature=0.7, repeat_penalty=1.3)
    np.testing.assert_array_equal(logits, LOGITS)


@pytest.mark.parametrize(
    ("settings", "parameter"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"logit_bias": {5: 1.0}}, "logit_bias"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], parameter: str) -> None:
    with pytest.raises(BadRequest) as refused:
        draw(1, **settings)
    assert refused.value.parameter == parameter


def test_log_probabilities_are_those_of_the_softmax() -> None:
    own, ranked = log_probabilities(LOGITS, 3, 2)
    expected = LOGITS - np.log(np.exp(LOGITS.astype(np.float64)).sum())
    assert own == pytest.approx(expected[2], abs=1e-6)
    assert [token for token, _ in ranked] == [3, 1, 2]
    assert [value for _, value in ranked] == pytest.approx(sorted(expected)[:-4:-1], abs=1e-6)
    assert log_probabilities(LOGITS, 0, 4)[1] == []
