"""Progress bars on stderr, for whoever watches; plain notices where nobody does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from ..store.download import Progress
from . import render


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner while something runs that cannot say how far it is; what is yielded changes its text."""
    with Console(stderr=True).status(what) as spinner:
        yield spinner.update


class TerminalProgress(Progress):
    """One bar a task."""

    @contextmanager
    def task(self, title: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(title, total=total, completed=done)
            yield lambda n: bars.advance(task, n)

    def notice(self, text: str) -> None:
        render.notice(text)
