"""What a runtime is: several sequences of tokens, advanced together.

Everything above this file (loop, batch, server) speaks this protocol alone, so that llama.cpp and our engine are
interchangeable. A runtime lives in one process and is called by one thread; only `cancel` may come from another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

SequenceId = int
Logits = NDArray[np.float32]
CacheType = Literal["f16", "f32", "q8_0"]


@dataclass(frozen=True)
class RuntimeInfo:
    """Facts fixed at load. `n_ctx` counts tokens per sequence; `can_trim` is False where a carry can't be rolled back.

    `accelerators` are ops of ggml's that a registered plugin computes, with its id; `by_ggml` types of weights that ggml
    multiplies by all the same, because that is faster here. `split_dependent` names what may give other bits when the same
    tokens come in other steps: weights, ops or a whole runtime.
    """

    name: Literal["llama.cpp", "hybrid"]
    architecture: str
    n_ctx: int
    n_vocab: int
    n_threads: int
    cache_type: CacheType
    max_sequences: int
    can_trim: bool
    accelerators: dict[str, str] = field(default_factory=dict)
    by_ggml: tuple[str, ...] = ()
    split_dependent: tuple[str, ...] = ("llama.cpp",)

    @property
    def split_exact(self) -> bool:
        """Whether every cut of a sequence into steps, in any company, gives the same bits of every logit."""
        return not self.split_dependent


class Vocabulary(Protocol):
    """Tokenizer and detokenizer of one model; llama.cpp's for every runtime."""

    n_vocab: int
    bos: int | None
    eos: int | None
    adds_bos: bool  # `tokenize` with `add_special` begins with `bos`
    chat_template: str | None

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of `text`; special-token strings inside it count only with `parse_special`."""

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token; control tokens are empty unless `special`."""

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Text of `tokens`; bytes that are not UTF-8 become U+FFFD."""

    def is_end(self, token: int) -> bool:
        """True for every token that ends a generation (end of text, end of turn)."""

    def is_control(self, token: int) -> bool:
        """True for a token that only `parse_special` makes from text, such as `<|im_end|>`."""


class Snapshot(Protocol):
    """Carry and cache of a sequence at one position; stays valid after the sequence is closed."""

    @property
    def n_tokens(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


class Runtime(Protocol):
    """A loaded model. Every method but `cancel` belongs to the thread that loaded it."""

    @property
    def info(self) -> RuntimeInfo: ...

    @property
    def vocabulary(self) -> Vocabulary: ...

    def open(self) -> SequenceId:
        """Start an empty sequence. Raises BadRequest when `max_sequences` are open."""

    def length(self, sequence: SequenceId) -> int:
        """Tokens that the sequence holds."""

    def advance(
        self, tokens: Mapping[SequenceId, Sequence[int]], *, logits: Literal["last", "all"] = "last"
    ) -> dict[SequenceId, Logits]:
        """Feed tokens to several sequences in one step.

        Returns float32 [n, n_vocab] for each: n = 1 with "last", the number of its tokens with "all". The arrays
        are the caller's.

        Raises:
            PromptTooLong: a sequence would exceed `n_ctx`; nothing was fed.
            BrokenSequence: a sequence was torn by an earlier step.
            Cancelled: `cancel` was called; the sequences of this step are torn.
        """

    def fork(self, sequence: SequenceId) -> SequenceId:
        """Open a sequence that continues from the same tokens; the two do not see each other afterwards."""

    def snapshot(self, sequence: SequenceId) -> Snapshot: ...

    def restore(self, snapshot: Any) -> SequenceId:
        """Open a sequence at the snapshot's position; its next logits are those of the original, bit for bit."""

    def trim(self, sequence: SequenceId, n_tokens: int) -> bool:
        """Drop everything after the first `n_tokens`; False, and nothing dropped, where a carry forbids it."""

    def close(self, sequence: SequenceId) -> None: ...

    def cancel(self) -> None:
        """Ask the running `advance` to stop at its next safe point. Any thread."""

    def shutdown(self) -> None:
        """Free everything; the runtime cannot be used afterwards. Twice is allowed."""
