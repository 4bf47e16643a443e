"""The parent's end of a measuring process; gauge.py is the child's."""

from __future__ import annotations

import pickle
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ..child import python_command
from ..errors import EngineDied
from .gauge import Opened, Round, Subject

LAST_WORDS = 6  # lines of stderr


class GaugeProcess:
    """A `Gauge` in a process of its own, so that memory is counted for one runtime and a crash is an error.

    For one thread. Methods raise what they raise there, and EngineDied when the process is gone.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._process = subprocess.Popen(
            python_command("conifer_gguf.worker.gauge"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )
        self._send(subject)

    def open(self, n_ctx: int) -> Opened:
        return self._ask("open", n_ctx=n_ctx)  # type: ignore[no-any-return]

    def fill(self, n_tokens: int) -> float:
        return float(self._ask("fill", n_tokens=n_tokens))

    def mark(self) -> None:
        self._ask("mark")

    def round(self, n_prompt: int, n_decode: int) -> Round:
        return self._ask("round", n_prompt=n_prompt, n_decode=n_decode)  # type: ignore[no-any-return]

    def logits(self, tokens: Sequence[int], pieces: Sequence[int], target: Path) -> float:
        return float(self._ask("logits", tokens=list(tokens), pieces=list(pieces), target=target))

    def tokenize(self, text: str) -> list[int]:
        return list(self._ask("tokenize", text=text))

    def close(self) -> None:
        """End the process and free all that it holds. Twice is allowed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is None:
            try:
                self._process.stdin.close()  # between two requests the process ends by itself, and cleans up
                self._process.wait(timeout=10)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._stderr.close()

    def __enter__(self) -> GaugeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._process.kill()
        self.close()

    def _ask(self, method: str, **arguments: Any) -> Any:
        self._send((method, arguments))
        assert self._process.stdout is not None
        try:
            result, error = pickle.load(self._process.stdout)
        except EOFError:
            raise self._died() from None
        if error is not None:
            raise error
        return result

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _died(self) -> EngineDied:
        code = self._process.wait()
        self._stderr.seek(0)
        words = self._stderr.read().decode("utf-8", "replace").split("\n")
        said = " | ".join([line.strip() for line in words if line.strip()][-LAST_WORDS:])
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return EngineDied(self.subject.name, cause, said)
