"""From conversations to rows of tokens: the template, the tokenizer, and the split into training and held-out seeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from chats import ASSISTANT, Chat, chat
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 3072
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
HELD_OUT = 10**9  # seeds from here on are never trained on
USER_WEIGHT = 0.1  # of a token that the model only reads; what it has to write weighs 1

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train_tokenizer(n_chats: int = 20_000) -> Tokenizer:
    """Byte-level BPE; digits stand alone, so that sums are seen digit by digit."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (text for seed in range(n_chats) for _, text in chat(Random(seed), 100))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class Encoder:
    """Conversations as token ids with the weight of each token in the loss."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(path))
        self.end = self.tokenizer.token_to_id(END)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode(self, turns: Chat) -> tuple[list[int], list[float]]:
        tokens: list[int] = []
        weights: list[float] = []
        for role, text in turns:
            head, body = self.ids(f"{START}{role}\n"), self.ids(f"{text}{END}")
            tail = self.ids("\n")
            written = 1.0 if role == ASSISTANT else USER_WEIGHT
            tokens += head + body + tail
            weights += [USER_WEIGHT] * len(head) + [written] * len(body) + [USER_WEIGHT] * len(tail)
        return tokens, weights

    def rows(self, seed: int, length: int) -> Iterator[tuple[list[int], list[float]]]:
        """Endless rows of exactly `length` + 1 tokens, each starting with a fresh conversation."""
        rng = Random(seed)
        while True:
            tokens: list[int] = []
            weights: list[float] = []
            while len(tokens) <= length:
                more, weight = self.encode(chat(rng, int(length * 0.7)))
                if len(more) <= length + 1 - len(tokens) or not tokens or length - len(tokens) > 100:
                    tokens += more
                    weights += weight
                else:
                    break
            missing = length + 1 - len(tokens)
            yield (tokens + [0] * missing)[: length + 1], (weights + [0.0] * missing)[: length + 1]
