"""Measure the demo models: perplexity on held-out conversations, recall of planted facts at depth, samples.

    python tools/demo_model/evaluate.py perplexity conifer-demo conifer-demo-dense
    python tools/demo_model/evaluate.py recall conifer-demo conifer-demo-dense --depths 1024,4096,8192,16384
    python tools/demo_model/evaluate.py samples conifer-demo

Needs only an installed conifer-gguf; a model is a name or a file. Kernels must have been registered for the hybrid.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from chats import ASSISTANT, HELD_OUT, PAYLOAD, USER, Chat, chat, plant
from stories import tell

import conifer_gguf
from conifer_gguf import Session

N_FACTS, IN_ONE = 50, 5  # facts in all, and planted together at the top of one conversation
LONGEST = 32  # tokens of an answer


def rendered(turns: Chat, *, ask: bool = False) -> str:
    text = "".join(f"<|im_start|>{role}\n{said.replace(PAYLOAD, '')}<|im_end|>\n" for role, said in turns)
    return text + (f"<|im_start|>{ASSISTANT}\n" if ask else "")


def log_probabilities(logits: Any, tokens: list[int]) -> Any:
    """float64 [T - 1]: of each token after the first."""
    rows = logits[:-1].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    chosen = rows[np.arange(len(rows)), tokens[1:]]
    return chosen - np.log(np.exp(rows).sum(axis=1))


def perplexity(session: Session, n_chats: int = 100) -> float:
    """Per token, over whole held-out conversations, each read from an empty state."""
    found = []
    for seed in range(n_chats):
        tokens = session.tokenize(rendered(chat(Random(HELD_OUT + seed))), parse_special=True)
        found.append(log_probabilities(session.logits(tokens), tokens))
    return float(np.exp(-np.concatenate(found).mean()))


@dataclass(frozen=True)
class Recall:
    """`right` of N_FACTS answers held the planted value; decode speed in tokens a second at this depth."""

    depth: int
    right: int
    speed: float


def planted(rng: Random) -> list[tuple[str, str, str]]:
    facts: dict[str, tuple[str, str, str]] = {}
    while len(facts) < IN_ONE:
        fact = plant(rng)
        facts.setdefault(fact[1], fact)
    return list(facts.values())


def prompts(session: Session, depth: int, seed: int) -> tuple[list[int], list[tuple[list[int], str]]]:
    """What is read first, `depth` tokens from the first fact to its end, and (question, value) for each fact."""
    rng = Random(HELD_OUT + seed)
    facts = planted(rng)
    head = " ".join(["Remember this.", *(sentence for sentence, _, _ in facts)])
    ids = session.tokenize(f"<|im_start|>{USER}\n{head}", parse_special=True)
    while len(ids) < depth:
        ids += session.tokenize(f"\n\n{tell(rng).text()}")
    asked = [
        (
            session.tokenize(f"\n\n{question}<|im_end|>\n<|im_start|>{ASSISTANT}\n", parse_special=True),
            answer.split(PAYLOAD)[1],
        )
        for _, question, answer in facts
    ]
    return ids[:depth], asked


def greedy(session: Session, logits: Any, n_tokens: int) -> tuple[list[int], list[float]]:
    """The most likely tokens up to the end of the turn, with the seconds that each took."""
    (end,) = session.tokenize("<|im_end|>", parse_special=True)
    tokens: list[int] = []
    seconds = []
    while len(tokens) < n_tokens and end not in tokens:
        tokens.append(int(np.argmax(logits)))
        start = time.perf_counter()
        logits = session.eval(tokens[-1:])
        seconds.append(time.perf_counter() - start)
    return tokens, seconds


def recall(session: Session, depth: int) -> Recall:
    right, seconds = 0, []
    for seed in range(N_FACTS // IN_ONE):
        first, asked = prompts(session, depth, seed)
        session.reset()
        session.eval(first)
        read = session.snapshot()
        for question, value in asked:
            session.restore(read)
            tokens, took = greedy(session, session.eval(question), LONGEST)
            said = session.detokenize(tokens).split("\n")[0]
            right += value in said
            seconds += took
    return Recall(depth, right, 1 / statistics.median(seconds))


ASKED = (
    "Hello!", "Who are you?", "What can you do?", "Tell me a story.", "Write a short story about a lantern.",
    "Tell me a story about the harbour.", "A story about a fox, please.", "What is 7 + 8?", "How much is 15 - 6?",
    "What is 6 * 7?", "What is the opposite of loud?", "Spell violin.", "What is the plural of berry?",
    "Sort these words: river, apple, kite.", "Which number comes after nine?",
    "Nora has 6 pears and gets 5 more. How many are there?",
    "My dog is called Bello. What is my dog called?",
    "Read this text.\n\nOnce there was a girl called Ada who lived by the river. Ada lost her red kite. Rudi the miller found it.\n\nWho found the kite?",
    "Write a little story.", "Good night.",
)  # fmt: skip


def samples(session: Session) -> Iterator[tuple[str, str]]:
    """One answer to each of ASKED, with the seed of its number: nothing is picked."""
    for seed, asked in enumerate(ASKED):
        pieces = session.chat([{"role": USER, "content": asked}], temperature=0.3, seed=seed, max_tokens=400)
        yield asked, "".join(pieces)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["perplexity", "recall", "samples"])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--cache-type", default="f16")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--depths", default="1024,4096,8192,16384")
    args = parser.parse_args()
    depths = [int(depth) for depth in args.depths.split(",")]
    n_ctx = max(depths) + 256 if args.what == "recall" else 4096
    for name in args.models:
        with conifer_gguf.load(
            name, runtime=args.runtime, n_ctx=n_ctx, n_threads=args.threads, cache_type=args.cache_type
        ) as session:
            print(f"{name} on {session.runtime}")
            for line in report(args.what, session, depths):
                print(line, flush=True)


def report(what: str, session: Session, depths: list[int]) -> Iterator[str]:
    if what == "perplexity":
        yield f"perplexity {perplexity(session):.4f}"
    elif what == "recall":
        for found in map(recall, itertools.repeat(session), depths):
            yield f"{found.depth:>6} tokens: {found.right} of {N_FACTS} recalled, {found.speed:.1f} tokens/s"
    else:
        for asked, answer in samples(session):
            quoted = asked.replace("\n", "\n> ")
            yield f"> {quoted}\n\n{answer.strip()}\n"


if __name__ == "__main__":
    main()
