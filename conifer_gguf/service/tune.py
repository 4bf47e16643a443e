"""Measures this machine in a process of its own, and remembers what it found."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter

from ..child import python_command
from ..errors import HomeNotWritable, MeasuringDied, from_wire
from ..runtimes import tuning
from ..runtimes.tuning import Tuning
from ..settings import home

TIMEOUT_S = 180  # several times what a thorough measurement may take
LAST_WORDS = 6  # lines of stderr
Tell = Callable[[str], None]


def tune(quick: bool = False, tell: Tell = lambda _: None) -> Tuning:
    """Measure and remember; `quick` is the second that a first load takes by itself.

    Raises MeasuringDied where a kernel took the process with it, HomeNotWritable, and what measuring raises.
    """
    _require_home()
    found = _measured(["--quick"] if quick else [], tell)
    try:
        tuning.remember(found)
    except OSError as error:
        raise HomeNotWritable(str(home()), error.strerror or str(error)) from error
    return found


def _require_home() -> None:
    """Before half a minute is spent on a result that cannot be kept."""
    try:
        (home() / "machine").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HomeNotWritable(str(home()), error.strerror or str(error)) from error


def _measured(arguments: list[str], tell: Tell) -> Tuning:
    command = [*python_command("conifer_gguf.runtimes.tune"), *arguments]
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True) as child,
    ):
        watch = threading.Timer(TIMEOUT_S, child.kill)
        watch.start()
        try:
            last = _listen(child, tell)
        except BaseException:
            child.kill()
            raise
        finally:
            watch.cancel()
        if "tuning" in last:
            return TypeAdapter(Tuning).validate_python(last["tuning"])
        if "error" in last:
            raise from_wire(last["error"])
        code = child.wait()
        stderr.seek(0)
        lines = [line.strip() for line in stderr.read().decode("utf-8", "replace").split("\n")]
    cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    raise MeasuringDied(last.get("what", ""), cause, " | ".join([w for w in lines if w][-LAST_WORDS:]))


def _listen(child: subprocess.Popen[bytes], tell: Tell) -> dict[str, Any]:
    """The child's last line; {} where it died before it said anything."""
    last: dict[str, Any] = {}
    assert child.stdout is not None
    for line in child.stdout:
        last = json.loads(line)
        if "what" in last:
            tell(last["what"])
    return last
