"""What the kit found: one row for each check of each op."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

SAME_BITS = "same bits for any split"  # the check whose error is 0 where a split changes no bit

Verdict = Literal["passes", "fails", "unsupported"]


@dataclass(frozen=True)
class Row:
    """`case` is the one that failed, or else the one with the largest error; `error` is None where bits are compared.

    `n_case` counts the cases that ran, `n_unsupported` those that the kernel answered with CK_UNSUPPORTED.
    """

    op: str
    check: str
    case: str
    verdict: Verdict
    error: float | None = None
    problem: str = ""
    n_case: int = 0
    n_unsupported: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """Everything about one library. `problem` is what ended the check early, if anything did."""

    plugin: str
    version: str
    rows: tuple[Row, ...]
    tolerances: Mapping[str, tuple[float, str]]  # op -> rtol and its reason
    problem: str = ""

    @property
    def passes(self) -> bool:
        return not self.problem and bool(self.rows) and all(row.verdict != "fails" for row in self.rows)

    @property
    def failures(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.verdict == "fails")

    def worst_errors(self) -> dict[str, float]:
        """The largest relative error of each op over all its cases."""
        worst: dict[str, float] = {}
        for row in self.rows:
            if row.error is not None:
                worst[row.op] = max(worst.get(row.op, 0.0), row.error)
        return worst

    def split_exact(self) -> dict[str, bool]:
        """For each op that was tried: whether every split of the tokens gave the same bits, promised or not."""
        rows = [row for row in self.rows if row.check == SAME_BITS and row.verdict != "unsupported"]
        return {row.op: row.verdict == "passes" and row.error is None for row in rows}

    def to_json(self) -> dict[str, Any]:
        computed = {"worst_errors": self.worst_errors(), "split_exact": self.split_exact()}
        return {"passes": self.passes, **computed, **asdict(self)}

    def require(self) -> None:
        """For tests: AssertionError with a line for each failure."""
        __tracebackhide__ = True
        lines = [self.problem] if self.problem else []
        lines += [f"{row.op}: {row.check}: {row.case}: {row.problem}" for row in self.failures]
        assert self.passes, f"{self.plugin} breaks its contract\n" + "\n".join(lines)
