"""From conversations to rows of tokens: the template, the tokenizer, and the split into training and held-out seeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from chats import ASSISTANT, END, PAD, PAYLOAD, START, Chat, chat, recall
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TOKENIZER = Path(__file__).parent / "tokenizer.json"
VOCABULARY = 2048
FIRST_ORDINARY = 3  # the tokens before are special
ECHOES = 0.15  # of the rows
READ, WRITTEN, RECALLED = 0.3, 1.0, 4.0  # weights in the loss: what the model reads, writes, has to remember


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
    texts = (text.replace(PAYLOAD, "") for seed in range(n_chats) for _, text in sample(Random(seed)))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def sample(rng: Random) -> Chat:
    return recall(rng, 150) if rng.random() < 0.3 else chat(rng)


class Encoder:
    """Conversations as token ids with the weight of each token in the loss."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(path))
        self.end = self.tokenizer.token_to_id(END)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def written(self, text: str) -> tuple[list[int], list[float]]:
        """An answer's tokens; those of its payload weigh more."""
        parts = text.split(PAYLOAD)
        plain = "".join(parts)
        encoding = self.tokenizer.encode(plain + END, add_special_tokens=False)
        start = len(parts[0])
        stop = start + len(parts[1]) if len(parts) == 3 else start - 1
        weights = [
            RECALLED if a < stop and b > start and stop > start else WRITTEN for a, b in encoding.offsets
        ]
        return encoding.ids, weights

    def encode(self, turns: Chat) -> tuple[list[int], list[float]]:
        tokens: list[int] = []
        weights: list[float] = []
        for role, text in turns:
            head, tail = self.ids(f"{START}{role}\n"), self.ids("\n")
            if role == ASSISTANT:
                body, weight = self.written(text)
            else:
                body = self.ids(f"{text}{END}")
                weight = [READ] * len(body)
            tokens += head + body + tail
            weights += [READ] * len(head) + weight + [READ] * len(tail)
        return tokens, weights

    def rows(self, seed: int, length: int) -> Iterator[tuple[list[int], list[float]]]:
        """Endless rows of exactly `length` + 1 tokens: echoes, or whole conversations, most of them with recall first."""
        rng = Random(seed)
        while True:
            tokens, weights = self.echoes(rng, length) if rng.random() < ECHOES else self.talk(rng, length)
            missing = length + 1 - len(tokens)
            yield tokens + [0] * missing, weights + [0.0] * missing

    def echoes(self, rng: Random, length: int) -> tuple[list[int], list[float]]:
        """Random tokens in short pieces that come back later: looking up what followed is all there is to learn."""
        pieces: list[list[int]] = []
        tokens: list[int] = []
        weights: list[float] = []
        while len(tokens) <= length:
            if pieces and rng.random() < 0.6:
                piece = rng.choice(pieces)
                weights += [0.0, 0.0] + [WRITTEN] * (len(piece) - 2)
            else:
                piece = [rng.randrange(FIRST_ORDINARY, VOCABULARY) for _ in range(rng.randint(5, 16))]
                pieces.append(piece)
                weights += [0.0] * len(piece)
            tokens += piece
        return tokens[: length + 1], weights[: length + 1]

    def talk(self, rng: Random, length: int) -> tuple[list[int], list[float]]:
        tokens: list[int] = []
        weights: list[float] = []
        turns = recall(rng, int(length * rng.uniform(0.3, 0.62))) if rng.random() < 0.6 else chat(rng)
        misfits = 0
        while misfits < 6:
            more, weight = self.encode(turns)
            if len(tokens) + len(more) <= length + 1:
                tokens += more
                weights += weight
            else:
                misfits += 1
            turns = recall(rng, 120) if rng.random() < 0.25 else chat(rng)
        return tokens, weights
