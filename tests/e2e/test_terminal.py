"""The program on a terminal: questions, a conversation, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import COMMAND, TINY

STOP, LEAVE = "\x03", "\x04"


class Terminal:
    """A person at a terminal: waits for what appears, types, and sees how it ends."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            signal.signal(
                signal.SIGINT, signal.SIG_DFL
            )  # as a shell starts a program, however the tests were started
            os.execvp(COMMAND[0], [*COMMAND, *arguments])
        self.shown = ""
        self._seen = 0

    def wait_for(self, pattern: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.shown[self._seen :])) is None:
            assert time.monotonic() < deadline, f"{pattern!r} did not appear in {self.shown!r}"
            assert self._read(), f"it ended without {pattern!r}: {self.shown!r}"
        self._seen += found.end()

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def press(self, key: str, pattern: str) -> None:
        """Press a key until it shows: one that comes while the terminal changes its mode is lost."""
        for _ in range(20):
            self.type(key)
            with contextlib.suppress(AssertionError):
                return self.wait_for(pattern, seconds=3)
        raise AssertionError(f"{key!r} did not show {pattern!r}: {self.shown!r}")

    def exit_code(self) -> int:
        while self._read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._pid, 9)
            os.waitpid(self._pid, 0)
        os.close(self._terminal)

    def _read(self) -> bool:
        """False at the end."""
        if not select.select([self._terminal], [], [], 1)[0]:
            return True
        try:
            data = os.read(self._terminal, 4096)
        except OSError:  # what Linux says when the other side has closed
            return False
        self.shown += data.decode("utf-8", "replace")
        return bool(data)


@contextlib.contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    made = Terminal(arguments)
    try:
        yield made
    finally:
        made.close()


def test_ctrl_c_stops_an_answer_and_ctrl_d_leaves(home: Path) -> None:
    with terminal("run", str(TINY), "--ctx", "4096", "--temp", "0") as person:
        person.wait_for(">>> ")
        person.type("Tell me everything.\n")
        person.wait_for(r"\n.")  # an answer, or the end of one: a random model may stop by itself
        person.type(STOP)
        person.wait_for(r"stopped|Ctrl-D leaves")
        person.wait_for(">>> ")
        person.press(STOP, "Ctrl-D leaves")
        person.wait_for(">>> ")
        person.type(LEAVE)
        assert person.exit_code() == 0


@pytest.mark.parametrize("command", [("run", "lfm2.5-1.2b"), ("serve", "--model", "lfm2.5-1.2b")], ids=str)
def test_a_model_that_is_not_here_is_asked_about_with_size_and_fit(
    home: Path, command: tuple[str, ...]
) -> None:
    with terminal(*command) as person:
        person.wait_for(r"731 MB.*fit.*free\..*\[Y/n\]")
        person.type("n\n")
        assert person.exit_code() == 1
    assert "conifer-gguf pull lfm2.5-1.2b" in person.shown
    assert not (home / "models").exists()
