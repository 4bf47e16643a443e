"""Follow-up turns read only what is new: finished sequences are parked, and snapshots mark where a turn ended.

A sequence whose runtime can trim is cut back to what the new prompt shares with it. A carry can't be rolled back, so
those continue only where the new prompt extends all that they hold, or from a snapshot that it extends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from ..runtimes.base import Runtime, SequenceId, Snapshot

GIB = 1 << 30


@dataclass
class _Mark:
    tokens: list[int]
    snapshot: Snapshot


def default_budget() -> int:
    """Bytes for snapshots: a tenth of free memory, at most 1 GiB."""
    return int(min(psutil.virtual_memory().available // 10, GIB))


class PrefixCache:
    """Hands out sequences that already hold the start of a prompt. Used by the thread that owns the runtime."""

    def __init__(self, runtime: Runtime, budget: int | None = None) -> None:
        self._runtime = runtime
        self._budget = default_budget() if budget is None else budget
        self._parked: dict[SequenceId, list[int]] = {}  # oldest first
        self._marks: list[_Mark] = []  # least recently used first
        self._in_use = 0

    @property
    def has_room(self) -> bool:
        return self._in_use < self._runtime.info.max_sequences

    def acquire(self, tokens: Sequence[int]) -> tuple[SequenceId, int]:
        """A sequence and how many of `tokens` it holds; at least the last token is left to feed."""
        known = list(tokens[:-1])
        self._in_use += 1
        parked, kept = self._best_parked(known)
        mark = max(
            (m for m in self._marks if _extends(known, m.tokens)), key=lambda m: len(m.tokens), default=None
        )
        if mark is not None and len(mark.tokens) > kept:
            self._make_room()
            self._marks.remove(mark)
            self._marks.append(mark)
            return self._runtime.restore(mark.snapshot), len(mark.tokens)
        if parked is not None and kept and self._runtime.trim(parked, kept):
            del self._parked[parked]
            return parked, kept
        self._make_room()
        return self._runtime.open(), 0

    def mark(self, sequence: SequenceId, tokens: Sequence[int]) -> None:
        """Remember this position, where the runtime cannot come back to it by trimming."""
        if self._runtime.info.can_trim or not tokens or any(m.tokens == list(tokens) for m in self._marks):
            return
        self._marks.append(_Mark(list(tokens), self._runtime.snapshot(sequence)))
        while self._marks and sum(m.snapshot.nbytes for m in self._marks) > self._budget:
            del self._marks[0]

    def release(self, sequence: SequenceId, tokens: Sequence[int]) -> None:
        """Park a sequence that holds exactly `tokens`."""
        self._in_use -= 1
        self._parked[sequence] = list(tokens)

    def discard(self, sequence: SequenceId) -> None:
        """Close a sequence that is torn or not worth keeping."""
        self._in_use -= 1
        self._runtime.close(sequence)

    def close(self) -> None:
        """Close what is parked and forget the snapshots."""
        for sequence in self._parked:
            self._runtime.close(sequence)
        self._parked.clear()
        self._marks.clear()

    def _best_parked(self, known: list[int]) -> tuple[SequenceId | None, int]:
        best: tuple[SequenceId | None, int] = (None, 0)
        for sequence, held in self._parked.items():
            kept = _shared(known, held)
            if not self._runtime.info.can_trim and kept < len(held):
                kept = 0
            if kept > best[1]:
                best = (sequence, kept)
        return best

    def _make_room(self) -> None:
        if self._in_use + len(self._parked) > self._runtime.info.max_sequences:
            oldest = next(iter(self._parked))
            del self._parked[oldest]
            self._runtime.close(oldest)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _extends(longer: Sequence[int], shorter: Sequence[int]) -> bool:
    return len(shorter) <= len(longer) and _shared(longer, shorter) == len(shorter)
