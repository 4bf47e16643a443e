"""From tokens to text that can be shown: whole UTF-8 characters, and nothing past a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Turns the bytes of tokens into text pieces; holds back what may become a stop string.

    `stopped` is the stop string that was found; text from it on is dropped.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.stopped: str | None = None

    def feed(self, data: bytes) -> str:
        """Text that is now certain."""
        return self._release(self._decoder.decode(data))

    def finish(self) -> str:
        """The rest, at the end of a generation; half a character becomes U+FFFD."""
        text = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text if self.stopped is not None else text + rest

    def _release(self, text: str) -> str:
        if self.stopped is not None:
            return ""
        self._held += text
        found = min(((self._held.find(s), s) for s in self._stop if s in self._held), default=None)
        if found is not None:
            position, self.stopped = found
            certain, self._held = self._held[:position], ""
            return certain
        keep = self._may_begin_a_stop()
        certain, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return certain

    def _may_begin_a_stop(self) -> int:
        """Length of the longest tail of the held text that starts some stop string."""
        longest = min(len(self._held), max((len(s) - 1 for s in self._stop), default=0))
        return next(
            (n for n in range(longest, 0, -1) if any(s.startswith(self._held[-n:]) for s in self._stop)), 0
        )
